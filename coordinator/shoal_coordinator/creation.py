"""The shards of reserved collections: made on their workers, or undone.

Shared by what creates collections empty and what creates them of copies.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from shoal.errors import OverloadedError, ShoalError, UnavailableError
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_CREATING,
    CollectionEntry,
    CollectionState,
    ShardEntry,
)
from shoal.internal.v1.worker_service_pb2 import CreateShardRequest
from shoal.server import logs
from shoal.server.rpc import call
from shoal_coordinator.changes import Changes
from shoal_coordinator.delivery import Delivery, WorkerStub
from shoal_coordinator.entries import undo_creations
from shoal_coordinator.membership import Membership
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

CREATE_SHARD_TIMEOUT_S: Final = 10.0
"""Making an empty shard takes milliseconds; on a busy disk some syncs may take seconds."""

CREATIONS_OF_SHARDS_AT_A_TIME: Final = 64
"""Over all collections being created."""

UNDO_PAUSE_S: Final = 1.0
"""Between attempts to undo a creation while the catalog cannot be written."""


class Creation:
    """Makes the shards of reservations, and undoes reservations.

    Args:
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        membership: Membership,
        delivery: Delivery,
        worker_stub: WorkerStub,
        crash_point: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._membership = membership
        self._delivery = delivery
        self._worker_stub = worker_stub
        self._crash_point = crash_point
        self._undoing: set[asyncio.Task[Any]] = set()
        self._at_a_time = asyncio.Semaphore(CREATIONS_OF_SHARDS_AT_A_TIME)

    async def make_shards(self, entry: CollectionEntry, state: CollectionState.ValueType) -> None:
        """Have every shard of a reserved collection made, empty.

        Args:
            entry: The reservation.
            state: What the copies beside the shards say. ACTIVE: the collection may be taken into
                a catalog that is rebuilt of these copies. CREATING: it may not, for a part of it
                is not the collection.

        Raises:
            UnavailableError: A worker cannot be reached.
            ShoalError: What a worker answered.
        """
        copy = CollectionEntry()
        copy.CopyFrom(entry)
        copy.state = state
        if state == COLLECTION_STATE_CREATING:
            # Older than whatever takes its place when the collection is whole.
            copy.table_version = 0
        results = await asyncio.gather(
            *(self._make_shard(copy, shard) for shard in entry.shards), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result

    async def undo(self, entries: Sequence[CollectionEntry]) -> None:
        """Free the names of reservations, now or, if the catalog cannot be written, later."""
        try:
            await self._undo_once(entries)
        except ShoalError as error:
            ids = [entry.collection.id for entry in entries[:100]]
            _log.error("undoing_postponed", collection_ids=ids, error=error.message)
            task = asyncio.create_task(self._undo_later(entries))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)

    async def close(self) -> None:
        """Break off; the next start undoes what is reserved."""
        for task in list(self._undoing):
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)

    async def _make_shard(self, copy: CollectionEntry, shard: ShardEntry) -> None:
        async with self._at_a_time:
            address = self._membership.reachable(shard.worker_id)
            if address is None:
                raise UnavailableError(f"worker {shard.worker_id} was lost")
            request = CreateShardRequest(
                cluster_id=self._table.state.cluster_id,
                worker_id=shard.worker_id,
                shard_id=shard.shard_id,
                entry=copy,
            )
            stub = self._worker_stub(address)
            await call(stub.CreateShard, request, timeout_s=CREATE_SHARD_TIMEOUT_S)
        self._crash_point("shard_created")

    async def _undo_once(self, entries: Sequence[CollectionEntry]) -> None:
        deletions, _ = await self._changes.make(lambda state: undo_creations(state, entries))
        self._delivery.delete(deletions)
        ids = [entry.collection.id for entry in entries[:100]]
        _log.warning("creation_undone", collection_ids=ids)

    async def _undo_later(self, entries: Sequence[CollectionEntry]) -> None:
        while True:
            await asyncio.sleep(UNDO_PAUSE_S)
            with contextlib.suppress(UnavailableError, OverloadedError):
                return await self._undo_once(entries)
