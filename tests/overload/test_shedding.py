"""A server with more to do than it can: whom it refuses, how, and what it never begins."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from shoal import errors
from shoal.server import metrics, rpc
from shoal.server.admission import ALWAYS_ADMITTED
from shoal.server.calls import Call
from shoal.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
)
from shoal.wire import status

MANY = 100


class Everybody:
    """A guard that lets everybody in: with one, calls are looked at before they are received."""

    def admit(self, method: str, call: Call) -> None:
        pass

    def check(self, method: str, request: Message, call: Call) -> None:
        pass


class Collections:
    """Answers when the test lets it, and counts what it has begun."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        # Where it is not set the loop is busy, until it is.
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    async def count_collections(
        self, request: collection_service_pb2.CountCollectionsRequest, context: rpc.CallContext
    ) -> collection_service_pb2.CountCollectionsResponse:
        self.begun += 1
        self.may_go_on.wait(60)
        await self.gate.wait()
        return collection_service_pb2.CountCollectionsResponse(count=self.begun)

    def __getattr__(self, name: str) -> Any:
        return self.count_collections


class Admin:
    async def get_version(
        self, request: admin_service_pb2.GetVersionRequest, context: rpc.CallContext
    ) -> admin_service_pb2.GetVersionResponse:
        return admin_service_pb2.GetVersionResponse(version="1")

    def __getattr__(self, name: str) -> Any:
        return self.get_version


class Served:
    """A server as a gateway has it, with a service that the test holds up."""

    def __init__(self, channel: grpc.aio.Channel, collections: Collections) -> None:
        self.collections = collections
        self.channel = channel
        self.calls: list[asyncio.Task[int]] = []
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        self._stub: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)

    async def count(self, timeout_s: float = 120, *, filler: int = 0) -> int:
        request = collection_service_pb2.CountCollectionsRequest(tenant="x" * filler)
        answer = await rpc.call(self._stub.CountCollections, request, timeout_s=timeout_s)
        return int(answer.count)

    async def flood(self, count: int, *, filler: int = 0) -> list[asyncio.Task[int]]:
        """Send calls at once, and wait until each is begun or refused."""
        begun = self.collections.begun
        calls = [asyncio.create_task(self.count(filler=filler)) for _ in range(count)]
        self.calls += calls
        while sum(call.done() for call in calls) + self.collections.begun - begun < count:  # noqa: ASYNC110 - two conditions
            await asyncio.sleep(0.01)
        return calls


@pytest.fixture
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    bounds = getattr(request, "param", {"max_wait_s": 0.5})
    async with AsyncExitStack() as stack:
        server = rpc.server(sheds_early=True)
        collections = Collections()
        rpc.add_service(
            server,
            "shoal.v1.CollectionService",
            collections,
            guard=Everybody(),
            admission=rpc.Admission(10_000, **bounds),
        )
        rpc.add_service(
            server, "shoal.v1.AdminService", Admin(), guard=Everybody(), admission=rpc.Admission(64)
        )
        port = rpc.bind(server, "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{port}"))
        served = Served(channel, collections)
        yield served
        collections.gate.set()
        await asyncio.gather(*served.calls, return_exceptions=True)


async def _stand_still(served: Served) -> list[asyncio.Task[int]]:
    """Let calls be answered for a while, then none, until the server has noticed."""
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        await served.count()
    served.collections.gate.clear()
    calls = await served.flood(ALWAYS_ADMITTED)
    while True:
        await asyncio.sleep(0.3)
        (call,) = await served.flood(1)
        if call.done():
            assert isinstance(call.exception(), errors.OverloadedError)
            return calls
        calls.append(call)


async def test_a_server_that_falls_behind_refuses_at_once_and_says_when_to_come_back(
    served: Served,
) -> None:
    calls = await _stand_still(served)
    for refused in await served.flood(50):
        error = refused.exception()
        assert isinstance(error, errors.OverloadedError)
        assert error.metadata["limit"] == "max_wait_s"
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0
    served.collections.gate.set()
    await asyncio.gather(*calls)  # what was taken on is answered
    await served.count()


async def test_the_administrator_s_calls_are_not_shed(served: Served) -> None:
    await _stand_still(served)
    answer = await served.admin.GetVersion(admin_service_pb2.GetVersionRequest(), timeout=60)
    assert answer.version == "1"


@pytest.mark.parametrize("served", [{"max_bytes": 1_000_000}], indirect=True)
async def test_the_memory_of_requests_is_bounded(served: Served) -> None:
    served.collections.gate.clear()
    calls = await served.flood(MANY, filler=100_000)
    refused = [call for call in calls if call.done()]
    # Nine of a hundred kilobytes and a little fit into a megabyte.
    assert len(refused) == MANY - 9
    for call in refused:
        error = call.exception()
        assert isinstance(error, errors.OverloadedError)
        assert error.metadata == {"limit": "max_request_bytes", "value": "1000000"}
    served.collections.gate.set()
    await asyncio.gather(*(call for call in calls if call not in refused))


