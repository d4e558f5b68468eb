"""A worker's data directory, and law 11: absence is never an instruction.

```
DIR/worker.json          the worker's UUID, its cluster's, the format
DIR/LOCK                 held by the one process that uses the directory
DIR/manifest.mdb         which shards were created here, and which were deleted
DIR/shards/<uuid>/       identity · records.mdb · graph-<sequence>.usearch · vectors-<sequence>.f32
```

A shard's directory is built aside and renamed into place, then recorded as held; from then on the
record says that it must be there, and a directory that is gone is DATA_LOSS, never a reason to
make a new one. A deletion is recorded first, then the directory renamed aside and removed;
whatever a crash leaves is finished at the next start. A whole directory that the manifest does not
know yet (the crash came between rename and record) is adopted: it names this worker and this
cluster itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import lmdb

from shoal.errors import DataDirectoryLockedError, DataLossError, FailedPreconditionError
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.server.crash import crash_point
from shoal.server.durable import (
    make_directory_durably,
    rename_durably,
    sync_directory,
    write_file_durably,
)
from shoal_worker.environment import Environment
from shoal_worker.identity import read_identity, write_identity

__all__ = ["DataDirectory", "ShardFate"]

LAYOUT_FORMAT: Final = 1
"""Version of a worker's data directory. 1: the first."""

_IDENTITY: Final = "worker.json"
_LOCK: Final = "LOCK"
_MANIFEST: Final = "manifest.mdb"
_SHARDS: Final = "shards"
_ASIDE_NEW: Final = ".creating-"
_ASIDE_GONE: Final = ".deleting-"

_MANIFEST_MAP_BYTES: Final = 16 * 1024 * 1024
_HELD: Final = b"held"
_DELETED: Final = b"deleted"


class ShardFate:
    """What the manifest says of a shard."""

    UNKNOWN: Final = "unknown"
    HELD: Final = "held"
    DELETED: Final = "deleted"


