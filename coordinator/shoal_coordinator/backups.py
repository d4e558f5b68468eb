"""Backups: the whole cluster at one point in time, and back.

A backup is one cut over all shards of all collections, with the tenants, databases, API keys and
quotas of that very moment. It lives as a snapshot does (see `shoal_coordinator.snapshots`), and its
manifest says all, so that a cluster which has lost everything, or another one, can restore it from
the store alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from shoal.errors import (
    BackupExistsError,
    BackupNotFoundError,
    FailedPreconditionError,
    ShoalError,
)
from shoal.internal.v1.catalog_pb2 import COLLECTION_STATE_ACTIVE
from shoal.internal.v1.snapshot_pb2 import BackedUpCollection, BackupManifest
from shoal.server import logs
from shoal.v1.snapshot_service_pb2 import (
    SNAPSHOT_STATUS_FAILED,
    SNAPSHOT_STATUS_INITIALIZING,
    SNAPSHOT_STATUS_READY,
    SNAPSHOT_STATUS_TERMINATING,
    Backup,
)
from shoal_coordinator import manifests, metrics
from shoal_coordinator.changes import Changes
from shoal_coordinator.cuts import Cut, Moment
from shoal_coordinator.state import MAX_BACKUPS, CatalogState, Change, check_room
from shoal_coordinator.stored_objects import StoredObjects
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable
from shoal_coordinator.taking import Taken, Taker
from shoal_coordinator.under_way import UnderWay, persist

_log: Final = logs.get_logger(__name__)


class Backups:
    """Takes and deletes backups.

    Args:
        now: Seconds since 1970.
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        taker: Taker,
        store: SnapshotStore,
        objects: StoredObjects,
        *,
        now: Callable[[], float],
        crash_point: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._taker = taker
        self._store = store
        self._objects = objects
        self._now = now
        self._crash_point = crash_point
        self._under_way = UnderWay("backup")

    def get(self, name: str) -> BackupManifest:
        """Find a backup. Raises BackupNotFoundError."""
        return _named(self._table.state, name)

    def list(self, *, after: int, limit: int) -> tuple[list[BackupManifest], bool]:
        """List the backups in order of creation.

        Args:
            after: Only those of a higher creation number.

        Returns:
            At most `limit` of them, and whether there are more.
        """
        found = [m for m in self._table.state.backups.values() if m.creation_number > after]
        return found[:limit], len(found) > limit

    async def create(self, name: str) -> Backup:
        """Begin to take a backup, and describe it when its point in time is fixed.

        Raises:
            BackupExistsError: The name is taken.
            FailedPreconditionError: The cluster has no snapshot store.
        """
        key = manifests.backup_key(self._table.state.cluster_id, name)
        if name not in self._table.state.backup_ids and await self._store.exists(key):
            raise _exists(name)
        manifest, _ = await self._changes.make(lambda state: self._record(state, name))
        self._crash_point("backup_recorded")
        backup_id = manifest.description.id
        await self._under_way.take(backup_id, lambda cut: self._take(manifest, cut))
        known = self._table.state.backups.get(backup_id)
        return (manifest if known is None else known).description

    async def delete(self, name: str) -> None:
        """Begin to delete a backup.

        Raises:
            BackupNotFoundError: There is none.
            FailedPreconditionError: It is being restored.
        """

        def decide(state: CatalogState) -> tuple[Change, str]:
            manifest = _named(state, name)
            if self._under_way.is_restored(name):
                raise FailedPreconditionError(
                    f"backup {name!r} is being restored: delete it afterwards"
                )
            ended = manifests.with_status(manifest, SNAPSHOT_STATUS_TERMINATING)
            return Change(backups=(ended,)), manifest.description.id

        backup_id, _ = await self._changes.make(decide)
        self._crash_point("backup_terminating")
        self._end([backup_id])

    def restoring(self, name: str) -> AbstractContextManager[None]:
        """Keep a backup of this name from being deleted meanwhile."""
        return self._under_way.restoring(name)

    def start(self) -> None:
        """Go on with what the last run has left."""
        backups = self._table.state.backups
        self._end(
            [
                backup_id
                for backup_id, manifest in backups.items()
                if manifest.description.status == SNAPSHOT_STATUS_TERMINATING
            ]
        )
        for manifest in backups.values():
            if manifest.description.status == SNAPSHOT_STATUS_FAILED and self._store.is_set:
                self._begin_clearing(manifest)

    async def close(self) -> None:
        """Break off what is under way; the next start clears up after it."""
        await self._under_way.close()

    def _record(self, state: CatalogState, name: str) -> tuple[Change, BackupManifest]:
        if name in state.backup_ids:
            raise _exists(name)
        check_room("backups", len(state.backups), MAX_BACKUPS)
        description = Backup(
            id=str(uuid.uuid4()),
            name=name,
            status=SNAPSHOT_STATUS_INITIALIZING,
            cluster_id=state.cluster_id,
        )
        description.created_at.FromMicroseconds(int(self._now() * 1e6))
        manifest = BackupManifest(
            format=manifests.FORMAT,
            description=description,
            creation_number=state.next_creation_number,
        )
        return Change(backups=(manifest,)), manifest

    def _describe(self) -> Moment:
        state = self._table.state
        return Moment(
            entries=[e for e in state.collections.values() if e.state == COLLECTION_STATE_ACTIVE],
            tenants=list(state.tenants.values()),
            databases=list(state.databases.values()),
            api_keys=list(state.api_keys.values()),
            quotas=list(state.quotas.values()),
            snapshots=[
                snapshot
                for snapshot in state.snapshots.values()
                if snapshot.description.status == SNAPSHOT_STATUS_READY and not snapshot.temporary
            ],
        )

    async def _take(self, manifest: BackupManifest, cut: asyncio.Event) -> None:
        """Take a backup that is recorded, and record how that ended."""
        description = manifest.description
        begun_at_s = time.monotonic()

        async def when_cut(found: Cut) -> None:
            fixed = BackupManifest()
            fixed.CopyFrom(manifest)
            fixed.description.collection_count = len(found.moment.entries)
            fixed.description.vector_count = found.record_count
            # Named from now on, so that a failure knows what may lie in the store.
            fixed.collections.extend(BackedUpCollection(entry=e) for e in found.moment.entries)
            await self._changes.make(lambda state: _put(state, fixed))
            self._crash_point("backup_cut")
            cut.set()

        try:
            with metrics.SNAPSHOT_OPERATIONS.labels("backup").track_inprogress():
                async with self._taker.taken(self._describe, when_cut) as taken:
                    ready = _ready(manifest, taken)
                    key = manifests.backup_key(description.cluster_id, description.name)
                    await self._store.write(key, manifests.encode_backup(ready))
                    self._crash_point("backup_manifest_written")
                    await self._changes.make(lambda state: _put(state, ready))
        except Exception as error:
            await self._fail(description.id, error)
            if not isinstance(error, ShoalError):
                raise
            return
        self._crash_point("backup_ready")
        seconds = time.monotonic() - begun_at_s
        metrics.SNAPSHOT_OPERATION_SECONDS.labels("backup").observe(seconds)
        _log.info(
            "backup_taken",
            backup_id=description.id,
            collections=ready.description.collection_count,
            records=ready.description.vector_count,
            size_bytes=ready.description.size_bytes,
            seconds=round(seconds, 3),
        )

    async def _fail(self, backup_id: str, error: Exception) -> None:
        metrics.SNAPSHOT_FAILURES.labels("backup").inc()
        _log.warning("backup_failed", backup_id=backup_id, error=str(error))

        def decide(state: CatalogState) -> tuple[Change | None, None]:
            known = state.backups.get(backup_id)
            if known is None or known.description.status != SNAPSHOT_STATUS_INITIALIZING:
                return None, None
            return Change(backups=(manifests.failed(known, error),)), None

        with contextlib.suppress(ShoalError):  # then the next start records it
            await self._changes.make(decide)
        known = self._table.state.backups.get(backup_id)
        if known is not None:
            self._begin_clearing(known)

    def _begin_clearing(self, manifest: BackupManifest) -> None:
        """Remove what a failed backup has left in the store."""
        self._under_way.clear(manifest.description.id, lambda: self._clear(manifest))

    def _end(self, backup_ids: Collection[str]) -> None:
        for backup_id in backup_ids:
            self._under_way.end(backup_id, partial(self._end_one, backup_id))

    async def _end_one(self, backup_id: str) -> None:
        """Remove a backup's files, and then the record of it."""
        manifest = self._table.state.backups.get(backup_id)
        if manifest is None:
            return
        await self._clear(manifest)
        self._crash_point("backup_files_removed")
        await persist(
            lambda: self._changes.make(lambda _: (Change(removed_backups=(backup_id,)), None))
        )
        _log.info("backup_deleted", backup_id=backup_id)

    async def _clear(self, manifest: BackupManifest) -> None:
        description = manifest.description
        shard_ids = [s.shard_id for c in manifest.collections for s in c.entry.shards]

        async def clear() -> None:
            await self._store.delete(manifests.backup_key(description.cluster_id, description.name))
            await self._objects.sweep(shard_ids)

        await persist(clear)


