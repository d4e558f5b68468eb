"""Snapshots: taken, described, deleted; and the sources of clones, which are snapshots unseen.

The catalog records a snapshot before anything is done for it (INITIALIZING), and its end: READY, in
one transaction after its manifest has been written to the store, or FAILED with the reason. A
snapshot that is to be deleted is TERMINATING until its manifest and its files are gone. So after a
crash the catalog says of each what is to be done: what was INITIALIZING has FAILED, and what it
left in the store is removed; what was TERMINATING is gone on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractContextManager
from functools import partial

from shoal.errors import (
    FailedPreconditionError,
    ShoalError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.internal.v1.snapshot_pb2 import SnapshotManifest
from shoal.server import logs
from shoal.v1.snapshot_service_pb2 import (
    SNAPSHOT_STATUS_FAILED,
    SNAPSHOT_STATUS_INITIALIZING,
    SNAPSHOT_STATUS_READY,
    SNAPSHOT_STATUS_TERMINATING,
    Snapshot,
)
from shoal_coordinator import manifests, metrics
from shoal_coordinator.changes import Changes
from shoal_coordinator.cuts import Cut, Moment
from shoal_coordinator.entries import not_found
from shoal_coordinator.quotas import check_snapshot_quota
from shoal_coordinator.state import MAX_SNAPSHOTS, CatalogState, Change, check_room
from shoal_coordinator.stored_objects import StoredObjects
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable
from shoal_coordinator.taking import Taken, Taker
from shoal_coordinator.under_way import UnderWay, persist

_log = logs.get_logger(__name__)


class Snapshots:
    """Takes and deletes snapshots.

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
        self._under_way = UnderWay("snapshot")

    def get(self, tenant: str, database: str, name: str) -> SnapshotManifest:
        """Find a snapshot.

        Raises:
            TenantNotFoundError, DatabaseNotFoundError, SnapshotNotFoundError: There is none.
        """
        return _named(self._table.state, tenant, database, name)

    def list(
        self, tenant: str, database: str, *, after: int, limit: int
    ) -> tuple[list[SnapshotManifest], bool]:
        """List a database's snapshots in order of creation.

        Args:
            after: Only those of a higher creation number.

        Returns:
            At most `limit` of them, and whether there are more.
        """
        state = self._table.state
        database_id = state.database(tenant, database).database_id
        found = [
            manifest
            for manifest in state.snapshots.values()
            if manifest.database_id == database_id
            and not manifest.temporary
            and manifest.creation_number > after
        ]
        return found[:limit], len(found) > limit

    async def create(self, collection_id: str, name: str) -> Snapshot:
        """Begin to take a snapshot, and describe it when its point in time is fixed.

        Raises:
            CollectionNotFoundError, SnapshotExistsError, QuotaExceededError: As it says.
            FailedPreconditionError: The cluster has no snapshot store.
        """
        self._store.require()
        manifest, _ = await self._changes.make(
            lambda state: self._record(state, collection_id, name)
        )
        self._crash_point("snapshot_recorded")
        snapshot_id = manifest.description.id
        await self._under_way.take(snapshot_id, lambda cut: self._take(manifest, cut))
        known = self._table.state.snapshots.get(snapshot_id)
        return (manifest if known is None else known).description

    @contextlib.asynccontextmanager
    async def source(self, collection_id: str) -> AsyncIterator[SnapshotManifest]:
        """Give a snapshot that nobody sees and that ends with the block: the source of a clone.

        Raises:
            CollectionNotFoundError: There is no such collection.
            ShoalError: It could not be taken.
        """
        self._store.require()
        manifest, _ = await self._changes.make(
            lambda state: self._record(state, collection_id, "", temporary=True)
        )
        self._crash_point("clone_recorded")
        snapshot_id = manifest.description.id
        try:
            async with self._taken(manifest, asyncio.Event()) as taken:
                ready = _ready(manifest, taken)
                await self._changes.make(lambda state: _put(state, ready))
            yield ready
        finally:
            # Also if this is cancelled: without it the files would lie there until the next start.
            ended = asyncio.ensure_future(self._terminate([snapshot_id]))
            with contextlib.suppress(ShoalError):
                await asyncio.shield(ended)

    async def delete(self, tenant: str, database: str, name: str) -> None:
        """Begin to delete a snapshot.

        Raises:
            TenantNotFoundError, DatabaseNotFoundError, SnapshotNotFoundError: There is none.
            FailedPreconditionError: It is being restored.
        """

        def decide(state: CatalogState) -> tuple[Change | None, str]:
            manifest = _named(state, tenant, database, name)
            snapshot_id = manifest.description.id
            if self._under_way.is_restored(snapshot_id):
                raise FailedPreconditionError(
                    f"snapshot {name!r} is being restored: delete it afterwards"
                )
            return Change(snapshots=terminated([manifest])), snapshot_id

        snapshot_id, _ = await self._changes.make(decide)
        self._crash_point("snapshot_terminating")
        self.end([snapshot_id])

    def restoring(self, snapshot_id: str) -> AbstractContextManager[None]:
        """Keep a snapshot from being deleted meanwhile, by its own deletion."""
        return self._under_way.restoring(snapshot_id)

    def start(self) -> None:
        """Go on with what the last run has left."""
        self.end_terminating()
        for manifest in self._table.state.snapshots.values():
            if manifest.description.status == SNAPSHOT_STATUS_FAILED and self._store.is_set:
                self._begin_clearing(manifest)

    def end_terminating(self) -> None:
        """Remove all snapshots that the catalog records as TERMINATING."""
        self.end(
            [
                snapshot_id
                for snapshot_id, manifest in self._table.state.snapshots.items()
                if manifest.description.status == SNAPSHOT_STATUS_TERMINATING
            ]
        )

    def end(self, snapshot_ids: Collection[str]) -> None:
        """Remove snapshots that the catalog records as TERMINATING."""
        for snapshot_id in snapshot_ids:
            self._under_way.end(snapshot_id, partial(self._end, snapshot_id))

    async def close(self) -> None:
        """Break off what is under way; the next start clears up after it."""
        await self._under_way.close()

    def _record(
        self, state: CatalogState, collection_id: str, name: str, *, temporary: bool = False
    ) -> tuple[Change, SnapshotManifest]:
        entry = state.active(collection_id)
        if entry is None:
            raise not_found(collection_id)
        collection = entry.collection
        if not temporary:
            if (entry.database_id, name) in state.snapshot_ids:
                raise SnapshotExistsError(
                    f"snapshot {name!r} exists already in database {collection.database!r} of"
                    f" tenant {collection.tenant!r}",
                    metadata={"snapshot": name},
                )
            check_room("snapshots", len(state.snapshots), MAX_SNAPSHOTS)
            names = (collection.tenant, collection.database, collection.name)
            check_snapshot_quota(state, names)
        description = Snapshot(
            id=str(uuid.uuid4()),
            name=name,
            tenant=collection.tenant,
            database=collection.database,
            status=SNAPSHOT_STATUS_INITIALIZING,
            source=collection,
        )
        description.created_at.FromMicroseconds(int(self._now() * 1e6))
        manifest = SnapshotManifest(
            format=manifests.FORMAT,
            description=description,
            cluster_id=state.cluster_id,
            database_id=entry.database_id,
            creation_number=state.next_creation_number,
            entry=entry,
            temporary=temporary,
        )
        return Change(snapshots=(manifest,)), manifest

    async def _take(self, manifest: SnapshotManifest, cut: asyncio.Event) -> None:
        """Take a snapshot that is recorded, and record how that ended."""
        snapshot_id = manifest.description.id
        begun_at_s = time.monotonic()
        try:
            with metrics.SNAPSHOT_OPERATIONS.labels("snapshot").track_inprogress():
                async with self._taken(manifest, cut) as taken:
                    ready = _ready(manifest, taken)
                    await self._store.write(
                        manifests.snapshot_key(ready), manifests.encode_snapshot(ready)
                    )
                    self._crash_point("manifest_written")
                    await self._changes.make(lambda state: _put(state, ready))
        except Exception as error:
            await self._fail(manifest, error)
            if not isinstance(error, ShoalError):
                raise
            return
        self._crash_point("snapshot_ready")
        seconds = time.monotonic() - begun_at_s
        metrics.SNAPSHOT_OPERATION_SECONDS.labels("snapshot").observe(seconds)
        _log.info(
            "snapshot_taken",
            snapshot_id=snapshot_id,
            collection_id=manifest.entry.collection.id,
            records=ready.description.vector_count,
            size_bytes=ready.description.size_bytes,
            seconds=round(seconds, 3),
        )

    @contextlib.asynccontextmanager
    async def _taken(self, manifest: SnapshotManifest, cut: asyncio.Event) -> AsyncIterator[Taken]:
        collection_id = manifest.entry.collection.id

        def describe() -> Moment:
            entry = self._table.state.active(collection_id)
            if entry is None:
                raise not_found(collection_id)
            return Moment([entry])

        async def when_cut(found: Cut) -> None:
            now_cut = _at(manifest, found.moment.entries[0], found.record_count)
            await self._changes.make(lambda state: _put(state, now_cut))
            self._crash_point("snapshot_cut")
            cut.set()

        async with self._taker.taken(describe, when_cut) as taken:
            yield taken

    async def _fail(self, manifest: SnapshotManifest, error: Exception) -> None:
        metrics.SNAPSHOT_FAILURES.labels("snapshot").inc()
        _log.warning("snapshot_failed", snapshot_id=manifest.description.id, error=str(error))
        with contextlib.suppress(ShoalError):  # then the next start records it
            await self._changes.make(lambda state: _failed(state, manifest, error))
        self._begin_clearing(manifest)

    def _begin_clearing(self, manifest: SnapshotManifest) -> None:
        """Remove what a failed snapshot has left in the store."""
        self._under_way.clear(manifest.description.id, lambda: self._clear(manifest))

    async def _end(self, snapshot_id: str) -> None:
        """Remove a snapshot's files, and then the record of it."""
        manifest = self._table.state.snapshots.get(snapshot_id)
        if manifest is None:
            return
        await self._clear(manifest)
        self._crash_point("snapshot_files_removed")
        await persist(
            lambda: self._changes.make(lambda _: (Change(removed_snapshots=(snapshot_id,)), None))
        )
        _log.info("snapshot_deleted", snapshot_id=snapshot_id)

    async def _clear(self, manifest: SnapshotManifest) -> None:
        shard_ids = [shard.shard_id for shard in manifest.entry.shards]

        async def clear() -> None:
            # The manifest first: without it, nobody takes what is left for a snapshot.
            if not manifest.temporary and manifest.cluster_id == self._table.state.cluster_id:
                await self._store.delete(manifests.snapshot_key(manifest))
            await self._objects.sweep(shard_ids)

        await persist(clear)

    async def _terminate(self, snapshot_ids: Collection[str]) -> None:
        def decide(state: CatalogState) -> tuple[Change | None, None]:
            found = [state.snapshots[i] for i in snapshot_ids if i in state.snapshots]
            return (Change(snapshots=terminated(found)) if found else None), None

        await self._changes.make(decide)
        self.end(snapshot_ids)


