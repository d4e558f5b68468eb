"""A backup restored into a cluster that has no collections.

All collections are reserved in one transaction, their shards made and filled as in any restoration
(see `shoal_coordinator.restoring`), and in one more transaction all of them appear, together with
the tenants, databases, API keys and quotas of the backup. Collections and databases keep their
UUIDs; shards get new ones, as many as there were, on the workers that there are.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from shoal.errors import (
    BackupNotFoundError,
    CollectionNotFoundError,
    FailedPreconditionError,
    InvalidArgumentError,
)
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    COLLECTION_STATE_CREATING,
    CollectionEntry,
    DatabaseEntry,
    ShardEntry,
)
from shoal.internal.v1.snapshot_pb2 import BackupManifest, SnapshotManifest
from shoal.server import logs
from shoal_coordinator import manifests
from shoal_coordinator.assignment import place
from shoal_coordinator.backups import Backups
from shoal_coordinator.changes import Changes
from shoal_coordinator.creation import Creation
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.membership import Membership
from shoal_coordinator.operations import Progress
from shoal_coordinator.restoring import Filler, Filters, as_refusal
from shoal_coordinator.state import CatalogState, Change
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

COLLECTIONS_AT_A_TIME: Final = 8
"""Beyond what `FILLS_AT_A_TIME` keeps each worker busy with, it would only take memory."""

_NAMES_SHOWN: Final = 20


class BackupRestorer:
    """Restores backups.

    Args:
        store: The cluster's own.
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        lifecycle: Lifecycle,
        membership: Membership,
        creation: Creation,
        filler: Filler,
        backups: Backups,
        store: SnapshotStore,
        *,
        crash_point: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._lifecycle = lifecycle
        self._membership = membership
        self._creation = creation
        self._filler = filler
        self._backups = backups
        self._store = store
        self._crash_point = crash_point

    async def restore(
        self,
        name: str,
        cluster_id: str,
        store_url: str,
        operation_id: bytes,
        progress: Progress,
    ) -> int:
        """Restore a backup, and give the number of its collections.

        Args:
            cluster_id: That took it; empty: the only one in the store with a backup of this name.
            store_url: Where it lies; empty: in the cluster's own store.

        Raises:
            BackupNotFoundError: There is none of this name.
            InvalidArgumentError: There are several.
            FailedPreconditionError: The cluster has collections, or there is no store.
            DataLossError: A file of it is damaged or missing; nothing was restored.
            ShoalError: A worker could not do its part; nothing was restored.
        """
        store = SnapshotStore(store_url) if store_url else self._store
        with self._backups.restoring(name):
            manifest = await self._find(store, name, cluster_id)
            if self._was_made_by(operation_id, manifest):
                return len(manifest.collections)
            what = f"backup {name!r} was not restored"
            snapshots = await self._still_there(manifest) if store is self._store else []
            entries, _ = await self._changes.make(
                lambda state: self._reserve(state, manifest, operation_id)
            )
            progress.total_count = manifest.description.vector_count
            try:
                self._crash_point("backup_restore_reserved")
                await self._build(entries, manifest, store.url, progress)
                self._crash_point("backup_restore_filled")
                active, version = await self._changes.make(
                    lambda state: _activate(state, entries, manifest, snapshots)
                )
            except Exception as error:
                await self._creation.undo(entries)
                raise as_refusal(what, error) from error
        self._crash_point("backup_restore_activated")
        _log.info("backup_restored", backup_id=manifest.description.id, collections=len(active))
        await self._lifecycle.announce(active, version)
        return len(active)

    async def _find(self, store: SnapshotStore, name: str, cluster_id: str) -> BackupManifest:
        if cluster_id:
            _check_uuid(cluster_id)
            key = manifests.backup_key(cluster_id, name)
            if not await store.exists(key):
                raise BackupNotFoundError(
                    f"there is no backup {name!r} of cluster {cluster_id} in {store.url}",
                    metadata={"backup": name},
                )
            return manifests.decode_backup(await store.read(key), key)
        keys = [item.key.split("/") for item in await store.list("")]
        backups = [(k[0], k[2]) for k in keys if len(k) == 3 and k[1] == "backups"]
        of_name = sorted(cluster for cluster, found in backups if found == name)
        if not of_name:
            names = ", ".join(sorted({found for _, found in backups})[:_NAMES_SHOWN])
            raise BackupNotFoundError(
                f"there is no backup {name!r} in {store.url}; there are: {names or 'none'}",
                metadata={"backup": name},
            )
        if len(of_name) > 1:
            raise InvalidArgumentError(
                f"backups called {name!r} of several clusters lie in {store.url}: say which"
                f" cluster's, one of {', '.join(of_name[:_NAMES_SHOWN])}"
            )
        return await self._find(store, name, of_name[0])

    def _was_made_by(self, operation_id: bytes, manifest: BackupManifest) -> bool:
        """Whether this very operation has restored it before the coordinator was restarted."""
        known = [
            self._table.state.active(collection.entry.collection.id)
            for collection in manifest.collections
        ]
        return bool(known) and all(
            entry is not None and entry.operation_id == operation_id for entry in known
        )

    async def _still_there(self, manifest: BackupManifest) -> list[SnapshotManifest]:
        """Those of its snapshots that have not been deleted since."""
        return [
            snapshot
            for snapshot in manifest.snapshots
            if await self._store.exists(manifests.snapshot_key(snapshot))
        ]

    def _reserve(
        self, state: CatalogState, manifest: BackupManifest, operation_id: bytes
    ) -> tuple[Change | None, list[CollectionEntry]]:
        if state.collections:
            raise FailedPreconditionError(
                f"the cluster has {len(state.collections)} collections: a backup is restored into"
                " one that has none"
            )
        _databases(state, manifest)
        count = sum(len(c.entry.shards) for c in manifest.collections)
        workers = iter(place(count, self._membership.candidates(state)) if count else ())
        entries: list[CollectionEntry] = []
        for collection in manifest.collections:
            entry = CollectionEntry()
            entry.CopyFrom(collection.entry)
            entry.state = COLLECTION_STATE_CREATING
            entry.table_version = state.next_version
            entry.operation_id = operation_id
            del entry.shards[:]
            entry.shards.extend(
                ShardEntry(
                    shard_id=str(uuid.uuid4()),
                    worker_id=next(workers),
                    epoch=1,
                    buckets=shard.buckets,
                )
                for shard in collection.entry.shards
            )
            entries.append(entry)
        return (Change(collections=tuple(entries)) if entries else None), entries

    async def _build(
        self,
        entries: Sequence[CollectionEntry],
        manifest: BackupManifest,
        url: str,
        progress: Progress,
    ) -> None:
        at_a_time = asyncio.Semaphore(COLLECTIONS_AT_A_TIME)
        parts = [Progress() for _ in entries]

        async def build(position: int) -> None:
            async with at_a_time:
                entry, shards = entries[position], manifest.collections[position].shards
                await self._creation.make_shards(entry, COLLECTION_STATE_CREATING)
                await self._filler.fill(entry, shards, url, Filters(), parts[position])
                progress.collection_count += 1

        async def add_up() -> None:
            while True:
                await asyncio.sleep(0.2)
                progress.done_count = sum(part.done_count for part in parts)

        adding = asyncio.create_task(add_up())
        tasks = [asyncio.create_task(build(position)) for position in range(len(entries))]
        try:
            await asyncio.gather(*tasks)
            progress.done_count = sum(part.done_count for part in parts)
        finally:
            for task in (adding, *tasks):
                task.cancel()
            await asyncio.gather(adding, *tasks, return_exceptions=True)