async def test_a_call_whose_time_is_up_before_its_turn_is_not_begun(served: Served) -> None:
    await served.count()
    begun = served.collections.begun
    # The loop belongs to client and server alike here, so calls are sent by gRPC's own threads.
    with grpc.insecure_channel(str(served.channel.address)) as channel:  # type: ignore[attr-defined]
        stub: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        request = collection_service_pb2.CountCollectionsRequest()

        def be_late() -> set[grpc.StatusCode]:
            served.collections.may_go_on.clear()
            first = stub.CountCollections.future(request, timeout=60)
            while served.collections.begun == begun:
                time.sleep(0.001)
            late = [stub.CountCollections.future(request, timeout=0.1) for _ in range(20)]
            codes = {call.exception().code() for call in late}
            served.collections.may_go_on.set()
            first.result()
            return codes

        assert await asyncio.to_thread(be_late) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        await served.count()
    # The first, the last, and perhaps one that the server received late.
    assert served.collections.begun - begun <= 4


async def test_a_call_whose_caller_has_gone_before_its_turn_is_not_begun(served: Served) -> None:
    await served.count()
    begun = served.collections.begun
    with grpc.insecure_channel(str(served.channel.address)) as channel:  # type: ignore[attr-defined]
        stub: Any = collection_service_pb2_grpc.CollectionServiceStub(channel)
        request = collection_service_pb2.CountCollectionsRequest()

        def come_and_go() -> None:
            served.collections.may_go_on.clear()
            first = stub.CountCollections.future(request, timeout=60)
            while served.collections.begun == begun:
                time.sleep(0.001)
            gone = [stub.CountCollections.future(request, timeout=60) for _ in range(20)]
            time.sleep(0.1)
            for call in gone:
                call.cancel()
            time.sleep(0.3)  # so that the server has been told
            served.collections.may_go_on.set()
            first.result()

        await asyncio.to_thread(come_and_go)
        await served.count()
    assert served.collections.begun - begun <= 4


async def test_a_refusal_travels_with_its_reason_and_retry_info(served: Served) -> None:
    await _stand_still(served)
    method: Any = served.channel.unary_unary("/shoal.v1.CollectionService/CountCollections")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailer = dict(caught.value.trailing_metadata() or ())[status.TRAILER]
    assert isinstance(trailer, bytes)
    decoded = status.decode("RESOURCE_EXHAUSTED", "", trailer)
    assert decoded.reason == "OVERLOADED"
    assert decoded.retry_after_s


METHOD = "/shoal.v1.CollectionService/CountCollections"


async def _send_half_a_request(
    port: int,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection, and send headers without a deadline and half a message."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", METHOD.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    block = b"".join(
        b"\x00" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in headers
    )  # fmt: skip
    half = b"\x00" + struct.pack(">I", 1_000_000) + bytes(1_000)
    writer.write(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + struct.pack(">I", 0)[1:] + b"\x04\x00" + bytes(4)
        + struct.pack(">I", len(block))[1:] + b"\x01\x04" + struct.pack(">I", 1) + block
        + struct.pack(">I", len(half))[1:] + b"\x00\x00" + struct.pack(">I", 1) + half
    )  # fmt: skip
    return reader, writer


async def _end_of_the_call(reader: asyncio.StreamReader) -> None:
    """Read frames until the call of this connection has been ended."""
    async with asyncio.timeout(120):
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            ends_stream = head[3] == 3 or (head[3] == 1 and head[4] & 1)
            if ends_stream and int.from_bytes(head[5:], "big") == 1:
                return


async def test_a_request_that_never_comes_to_its_end_is_ended(unused_tcp_port: int) -> None:
    server = rpc.server()
    rpc.add_service(
        server,
        "shoal.v1.CollectionService",
        Collections(),
        guard=Everybody(),
        default_timeout_s=0.5,
    )
    rpc.bind(server, "127.0.0.1", unused_tcp_port)
    await server.start()
    reader, writer = await _send_half_a_request(unused_tcp_port)
    try:
        await _end_of_the_call(reader)
    finally:
        writer.close()
        await server.stop(None)


def _refused_for_bytes() -> float:
    shed = metrics.REGISTRY.get_sample_value("shoal_server_shed_calls_total", {"bound": "bytes"})
    return shed or 0.0


async def test_requests_that_are_slow_to_arrive_are_bounded_and_the_first_stay(
    unused_tcp_port: int,
) -> None:
    server = rpc.server()
    collections = Collections()
    receiving = rpc.Receiving(3_600, max_bytes=2 * rpc.MAX_MESSAGE_BYTES)
    rpc.add_service(
        server,
        "shoal.v1.CollectionService",
        collections,
        guard=Everybody(),
        receiving=receiving,
    )
    rpc.bind(server, "127.0.0.1", unused_tcp_port)
    await server.start()
    refused = _refused_for_bytes()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{unused_tcp_port}"))
        readers = []
        for before in range(4):
            reader, writer = await _send_half_a_request(unused_tcp_port)
            stack.callback(writer.close)
            readers.append(reader)
            while receiving.count <= before:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
        ends = [asyncio.create_task(_end_of_the_call(reader)) for reader in readers]
        for end in ends:
            stack.callback(end.cancel)
        await asyncio.gather(*ends[2:])
        assert _refused_for_bytes() - refused == 2
        assert receiving.count == 2
        # What arrives at once is answered meanwhile, and those two may go on.
        served = Served(channel, collections)
        assert [await served.count() for _ in range(3)] == [1, 2, 3]
        assert not ends[0].done()
        assert not ends[1].done()
