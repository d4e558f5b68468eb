"""Moving the columns of records from the shards' answers into one.

Metadata stays encoded, and vectors stay blocks of bytes: nothing here makes a message for a record
or a Python float for a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shoal.internal.v1 import worker_service_pb2
from shoal.v1 import value_pb2
from shoal.wire.vectors import vectors_of
from shoal_gateway.merge import Picks

__all__ = ["concatenated", "gather", "record_bytes", "take"]


def gather(
    sources: Sequence[worker_service_pb2.RecordColumns], picks: Picks
) -> worker_service_pb2.RecordColumns:
    """Gather picked records; a column is there if one of the sources has it."""
    places = list(zip(picks.sources.tolist(), picks.items.tolist(), strict=True))
    ids = [list(source.ids) for source in sources]
    gathered = worker_service_pb2.RecordColumns(ids=[ids[s][i] for s, i in places])
    if any(source.metadatas for source in sources):
        metadatas = [list(source.metadatas) for source in sources]
        gathered.metadatas.extend([metadatas[s][i] for s, i in places])
    if any(source.HasField("vectors") for source in sources):
        gathered.vectors.CopyFrom(_gather_vectors([s.vectors for s in sources], picks))
    if any(source.HasField("documents") for source in sources):
        gathered.documents.CopyFrom(_gather_strings([s.documents for s in sources], places))
    if any(source.HasField("uris") for source in sources):
        gathered.uris.CopyFrom(_gather_strings([s.uris for s in sources], places))
    return gathered


def concatenated(
    parts: Sequence[worker_service_pb2.RecordColumns],
) -> worker_service_pb2.RecordColumns:
    """Put records of one answer one after another; all parts have the same columns."""
    lengths = [len(part.ids) for part in parts]
    sources = np.repeat(np.arange(len(parts), dtype=np.intp), lengths)
    items = np.concatenate([np.arange(length, dtype=np.intp) for length in lengths])
    return gather(parts, Picks(sources, items, np.array([len(items)], np.int64)))


def _gather_vectors(blocks: Sequence[value_pb2.VectorBlock], picks: Picks) -> value_pb2.VectorBlock:
    dimension = max(block.dimension for block in blocks)
    gathered = np.empty((len(picks.items), dimension), np.dtype("<f4"))
    for source, block in enumerate(blocks):
        here = picks.sources == source
        if here.any():
            gathered[here] = vectors_of(block)[picks.items[here]]
    return value_pb2.VectorBlock(dimension=dimension, values=gathered.tobytes())


def _gather_strings(
    columns: Sequence[value_pb2.StringColumn], places: Sequence[tuple[int, int]]
) -> value_pb2.StringColumn:
    values = [list(column.values) for column in columns]
    absent = [set(column.absent) for column in columns]
    return value_pb2.StringColumn(
        values=[values[s][i] for s, i in places],
        absent=[place for place, (s, i) in enumerate(places) if i in absent[s]],
    )


def take(
    batch: worker_service_pb2.RecordBatch, positions: Sequence[int]
) -> worker_service_pb2.RecordBatch:
    """Take some records of a batch, in the order of `positions`."""
    ids = batch.ids
    taken = worker_service_pb2.RecordBatch(ids=[ids[p] for p in positions])
    if batch.metadatas:
        metadatas = batch.metadatas
        taken.metadatas.extend([metadatas[p] for p in positions])
    if batch.HasField("vectors"):
        rows = vectors_of(batch.vectors)[np.asarray(positions, np.intp)]
        taken.vectors.dimension = batch.vectors.dimension
        taken.vectors.values = rows.tobytes()
    places = [(0, p) for p in positions]
    if batch.HasField("documents"):
        taken.documents.CopyFrom(_gather_strings([batch.documents], places))
    if batch.HasField("uris"):
        taken.uris.CopyFrom(_gather_strings([batch.uris], places))
    return taken


_OVERHEAD_BYTES: Final = 32
"""Above what the lengths and tags of a record's fields take in a message."""


def record_bytes(columns: worker_service_pb2.RecordColumns) -> list[int]:
    """Give an upper bound of the bytes that each record takes in an answer."""
    sizes = [
        _OVERHEAD_BYTES + 4 * columns.vectors.dimension + len(record_id.encode())
        for record_id in columns.ids
    ]
    for position, metadata in enumerate(columns.metadatas):
        sizes[position] += len(metadata)
    for column in (columns.documents, columns.uris):
        for position, text in enumerate(column.values):
            sizes[position] += len(text.encode())
    return sizes
