"""Following the coordinator's table, for ever.

One stream: first what the gateway holds, then, from the coordinator, a snapshot or the changes
since; the gateway confirms each version once it routes by it. A stream that ends is opened again.
Whatever happens to it, the table that there is stays in force: the coordinator is not on the data
path. A table of another cluster is refused; a gateway never changes its cluster while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from shoal.errors import FailedPreconditionError, ShoalError
from shoal.internal.v1 import routing_service_pb2
from shoal.server import logs, metrics
from shoal.server.rpc import stream
from shoal_gateway.table import RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.routing_service_pb2_grpc import RoutingServiceAsyncStub

__all__ = ["TableWatch"]

_log: Final = logs.get_logger("shoal.gateway")

_FIRST_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 1.0
"""A coordinator that comes back finds its gateways within a second."""

_version_gauge: Final = metrics.gauge(
    "shoal_gateway_table_version", "Version of the routing table that this gateway routes by."
)
_reachable_gauge: Final = metrics.gauge(
    "shoal_gateway_coordinator_reachable", "Whether the watch of the coordinator is alive: 1 or 0."
)
_failures: Final = metrics.counter(
    "shoal_gateway_watch_failures", "Watches of the coordinator that ended.", ("reason",)
)


class TableWatch:
    """Keeps a table up to date.

    Args:
        table: Changed by this watch alone, but for what the gateway learns ahead of it.
        stub: The coordinator's.
        gateway_id: UUID of this gateway's process.

    Attributes:
        alive: Whether the coordinator answers on the stream.
    """

    def __init__(self, table: RoutingTable, stub: RoutingServiceAsyncStub, gateway_id: str) -> None:
        self._table = table
        self._stub = stub
        self._gateway_id = gateway_id
        self.alive = False

    async def run(self) -> None:
        """Follow the table until cancelled."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            was_alive = False
            try:
                await self._follow()
                reason = "ended"
            except ShoalError as error:
                reason = error.reason
                message = error.message
            else:
                message = "the coordinator ended the stream"
            finally:
                was_alive, self.alive = self.alive, False
                _reachable_gauge.set(0)
            _failures.labels(reason).inc()
            if was_alive or backoff_s == _FIRST_BACKOFF_S:
                _log.warning("watch_ended", reason=reason, message=message)
            if was_alive:
                backoff_s = _FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _LONGEST_BACKOFF_S)

    async def _follow(self) -> None:
        confirmations: asyncio.Queue[int] = asyncio.Queue()
        pages: list[routing_service_pb2.WatchTableResponse] = []
        updates = stream(
            self._stub.WatchTable, self._requests(confirmations), address="the coordinator"
        )
        async with contextlib.aclosing(updates):  # type: ignore[type-var]
            async for page in updates:
                self._check_cluster(page)
                if not self.alive:
                    self.alive = True
                    _reachable_gauge.set(1)
                    _log.info("watch_begun", table_version=page.version)
                pages.append(page)
                if not page.more:
                    self._table.apply(pages)
                    pages = []
                    _version_gauge.set(self._table.version)
                    confirmations.put_nowait(self._table.version)

    async def _requests(
        self, confirmations: asyncio.Queue[int]
    ) -> AsyncIterator[routing_service_pb2.WatchTableRequest]:
        version = self._table.version
        while True:
            yield routing_service_pb2.WatchTableRequest(
                gateway_id=self._gateway_id, cluster_id=self._table.cluster_id, version=version
            )
            version = await confirmations.get()
            while not confirmations.empty():  # the last one confirms those before it
                version = confirmations.get_nowait()

    def _check_cluster(self, page: routing_service_pb2.WatchTableResponse) -> None:
        own = self._table.cluster_id
        if own and page.cluster_id != own:
            raise FailedPreconditionError(
                f"the coordinator is of cluster {page.cluster_id}, this gateway of {own}: it keeps "
                "its table, and has to be restarted to join another cluster",
                metadata={"cluster_id": page.cluster_id},
            )
