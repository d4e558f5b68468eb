"""Which objects of the snapshot store are needed, and the removal of those that are not.

An object is needed if a manifest names it that is ready: of a snapshot, of a backup, or of one that
lies in the store and that the catalog does not know. Absence is never an instruction: after an
older catalog was put back, what it does not know may be all that somebody has.

Copies are stored, and objects removed, shard by shard: while something stores copies of a shard,
or relies on one that is there, nothing of that shard is removed. What was to be removed is when the
last of those has ended.

What a crash leaves behind is found by `sweep_all`, which goes through everything and spares what is
younger than an hour: a worker may be storing that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from typing import Final

from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.internal.v1.worker_service_pb2 import CutState
from shoal.server import logs
from shoal.v1.snapshot_service_pb2 import SNAPSHOT_STATUS_READY
from shoal_coordinator import manifests
from shoal_coordinator.state import CatalogState
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

SPARED_S: Final = 3600.0
"""So young an object may belong to what is under way, or was until a moment ago."""


class StoredObjects:
    """Knows which objects are needed.

    Args:
        now: Seconds since 1970.
    """

    def __init__(self, table: RoutingTable, store: SnapshotStore, now: Callable[[], float]) -> None:
        self._table = table
        self._store = store
        self._now = now
        self._in_use: Counter[str] = Counter()  # shards, by what stores or relies on copies of them
        self._sweeping: set[str] = set()
        self._changed = asyncio.Condition()
        # Keys that manifests name which the catalog does not know; None until they were read.
        self._named_elsewhere: frozenset[str] | None = None
        self._reading = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def in_use(self, shard_ids: Collection[str]) -> AsyncIterator[None]:
        """Keep all objects of these shards meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._sweeping.isdisjoint(shard_ids))
            self._in_use.update(shard_ids)
        try:
            yield
        finally:
            # Not to be broken off half-way, whoever is cancelled.
            for shard_id in shard_ids:
                self._in_use[shard_id] -= 1
                if not self._in_use[shard_id]:
                    del self._in_use[shard_id]
            await asyncio.shield(asyncio.ensure_future(self._notify()))

    def known(self, states: Mapping[str, CutState]) -> dict[str, StoredShard]:
        """Give the copies that are there of shards in these states, by shard.

        The sequence alone says which copy is the same, unless a worker's directory was put back
        from an older backup: then another write may have its number. It has hardly its ordinal.
        """
        return {
            shard.shard_id: shard
            for shard in _named(self._table.state)
            if (state := states.get(shard.shard_id)) is not None
            and (state.sequence, state.record_count, state.last_ordinal)
            == (shard.sequence, shard.record_count, shard.last_ordinal)
        }

    def catalog_completed(self) -> None:
        """Note that the catalog has taken in manifests that it did not know."""
        self._named_elsewhere = None

    def named_bytes(self) -> int:
        """Bytes of all copies that are named, each counted once."""
        sizes = {s.records.key: s.records.size_bytes for s in _named(self._table.state)}
        return sum(sizes.values())

    async def sweep(self, shard_ids: Collection[str]) -> None:
        """Remove the objects of these shards that nothing needs, once nobody uses the shards.

        Raises:
            ShoalError: The store does not answer as it should; some may have been removed.
        """
        elsewhere = await self._read_elsewhere()
        for shard_id in shard_ids:
            async with self._changed:
                await self._changed.wait_for(
                    lambda shard_id=shard_id: (  # type: ignore[misc]
                        shard_id not in self._in_use and shard_id not in self._sweeping
                    )
                )
                self._sweeping.add(shard_id)
            try:
                prefix = manifests.objects_prefix(self._table.state.cluster_id, shard_id)
                found = [item.key for item in await self._store.list(prefix)]
                named = {shard.records.key for shard in _named(self._table.state)}
                await self._store.delete(*(k for k in found if k not in named | elsewhere))
            finally:
                self._sweeping.discard(shard_id)
                await asyncio.shield(asyncio.ensure_future(self._notify()))

    async def sweep_all(self) -> int:
        """Remove all objects that nothing needs and that are not young; give their number.

        Raises:
            ShoalError: The store does not answer as it should; some may have been removed.
        """
        elsewhere = await self._read_elsewhere()
        found = await self._store.list(manifests.objects_prefix(self._table.state.cluster_id))
        oldest_spared_ms = (self._now() - SPARED_S) * 1000
        named = {shard.records.key for shard in _named(self._table.state)} | elsewhere
        old = {i.key for i in found if i.key not in named and i.modified_at_ms < oldest_spared_ms}
        shard_ids = {key.split("/")[2] for key in old}
        removed_count = 0
        for shard_id in shard_ids:
            if shard_id not in self._in_use and shard_id not in self._sweeping:
                await self.sweep([shard_id])
                removed_count += sum(key.split("/")[2] == shard_id for key in old)
        return removed_count

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _read_elsewhere(self) -> frozenset[str]:
        async with self._reading:
            if self._named_elsewhere is None:
                self._named_elsewhere = frozenset(await self._find_elsewhere())
            return self._named_elsewhere

    async def _find_elsewhere(self) -> list[str]:
        state = self._table.state
        keys: list[str] = []
        prefix = manifests.snapshots_prefix(state.cluster_id)
        for item in await self._store.list(prefix):
            if item.key.removeprefix(prefix) in state.snapshots:
                continue
            snapshot = manifests.decode_snapshot(await self._store.read(item.key), item.key)
            keys += (shard.records.key for shard in snapshot.shards)
            _log.warning("unknown_snapshot_kept", object=item.key)
        prefix = manifests.backups_prefix(state.cluster_id)
        for item in await self._store.list(prefix):
            if item.key.removeprefix(prefix) in state.backup_ids:
                continue
            backup = manifests.decode_backup(await self._store.read(item.key), item.key)
            keys += (shard.records.key for shard in manifests.shards_of_backup(backup))
            _log.warning("unknown_backup_kept", object=item.key)
        return keys


def _named(state: CatalogState) -> Iterator[StoredShard]:
    """The copies that what is ready names."""
    for snapshot in state.snapshots.values():
        if snapshot.description.status == SNAPSHOT_STATUS_READY:
            yield from snapshot.shards
    for backup in state.backups.values():
        if backup.description.status == SNAPSHOT_STATUS_READY:
            yield from manifests.shards_of_backup(backup)
