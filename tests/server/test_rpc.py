"""Calls: errors, deadlines, request IDs, bounds, over a socket and within the process alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from shoal import errors
from shoal.internal.v1 import (
    membership_service_pb2 as membership,
)
from shoal.internal.v1 import (
    membership_service_pb2_grpc as membership_grpc,
)
from shoal.internal.v1 import (
    routing_service_pb2 as routing,
)
from shoal.internal.v1 import (
    routing_service_pb2_grpc as routing_grpc,
)
from shoal.server import metrics, rpc
from shoal.server.calls import REQUEST_ID_KEY
from shoal.server.transport import AddressedChannel

Answer = Callable[[membership.HeartbeatWorkerRequest, rpc.CallContext], Any]

_MEMBERSHIP = "shoal.internal.v1.MembershipService"
_ROUTING = "shoal.internal.v1.RoutingService"


class Membership:
    """A service whose answer the test chooses."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def heartbeat_worker(
        self, request: membership.HeartbeatWorkerRequest, context: rpc.CallContext
    ) -> Any:
        answer = self._answer(request, context)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer or membership.HeartbeatWorkerResponse()

    async def register_worker(
        self, request: membership.RegisterWorkerRequest, context: rpc.CallContext
    ) -> membership.RegisterWorkerResponse:
        return membership.RegisterWorkerResponse(cluster_id=request.worker_id)


class Routing:
    async def watch_table(
        self, requests: AsyncIterator[routing.WatchTableRequest], context: rpc.CallContext
    ) -> AsyncIterator[routing.WatchTableResponse]:
        async for request in requests:
            if request.version == 13:
                raise errors.FailedPreconditionError("thirteen is not a version")
            yield routing.WatchTableResponse(version=request.version + 1)


class Cluster:
    """Makes stubs of a service object, by both ways."""

    def __init__(self, way: str, stack: AsyncExitStack) -> None:
        self.way = way
        self._stack = stack
        self.port = 0

    async def channel(
        self, services: dict[str, object], *, max_request_bytes: int | None = None, calls: int = 9
    ) -> AddressedChannel:
        server = rpc.server()
        admission = rpc.Admission(calls)
        for name, instance in services.items():
            rpc.add_service(
                server, name, instance, admission=admission, max_request_bytes=max_request_bytes
            )
        self.port = rpc.bind(server, "127.0.0.1", 0)
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        return await self._stack.enter_async_context(rpc.channel(f"127.0.0.1:{self.port}"))

    async def stub(self, answer: Answer, *, calls: int = 9) -> Any:
        if self.way == "local":
            return rpc.LocalService(_MEMBERSHIP, Membership(answer), admission=rpc.Admission(calls))
        channel = await self.channel({_MEMBERSHIP: Membership(answer)}, calls=calls)
        return membership_grpc.MembershipServiceStub(channel)


@pytest.fixture(params=["socket", "local"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(request.param, stack)


@pytest.fixture
async def sockets() -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster("socket", stack)


def _request() -> membership.HeartbeatWorkerRequest:
    return membership.HeartbeatWorkerRequest(worker_id="w")


async def test_an_answer_comes_back(cluster: Cluster) -> None:
    stub = await cluster.stub(lambda request, context: None)
    answer = await rpc.call(
        stub.RegisterWorker, membership.RegisterWorkerRequest(worker_id="w"), timeout_s=60
    )
    assert answer.cluster_id == "w"


async def test_an_error_arrives_as_the_class_that_was_raised(cluster: Cluster) -> None:
    raised = errors.DimensionMismatchError(
        "collection 'books' holds vectors of dimension 768, got 384",
        metadata={"dimension": "768"},
        violations=[errors.FieldViolation("records.vectors", "has dimension 384")],
    )

    def answer(request: object, context: object) -> None:
        raise raised

    stub = await cluster.stub(answer)
    with pytest.raises(errors.DimensionMismatchError, match="dimension 768, got 384") as caught:
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)
    assert caught.value.metadata == {"dimension": "768"}
    assert caught.value.violations == raised.violations


async def test_what_happened_inside_does_not_leak(cluster: Cluster) -> None:
    def answer(request: object, context: object) -> None:
        raise RuntimeError("password=hunter2")

    stub = await cluster.stub(answer)
    with pytest.raises(errors.InternalError) as caught:
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)
    assert "hunter2" not in str(caught.value)
    assert caught.value.metadata["request_id"] in str(caught.value)


async def test_a_service_that_answers_with_no_message_is_a_defect(cluster: Cluster) -> None:
    stub = await cluster.stub(lambda request, context: True)
    with pytest.raises(errors.InternalError):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)