def _activate(
    state: CatalogState,
    entries: Sequence[CollectionEntry],
    manifest: BackupManifest,
    snapshots: Sequence[SnapshotManifest],
) -> tuple[Change, list[CollectionEntry]]:
    """Make all that a backup holds visible at once.

    Raises:
        CollectionNotFoundError: What was reserved is reserved no more.
        FailedPreconditionError: Something was created meanwhile that stands in the way.
    """
    ours = {entry.collection.id for entry in entries}
    if not ours <= state.collections.keys():
        raise CollectionNotFoundError("everything was deleted while the backup was being restored")
    if len(state.collections) > len(ours):
        raise FailedPreconditionError(
            "collections were created while the backup was being restored"
        )
    databases, replaced = _databases(state, manifest)
    active: list[CollectionEntry] = []
    for entry in entries:
        made = CollectionEntry()
        made.CopyFrom(entry)
        made.state = COLLECTION_STATE_ACTIVE
        made.table_version = state.next_version
        active.append(made)
    of_databases = {database.database_id for database in manifest.databases}
    change = Change(
        tenants=tuple(t for t in manifest.tenants if t.name not in state.tenants),
        databases=tuple(databases),
        removed_databases=tuple(replaced),
        collections=tuple(active),
        # The operator's own key is that of this cluster's file.
        api_keys=tuple(
            key
            for key in manifest.api_keys
            if not key.description.bootstrap and key.description.id not in state.api_keys
        ),
        quotas=tuple(manifest.quotas),
        snapshots=tuple(
            snapshot
            for snapshot in snapshots
            if snapshot.description.id not in state.snapshots
            and snapshot.database_id in of_databases
            and (snapshot.database_id, snapshot.description.name) not in state.snapshot_ids
        ),
    )
    return change, active


def _databases(
    state: CatalogState, manifest: BackupManifest
) -> tuple[list[DatabaseEntry], list[str]]:
    """Settle which databases are put, and which of the same name they take the place of.

    Raises:
        FailedPreconditionError: One of those has snapshots, which would be lost with it.
    """
    put: list[DatabaseEntry] = []
    replaced: list[str] = []
    for database in manifest.databases:
        known = state.database_ids.get((database.tenant, database.name))
        if known == database.database_id:
            continue
        if known is not None:
            if any(snapshot.database_id == known for snapshot in state.snapshots.values()):
                raise FailedPreconditionError(
                    f"database {database.name!r} of tenant {database.tenant!r} has snapshots: a"
                    " backup is restored into a cluster whose databases are empty"
                )
            replaced.append(known)
        put.append(database)
    return put, replaced


def _check_uuid(cluster_id: str) -> None:
    try:
        known = str(uuid.UUID(cluster_id)) == cluster_id
    except ValueError:
        known = False
    if not known:
        raise InvalidArgumentError(f"cluster_id {cluster_id[:100]!r} is not a UUID")
