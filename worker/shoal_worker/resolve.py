"""Turns a batch into a log entry: every decision about a write is made here.

Given what the shard holds (with the earlier batches of the same group applied), it decides which
records are new, which rows, keys and ordinals they get, and what their metadata, documents and URIs
are after the merge. What cannot be done is refused here, so that applying the entry cannot fail.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from shoal.errors import (
    DimensionMismatchError,
    DuplicateIDError,
    InvalidArgumentError,
    QuotaExceededError,
)
from shoal.internal.v1.storage_pb2 import LogEntry
from shoal.internal.v1.worker_service_pb2 import WriteShardResponse
from shoal.v1.value_pb2 import Metadata
from shoal.wire.validation import check_metadata
from shoal_worker.apply import DOCUMENT_CHANGES, IS_NEW, METADATA_CHANGES, URI_CHANGES
from shoal_worker.log import ENTRY_FORMAT
from shoal_worker.store import MAX_ROW, Meta, Record
from shoal_worker.writes import Put, PutKind, Write

__all__ = ["Current", "merge_metadata", "resolve_deletion", "resolve_patch", "resolve_put"]

_MAYBE_NULL: Final = b"z"
"""First byte of an encoded null_value (field 15, length-delimited): metadata that does not hold
this byte anywhere holds no null and need not be parsed."""


class Current(Protocol):
    """What the shard holds at this moment."""

    def find(self, record_id: str) -> Record | None:
        """Give the record of an ID, or None."""

    def record(self, row: int) -> Record | None:
        """Give the record of a row, or None."""

    def metadata(self, row: int) -> bytes | None:
        """Give a row's metadata as it is stored, or None."""

    def vector(self, key: int) -> bytes | None:
        """Give a vector as little-endian float32 bytes, or None."""


@dataclass(slots=True)
class _Puts:
    """The columns of an entry under construction."""

    rows: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    # Positions in the batch of the vectors that are taken.
    vector_positions: list[int] = field(default_factory=list)
    changes: bytearray = field(default_factory=bytearray)
    metadatas: list[bytes] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)

    def to_entry(self, entry: LogEntry, vectors: bytes) -> None:
        puts = entry.puts
        puts.rows.extend(self.rows)
        puts.keys.extend(self.keys)
        puts.ordinals.extend(self.ordinals)
        puts.ids.extend(self.ids)
        puts.vectors = vectors
        puts.changes = bytes(self.changes)
        puts.metadatas.extend(self.metadatas)
        puts.documents.extend(self.documents)
        puts.uris.extend(self.uris)


def resolve_put(
    write: Write, put: Put, meta: Meta, current: Current, now_ms: int, first_ordinal: int
) -> LogEntry:
    """Resolve an add, upsert or update.

    Args:
        write: The batch.
        put: Its operation.
        meta: The shard before it.
        current: What the shard holds before it.
        now_ms: Wall time.
        first_ordinal: Of position 0: the proposed one, or the worker's own if that was
            unbelievable.

    Raises:
        DimensionMismatchError: If its vectors do not have the dimension of the collection.
        InvalidArgumentError: If a merge comes out too large.
    """
    _check_put(write, put, meta)
    puts = _Puts()
    next_row, next_key, last_ordinal = meta.next_row, meta.next_key, meta.last_ordinal
    added = updated = ignored = 0
    for i, record_id in enumerate(put.ids):
        record = current.find(record_id)
        if record is None:
            if put.kind is PutKind.UPDATE:
                ignored += 1
                continue
            last_ordinal = max(first_ordinal + put.positions[i], last_ordinal + 1)
            _append_new(puts, put, i, Record(next_row, last_ordinal, next_key, record_id))
            next_row += 1
            next_key += 1
            added += 1
        elif put.kind is PutKind.ADD:
            ignored += 1
        else:
            next_key = _append_changed(puts, put, i, record, current, next_key)
            updated += 1
    if next_row > MAX_ROW:
        raise QuotaExceededError(
            f"the shard has given {meta.next_row} of its {MAX_ROW} rows: "
            "clone the collection, with more shards if it is that large"
        )
    entry = _entry(write, now_ms, WriteShardResponse(added=added, updated=updated, ignored=ignored))
    if puts.rows:
        puts.to_entry(entry, _taken(put.vectors, puts.vector_positions))
    return entry


def _check_put(write: Write, put: Put, meta: Meta) -> None:
    if len(set(put.ids)) != len(put.ids):
        twice = next(i for i, times in Counter(put.ids).items() if times > 1)
        raise DuplicateIDError(f"ID {twice!r} is given twice in one write")
    if put.vectors is None:
        if put.kind is not PutKind.UPDATE:
            raise InvalidArgumentError("records.vectors is missing: add and upsert need vectors")
        return
    given = put.vectors.shape[1]
    for dimension, whose in ((write.dimension, "the collection"), (meta.dimension, "the shard")):
        if dimension and dimension != given:
            raise DimensionMismatchError(
                f"{whose} holds vectors of dimension {dimension}, got {given}",
                metadata={"expected": str(dimension), "actual": str(given)},
            )


