"""Strangers cost nothing: they are refused before their request is received."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from shoal.errors import PermissionDeniedError, ShoalError, UnauthenticatedError
from shoal.server import metrics, rpc
from shoal.server.calls import Call
from shoal.v1 import admin_service_pb2, admin_service_pb2_grpc
from shoal.wire import status

METHOD = "/shoal.v1.AdminService/GetVersion"


class Guard:
    """Lets in who says `please`, and lets do who is called `friend`."""

    def __init__(self) -> None:
        self.admitted = 0

    def admit(self, method: str, call: Call) -> None:
        if call.values("api-key") == ["break"]:
            raise RuntimeError("a defect of the guard")
        if not call.values("please"):
            raise UnauthenticatedError("say please")
        self.admitted += 1
        call.caller = call.values("name")

    def check(self, method: str, request: Any, call: Call) -> None:
        if call.caller != ["friend"]:
            raise PermissionDeniedError("friends only")


class Answering:
    def __getattr__(self, name: str) -> Any:
        async def answer(_request: Any, _context: Any) -> Any:
            assert name == "get_version"
            return admin_service_pb2.GetVersionResponse(version="1")

        return answer


@pytest.fixture
async def served() -> AsyncIterator[tuple[int, Guard]]:
    guard = Guard()
    server = rpc.server()
    rpc.add_service(server, "shoal.v1.AdminService", Answering(), guard=guard)
    port = rpc.bind(server, "127.0.0.1", 0)
    await server.start()
    yield port, guard
    await server.stop(None)


async def answer_to(port: int, *metadata: tuple[str, str]) -> str:
    async with rpc.channel(f"127.0.0.1:{port}") as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        request = admin_service_pb2.GetVersionRequest()
        return (await rpc.call(stub.GetVersion, request, timeout_s=60, metadata=metadata)).version


async def test_the_guard_decides_once_by_metadata_and_once_by_request(
    served: tuple[int, Guard],
) -> None:
    port, guard = served
    assert await answer_to(port, ("please", "x"), ("name", "friend")) == "1"
    assert guard.admitted == 1
    with pytest.raises(UnauthenticatedError, match="say please"):
        await answer_to(port, ("name", "friend"))
    with pytest.raises(PermissionDeniedError, match="friends only"):
        await answer_to(port, ("please", "x"), ("name", "stranger"))


async def test_a_defect_of_the_guard_lets_nobody_in(served: tuple[int, Guard]) -> None:
    port, _ = served
    with pytest.raises(ShoalError) as caught:
        await answer_to(port, ("api-key", "break"))
    assert caught.value.code == "INTERNAL"
    assert "defect" not in caught.value.message


async def test_refusals_are_counted_as_answers(served: tuple[int, Guard]) -> None:
    port, _ = served

    def counted(name: str, label: str = "") -> float:
        text = metrics.exposition()[1].decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"grpc_server_{name}_total")
            and 'grpc_method="GetVersion"' in line
            and label in line
        )

    before = counted("handled", 'grpc_code="UNAUTHENTICATED"')
    messages = counted("msg_received"), counted("msg_sent")
    with pytest.raises(UnauthenticatedError):
        await answer_to(port)
    assert counted("handled", 'grpc_code="UNAUTHENTICATED"') == before + 1
    assert (counted("msg_received"), counted("msg_sent")) == messages, "it was not read"
    with pytest.raises(PermissionDeniedError):
        await answer_to(port, ("please", "x"), ("name", "stranger"))
    assert (counted("msg_received"), counted("msg_sent")) == (messages[0] + 1, messages[1])
    await answer_to(port, ("please", "x"), ("name", "friend"))
    assert (counted("msg_received"), counted("msg_sent")) == (messages[0] + 2, messages[1] + 1)


async def test_a_method_that_nobody_offers_is_unimplemented(served: tuple[int, Guard]) -> None:
    port, _ = served
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary("/shoal.v1.AdminService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_large_request_of_a_stranger_is_answered_with_all_details(
    served: tuple[int, Guard],
) -> None:
    port, _ = served
    async with rpc.channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(bytes(60 * 1024 * 1024), timeout=120)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    trailing = dict(caught.value.trailing_metadata() or ())
    assert status.TRAILER in trailing
    assert trailing["x-request-id"]


async def test_a_stranger_is_refused_while_his_request_is_still_on_its_way(
    served: tuple[int, Guard],
) -> None:
    """By hand, because a gRPC client sends its whole message: HTTP/2 with half a request."""
    port, _ = served
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + (
            payload
        )  # fmt: skip

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", METHOD.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    begun = b"\x00" + struct.pack(">I", 50 * 1024 * 1024) + bytes(1000)
    writer.write(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")  # SETTINGS
        + frame(1, 4, 1, headers)  # HEADERS, END_HEADERS
        + frame(0, 0, 1, begun)  # DATA: a message that is announced, and its first kilobyte
    )
    try:
        async with asyncio.timeout(60):
            while True:
                head = await reader.readexactly(9)
                length = int.from_bytes(head[:3], "big")
                kind, flags = head[3], head[4]
                await reader.readexactly(length)
                if kind == 1 and flags & 1:  # HEADERS with END_STREAM: trailers
                    break
    finally:
        writer.close()
        await writer.wait_closed()
