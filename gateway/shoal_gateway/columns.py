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

__all__ = ["Sources", "concatenated", "gather", "record_bytes", "take"]


class Sources:
    """The columns of several answers, from which records are picked any number of times.

    What lies in messages is turned into lists once: taking items of a message one by one costs
    several times as much, and a batch of queries is cut for many callers.

    Args:
        sources: One for each answer; a column is there if one of them has it.
    """

    def __init__(self, sources: Sequence[worker_service_pb2.RecordColumns]) -> None:
        self._sources = sources
        self.ids = [list(source.ids) for source in sources]
        self._metadatas = (
            [list(source.metadatas) for source in sources]
            if any(source.metadatas for source in sources)
            else None
        )
        self._vectors = (
            [source.vectors for source in sources]
            if any(source.HasField("vectors") for source in sources)
            else None
        )
        self._documents = (
            _Strings([source.documents for source in sources])
            if any(source.HasField("documents") for source in sources)
            else None
        )
        self._uris = (
            _Strings([source.uris for source in sources])
            if any(source.HasField("uris") for source in sources)
            else None
        )

    def gather(self, places: Sequence[tuple[int, int]]) -> worker_service_pb2.RecordColumns:
        """Gather records.

        Args:
            places: Of each, which source, and which item of it.
        """
        ids = self.ids
        gathered = worker_service_pb2.RecordColumns(ids=[ids[s][i] for s, i in places])
        if self._metadatas is not None:
            metadatas = self._metadatas
            gathered.metadatas.extend([metadatas[s][i] for s, i in places])
        if self._vectors is not None:
            gathered.vectors.CopyFrom(_gather_vectors(self._vectors, places))
        if self._documents is not None:
            gathered.documents.CopyFrom(self._documents.gather(places))
        if self._uris is not None:
            gathered.uris.CopyFrom(self._uris.gather(places))
        return gathered

    def cut(self, begin: int, end: int) -> worker_service_pb2.RecordColumns:
        """Cut records that follow one another out of the only source."""
        (source,) = self._sources
        cut = worker_service_pb2.RecordColumns(ids=self.ids[0][begin:end])
        if self._metadatas is not None:
            cut.metadatas.extend(self._metadatas[0][begin:end])
        if self._vectors is not None:
            width = 4 * source.vectors.dimension
            cut.vectors.dimension = source.vectors.dimension
            cut.vectors.values = source.vectors.values[width * begin : width * end]
        if self._documents is not None:
            cut.documents.CopyFrom(self._documents.cut(begin, end))
        if self._uris is not None:
            cut.uris.CopyFrom(self._uris.cut(begin, end))
        return cut


class _Strings:
    """One column of strings of every source, with which are absent."""

    def __init__(self, columns: Sequence[value_pb2.StringColumn]) -> None:
        self._values = [list(column.values) for column in columns]
        self._absent = [set(column.absent) for column in columns]

    def gather(self, places: Sequence[tuple[int, int]]) -> value_pb2.StringColumn:
        values, absent = self._values, self._absent
        return value_pb2.StringColumn(
            values=[values[s][i] for s, i in places],
            absent=(
                [place for place, (s, i) in enumerate(places) if i in absent[s]]
                if any(absent)
                else ()
            ),
        )

    def cut(self, begin: int, end: int) -> value_pb2.StringColumn:
        absent = self._absent[0]
        return value_pb2.StringColumn(
            values=self._values[0][begin:end],
            absent=[item - begin for item in range(begin, end) if item in absent] if absent else (),
        )


def gather(
    sources: Sequence[worker_service_pb2.RecordColumns], picks: Picks
) -> worker_service_pb2.RecordColumns:
    """Gather picked records; a column is there if one of the sources has it."""
    return Sources(sources).gather(picks.places())


def concatenated(
    parts: Sequence[worker_service_pb2.RecordColumns],
) -> worker_service_pb2.RecordColumns:
    """Put records of one answer one after another; all parts have the same columns."""
    places = [(source, i) for source, part in enumerate(parts) for i in range(len(part.ids))]
    return Sources(parts).gather(places)


def _gather_vectors(
    blocks: Sequence[value_pb2.VectorBlock], places: Sequence[tuple[int, int]]
) -> value_pb2.VectorBlock:
    dimension = max(block.dimension for block in blocks)
    gathered = np.empty((len(places), dimension), np.dtype("<f4"))
    chosen = np.array(places, np.intp).reshape(-1, 2)
    for source, block in enumerate(blocks):
        here = chosen[:, 0] == source
        if here.any():
            gathered[here] = vectors_of(block)[chosen[here, 1]]
    return value_pb2.VectorBlock(dimension=dimension, values=gathered.tobytes())


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
        taken.documents.CopyFrom(_Strings([batch.documents]).gather(places))
    if batch.HasField("uris"):
        taken.uris.CopyFrom(_Strings([batch.uris]).gather(places))
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
