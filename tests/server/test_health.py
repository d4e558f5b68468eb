"""Health and reflection as strangers use them: what lasts is bounded, and ends with the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal.server import health, receiving, transport

_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_States = health_pb2.HealthCheckResponse


class Served:
    """A server with health and reflection, and a channel to it."""

    def __init__(self) -> None:
        self.health = health.Health(["some.Service"], most_watches=2)
        self.server = transport.server()
        self.health.add_to(self.server)
        health.add_reflection(self.server, ["shoal.v1.AdminService"])
        self.port = transport.bind(self.server, "127.0.0.1", 0)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub: Any = health_pb2_grpc.HealthStub(self.channel)

    def watch(self, service: str = "") -> Any:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    await served.server.start()
    yield served
    await served.channel.close()
    await served.server.stop(None)


async def test_check_and_watch_tell_the_state(served: Served) -> None:
    request = health_pb2.HealthCheckRequest(service="some.Service")
    assert (await served.stub.Check(request)).status == _States.NOT_SERVING
    watch, unknown = served.watch("some.Service"), served.watch("other.Service")
    assert (await watch.read()).status == _States.NOT_SERVING
    assert (await unknown.read()).status == _States.SERVICE_UNKNOWN
    served.health.set(is_serving=True)
    assert (await watch.read()).status == _States.SERVING
    assert (await served.stub.Check(request)).status == _States.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.Check(health_pb2.HealthCheckRequest(service="other.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    served.health.announce("other.Service")
    assert (await unknown.read()).status == _States.SERVING


async def test_watches_are_bounded_and_leave_room_when_they_go(served: Served) -> None:
    first, second = served.watch(), served.watch()
    await first.read()
    await second.read()
    third = served.watch()
    assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await served.stub.Check(health_pb2.HealthCheckRequest())).status
    first.cancel()
    async with asyncio.timeout(60):
        while await served.watch().read() is grpc.aio.EOF:
            pass  # its end has not come to the server yet


async def test_a_watch_tells_the_end_and_does_not_hold_up_a_stop(served: Served) -> None:
    served.health.set(is_serving=True)
    watch = served.watch()
    assert (await watch.read()).status == _States.SERVING
    served.health.set(is_serving=False)
    served.health.end()
    async with asyncio.timeout(60):
        await served.server.stop(3_600)
    assert (await watch.read()).status == _States.NOT_SERVING
    assert await watch.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("path", [_CHECK, _WATCH])
@pytest.mark.parametrize("sent", [[], [b"\xff\xff"]])
async def test_what_is_no_request_is_refused(served: Served, path: str, sent: list[bytes]) -> None:
    method: Any = served.channel.stream_stream(path)
    assert await method(iter(sent), timeout=60).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("path", [_CHECK, _WATCH])
async def test_a_request_that_never_comes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(health, "_REQUEST_TIMEOUT_S", 0.05)
    monkeypatch.setattr(receiving, "_SWEEP_EVERY_S", 0.05)
    served = Served()
    await served.server.start()
    try:
        method: Any = served.channel.stream_stream(path)
        call = method(timeout=60)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.details() == "the request did not come to its end"
    finally:
        await served.channel.close()
        await served.server.stop(None)


async def _reflect(served: Served, symbol: str) -> Any:
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)]
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)  # type: ignore[arg-type]
    return await stub.ServerReflectionInfo(iter(asked), timeout=60).read()


async def test_reflection_knows_services_and_their_methods(served: Served) -> None:
    for symbol in ("shoal.v1.AdminService", "shoal.v1.AdminService.Heartbeat"):
        assert (await _reflect(served, symbol)).HasField("file_descriptor_response")
    for symbol in ("shoal.v1.AdminService.None", "shoal.v1.None", "", "."):
        assert (await _reflect(served, symbol)).HasField("error_response")


async def test_reflection_is_bounded_in_number_and_in_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_MOST_REFLECTIONS", 1)
    monkeypatch.setattr(health, "_REFLECTION_TIMEOUT_S", 0.5)
    method: Any = served.channel.stream_stream(_REFLECT)
    idle = method(timeout=60)
    await idle.wait_for_connection()
    codes = set()
    with contextlib.suppress(grpc.aio.AioRpcError):
        codes.add(await method(timeout=60).code())
    assert await idle.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (await _reflect(served, "shoal.v1.AdminService")).HasField("file_descriptor_response")
