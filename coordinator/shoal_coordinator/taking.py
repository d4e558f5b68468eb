"""Copies of shards at one point in time, put into the snapshot store by their workers.

What snapshots, backups and the sources of clones have in common: a cut, then each worker stores the
copies that it made at the cut, those left out that are in the store already.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.errors import (
    DeadlineExceededError,
    InternalError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.internal.v1.worker_service_pb2 import StoreCutRequest
from shoal.server import logs
from shoal.server.rpc import call
from shoal_coordinator.cuts import Cut, Cuts, Moment
from shoal_coordinator.delivery import WorkerStub
from shoal_coordinator.stored_objects import StoredObjects
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

STORE_CALL_TIMEOUT_S: Final = 60.0
"""A worker answers after some seconds, also if it goes on."""

PATIENCE_S: Final = 60.0
"""So long a worker, or its way to the store, may fail without an answer in between."""

_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Shards at one point in time, as they lie in the store.

    Attributes:
        moment: The catalog at that time.
        shards: By shard.
    """

    moment: Moment
    shards: dict[str, StoredShard]

    def of(self, entry: CollectionEntry) -> list[StoredShard]:
        """Those of a collection, in its order."""
        return [self.shards[shard.shard_id] for shard in entry.shards]


class Taker:
    """Cuts shards and has them stored."""

    def __init__(
        self,
        cuts: Cuts,
        table: RoutingTable,
        store: SnapshotStore,
        objects: StoredObjects,
        worker_stub: WorkerStub,
        reachable: Callable[[str], str | None],
        *,
        crash_point: Callable[[str], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._cuts = cuts
        self._table = table
        self._store = store
        self._objects = objects
        self._worker_stub = worker_stub
        self._reachable = reachable
        self._crash_point = crash_point
        self._patience_s = patience_s

    @contextlib.asynccontextmanager
    async def taken(
        self,
        describe: Callable[[], Moment],
        when_cut: Callable[[Cut], Awaitable[None]],
    ) -> AsyncIterator[Taken]:
        """Give copies that are in the store, and are kept there while the block runs.

        Args:
            describe: See `Cuts.take`.
            when_cut: Called when the point is fixed, before anything is stored.

        Raises:
            ShoalError: No cut came about, or a worker lost it, or could not store it.
        """
        # Before anything else: without a store nobody's writes need wait.
        url = self._store.url
        cut = await self._cuts.take(describe)
        try:
            async with self._objects.in_use(cut.states.keys()):
                await when_cut(cut)
                shards = await self._store_all(cut, url)
                self._crash_point("cut_stored")
                yield Taken(cut.moment, shards)
        finally:
            await self._cuts.release(cut)

    async def _store_all(self, cut: Cut, url: str) -> dict[str, StoredShard]:
        known = self._objects.known(cut.states)
        buckets = {s.shard_id: s.buckets for entry in cut.moment.entries for s in entry.shards}
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    self._guarded(
                        StoreCutRequest(
                            cluster_id=self._table.state.cluster_id,
                            worker_id=worker_id,
                            cut_id=cut.cut_id,
                            store=url,
                            known=[known[s.shard_id] for s in shards if s.shard_id in known],
                        )
                    )
                )
                for worker_id, shards in cut.shards.items()
            ]
        stored: dict[str, StoredShard] = {}
        for task in tasks:
            answer = task.result()
            if isinstance(answer, ShoalError):
                raise answer
            for shard in answer:
                kept = stored[shard.shard_id] = StoredShard()
                kept.CopyFrom(shard)
                # What a shard owns is for the catalog to say.
                del kept.buckets[:]
                kept.buckets.extend(buckets.get(shard.shard_id, ()))
        self._check(cut, stored)
        return stored

    async def _guarded(self, request: StoreCutRequest) -> Sequence[StoredShard] | ShoalError:
        """Store on one worker; a failure is given back, so that the others end in order."""
        try:
            return await self._store_on(request)
        except ShoalError as error:
            return error

    async def _store_on(self, request: StoreCutRequest) -> Sequence[StoredShard]:
        answered_at_s = time.monotonic()
        while True:
            try:
                address = self._reachable(request.worker_id)
                if address is None:
                    raise UnavailableError(f"worker {request.worker_id} is not heard from")
                stub = self._worker_stub(address)
                answer = await call(stub.StoreCut, request, timeout_s=STORE_CALL_TIMEOUT_S)
            except (UnavailableError, DeadlineExceededError) as error:
                if time.monotonic() - answered_at_s > self._patience_s:
                    raise
                _log.info("cut_not_stored_yet", worker_id=request.worker_id, error=error.message)
                await asyncio.sleep(_PAUSE_S)
                continue
            if answer.done:
                return answer.shards
            answered_at_s = time.monotonic()

    @staticmethod
    def _check(cut: Cut, stored: dict[str, StoredShard]) -> None:
        """Make sure that what was stored is what was cut."""
        for shard_id, state in cut.states.items():
            shard = stored.get(shard_id)
            if shard is None:
                raise InternalError(f"shard {shard_id} was cut, but not stored")
            if (shard.sequence, shard.record_count) != (state.sequence, state.record_count):
                raise InternalError(
                    f"shard {shard_id} was cut at sequence {state.sequence} with"
                    f" {state.record_count} records, and stored at {shard.sequence} with"
                    f" {shard.record_count}"
                )
