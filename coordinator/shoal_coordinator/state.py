"""What the catalog holds, in memory, and what can change in it.

Pure: no file, no clock, no network. A decision reads a `CatalogState` and returns a `Change`;
`CatalogState.apply` is the only thing that modifies one. Applying the same changes in the same
order gives the same state, in memory as on disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shoal.errors import (
    DatabaseNotFoundError,
    DataLossError,
    QuotaExceededError,
    TenantNotFoundError,
)
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    ApiKeyEntry,
    CollectionEntry,
    DatabaseEntry,
    QuotaEntry,
    ShardDeletion,
    ShardEntry,
    TenantEntry,
    WorkerEntry,
)
from shoal.internal.v1.snapshot_pb2 import BackupManifest, SnapshotManifest

DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"

MAX_COLLECTIONS: Final = 100_000
"""In the cluster. All of them lie in the memory of the coordinator and of every gateway."""

MAX_TENANTS: Final = 100_000
MAX_DATABASES: Final = 100_000
"""In the cluster; for the same reason."""

MAX_API_KEYS: Final = 10_000
MAX_QUOTAS: Final = 10_000
"""In the cluster; for the same reason."""

MAX_SNAPSHOTS: Final = 10_000
MAX_BACKUPS: Final = 1_000
"""In the cluster. They lie in the memory of the coordinator, with all that they name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one transaction does to the catalog: whole entries put, and keys removed.

    Attributes:
        collections: New or changed, by their ID. Likewise databases, tenants, workers, API keys,
            quotas, snapshots, backups.
        removed_collections: IDs. Likewise the others; tenants by name.
        deletions: Shards that their holders must delete, kept until they have confirmed.
        confirmed_deletions: IDs of shards whose holder has confirmed.
        cluster_id: The cluster that this catalog belongs to from now on.
        ready: Whether the expected workers have registered. Not stored.
        version_above: The table's version rises above this number.
    """

    tenants: tuple[TenantEntry, ...] = ()
    removed_tenants: tuple[str, ...] = ()
    databases: tuple[DatabaseEntry, ...] = ()
    removed_databases: tuple[str, ...] = ()
    collections: tuple[CollectionEntry, ...] = ()
    removed_collections: tuple[str, ...] = ()
    workers: tuple[WorkerEntry, ...] = ()
    removed_workers: tuple[str, ...] = ()
    api_keys: tuple[ApiKeyEntry, ...] = ()
    removed_api_keys: tuple[str, ...] = ()
    quotas: tuple[QuotaEntry, ...] = ()
    removed_quotas: tuple[str, ...] = ()
    snapshots: tuple[SnapshotManifest, ...] = ()
    removed_snapshots: tuple[str, ...] = ()
    backups: tuple[BackupManifest, ...] = ()
    removed_backups: tuple[str, ...] = ()
    deletions: tuple[ShardDeletion, ...] = ()
    confirmed_deletions: tuple[str, ...] = ()
    cluster_id: str | None = None
    ready: bool | None = None
    version_above: int = 0

    @property
    def published(self) -> bool:
        """Whether gateways see anything of it, so that the table's version rises."""
        return bool(
            self.tenants
            or self.removed_tenants
            or self.databases
            or self.removed_databases
            or any(e.state == COLLECTION_STATE_ACTIVE for e in self.collections)
            or self.removed_collections
            or self.workers
            or self.removed_workers
            or self.api_keys
            or self.removed_api_keys
            or self.quotas
            or self.removed_quotas
            or self.cluster_id is not None
            or self.ready is not None
            or self.version_above
        )


