"""The catalog on disk: one LMDB file beside a lock, written by single synced transactions.

The only module of the coordinator that imports lmdb. It stores entries and knows nothing of what
they mean: decisions are made against `CatalogState`, which is loaded once and then runs ahead of
the file only as far as the transaction under way. So nothing is read here but at the start, and
the environment has one user: the thread that calls `commit`. That is what makes growing the map
safe, which LMDB forbids while any transaction of the process is open.

Layout of ``catalog.mdb``: the database `meta` (format, cluster, table version, creation number) and
one database for each kind of entry. Values are protobuf messages behind a CRC-32, because LMDB's
pages carry no checksum.

| Format | Since | What changed |
|---|---|---|
| 1 | 0.1.0 | the first |
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import lmdb

from shoal.errors import DataDirectoryLockedError, DataLossError, FailedPreconditionError
from shoal.internal.v1.catalog_pb2 import (
    ApiKeyEntry,
    CollectionEntry,
    DatabaseEntry,
    QuotaEntry,
    ShardDeletion,
    TenantEntry,
    WorkerEntry,
)
from shoal.internal.v1.snapshot_pb2 import BackupManifest, SnapshotManifest
from shoal.server.cut_short import cut_short
from shoal.server.durable import sync_directory
from shoal_coordinator.state import DEFAULT_DATABASE, DEFAULT_TENANT, CatalogState, Change

FORMAT: Final = 1
"""Version of the layout; a higher one was written by a newer Shoal and is refused."""

_FILE: Final = "catalog.mdb"
_LOCK: Final = "coordinator.lock"

INITIAL_MAP_BYTES: Final = 64 << 20
"""Room for some 50,000 collections. Address space, not disk; it doubles when it is full."""

_DATABASES: Final = (
    b"meta",
    b"tenants",
    b"databases",
    b"collections",
    b"workers",
    b"deletions",
    b"api_keys",
    b"quotas",
    b"snapshots",
    b"backups",
)

_Entry = TypeVar(
    "_Entry",
    ApiKeyEntry,
    BackupManifest,
    CollectionEntry,
    DatabaseEntry,
    QuotaEntry,
    ShardDeletion,
    SnapshotManifest,
    TenantEntry,
    WorkerEntry,
)


class CatalogWriteError(Exception):
    """A transaction could not be committed; whether it is on disk is unknown until it is reopened.

    Attributes:
        disk_full: The disk has no room, so that nothing of the transaction is there.
    """

    def __init__(self, message: str, *, disk_full: bool) -> None:
        super().__init__(message)
        self.disk_full = disk_full


class Catalog:
    """The file. Owns its directory by `flock` from construction to `close`.

    All methods but `close` belong to one thread at a time.

    Args:
        directory: Made if it is not there.
        recover: Leave a new catalog without a cluster, for the first worker to name it.
        map_bytes: How large a new file may grow before its map does.

    Raises:
        DataDirectoryLockedError: Another process, or another object of this one, has it open.
        FailedPreconditionError: A newer Shoal wrote it, or it cannot be written.
        DataLossError: It is damaged.
    """

    def __init__(
        self, directory: Path, *, recover: bool = False, map_bytes: int = INITIAL_MAP_BYTES
    ) -> None:
        self._directory = directory
        self._map_bytes = map_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(directory, error) from error
        self._lock = _lock_directory(directory)
        try:
            self._open()
            try:
                self._prepare(recover=recover)
            except BaseException:
                self._env.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    def load(self) -> CatalogState:
        """Read everything. Raises DataLossError for a damaged entry, naming it."""
        state = CatalogState()
        with self._env.begin() as txn:
            tenants = list(self._read(txn, b"tenants", TenantEntry))
            databases = list(self._read(txn, b"databases", DatabaseEntry))
            collections = list(self._read(txn, b"collections", CollectionEntry))
            workers = list(self._read(txn, b"workers", WorkerEntry))
            deletions = list(self._read(txn, b"deletions", ShardDeletion))
            api_keys = list(self._read(txn, b"api_keys", ApiKeyEntry))
            quotas = list(self._read(txn, b"quotas", QuotaEntry))
            snapshots = list(self._read(txn, b"snapshots", SnapshotManifest))
            backups = list(self._read(txn, b"backups", BackupManifest))
            cluster_id = self._meta(txn, b"cluster_id").decode()
            version = int.from_bytes(self._meta(txn, b"table_version"), "big")
            creation_number = int.from_bytes(self._meta(txn, b"creation_number"), "big")
        state.apply(
            Change(
                tenants=tuple(sorted(tenants, key=lambda e: e.creation_number)),
                databases=tuple(sorted(databases, key=lambda e: e.creation_number)),
                collections=tuple(sorted(collections, key=lambda e: e.creation_number)),
                workers=tuple(workers),
                deletions=tuple(deletions),
                api_keys=tuple(sorted(api_keys, key=lambda e: e.creation_number)),
                quotas=tuple(sorted(quotas, key=lambda e: e.creation_number)),
                snapshots=tuple(sorted(snapshots, key=lambda e: e.creation_number)),
                backups=tuple(sorted(backups, key=lambda e: e.creation_number)),
                cluster_id=cluster_id,
            )
        )
        state.version = version
        state.creation_number = max(state.creation_number, creation_number)
        return state

    def commit(self, changes: Sequence[Change], state: CatalogState) -> None:
        """Make `changes` durable, all in one transaction with one sync.

        Args:
            changes: In their order.
            state: The state once they hold: its version and creation number are stored.

        Raises:
            CatalogWriteError: They may or may not be there; `reopen`, then `load`.
        """
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for change in changes:
                        self._write(txn, change)
                    self._put_meta(txn, b"table_version", state.version.to_bytes(8, "big"))
                    self._put_meta(
                        txn, b"creation_number", state.creation_number.to_bytes(8, "big")
                    )
                return
            except lmdb.MapFullError:
                # The transaction is aborted and no other exists: this thread is the only user.
                self._map_bytes *= 2
                self._env.set_mapsize(self._map_bytes)
            except (lmdb.Error, OSError) as error:
                raise CatalogWriteError(
                    f"the catalog in {self._directory} could not be written: {error}",
                    disk_full="No space left" in str(error),
                ) from error

    def reopen(self) -> None:
        """Close the environment and open it again, as a failed commit demands.

        Raises:
            DataLossError: It cannot be opened.
        """
        self._env.close()
        self._open()

    def close(self) -> None:
        """Close the file and give the directory free."""
        self._env.close()
        os.close(self._lock)

    def _open(self) -> None:
        path = self._directory / _FILE
        # A catalog that has grown is opened as large as it is, with room to go on.
        if path.exists():
            self._map_bytes = max(self._map_bytes, 2 * path.stat().st_size)
        try:
            self._env = lmdb.open(
                str(path),
                subdir=False,
                map_size=self._map_bytes,
                max_dbs=len(_DATABASES),
                # The lock of the directory keeps others out, so that LMDB's own table of readers
                # (which a killed process would leave marked) is not needed.
                lock=False,
            )
        except lmdb.Error as error:
            raise _unusable(path, str(error)) from error
        wrong = cut_short(path, self._env.info()["last_pgno"], self._env.stat()["psize"])
        if wrong is not None:
            self._env.close()
            raise _unusable(path, wrong)
        try:
            self._dbs = {name: self._env.open_db(name) for name in _DATABASES}
        except lmdb.Error as error:
            self._env.close()
            raise _unusable(path, str(error)) from error

    def _prepare(self, *, recover: bool) -> None:
        cluster_id = ""
        with self._env.begin() as txn:
            stored = txn.get(b"format", db=self._dbs[b"meta"])
            if stored is not None:
                version = int.from_bytes(_unframe(stored, "format of the catalog"), "big")
                if version > FORMAT:
                    raise FailedPreconditionError(
                        f"the catalog in {self._directory} has format {version}, this Shoal reads"
                        f" up to {FORMAT}: run the release that wrote it, or a newer one"
                    )
                cluster_id = self._meta(txn, b"cluster_id").decode()
        if stored is None:
            self._create("" if recover else str(uuid.uuid4()))
            # LMDB syncs the file; its name, and the directory's, are made durable here.
            sync_directory(self._directory)
            sync_directory(self._directory.parent)
        elif not cluster_id and not recover:
            # It was to be recovered and no worker came: now it is a new cluster's.
            with self._env.begin(write=True) as txn:
                self._put_meta(txn, b"cluster_id", str(uuid.uuid4()).encode())

    def _create(self, cluster_id: str) -> None:
        tenant = TenantEntry(name=DEFAULT_TENANT, creation_number=1)
        database = DatabaseEntry(
            database_id=str(uuid.uuid4()),
            name=DEFAULT_DATABASE,
            tenant=DEFAULT_TENANT,
            creation_number=2,
        )
        with self._env.begin(write=True) as txn:
            self._put_meta(txn, b"format", FORMAT.to_bytes(4, "big"))
            self._put_meta(txn, b"cluster_id", cluster_id.encode())
            self._put_meta(txn, b"table_version", bytes(8))
            self._put_meta(txn, b"creation_number", (2).to_bytes(8, "big"))
            self._write(txn, Change(tenants=(tenant,), databases=(database,)))

    def _write(self, txn: lmdb.Transaction, change: Change) -> None:
        if change.cluster_id is not None:
            self._put_meta(txn, b"cluster_id", change.cluster_id.encode())
        self._delete(txn, b"collections", change.removed_collections, str.encode)
        self._delete(txn, b"databases", change.removed_databases, str.encode)
        self._delete(txn, b"tenants", change.removed_tenants, _digest)
        self._delete(txn, b"workers", change.removed_workers, str.encode)
        self._delete(txn, b"deletions", change.confirmed_deletions, str.encode)
        self._delete(txn, b"api_keys", change.removed_api_keys, str.encode)
        self._delete(txn, b"quotas", change.removed_quotas, _digest)
        self._delete(txn, b"snapshots", change.removed_snapshots, str.encode)
        self._delete(txn, b"backups", change.removed_backups, str.encode)
        for tenant in change.tenants:
            self._put(txn, b"tenants", _digest(tenant.name), tenant)
        for database in change.databases:
            self._put(txn, b"databases", database.database_id.encode(), database)
        for entry in change.collections:
            self._put(txn, b"collections", entry.collection.id.encode(), entry)
        for worker in change.workers:
            # Whether it lives is not for the disk: after a restart nobody knows.
            stored = WorkerEntry(worker_id=worker.worker_id, address=worker.address)
            self._put(txn, b"workers", worker.worker_id.encode(), stored)
        for deletion in change.deletions:
            self._put(txn, b"deletions", deletion.shard_id.encode(), deletion)
        for key in change.api_keys:
            self._put(txn, b"api_keys", key.description.id.encode(), key)
        for quota in change.quotas:
            self._put(txn, b"quotas", _digest(quota.quota_id), quota)
        for snapshot in change.snapshots:
            self._put(txn, b"snapshots", snapshot.description.id.encode(), snapshot)
        for backup in change.backups:
            self._put(txn, b"backups", backup.description.id.encode(), backup)

    def _put(self, txn: lmdb.Transaction, db: bytes, key: bytes, entry: _Entry) -> None:
        txn.put(key, _frame(entry.SerializeToString()), db=self._dbs[db])

    def _delete(
        self, txn: lmdb.Transaction, db: bytes, ids: Iterable[str], key: Callable[[str], bytes]
    ) -> None:
        for entry_id in ids:
            txn.delete(key(entry_id), db=self._dbs[db])

    def _read(
        self, txn: lmdb.Transaction, db: bytes, kind: Callable[[], _Entry]
    ) -> Iterator[_Entry]:
        for key, value in txn.cursor(db=self._dbs[db]):
            what = f"entry {bytes(key).decode(errors='replace')!r} of the catalog's {db.decode()}"
            entry = kind()
            entry.ParseFromString(_unframe(bytes(value), what))
            yield entry

    def _meta(self, txn: lmdb.Transaction, key: bytes) -> bytes:
        what = f"the catalog's {key.decode()}"
        value = txn.get(key, db=self._dbs[b"meta"])
        if value is None:
            raise DataLossError(f"{what} is missing in {self._directory}")
        return _unframe(bytes(value), what)

    def _put_meta(self, txn: lmdb.Transaction, key: bytes, value: bytes) -> None:
        txn.put(key, _frame(value), db=self._dbs[b"meta"])


def _digest(name: str) -> bytes:
    """The key of what goes by names: one may be 512 characters long, LMDB's key is at most 511."""
    return hashlib.sha256(name.encode()).digest()


def _frame(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(4, "big") + value


def _unframe(framed: bytes, what: str) -> bytes:
    value = framed[4:]
    if len(framed) < 4 or zlib.crc32(value) != int.from_bytes(framed[:4], "big"):
        raise DataLossError(f"{what} is damaged: its checksum does not fit; restore a backup")
    return value


def _unusable(path: Path, why: str) -> DataLossError:
    return DataLossError(f"{path} cannot be opened as a catalog: {why}")


def _not_writable(directory: Path, error: OSError) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the coordinator's directory {directory} cannot be used: {error.strerror}"
    )


def _lock_directory(directory: Path) -> int:
    try:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _not_writable(directory, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataDirectoryLockedError(
            f"another coordinator uses {directory}; each needs a data directory of its own"
        ) from None
    return lock
