"""Between messages and our own types: what the worker's services decode and encode."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidArgumentError, ShoalError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal.v1.value_pb2 import Include, StringColumn
from shoal.wire.vectors import decode_vectors
from shoal_worker.columns import Column, Columns, packed_ordinals
from shoal_worker.matching import Selection
from shoal_worker.search import Matches
from shoal_worker.writes import Batch, Deletion, Patch, Put, PutKind, Write

__all__ = [
    "decode_filters",
    "decode_include",
    "decode_selection",
    "decode_write",
    "encode_columns",
    "encode_error",
    "encode_matches",
]

_KINDS: Final = {
    pb.WRITE_KIND_ADD: PutKind.ADD,
    pb.WRITE_KIND_UPSERT: PutKind.UPSERT,
    pb.WRITE_KIND_UPDATE: PutKind.UPDATE,
}
_COLUMNS: Final = {
    Include.INCLUDE_DOCUMENTS: Column.DOCUMENTS,
    Include.INCLUDE_METADATAS: Column.METADATAS,
    Include.INCLUDE_VECTORS: Column.VECTORS,
    Include.INCLUDE_URIS: Column.URIS,
}

_REMEMBERED_INCLUDES: Final = 64
"""Sets of columns that were asked for, in whatever order: a dozen or two are."""

_BATCH_ID_BYTES: Final = 16
_EVERYTHING: Final = Selection()
_FLOAT64: Final = np.dtype("<f8")


# Decoding.


def decode_write(request: pb.WriteShardRequest, time_remaining_s: float) -> Write:
    """Decode one shard's part of a write, whose caller waits for so long."""
    operation: Put | Deletion | Patch
    match request.WhichOneof("operation"):
        case "put":
            operation = _decode_put(request.put)
        case "delete":
            delete = request.delete
            operation = Deletion(
                list(delete.ids.values) if delete.HasField("ids") else None,
                *decode_filters(delete),
                delete.limit if delete.HasField("limit") else None,
            )
        case "patch":
            patch = request.patch
            operation = Patch(*decode_filters(patch), patch.metadata.SerializeToString())
        case _:
            raise InvalidArgumentError("a write has no operation")
    return Write(
        write_id=request.write_id,
        digest=request.digest,
        first_ordinal=request.first_ordinal,
        dimension=request.dimension,
        operation=operation,
        size_bytes=request.ByteSize(),
        batch=_decode_batch(request, time_remaining_s),
    )


def _decode_batch(request: pb.WriteShardRequest, time_remaining_s: float) -> Batch | None:
    if not request.batch_id:
        return None
    if len(request.batch_id) != _BATCH_ID_BYTES:
        raise InvalidArgumentError(
            f"a batch ID has {_BATCH_ID_BYTES} bytes, got {len(request.batch_id)}"
        )
    expires_at = time.monotonic() + time_remaining_s
    # Interned: many batches that are remembered name the same shards.
    return Batch(request.batch_id, tuple(map(sys.intern, request.batch_shard_ids)), expires_at)


def _decode_put(put: pb.PutRecords) -> Put:
    records = put.records
    ids = list(records.ids)
    count = len(ids)
    if put.kind not in _KINDS:
        raise InvalidArgumentError(f"the kind of write {put.kind} is not known")
    positions = list(put.positions) or list(range(count))
    metadatas = list(records.metadatas) or None
    for name, length in (
        ("positions", len(positions)),
        ("metadatas", len(metadatas) if metadatas else count),
    ):
        if length != count:
            raise InvalidArgumentError(f"{name} has {length} entries for {count} IDs")
    return Put(
        kind=_KINDS[put.kind],
        ids=ids,
        positions=positions,
        vectors=(decode_vectors(records.vectors, count) if records.HasField("vectors") else None),
        metadatas=metadatas,
        documents=_decode_strings(records.documents, count, "documents")
        if records.HasField("documents")
        else None,
        uris=_decode_strings(records.uris, count, "uris") if records.HasField("uris") else None,
    )


def _decode_strings(column: StringColumn, count: int, name: str) -> list[str | None]:
    values: list[str | None] = list(column.values)
    if len(values) != count:
        raise InvalidArgumentError(f"{name} has {len(values)} entries for {count} IDs")
    for position in column.absent:
        if position >= count:
            raise InvalidArgumentError(f"{name}.absent names position {position} of {count}")
        values[position] = None
    return values


_Filtered = (
    pb.DeleteRecords
    | pb.PatchRecords
    | pb.SearchShardsRequest
    | pb.GetFromShardsRequest
    | pb.CountShardsRequest
    | pb.RankTextRequest
    | pb.RankSparseRequest
)


def decode_filters(request: _Filtered) -> tuple[Where | None, WhereDocument | None]:
    """Decode the filters that a request has."""
    return (
        request.where if request.HasField("where") else None,
        request.where_document if request.HasField("where_document") else None,
    )


def decode_selection(
    request: (
        pb.SearchShardsRequest | pb.GetFromShardsRequest | pb.RankTextRequest | pb.RankSparseRequest
    ),
    id_prefix: str = "",
) -> Selection:
    """Decode which records a request means."""
    has = request.HasField
    if not (has("where") or has("where_document") or has("ids") or id_prefix):
        return _EVERYTHING
    return Selection(
        list(request.ids.values) if has("ids") else None, *decode_filters(request), id_prefix
    )


def decode_include(include: Sequence[Include.ValueType]) -> frozenset[Column]:
    """Decode what an answer is to carry."""
    return _columns_of(tuple(include))


@functools.lru_cache(_REMEMBERED_INCLUDES)
def _columns_of(include: tuple[Include.ValueType, ...]) -> frozenset[Column]:
    return frozenset([_COLUMNS[i] for i in include if i in _COLUMNS])


# Encoding.


def encode_error(error: ShoalError) -> pb.ShardError:
    """Encode why a shard could not answer."""
    return pb.ShardError(
        code=error.code, reason=error.reason, message=error.message, metadata=error.metadata
    )


def encode_matches(matches: Matches, dimension: int, answer: pb.ShardMatches) -> None:
    """Encode what a search found into an empty message."""
    distances: npt.NDArray[np.float64] = matches.distances
    answer.match_counts.extend(matches.counts)
    answer.distances = distances.astype(_FLOAT64, copy=False).tobytes()
    answer.ordinals = packed_ordinals(matches.columns.ordinals)
    _fill_columns(answer.records, matches.columns, dimension)


def encode_columns(columns: Columns, dimension: int) -> pb.RecordColumns:
    """Encode records, column by column."""
    encoded = pb.RecordColumns()
    _fill_columns(encoded, columns, dimension)
    return encoded


def _fill_columns(encoded: pb.RecordColumns, columns: Columns, dimension: int) -> None:
    encoded.SetInParent()
    encoded.ids.extend(columns.ids)
    if columns.vectors is not None:
        encoded.vectors.dimension = dimension
        encoded.vectors.values = b"".join(columns.vectors)
    if columns.metadatas is not None:
        encoded.metadatas.extend(columns.metadatas)
    if columns.documents is not None:
        _fill_strings(encoded.documents, columns.documents)
    if columns.uris is not None:
        _fill_strings(encoded.uris, columns.uris)


def _fill_strings(encoded: StringColumn, values: Sequence[str | None]) -> None:
    encoded.SetInParent()
    encoded.values.extend([value or "" for value in values])
    if None in values:
        encoded.absent.extend([i for i, value in enumerate(values) if value is None])