@dataclass(slots=True)
class CatalogState:
    """Everything in the catalog, with the indexes that decisions need.

    Dictionaries keep the order in which entries were first put; `collections` is loaded by
    creation number, so that it is in order of creation. The indexes are derived: they are not
    stored, and so cannot contradict the entries.
    """

    cluster_id: str = ""
    version: int = 0
    creation_number: int = 0
    ready: bool = False
    tenants: dict[str, TenantEntry] = field(default_factory=dict)
    databases: dict[str, DatabaseEntry] = field(default_factory=dict)
    collections: dict[str, CollectionEntry] = field(default_factory=dict)
    workers: dict[str, WorkerEntry] = field(default_factory=dict)
    deletions: dict[str, ShardDeletion] = field(default_factory=dict)
    api_keys: dict[str, ApiKeyEntry] = field(default_factory=dict)
    quotas: dict[str, QuotaEntry] = field(default_factory=dict)
    snapshots: dict[str, SnapshotManifest] = field(default_factory=dict)
    backups: dict[str, BackupManifest] = field(default_factory=dict)
    database_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """By tenant and name."""
    collection_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """By the database's ID and the collection's name."""
    snapshot_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """By the database's ID and the snapshot's name; without the sources of clones."""
    backup_ids: dict[str, str] = field(default_factory=dict)
    """By name."""
    collection_of_shard: dict[str, str] = field(default_factory=dict)
    shards_of_worker: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """IDs of the shards that a worker holds, by its ID; those being created included."""

    @property
    def next_version(self) -> int:
        """The table version of the next published change."""
        return self.version + 1

    @property
    def next_creation_number(self) -> int:
        """The creation number of the next thing created."""
        return self.creation_number + 1

    def version_after(self, change: Change) -> int:
        """The table version once `change` holds."""
        if not change.published:
            return self.version
        return max(self.version, change.version_above) + 1

    def apply(self, change: Change) -> None:
        """Make `change` hold. Removals come first, so that a name can pass on within a change."""
        self.version = self.version_after(change)
        if change.cluster_id is not None:
            self.cluster_id = change.cluster_id
        if change.ready is not None:
            self.ready = change.ready
        self._remove(change)
        for tenant in change.tenants:
            self.tenants[tenant.name] = tenant
            self._count(tenant.creation_number)
        for database in change.databases:
            self._put_database(database)
        for entry in change.collections:
            self._put_collection(entry)
        for worker in change.workers:
            self.workers[worker.worker_id] = worker
        for deletion in change.deletions:
            self.deletions[deletion.shard_id] = deletion
        for key in change.api_keys:
            self.api_keys[key.description.id] = key
            self._count(key.creation_number)
        for quota in change.quotas:
            self.quotas[quota.quota_id] = quota
            self._count(quota.creation_number)
        for snapshot in change.snapshots:
            self._put_snapshot(snapshot)
        for backup in change.backups:
            self.backups[backup.description.id] = backup
            self.backup_ids[backup.description.name] = backup.description.id
            self._count(backup.creation_number)

    def database(self, tenant: str, name: str) -> DatabaseEntry:
        """Find a database. Raises TenantNotFoundError or DatabaseNotFoundError."""
        self.tenant(tenant)
        database_id = self.database_ids.get((tenant, name))
        if database_id is None:
            raise DatabaseNotFoundError(
                f"tenant {tenant!r} has no database {name!r}",
                metadata={"tenant": tenant, "database": name},
            )
        return self.databases[database_id]

    def tenant(self, name: str) -> TenantEntry:
        """Find a tenant. Raises TenantNotFoundError."""
        tenant = self.tenants.get(name)
        if tenant is None:
            raise TenantNotFoundError(f"there is no tenant {name!r}", metadata={"tenant": name})
        return tenant

    def active(self, collection_id: str) -> CollectionEntry | None:
        """A collection that its users can see."""
        entry = self.collections.get(collection_id)
        return entry if entry is not None and entry.state == COLLECTION_STATE_ACTIVE else None

    def collections_in(self, database_ids: Iterable[str]) -> list[CollectionEntry]:
        """All collections of these databases, those being created included."""
        wanted = set(database_ids)
        return [e for e in self.collections.values() if e.database_id in wanted]

    def holder(self, shard_id: str) -> ShardEntry | None:
        """Who holds a shard of the catalog."""
        collection_id = self.collection_of_shard.get(shard_id)
        if collection_id is None:
            return None
        shards = self.collections[collection_id].shards
        return next(shard for shard in shards if shard.shard_id == shard_id)

    def inherit_liveness(self, former: CatalogState) -> None:
        """Take over what is not stored, when the catalog is loaded again."""
        self.ready = former.ready
        for worker_id, stored in list(self.workers.items()):
            known = former.workers.get(worker_id)
            if known is not None and known.address == stored.address:
                self.workers[worker_id] = known

    def _remove(self, change: Change) -> None:
        for collection_id in change.removed_collections:
            self._forget_collection(collection_id)
        for database_id in change.removed_databases:
            database = self.databases.pop(database_id)
            del self.database_ids[database.tenant, database.name]
        for name in change.removed_tenants:
            del self.tenants[name]
        for worker_id in change.removed_workers:
            self.workers.pop(worker_id, None)
        for key_id in change.removed_api_keys:
            self.api_keys.pop(key_id, None)
        for quota_id in change.removed_quotas:
            self.quotas.pop(quota_id, None)
        for snapshot_id in change.removed_snapshots:
            snapshot = self.snapshots.pop(snapshot_id, None)
            if snapshot is not None and not snapshot.temporary:
                del self.snapshot_ids[snapshot.database_id, snapshot.description.name]
        for backup_id in change.removed_backups:
            backup = self.backups.pop(backup_id, None)
            if backup is not None:
                del self.backup_ids[backup.description.name]
        for shard_id in change.confirmed_deletions:
            self.deletions.pop(shard_id, None)

    def _put_database(self, database: DatabaseEntry) -> None:
        key = (database.tenant, database.name)
        if self.database_ids.get(key, database.database_id) != database.database_id:
            raise DataLossError(f"the catalog holds two databases of the name {key}")
        self.databases[database.database_id] = database
        self.database_ids[key] = database.database_id
        self._count(database.creation_number)

    def _put_snapshot(self, snapshot: SnapshotManifest) -> None:
        snapshot_id = snapshot.description.id
        self.snapshots[snapshot_id] = snapshot
        if not snapshot.temporary:
            self.snapshot_ids[snapshot.database_id, snapshot.description.name] = snapshot_id
        self._count(snapshot.creation_number)

    def _put_collection(self, entry: CollectionEntry) -> None:
        collection_id = entry.collection.id
        key = (entry.database_id, entry.collection.name)
        if self.collection_ids.get(key, collection_id) != collection_id:
            raise DataLossError(
                f"the catalog holds two collections of the name {entry.collection.name!r}"
                f" in database {entry.database_id}"
            )
        former = self.collections.get(collection_id)
        if former is not None:
            self._forget_indexes(former)
        self.collections[collection_id] = entry
        self.collection_ids[key] = collection_id
        for shard in entry.shards:
            self.collection_of_shard[shard.shard_id] = collection_id
            self.shards_of_worker[shard.worker_id].add(shard.shard_id)
        self._count(entry.creation_number)

    def _forget_collection(self, collection_id: str) -> None:
        entry = self.collections.pop(collection_id, None)
        if entry is not None:
            self._forget_indexes(entry)

    def _forget_indexes(self, entry: CollectionEntry) -> None:
        del self.collection_ids[entry.database_id, entry.collection.name]
        for shard in entry.shards:
            del self.collection_of_shard[shard.shard_id]
            self.shards_of_worker[shard.worker_id].discard(shard.shard_id)

    def _count(self, creation_number: int) -> None:
        self.creation_number = max(self.creation_number, creation_number)


def check_room(what: str, count: int, limit: int) -> None:
    """Refuse one more. Raises QuotaExceededError."""
    if count >= limit:
        raise QuotaExceededError(
            f"the cluster has {count:,} {what}, the most it may have",
            metadata={"limit": f"max_{what}", "value": str(limit)},
        )


def deletions_of(entries: Iterable[CollectionEntry]) -> tuple[ShardDeletion, ...]:
    """The deletions of all shards of these collections."""
    return tuple(
        ShardDeletion(
            shard_id=shard.shard_id,
            collection_id=entry.collection.id,
            worker_id=shard.worker_id,
            epoch=shard.epoch,
        )
        for entry in entries
        for shard in entry.shards
    )
