"""Manifests as they lie in the snapshot store, and where what lies there.

A manifest is framed, so that one that is cut short, damaged, or no manifest at all is noticed
before a byte of it is believed:

    magic (8) · format, big-endian (4) · SHA-256 of the rest (32) · the message
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from shoal.errors import DataLossError, FailedPreconditionError, ShoalError
from shoal.internal.v1.snapshot_pb2 import BackupManifest, SnapshotManifest, StoredShard
from shoal.v1.snapshot_service_pb2 import SNAPSHOT_STATUS_FAILED, SnapshotStatus

FORMAT: Final = 1
"""Version of the frame and of both messages; a higher one was written by a newer Shoal."""

_SNAPSHOT_MAGIC: Final = b"SHOALSNP"
_BACKUP_MAGIC: Final = b"SHOALBCK"
_DIGEST_BYTES: Final = 32

INTERRUPTED: Final = "the coordinator was restarted while it was being taken"
"""Why what the last run of the coordinator was busy with has failed."""

_Manifest = TypeVar("_Manifest", SnapshotManifest, BackupManifest)


def objects_prefix(cluster_id: str, shard_id: str = "") -> str:
    """Beneath which a cluster's objects lie, or those of one of its shards."""
    prefix = f"{cluster_id}/objects/"
    return f"{prefix}{shard_id}/" if shard_id else prefix


def snapshots_prefix(cluster_id: str) -> str:
    """Beneath which a cluster's snapshot manifests lie."""
    return f"{cluster_id}/snapshots/"


def backups_prefix(cluster_id: str) -> str:
    """Beneath which a cluster's backup manifests lie."""
    return f"{cluster_id}/backups/"


def snapshot_key(manifest: SnapshotManifest) -> str:
    """Where a snapshot's manifest lies."""
    return snapshots_prefix(manifest.cluster_id) + manifest.description.id


def backup_key(cluster_id: str, name: str) -> str:
    """Where a backup's manifest lies."""
    return backups_prefix(cluster_id) + name


def with_status(manifest: _Manifest, status: SnapshotStatus.ValueType) -> _Manifest:
    """Give a manifest like this one, with another status."""
    changed = type(manifest)()
    changed.CopyFrom(manifest)
    changed.description.status = status
    return changed


def failed(manifest: _Manifest, why: Exception | str) -> _Manifest:
    """Give a manifest like this one that says that, and why, nothing became of it."""
    changed = with_status(manifest, SNAPSHOT_STATUS_FAILED)
    if isinstance(why, ShoalError):
        changed.description.failure = why.message
    else:
        changed.description.failure = why if isinstance(why, str) else type(why).__name__
    return changed


def encode_snapshot(manifest: SnapshotManifest) -> bytes:
    """Frame a snapshot's manifest."""
    return _encode(_SNAPSHOT_MAGIC, manifest)


def decode_snapshot(data: bytes, key: str) -> SnapshotManifest:
    """Read a snapshot's manifest; raises as `decode_backup`."""
    return _decode(_SNAPSHOT_MAGIC, SnapshotManifest(), data, key)


def encode_backup(manifest: BackupManifest) -> bytes:
    """Frame a backup's manifest."""
    return _encode(_BACKUP_MAGIC, manifest)


def decode_backup(data: bytes, key: str) -> BackupManifest:
    """Read a backup's manifest.

    Raises:
        DataLossError: It is damaged.
        FailedPreconditionError: A newer Shoal wrote it.
    """
    return _decode(_BACKUP_MAGIC, BackupManifest(), data, key)


def shards_of_backup(manifest: BackupManifest) -> Iterator[StoredShard]:
    """All shards of all collections of a backup."""
    for collection in manifest.collections:
        yield from collection.shards


def size_of(shards: Iterable[StoredShard]) -> int:
    """Bytes of their objects."""
    return sum(shard.records.size_bytes for shard in shards)


def _encode(magic: bytes, manifest: SnapshotManifest | BackupManifest) -> bytes:
    payload = manifest.SerializeToString()
    return magic + FORMAT.to_bytes(4, "big") + hashlib.sha256(payload).digest() + payload


def _decode(magic: bytes, manifest: _Manifest, data: bytes, key: str) -> _Manifest:
    head = len(magic) + 4
    if len(data) < head + _DIGEST_BYTES or not data.startswith(magic):
        raise _damaged(key, "it is no manifest, or cut short")
    written_by = int.from_bytes(data[len(magic) : head], "big")
    if written_by > FORMAT:
        raise FailedPreconditionError(
            f"manifest {key} in the snapshot store has format {written_by}, this Shoal reads up to"
            f" {FORMAT}: use the release that wrote it, or a newer one"
        )
    payload = data[head + _DIGEST_BYTES :]
    if hashlib.sha256(payload).digest() != data[head : head + _DIGEST_BYTES]:
        raise _damaged(key, "its checksum does not fit")
    try:
        manifest.ParseFromString(payload)
    except DecodeError:
        raise _damaged(key, "it cannot be decoded") from None
    return manifest


def _damaged(key: str, why: str) -> DataLossError:
    return DataLossError(
        f"manifest {key} in the snapshot store is damaged: {why}", metadata={"object": key}
    )