def interrupted(state: CatalogState) -> tuple[BackupManifest, ...]:
    """How the backups that the last run of the coordinator was busy with are recorded now."""
    return tuple(
        manifests.failed(manifest, manifests.INTERRUPTED)
        for manifest in state.backups.values()
        if manifest.description.status == SNAPSHOT_STATUS_INITIALIZING
    )


def _named(state: CatalogState, name: str) -> BackupManifest:
    backup_id = state.backup_ids.get(name)
    if backup_id is None:
        raise BackupNotFoundError(f"there is no backup {name!r}", metadata={"backup": name})
    return state.backups[backup_id]


def _exists(name: str) -> BackupExistsError:
    return BackupExistsError(f"backup {name!r} exists already", metadata={"backup": name})


def _put(state: CatalogState, manifest: BackupManifest) -> tuple[Change, None]:
    """Record how far a backup is, unless it is to be deleted meanwhile.

    Raises:
        FailedPreconditionError: It is.
    """
    known = state.backups.get(manifest.description.id)
    if known is None or known.description.status != SNAPSHOT_STATUS_INITIALIZING:
        raise FailedPreconditionError("the backup was deleted while it was being taken")
    return Change(backups=(manifest,)), None


def _ready(manifest: BackupManifest, taken: Taken) -> BackupManifest:
    moment = taken.moment
    ready = BackupManifest()
    ready.CopyFrom(manifest)
    ready.collections.extend(
        BackedUpCollection(entry=entry, shards=taken.of(entry)) for entry in moment.entries
    )
    ready.tenants.extend(moment.tenants)
    ready.databases.extend(moment.databases)
    ready.api_keys.extend(moment.api_keys)
    ready.quotas.extend(moment.quotas)
    ready.snapshots.extend(moment.snapshots)
    description = ready.description
    description.collection_count = len(ready.collections)
    description.vector_count = sum(s.record_count for s in manifests.shards_of_backup(ready))
    description.size_bytes = manifests.size_of(manifests.shards_of_backup(ready))
    description.status = SNAPSHOT_STATUS_READY
    return ready