async def test_a_call_that_does_not_answer_ends_at_its_deadline(cluster: Cluster) -> None:
    stub = await cluster.stub(lambda request, context: asyncio.sleep(600))
    with pytest.raises(errors.DeadlineExceededError):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=0.1)


async def test_a_deadline_already_past_is_not_begun(cluster: Cluster) -> None:
    begun = []
    stub = await cluster.stub(lambda request, context: begun.append(1))
    with pytest.raises(errors.DeadlineExceededError):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=0)
    with pytest.raises((errors.DeadlineExceededError, grpc.aio.AioRpcError)):
        await stub.HeartbeatWorker(_request(), timeout=-1)
    assert not begun


async def test_a_timeout_of_the_service_s_own_is_not_the_caller_s(cluster: Cluster) -> None:
    def answer(request: object, context: object) -> None:
        raise TimeoutError("of something inside")

    stub = await cluster.stub(answer)
    with pytest.raises(errors.InternalError):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)


async def test_a_call_without_a_deadline_gets_the_server_s(cluster: Cluster) -> None:
    left: list[float] = []
    stub = await cluster.stub(lambda request, context: left.append(context.time_remaining()))
    await stub.HeartbeatWorker(_request())
    assert 30 < left[0] <= 60


async def test_the_request_id_goes_through(cluster: Cluster) -> None:
    seen: list[str] = []
    inner = await cluster.stub(lambda request, context: seen.append(context.request_id))

    async def pass_on(request: object, context: rpc.CallContext) -> None:
        await rpc.call(inner.HeartbeatWorker, _request(), timeout_s=context.time_remaining())

    outer = await cluster.stub(pass_on)
    await rpc.call(
        outer.HeartbeatWorker, _request(), timeout_s=60, metadata=[(REQUEST_ID_KEY, "abc-1")]
    )
    assert seen == ["abc-1"]


async def test_the_request_id_comes_back(sockets: Cluster) -> None:
    stub = await sockets.stub(lambda request, context: None)
    call = stub.HeartbeatWorker(_request(), metadata=((REQUEST_ID_KEY, "abc-1"),))
    assert dict(await call.trailing_metadata())[REQUEST_ID_KEY] == "abc-1"
    # One that would spoil a log is replaced.
    call = stub.HeartbeatWorker(_request(), metadata=((REQUEST_ID_KEY, "x" * 500),))
    assert len(dict(await call.trailing_metadata())[REQUEST_ID_KEY]) == 16


async def test_calls_above_the_limit_are_refused_and_not_queued(cluster: Cluster) -> None:
    release = asyncio.Event()
    under_way = asyncio.Semaphore(0)

    async def answer(request: object, context: object) -> None:
        under_way.release()
        await release.wait()

    stub = await cluster.stub(answer, calls=2)
    waiting = [
        asyncio.create_task(rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60))
        for _ in range(2)
    ]
    for _ in waiting:
        await under_way.acquire()
    with pytest.raises(errors.OverloadedError, match="limit"):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)
    release.set()
    await asyncio.gather(*waiting)
    await rpc.call(stub.RegisterWorker, membership.RegisterWorkerRequest(), timeout_s=60)


async def test_a_malformed_message_is_refused_and_the_server_lives(sockets: Cluster) -> None:
    channel: Any = await sockets.channel(
        {_MEMBERSHIP: Membership(lambda request, context: None)}, max_request_bytes=1000
    )
    raw = channel.unary_unary(f"/{_MEMBERSHIP}/HeartbeatWorker")
    with pytest.raises(errors.InvalidArgumentError, match="not a serialised"):
        await rpc.call(raw, b"\xff\xff\xff", timeout_s=60)
    with pytest.raises(errors.InvalidArgumentError, match="max_message_bytes: 1000"):
        await rpc.call(raw, b"\x0a\xff\x10" + b"x" * 3000, timeout_s=60)
    assert await rpc.call(raw, b"", timeout_s=60) == b""


async def test_a_message_over_the_transport_s_limit_is_refused(sockets: Cluster) -> None:
    channel: Any = await sockets.channel({_MEMBERSHIP: Membership(lambda request, context: None)})
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{sockets.port}", options=[("grpc.max_send_message_length", -1)]
    ) as unbounded:
        raw: Any = unbounded.unary_unary(f"/{_MEMBERSHIP}/HeartbeatWorker")
        with pytest.raises(errors.OverloadedError, match="larger than max"):
            await rpc.call(raw, bytes(rpc.MAX_MESSAGE_BYTES + 1), timeout_s=60)
    assert await rpc.call(
        channel.unary_unary(f"/{_MEMBERSHIP}/HeartbeatWorker"),
        b"",
        timeout_s=60,
    ) == b""  # fmt: skip


