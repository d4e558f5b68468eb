"""What a gateway does when a shard does not answer: seek its holder, wait a little, say who failed.

A worker that cannot be reached is sought for as long as one takes to be restarted. A shard that its
worker disowns is looked up in the catalog: if that names another holder or epoch, the call goes
there; if it names the same, the shard's data is missing, and no patience brings it back.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from shoal.errors import DataLossError, ShoalError, StaleRouteError, UnavailableError
from shoal.internal.v1 import catalog_pb2
from shoal.server import metrics
from shoal.server.rpc import CallContext
from shoal_gateway.routing import Router
from shoal_gateway.table import CollectionRoute, RoutingTable, ShardRoute

__all__ = ["PARTIAL_PATIENCE_S", "PATIENCE_S", "SHARDS_OWN", "Holders", "Patience", "naming"]

PATIENCE_S: Final = 3.0
"""How long a worker that cannot be reached is sought: the time in which one is restarted. At most
half of the deadline."""

PARTIAL_PATIENCE_S: Final = 0.3
"""The same, if the caller is content with the others' answers."""

_FIRST_BACKOFF_S: Final = 0.02
_LONGEST_BACKOFF_S: Final = 0.5

_MOST_REROUTES: Final = 4
"""Of one call: a shard that moves more often than this meanwhile is in no state to serve."""

_CATCH_UP_S: Final = 0.1
"""How long a worker that disowns a shard has for hearing of what the catalog already says."""

_repeats: Final = metrics.counter(
    "shoal_gateway_repeated_calls", "Calls to workers that were repeated.", ("reason",)
)
_stale_repeats: Final = _repeats.labels("STALE_ROUTE")
_unavailable_repeats: Final = _repeats.labels("UNAVAILABLE")

SHARDS_OWN: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "RESOURCE_EXHAUSTED", "INTERNAL"}
)
"""Codes by which one shard may fail while the others' answers stand; any other is the request's
fault."""


class Patience:
    """How long one call goes on repeating itself."""

    __slots__ = ("_backoff_s", "_until", "reroutes")

    def __init__(self, context: CallContext, longest_s: float) -> None:
        self._until = time.monotonic() + min(longest_s, context.time_remaining() / 2)
        self._backoff_s = _FIRST_BACKOFF_S
        self.reroutes: dict[str, int] = {}  # by shard

    async def wait(self) -> bool:
        """Wait for the next attempt; False if there is no time for one."""
        if time.monotonic() + self._backoff_s > self._until:
            return False
        _unavailable_repeats.inc()
        await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        return True


class Holders:
    """Who holds which shard, by the table and, where it is stale, by the coordinator.

    Args:
        table: The watched table.
        router: Asks the coordinator.
    """

    def __init__(self, table: RoutingTable, router: Router) -> None:
        self._table = table
        self._router = router

    def worker_of(self, route: CollectionRoute, shard: ShardRoute) -> catalog_pb2.WorkerEntry:
        """Give the worker that holds a shard.

        Raises:
            DataLossError: Its data directory is gone.
            UnavailableError: The table does not know it.
        """
        worker = self._table.worker(shard.worker_id)
        if worker is None:
            raise UnavailableError(
                f"shard {shard.shard_id} of collection {route.name!r}: its worker "
                f"{shard.worker_id} is not in the routing table",
                metadata=_facts(route, shard, None),
            )
        if worker.replaced_by:
            raise DataLossError(
                f"shard {shard.shard_id} of collection {route.name!r} is lost: worker "
                f"{shard.worker_id} held it at {worker.address}, and its data directory is gone or "
                f"was replaced (worker {worker.replaced_by} answers there now)",
                metadata=_facts(route, shard, worker),
            )
        return worker

    def current(self, route: CollectionRoute, shard: ShardRoute) -> ShardRoute:
        """Give a shard as the table has it by now."""
        known = self._table.collection(route.collection_id)
        found = None if known is None else known.shard(shard.shard_id)
        return found if found is not None and found.epoch > shard.epoch else shard

    async def reroute(
        self,
        route: CollectionRoute,
        shard: ShardRoute,
        error: StaleRouteError,
        patience: Patience,
        context: CallContext,
    ) -> ShardRoute:
        """Find out who holds a shard that a worker has disowned.

        Raises:
            CollectionNotFoundError: The collection was deleted.
            DataLossError: The catalog says that this worker holds it at this epoch.
            UnavailableError: The coordinator cannot be asked.
        """
        _stale_repeats.inc()
        known = self.current(route, shard)
        if known.epoch <= shard.epoch:
            fresh = await self._router.refresh(route, context)
            found = fresh.shard(shard.shard_id)
            if found is None:
                raise UnavailableError(
                    f"shard {shard.shard_id} of collection {route.name!r} is no part of it any "
                    "more: repeat the call",
                    metadata=_facts(route, shard, None),
                )
            known = found
        reroutes = patience.reroutes[shard.shard_id] = patience.reroutes.get(shard.shard_id, 0) + 1
        if known.epoch > shard.epoch and reroutes <= _MOST_REROUTES:
            return known
        if reroutes == 1:
            await asyncio.sleep(min(_CATCH_UP_S, context.time_remaining() / 2))
            return known
        raise DataLossError(
            f"shard {shard.shard_id} of collection {route.name!r} is missing on worker "
            f"{shard.worker_id}, which holds it at epoch {shard.epoch} by the catalog: "
            f"{error.message}",
            metadata=_facts(route, shard, self._table.worker(shard.worker_id)),
        )


def _facts(
    route: CollectionRoute, shard: ShardRoute, worker: catalog_pb2.WorkerEntry | None
) -> dict[str, str]:
    facts = {
        "collection_id": route.collection_id,
        "shard_id": shard.shard_id,
        "worker_id": shard.worker_id,
    }
    return facts if worker is None else facts | {"address": worker.address}


def naming(
    error: ShoalError,
    route: CollectionRoute,
    shard: ShardRoute,
    worker: catalog_pb2.WorkerEntry | None,
) -> ShoalError:
    """Give an error of a shard's own in words that name shard, collection and worker.

    What is the request's fault stays as it is.
    """
    if error.code not in SHARDS_OWN or worker is None:
        return error
    facts = _facts(route, shard, worker) | error.metadata
    return type(error)(
        f"shard {shard.shard_id} of collection {route.name!r} on worker {shard.worker_id} at "
        f"{worker.address}: {error.message}",
        metadata=facts,
        retry_after_s=error.retry_after_s,
    )
