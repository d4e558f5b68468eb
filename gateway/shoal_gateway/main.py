"""The process `shoal-gateway`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceStub
from shoal.internal.v1.routing_service_pb2_grpc import RoutingServiceStub
from shoal.internal.v1.snapshot_service_pb2_grpc import SnapshotCatalogServiceStub
from shoal.internal.v1.worker_service_pb2_grpc import ShardControlServiceStub, ShardDataServiceStub
from shoal.server import logs, process
from shoal.server.health import CLUSTER
from shoal.server.rpc import channel
from shoal.server.settings import is_loopback
from shoal.server.tls import ChannelTls
from shoal.server.transport import AddressedChannel
from shoal_gateway.costs import NEVER_SHED, cost_of
from shoal_gateway.gateway import Gateway
from shoal_gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import (
        ShardControlServiceAsyncStub,
        ShardDataServiceAsyncStub,
    )

__all__ = ["main"]

_log: Final = logs.get_logger("shoal.gateway")


def main() -> int:
    """Run the gateway until it is told to stop, and give the exit code."""
    return process.run(
        "gateway",
        GatewaySettings,
        serve,
        description="Shoal's gateway: the public API. Holds no state that matters.",
    )


@contextlib.asynccontextmanager
async def serve(settings: GatewaySettings, role: process.RoleProcess) -> AsyncIterator[None]:
    """Follow the coordinator's table, and answer calls."""
    workers = _WorkerChannels(role.cluster_tls)
    to_coordinator = channel(settings.coordinator, role.cluster_tls)
    gateway = Gateway(
        catalog_stub=CatalogServiceStub(to_coordinator),
        routing_stub=RoutingServiceStub(to_coordinator),
        snapshot_stub=SnapshotCatalogServiceStub(to_coordinator),
        worker_stub=workers.data_stub,
        control_stub=workers.control_stub,
        release_worker=workers.release,
        limits=settings.limits,
        auth=settings.auth,
    )
    role.make_public(settings.public_certificates, with_reflection=settings.reflection)
    for name, service in gateway.services.items():
        role.add_service(
            name,
            service,
            max_request_bytes=settings.max_message_bytes,
            guard=gateway.guard,
            cost=cost_of,
            is_shed=name not in NEVER_SHED,
        )
    if settings.auth and settings.tls_cert is None and not is_loopback(settings.host):
        _log.warning(
            "api_keys_travel_in_plaintext",
            host=settings.host,
            remedy="give tls_cert and tls_key, unless something before this port speaks TLS",
        )
    await role.listen()
    await gateway.start()
    becoming_ready = asyncio.create_task(_serve_once_ready(gateway, role))
    try:
        yield
    finally:
        becoming_ready.cancel()
        await asyncio.gather(becoming_ready, return_exceptions=True)
        await gateway.close()
        await to_coordinator.close()


async def _serve_once_ready(gateway: Gateway, role: process.RoleProcess) -> None:
    """Say that calls make sense as soon as there is a table, and from then on.

    What is down elsewhere does not make this process unready: it answers with what it has.
    """
    await gateway.wait_for_table()
    await role.set_serving(True)
    await gateway.table.wait_until(lambda: gateway.table.ready, None)
    role.health.announce(CLUSTER)


class _WorkerChannels:
    """Channels to workers, by worker and address; both stubs of one share its channel."""

    def __init__(self, tls: ChannelTls | None) -> None:
        self._tls = tls
        self._channels: dict[tuple[str, str], AddressedChannel] = {}

    def data_stub(self, worker_id: str, address: str) -> ShardDataServiceAsyncStub:
        return ShardDataServiceStub(self._channel(worker_id, address))

    def control_stub(self, worker_id: str, address: str) -> ShardControlServiceAsyncStub:
        return ShardControlServiceStub(self._channel(worker_id, address))

    async def release(self, worker_id: str, address: str) -> None:
        unused = self._channels.pop((worker_id, address), None)
        if unused is not None:
            await unused.close()

    def _channel(self, worker_id: str, address: str) -> AddressedChannel:
        key = (worker_id, address)
        if key not in self._channels:
            self._channels[key] = channel(address, self._tls)
        return self._channels[key]