async def test_a_cancelled_call_stops_the_service(sockets: Cluster) -> None:
    contexts: list[rpc.CallContext] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(request: object, context: rpc.CallContext) -> None:
        contexts.append(context)
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    stub = await sockets.stub(answer)
    call = stub.HeartbeatWorker(_request())
    await begun.wait()
    call.cancel()
    async with asyncio.timeout(60):
        await ended.wait()
        await asyncio.sleep(0)
    with pytest.raises(errors.DeadlineExceededError, match="gone"):
        contexts[0].check()


async def test_a_cancelled_caller_leaves_the_call_to_its_deadline(sockets: Cluster) -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(request: object, context: rpc.CallContext) -> None:
        begun.set()
        await may_end.wait()
        context.check()
        ended.set()

    stub = await sockets.stub(answer)
    task = asyncio.create_task(rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_end.set()
    async with asyncio.timeout(60):
        await ended.wait()


async def test_an_unreachable_address_is_named(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    async with rpc.channel(address) as channel:
        stub = membership_grpc.MembershipServiceStub(channel)
        with pytest.raises(errors.UnavailableError, match=address) as caught:
            await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)
        assert caught.value.metadata["address"] == address
    with pytest.raises(errors.UnavailableError, match="closed"):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)


async def test_a_channel_closed_under_a_call_does_not_cancel_the_caller(sockets: Cluster) -> None:
    begun = asyncio.Event()

    async def answer(request: object, context: rpc.CallContext) -> None:
        begun.set()
        await asyncio.sleep(600)

    stub_channel: Any = await sockets.channel({_MEMBERSHIP: Membership(answer)})
    stub = membership_grpc.MembershipServiceStub(stub_channel)
    task = asyncio.create_task(rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60))
    await begun.wait()
    await stub_channel.close()
    with pytest.raises(errors.UnavailableError, match="closed during"):
        await task


@pytest.mark.parametrize("way", ["socket", "local"])
async def test_a_stream_answers_and_raises(sockets: Cluster, way: str) -> None:
    stub: Any
    if way == "socket":
        stub = routing_grpc.RoutingServiceStub(await sockets.channel({_ROUTING: Routing()}))
    else:
        stub = rpc.local_stub(_ROUTING, Routing())

    async def requests() -> AsyncIterator[routing.WatchTableRequest]:
        for version in (1, 2, 13, 3):
            yield routing.WatchTableRequest(version=version)

    versions: list[int] = []

    async def read() -> None:
        async for answer in rpc.stream(stub.WatchTable, requests()):
            versions.append(answer.version)  # noqa: PERF401 - what came before the error counts

    def messages(name: str) -> float:
        labels = {
            "grpc_type": "bidi_stream",
            "grpc_service": _ROUTING,
            "grpc_method": "WatchTable",
        }
        return metrics.REGISTRY.get_sample_value(f"grpc_server_msg_{name}_total", labels) or 0.0

    before = messages("received"), messages("sent")
    with pytest.raises(errors.FailedPreconditionError, match="thirteen"):
        await read()
    assert versions == [2, 3]
    assert (messages("received") - before[0], messages("sent") - before[1]) == (3, 2)


async def test_a_taken_port_is_refused() -> None:
    first, second = rpc.server(), rpc.server()
    port = rpc.bind(first, "127.0.0.1", 0)
    await first.start()
    with pytest.raises(errors.FailedPreconditionError, match=f"{port}: the port is in use"):
        rpc.bind(second, "127.0.0.1", port)
    await first.stop(None)
    await second.stop(None)


async def test_a_service_that_lacks_a_method_is_refused() -> None:
    with pytest.raises(TypeError, match="no method 'watch_table'"):
        rpc.local_stub(_ROUTING, object())


async def test_calls_are_counted_under_the_customary_names(cluster: Cluster) -> None:
    def count(code: str) -> float:
        return metrics.REGISTRY.get_sample_value(
            "grpc_server_handled_total",
            {
                "grpc_type": "unary",
                "grpc_service": _MEMBERSHIP,
                "grpc_method": "HeartbeatWorker",
                "grpc_code": code,
            },
        ) or 0.0  # fmt: skip

    def answer(request: object, context: object) -> None:
        raise errors.NotRegisteredError("unknown worker")

    before = count("NOT_FOUND")
    stub = await cluster.stub(answer)
    with pytest.raises(errors.NotRegisteredError):
        await rpc.call(stub.HeartbeatWorker, _request(), timeout_s=60)
    assert count("NOT_FOUND") == before + 1


def test_a_context_within_the_process_has_a_deadline() -> None:
    context = rpc.context_for(100.0, "r-1")
    assert 50 < context.time_remaining() <= 100.0
    assert context.request_id == "r-1"
    assert math.isfinite(context.time_remaining())