def _append_new(puts: _Puts, put: Put, i: int, record: Record) -> None:
    change = IS_NEW
    metadata = put.metadatas[i] if put.metadatas is not None else b""
    if metadata and _MAYBE_NULL in metadata:
        metadata = merge_metadata(None, metadata, record.id)
    if metadata:
        change |= METADATA_CHANGES
        puts.metadatas.append(metadata)
    change |= _append_texts(puts, put, i)
    puts.rows.append(record.row)
    puts.keys.append(record.key)
    puts.ordinals.append(record.ordinal)
    puts.ids.append(record.id)
    puts.vector_positions.append(i)
    puts.changes.append(change)


def _append_changed(
    puts: _Puts, put: Put, i: int, record: Record, current: Current, next_key: int
) -> int:
    change = 0
    key = 0
    # A vector that is what is stored keeps its key: repeated upserts leave the graph alone.
    if put.vectors is not None and put.vectors[i].tobytes() != current.vector(record.key):
        key = next_key
        next_key += 1
        puts.vector_positions.append(i)
    given = put.metadatas[i] if put.metadatas is not None else b""
    if given:
        before = current.metadata(record.row)
        merged = merge_metadata(before, given, record.id)
        if merged != (before or b""):
            change |= METADATA_CHANGES
            puts.metadatas.append(merged)
    change |= _append_texts(puts, put, i)
    if change or key:
        puts.rows.append(record.row)
        puts.keys.append(key)
        puts.ordinals.append(record.ordinal)
        puts.ids.append(record.id)
        puts.changes.append(change)
    return next_key


def _append_texts(puts: _Puts, put: Put, i: int) -> int:
    change = 0
    if put.documents is not None and (document := put.documents[i]) is not None:
        change |= DOCUMENT_CHANGES
        puts.documents.append(document)
    if put.uris is not None and (uri := put.uris[i]) is not None:
        change |= URI_CHANGES
        puts.uris.append(uri)
    return change


def _taken(vectors: npt.NDArray[np.float32] | None, positions: list[int]) -> bytes:
    if vectors is None or not positions:
        return b""
    if len(positions) == len(vectors):
        return vectors.tobytes()
    return vectors[positions].tobytes()


def resolve_deletion(
    write: Write, rows: npt.NDArray[np.uint32], filtered: bool, now_ms: int
) -> LogEntry:
    """Resolve a deletion of rows that exist.

    Args:
        write: The batch.
        rows: What is to go, ascending.
        filtered: Whether a filter chose them, so that `matched` is told, too.
        now_ms: Wall time.
    """
    count = len(rows)
    entry = _entry(
        write, now_ms, WriteShardResponse(deleted=count, matched=count if filtered else 0)
    )
    if count:
        entry.deletes.rows.extend(rows.tolist())
    return entry


def resolve_patch(
    write: Write,
    metadata: bytes,
    rows: npt.NDArray[np.uint32],
    current: Current,
    now_ms: int,
) -> LogEntry:
    """Resolve the merge of metadata into rows that exist.

    Raises:
        InvalidArgumentError: If a merge comes out too large.
    """
    puts = _Puts()
    for row in rows.tolist():
        record = current.record(row)
        if record is None:
            continue
        before = current.metadata(row)
        merged = merge_metadata(before, metadata, record.id)
        if merged == (before or b""):
            continue
        puts.rows.append(row)
        puts.keys.append(0)
        puts.ordinals.append(record.ordinal)
        puts.ids.append(record.id)
        puts.changes.append(METADATA_CHANGES)
        puts.metadatas.append(merged)
    entry = _entry(write, now_ms, WriteShardResponse(matched=len(rows), updated=len(rows)))
    if puts.rows:
        puts.to_entry(entry, b"")
    return entry


def merge_metadata(before: bytes | None, given: bytes, record_id: str) -> bytes:
    """Merge metadata into what is stored.

    A key given replaces the stored one, a key given as null removes it.

    Returns:
        The whole of it, serialised, the same bytes for the same content; empty if no key is left.
    """
    merged = Metadata.FromString(before) if before else Metadata()
    for key, value in Metadata.FromString(given).fields.items():
        if value.WhichOneof("kind") == "null_value":
            merged.fields.pop(key, None)
        else:
            merged.fields[key].CopyFrom(value)
    # Each part has been checked by the gateway; only the shard knows what comes out.
    check_metadata(merged, field=f"the merged metadata of record {record_id!r}")
    return merged.SerializeToString(deterministic=True)


def _entry(write: Write, now_ms: int, outcome: WriteShardResponse) -> LogEntry:
    return LogEntry(
        format=ENTRY_FORMAT,
        written_at_ms=now_ms,
        write_id=write.write_id,
        digest=write.digest,
        outcome=outcome,
    )
