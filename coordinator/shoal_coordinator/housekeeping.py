"""What is done about snapshots without being asked: garbage removed, manifests taken in, metrics.

A manifest of this cluster that lies in the store while the catalog does not know it is one that an
older catalog, or one that was rebuilt, has forgotten: deletions remove the manifest first. It is
taken in again, if its database is there and its name is free.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from shoal.errors import ShoalError
from shoal.internal.v1.snapshot_pb2 import BackupManifest, SnapshotManifest
from shoal.server import logs
from shoal.v1.snapshot_service_pb2 import SNAPSHOT_STATUS_READY, SnapshotStatus
from shoal_coordinator import manifests, metrics
from shoal_coordinator.changes import Changes
from shoal_coordinator.state import CatalogState, Change
from shoal_coordinator.stored_objects import StoredObjects
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

SWEEP_EVERY_S: Final = 86_400.0
RETRY_S: Final = 60.0
"""After the store did not answer."""

MEASURE_EVERY_S: Final = 5.0


class Housekeeping:
    """Keeps the snapshot store clean, and the metrics true.

    Args:
        now: Seconds since 1970.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        store: SnapshotStore,
        objects: StoredObjects,
        now: Callable[[], float],
    ) -> None:
        self._changes = changes
        self._table = table
        self._store = store
        self._objects = objects
        self._now = now

    async def clean(self) -> None:
        """Take in what the catalog has forgotten, then remove garbage, daily; until cancelled."""
        while self._store.is_set:
            try:
                if self._table.state.cluster_id:
                    await self._take_in()
                    removed_count = await self._objects.sweep_all()
                    metrics.REMOVED_OBJECTS.inc(removed_count)
                    if removed_count:
                        _log.info("snapshot_store_swept", objects=removed_count)
                    await asyncio.sleep(SWEEP_EVERY_S)
                    continue
            except ShoalError as error:
                _log.warning("snapshot_store_not_swept", error=error.message)
            await asyncio.sleep(RETRY_S)

    async def measure(self) -> None:
        """Keep the gauges true, until cancelled."""
        while True:
            self.measure_once()
            await asyncio.sleep(MEASURE_EVERY_S)

    def measure_once(self) -> None:
        """Set the gauges."""
        state = self._table.state
        snapshots = [s.description for s in state.snapshots.values() if not s.temporary]
        backups = [b.description for b in state.backups.values()]
        for status in SnapshotStatus.values()[1:]:
            label = SnapshotStatus.Name(status).removeprefix("SNAPSHOT_STATUS_").lower()
            count = sum(s.status == status for s in snapshots)
            metrics.SNAPSHOTS_BY_STATUS.labels(label).set(count)
            count = sum(b.status == status for b in backups)
            metrics.BACKUPS_BY_STATUS.labels(label).set(count)
        newest_s = [s.created_at.ToMilliseconds() / 1000 for s in snapshots if _is_ready(s)]
        metrics.SNAPSHOT_AGE_SECONDS.set(self._age(newest_s))
        newest_s = [b.created_at.ToMilliseconds() / 1000 for b in backups if _is_ready(b)]
        metrics.BACKUP_AGE_SECONDS.set(self._age(newest_s))
        metrics.SNAPSHOT_STORE_BYTES.set(self._objects.named_bytes())

    def _age(self, created_at_s: list[float]) -> float:
        return self._now() - max(created_at_s) if created_at_s else math.nan

    async def _take_in(self) -> None:
        state = self._table.state
        snapshots: list[SnapshotManifest] = []
        backups: list[BackupManifest] = []
        for key, data in await self._unknown(
            manifests.snapshots_prefix(state.cluster_id), state.snapshots.keys()
        ):
            snapshots.append(manifests.decode_snapshot(data, key))
        for key, data in await self._unknown(
            manifests.backups_prefix(state.cluster_id), state.backup_ids.keys()
        ):
            backups.append(manifests.decode_backup(data, key))
        if snapshots or backups:
            taken_in, _ = await self._changes.make(lambda s: _forgotten(s, snapshots, backups))
            self._objects.catalog_completed()
            if taken_in:
                _log.warning("forgotten_snapshots_taken_in", ids=taken_in)

    async def _unknown(self, prefix: str, known: object) -> list[tuple[str, bytes]]:
        names = set(known)  # type: ignore[call-overload]
        keys = [item.key for item in await self._store.list(prefix)]
        return [
            (key, await self._store.read(key))
            for key in keys
            if key.removeprefix(prefix) not in names
        ]


def _forgotten(
    state: CatalogState, snapshots: list[SnapshotManifest], backups: list[BackupManifest]
) -> tuple[Change | None, list[str]]:
    """Take in those whose database is there and whose name is free."""
    new_snapshots: dict[tuple[str, str], SnapshotManifest] = {}
    new_backups: dict[str, BackupManifest] = {}
    for found in snapshots:
        description = found.description
        database_id = state.database_ids.get((description.tenant, description.database))
        key = (database_id or "", description.name)
        if description.id in state.snapshots or database_id is None or key in state.snapshot_ids:
            continue
        manifest = SnapshotManifest()
        manifest.CopyFrom(found)
        # A catalog that was made anew gave the database another ID.
        manifest.database_id = manifest.entry.database_id = database_id
        new_snapshots.setdefault(key, manifest)
    for backup in backups:
        if backup.description.name not in state.backup_ids:
            new_backups[backup.description.name] = backup
    if not new_snapshots and not new_backups:
        return None, []
    change = Change(snapshots=tuple(new_snapshots.values()), backups=tuple(new_backups.values()))
    ids = [m.description.id for m in new_snapshots.values()]
    return change, ids + [m.description.id for m in new_backups.values()]


def _is_ready(description: object) -> bool:
    return getattr(description, "status", None) == SNAPSHOT_STATUS_READY
