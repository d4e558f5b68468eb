"""The gateway as one object: its process puts it behind a port, other roles beside it call it."""

from __future__ import annotations

import asyncio
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Final

from shoal.server import logs
from shoal.server.clock import HybridClock
from shoal.server.rpc import Guard
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal_gateway.access import Access
from shoal_gateway.admin import AdminService
from shoal_gateway.collections import CollectionService
from shoal_gateway.failover import Holders
from shoal_gateway.fanout import FanOut
from shoal_gateway.ranked_search import RankedSearcher
from shoal_gateway.reads import Reader
from shoal_gateway.records import RecordService
from shoal_gateway.routing import Router
from shoal_gateway.search import Searcher
from shoal_gateway.selection import Selection
from shoal_gateway.snapshots import SnapshotService
from shoal_gateway.table import RoutingTable
from shoal_gateway.throttle import Throttle
from shoal_gateway.watch import TableWatch
from shoal_gateway.workers import ControlStubs, DataStubs, ReleaseWorker, WorkerStubs
from shoal_gateway.writes import Writer

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from shoal.internal.v1.routing_service_pb2_grpc import RoutingServiceAsyncStub
    from shoal.internal.v1.snapshot_service_pb2_grpc import SnapshotCatalogServiceAsyncStub

__all__ = ["Gateway"]

_TIDY_EVERY_S: Final = 10.0
"""How often channels to addresses that no worker has any more are closed."""

_log: Final = logs.get_logger("shoal.gateway")


class Gateway:
    """Serves the public API. Belongs to the event loop in which it is started.

    Args:
        catalog_stub: The coordinator's, remote or local.
        routing_stub: The same.
        snapshot_stub: The same; None: there are no snapshots.
        worker_stub: Makes the data stub of a worker, from its UUID and address.
        control_stub: Makes the control stub of a worker, from its UUID and address.
        release_worker: Closes what the stubs of a worker at an address have used.
        limits: The bounds of requests and answers.
        clock: Gives ordinals.
        auth: Whether callers must show an API key.

    Attributes:
        collection_service: ``shoal.v1.CollectionService``.
        record_service: ``shoal.v1.RecordService``.
        admin_service: ``shoal.v1.AdminService``.
        snapshot_service: ``shoal.v1.SnapshotService``.
        table: The watched table.
        guard: Decides which calls are answered; for whoever puts the services behind a port.
    """

    def __init__(
        self,
        *,
        catalog_stub: CatalogServiceAsyncStub,
        routing_stub: RoutingServiceAsyncStub,
        worker_stub: DataStubs,
        control_stub: ControlStubs,
        snapshot_stub: SnapshotCatalogServiceAsyncStub | None = None,
        release_worker: ReleaseWorker | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: HybridClock | None = None,
        auth: bool = False,
    ) -> None:
        clock = clock or HybridClock()
        self.table = RoutingTable()
        self.guard: Guard = Throttle(self.table, Access(self.table) if auth else None)
        self._watch = TableWatch(self.table, routing_stub, str(uuid.uuid4()))
        self._stubs = WorkerStubs(worker_stub, control_stub, release_worker)
        self._tasks: list[asyncio.Task[None]] = []
        router = Router(self.table, catalog_stub)
        self._fan_out = FanOut(Holders(self.table, router), self._stubs, clock)
        selection = Selection(self._fan_out, clock)
        reader = Reader(self._fan_out, selection, clock, limits)
        self.record_service = RecordService(
            router,
            Writer(router, self._fan_out, catalog_stub, clock, limits, selection),
            reader,
            Searcher(router, self._fan_out, clock, limits),
            RankedSearcher(router, self._fan_out, reader, clock, limits),
            selection,
            clock,
            limits,
        )
        self.collection_service = CollectionService(self.table, router, catalog_stub, limits)
        self.admin_service = AdminService(
            self.table,
            lambda: self._watch.alive,
            catalog_stub,
            self._stubs,
            limits,
            metadata.version("shoal"),
        )
        self.snapshot_service = SnapshotService(self.table, router, snapshot_stub, limits)

    @property
    def services(self) -> dict[str, object]:
        """The service objects by the full names under which they are served."""
        return {
            "shoal.v1.CollectionService": self.collection_service,
            "shoal.v1.RecordService": self.record_service,
            "shoal.v1.AdminService": self.admin_service,
            "shoal.v1.SnapshotService": self.snapshot_service,
        }

    @property
    def coordinator_reachable(self) -> bool:
        """Whether the watch of the coordinator is alive."""
        return self._watch.alive

    async def start(self) -> None:
        """Begin to follow the table. Calls are answered as far as it goes."""
        self._tasks = [
            asyncio.create_task(self._watch.run()),
            asyncio.create_task(self._tidy()),
        ]

    async def wait_for_table(self) -> None:
        """Wait until there is a table."""
        await self.table.wait_until(lambda: self.table.version > 0, None)

    async def close(self) -> None:
        """End what is under way, and let go of the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._fan_out.close()
        await self._stubs.keep_only([])

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            await self._stubs.keep_only(self.table.workers())
