"""Pings that a client sends are those that the server takes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from shoal._address import CHANNEL_OPTIONS
from shoal.server import rpc, transport
from shoal.v1 import admin_service_pb2, admin_service_pb2_grpc


class Admin:
    """Answers after as long as it is asked to."""

    async def get_version(
        self, request: admin_service_pb2.GetVersionRequest, context: rpc.CallContext
    ) -> admin_service_pb2.GetVersionResponse:
        await asyncio.sleep(float(context.metadata.get("wait-s", "0")))
        return admin_service_pb2.GetVersionResponse(version="1")

    def __getattr__(self, name: str) -> Any:
        return self.get_version


def test_every_client_of_ours_pings_less_often_than_servers_allow() -> None:
    allowed_ms = transport.MIN_PING_INTERVAL_MS
    options: dict[str, Any] = dict(CHANNEL_OPTIONS)
    assert options["grpc.keepalive_time_ms"] > allowed_ms
    assert allowed_ms < transport.KEEPALIVE_MS


@pytest.mark.long
async def test_a_client_that_pings_as_often_as_allowed_is_not_sent_away(
    unused_tcp_port: int,
) -> None:
    """Idle, and while a call is under way; gRPC's own default would answer with GOAWAY."""
    server = rpc.server()
    rpc.add_service(server, "shoal.v1.AdminService", Admin())
    rpc.bind(server, "127.0.0.1", unused_tcp_port)
    await server.start()
    interval_ms = transport.MIN_PING_INTERVAL_MS + 1_000
    options = [
        ("grpc.keepalive_time_ms", interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    address = f"127.0.0.1:{unused_tcp_port}"
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        request = admin_service_pb2.GetVersionRequest()
        await stub.GetVersion(request)
        await asyncio.sleep(4 * interval_ms / 1000)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        wait = (("wait-s", str(4 * interval_ms / 1000)),)
        assert (await stub.GetVersion(request, metadata=wait, timeout=60)).version == "1"
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    await server.stop(None)