def terminated(found: Collection[SnapshotManifest]) -> tuple[SnapshotManifest, ...]:
    """Snapshots as they are recorded when they are to be deleted."""
    return tuple(manifests.with_status(manifest, SNAPSHOT_STATUS_TERMINATING) for manifest in found)


def interrupted(state: CatalogState) -> tuple[SnapshotManifest, ...]:
    """How the snapshots that the last run of the coordinator was busy with are recorded now."""
    changed: list[SnapshotManifest] = []
    for manifest in state.snapshots.values():
        if manifest.temporary:
            changed += terminated([manifest])
        elif manifest.description.status == SNAPSHOT_STATUS_INITIALIZING:
            failed = manifests.failed(manifest, manifests.INTERRUPTED)
            changed.append(failed)
    return tuple(changed)


def _named(state: CatalogState, tenant: str, database: str, name: str) -> SnapshotManifest:
    database_id = state.database(tenant, database).database_id
    snapshot_id = state.snapshot_ids.get((database_id, name))
    if snapshot_id is None:
        raise SnapshotNotFoundError(
            f"there is no snapshot {name!r} in database {database!r} of tenant {tenant!r}",
            metadata={"snapshot": name},
        )
    return state.snapshots[snapshot_id]


def _put(state: CatalogState, manifest: SnapshotManifest) -> tuple[Change, None]:
    """Record how far a snapshot is, unless it is to be deleted meanwhile.

    Raises:
        SnapshotNotFoundError: It is.
    """
    known = state.snapshots.get(manifest.description.id)
    if known is None or known.description.status != SNAPSHOT_STATUS_INITIALIZING:
        raise SnapshotNotFoundError("the snapshot was deleted while it was being taken")
    return Change(snapshots=(manifest,)), None


def _failed(
    state: CatalogState, manifest: SnapshotManifest, error: Exception
) -> tuple[Change | None, None]:
    known = state.snapshots.get(manifest.description.id)
    if known is None or known.description.status != SNAPSHOT_STATUS_INITIALIZING:
        return None, None
    return Change(snapshots=(manifests.failed(known, error),)), None


def _at(manifest: SnapshotManifest, entry: CollectionEntry, count: int) -> SnapshotManifest:
    """A snapshot whose point in time is fixed: the collection as it was then."""
    fixed = SnapshotManifest()
    fixed.CopyFrom(manifest)
    fixed.entry.CopyFrom(entry)
    fixed.description.source.CopyFrom(entry.collection)
    fixed.description.vector_count = count
    return fixed


def _ready(manifest: SnapshotManifest, taken: Taken) -> SnapshotManifest:
    entry = taken.moment.entries[0]
    shards = taken.of(entry)
    ready = _at(manifest, entry, sum(shard.record_count for shard in shards))
    ready.shards.extend(shards)
    ready.description.size_bytes = manifests.size_of(shards)
    ready.description.status = SNAPSHOT_STATUS_READY
    return ready