class DataDirectory:
    """A worker's data directory, locked as long as it is open.

    Raises:
        DataDirectoryLockedError: If another process uses it.
        FailedPreconditionError: If it is something else, or of a newer format.
        DataLossError: If it has shards and does not say whose.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_directory_durably(path)
        self._lock = self._locked()
        try:
            self.worker_id, self._cluster_id = self._load_or_create()
            self._shards = path / _SHARDS
            if not self._shards.is_dir():
                self._shards.mkdir()
                sync_directory(path)
            self._manifest = self._open_manifest()
            self._finish_interrupted()
        except BaseException:
            os.close(self._lock)
            raise

    def _open_manifest(self) -> Environment:
        path = self.path / _MANIFEST
        try:
            manifest = Environment(
                path, ("shards",), create=True, initial_map_bytes=_MANIFEST_MAP_BYTES
            )
        except lmdb.Error as error:
            raise DataLossError(
                f"{path} cannot be opened: {error}. Without it the worker finds its shards by "
                "their directories: moving it away lets it start, but a shard that is gone will "
                "then be unknown instead of lost"
            ) from error
        sync_directory(self.path)
        return manifest

    def _locked(self) -> int:
        try:
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FailedPreconditionError(
                f"data directory {self.path} cannot be used: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise DataDirectoryLockedError(
                f"data directory {self.path} is used by another process"
            ) from error
        return descriptor

    def _load_or_create(self) -> tuple[UUID, UUID | None]:
        try:
            content = json.loads((self.path / _IDENTITY).read_text())
            version, worker, cluster = (
                content[name] for name in ("format", "worker_id", "cluster_id")
            )
            if version <= LAYOUT_FORMAT:
                return UUID(worker), UUID(cluster) if cluster else None
        except FileNotFoundError:
            self._refuse_if_used()
            worker_id = uuid4()
            self._store(worker_id, None)
            return worker_id, None
        except (ValueError, KeyError, TypeError) as error:
            raise DataLossError(f"{self.path / _IDENTITY} is damaged: {error}") from error
        raise FailedPreconditionError(
            f"data directory {self.path} has format {version}, this release reads {LAYOUT_FORMAT}"
        )

    def _refuse_if_used(self) -> None:
        present = sorted(p.name for p in self.path.iterdir() if p.name != _LOCK)
        present = [name for name in present if name != _IDENTITY + ".tmp"]
        if _SHARDS in present or _MANIFEST in present:
            raise DataLossError(
                f"data directory {self.path} has shards and no {_IDENTITY}: restore that file, or "
                "start with an empty directory"
            )
        if present:
            raise FailedPreconditionError(
                f"{self.path} is not a worker's data directory: it holds {', '.join(present[:5])}"
            )

    def _store(self, worker_id: UUID, cluster_id: UUID | None) -> None:
        content = {
            "format": LAYOUT_FORMAT,
            "worker_id": str(worker_id),
            "cluster_id": str(cluster_id) if cluster_id else "",
        }
        write_file_durably(self.path / _IDENTITY, json.dumps(content, indent=2).encode() + b"\n")

    @property
    def cluster_id(self) -> UUID | None:
        """The cluster that the directory belongs to; None if it has not joined one."""
        return self._cluster_id

    def join(self, cluster_id: UUID) -> None:
        """Belong to a cluster, durably.

        Raises:
            FailedPreconditionError: If the directory belongs to another one.
        """
        if self._cluster_id == cluster_id:
            return
        if self._cluster_id is not None:
            raise FailedPreconditionError(
                f"data directory {self.path} belongs to cluster {self._cluster_id}, "
                f"not to {cluster_id}"
            )
        self._store(self.worker_id, cluster_id)
        self._cluster_id = cluster_id

    # Shards.

    def shard_path(self, shard_id: UUID) -> Path:
        """Give the place of a shard."""
        return self._shards / str(shard_id)

    def fate(self, shard_id: UUID) -> str:
        """Say what the manifest knows of a shard."""
        with self._manifest.read() as txn:
            value = txn.get(shard_id.bytes, db=self._manifest.databases["shards"])
            return ShardFate.UNKNOWN if value is None else bytes(value).decode()

    def held_shards(self) -> list[UUID]:
        """Give the shards that must be here."""
        with (
            self._manifest.read() as txn,
            txn.cursor(db=self._manifest.databases["shards"]) as cursor,
        ):
            return [UUID(bytes=bytes(key)) for key, value in cursor if bytes(value) == _HELD]

    def _record(self, shard_id: UUID, fate: bytes) -> None:
        database = self._manifest.databases["shards"]
        self._manifest.write(lambda txn: txn.put(shard_id.bytes, fate, db=database))

    def create_shard(self, identity: ShardIdentity, fill: Callable[[Path], None]) -> Path:
        """Create a shard's directory, durably, and record that it is held.

        Args:
            identity: Whose it is.
            fill: Makes the shard's files in the directory given, synced.
        """
        shard_id = UUID(identity.shard_id)
        place = self.shard_path(shard_id)
        aside = self._shards / f"{_ASIDE_NEW}{shard_id}"
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        fill(aside)
        write_identity(aside, identity)
        crash_point("shard_created_aside")
        rename_durably(aside, place)
        crash_point("shard_renamed")
        self._record(shard_id, _HELD)
        crash_point("shard_recorded")
        return place

    def delete_shard(self, shard_id: UUID) -> None:
        """Record that a shard is deleted, then remove its directory."""
        self._record(shard_id, _DELETED)
        crash_point("deletion_recorded")
        self._remove(shard_id)

    def _remove(self, shard_id: UUID) -> None:
        place = self.shard_path(shard_id)
        aside = self._shards / f"{_ASIDE_GONE}{shard_id}"
        if place.exists():
            if aside.exists():
                shutil.rmtree(aside)
            rename_durably(place, aside)
            crash_point("deletion_renamed")
        if aside.exists():
            shutil.rmtree(aside)
            sync_directory(self._shards)

    def _finish_interrupted(self) -> None:
        for path in sorted(self._shards.iterdir()):
            if path.name.startswith((_ASIDE_NEW, _ASIDE_GONE)):
                shutil.rmtree(path)
                continue
            shard_id = self._shard_id_of(path)
            fate = self.fate(shard_id)
            if fate == ShardFate.DELETED:
                self._remove(shard_id)
            elif fate == ShardFate.UNKNOWN:
                self._adopt(shard_id, path)

    def _shard_id_of(self, path: Path) -> UUID:
        try:
            return UUID(path.name)
        except ValueError as error:
            raise FailedPreconditionError(
                f"{path} is not a shard's directory: remove it from there"
            ) from error

    def _adopt(self, shard_id: UUID, path: Path) -> None:
        identity = read_identity(path)
        own = (str(self.worker_id), str(self._cluster_id or ""), str(shard_id))
        if (identity.worker_id, identity.cluster_id, identity.shard_id) != own:
            raise FailedPreconditionError(
                f"shard directory {path} belongs to worker {identity.worker_id} of cluster "
                f"{identity.cluster_id}, not to this worker {self.worker_id}: remove it from here"
            )
        self._record(shard_id, _HELD)

    def close(self) -> None:
        """Release the directory."""
        self._manifest.close()
        os.close(self._lock)
