"""The process `shoal-coordinator`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from shoal.server import process
from shoal_coordinator.coordinator import Coordinator
from shoal_coordinator.settings import CoordinatorSettings

__all__ = ["main"]


def main() -> int:
    """Run the coordinator until it is told to stop, and give the exit code."""
    return process.run(
        "coordinator",
        CoordinatorSettings,
        serve,
        description="Shoal's coordinator: owns the catalog, assigns shards to workers, publishes"
        " the routing table.",
    )


@contextlib.asynccontextmanager
async def serve(settings: CoordinatorSettings, role: process.RoleProcess) -> AsyncIterator[None]:
    """Open the catalog, then answer calls."""
    coordinator = Coordinator(
        settings.data_dir,
        expected_workers=settings.expected_workers,
        allow_reset=settings.allow_reset,
        recover=settings.recover_catalog,
        bootstrap_key_file=settings.bootstrap_key_file,
        snapshot_store=settings.snapshot_store,
        heartbeat_s=settings.heartbeat_s,
        lease_s=settings.lease_s,
        tls=role.cluster_tls,
    )
    await coordinator.start()
    try:
        role.add_service("shoal.internal.v1.CatalogService", coordinator.catalog_service)
        role.add_service(
            "shoal.internal.v1.SnapshotCatalogService", coordinator.snapshot_catalog_service
        )
        role.add_service("shoal.internal.v1.RoutingService", coordinator.routing_service)
        role.add_service("shoal.internal.v1.MembershipService", coordinator.membership_service)
        # Gateways' watches are calls that never end by themselves.
        role.on_stop(coordinator.end_watches)
        await role.listen()
        await role.set_serving(True)
        yield
    finally:
        await coordinator.close()
