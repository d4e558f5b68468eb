"""The columns of an answer, read in the pinned transaction."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.errors import OverloadedError
from shoal_worker.environment import Database, Transaction
from shoal_worker.sealed import DamagedValueError
from shoal_worker.store import Record, Store
from shoal_worker.vector_file import HEAD

__all__ = ["Column", "ColumnReader", "Columns", "packed_ordinals", "too_large"]

_STRING_OVERHEAD_BYTES: Final = 4
"""What a string costs in a message beside its own bytes: its tag and length."""


_ROWS_AT_ONCE: Final = 64
"""Rows that are read between two looks at the bound."""


class Column(Enum):
    """What an answer carries beside the IDs."""

    # Enum's own hash is written in Python, and sets of columns are made and asked by every search.
    __hash__ = object.__hash__

    DOCUMENTS = auto()
    METADATAS = auto()
    VECTORS = auto()
    URIS = auto()


@dataclass(slots=True)
class Columns:
    """Records, column by column; a column that was not asked for is None.

    Attributes:
        ids: The records' IDs.
        ordinals: Their ordinals.
        vectors: Little-endian float32 numbers of each.
        metadatas: Each a serialised shoal.v1.Metadata; empty: none.
        documents: None where there is none.
        uris: None where there is none.
        size_bytes: Roughly what they weigh in a message.
    """

    ids: list[str]
    ordinals: list[int]
    vectors: list[bytes] | None
    metadatas: list[bytes] | None
    documents: list[str | None] | None
    uris: list[str | None] | None
    size_bytes: int = 0

    @staticmethod
    def empty(include: frozenset[Column]) -> Columns:
        """Give columns without records."""
        return Columns(
            [],
            [],
            [] if Column.VECTORS in include else None,
            [] if Column.METADATAS in include else None,
            [] if Column.DOCUMENTS in include else None,
            [] if Column.URIS in include else None,
        )


class ColumnReader:
    """Reads records into columns, up to a bound of bytes."""

    def __init__(
        self, txn: Transaction, store: Store, include: frozenset[Column], max_bytes: int
    ) -> None:
        self._txn = txn
        self._store = store
        self._max_bytes = max_bytes
        self.columns = columns = Columns.empty(include)
        # Where to read what was asked for beside vectors.
        self._metadatas = columns.metadatas
        self._texts: list[tuple[Database, list[str | None]]] = []
        if columns.documents is not None:
            self._texts.append((store.documents, columns.documents))
        if columns.uris is not None:
            self._texts.append((store.uris, columns.uris))

    def add(self, record: Record) -> bool:
        """Append a record.

        Returns:
            False if the columns already hold something and would grow over their bound: then the
            record was left out.
        """
        txn, store, columns = self._txn, self._store, self.columns
        row = record.row
        size = len(record.id) + 8 + _STRING_OVERHEAD_BYTES
        metadata = None
        if self._metadatas is not None:
            metadata = store.value(txn, store.metadata, row)
            size += _STRING_OVERHEAD_BYTES + (len(metadata) if metadata else 0)
        texts = [store.value(txn, database, row) for database, _ in self._texts]
        size += _size_of(texts)
        vector = None
        if columns.vectors is not None:
            vector = store.vector(txn, record.key)
            if vector is None:
                raise DamagedValueError(f"the vector of row {row} is missing")
            size += len(vector)
        if columns.ids and columns.size_bytes + size > self._max_bytes:
            return False
        columns.size_bytes += size
        columns.ids.append(record.id)
        columns.ordinals.append(record.ordinal)
        if columns.vectors is not None and vector is not None:
            columns.vectors.append(vector)
        if self._metadatas is not None:
            self._metadatas.append(metadata or b"")
        for (_, column), text in zip(self._texts, texts, strict=True):
            column.append(None if text is None else text.decode())
        return True

    def add_rows(
        self,
        rows: Sequence[int],
        heads: npt.NDArray[np.uint64] | None,
        check: Callable[[], None],
    ) -> bool:
        """Append the records of rows, which must have one.

        Args:
            rows: The rows.
            heads: What is known of them, as candidates have it (`nearest.Candidates`).
            check: Called after every few records; what it raises ends the reading.

        Returns:
            False if the columns grew over their bound: it is noticed every few records.
        """
        columns, txn, store = self.columns, self._txn, self._store
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            if first:
                check()
            part = rows[first : first + _ROWS_AT_ONCE]
            keys: list[int] = []
            if columns.vectors is None and heads is not None:
                ids, ordinals = self._names(part, heads[first : first + _ROWS_AT_ONCE])
            else:
                ids, ordinals, keys = store.records_of(txn, part)
            columns.ids += ids
            columns.ordinals += ordinals
            size = sum(map(len, ids)) + (8 + _STRING_OVERHEAD_BYTES) * len(ids)
            if self._metadatas is not None:
                metadatas = store.values(txn, store.metadata, part)
                size += _size_of(metadatas)
                self._metadatas += [value or b"" for value in metadatas]
            for database, column in self._texts:
                texts = store.values(txn, database, part)
                size += _size_of(texts)
                column += [None if text is None else text.decode() for text in texts]
            if columns.vectors is not None:
                size += self._add_vectors(columns.vectors, keys)
            columns.size_bytes += size
            if columns.size_bytes > self._max_bytes and len(columns.ids) > 1:
                return False
        return True

    def _names(
        self, rows: Sequence[int], heads: npt.NDArray[np.uint64]
    ) -> tuple[list[str], list[int]]:
        """Give IDs and ordinals of rows by their heads, reading those that have none, or only half.

        Raises:
            DamagedValueError: If one has no record.
        """
        ids: list[str] = []
        ordinals: list[int] = []
        for _, ordinal, _, length, name in HEAD.iter_unpack(heads.tobytes()):
            ids.append(name[:length].decode())
            ordinals.append(ordinal)
        if "" in ids:
            unknown = [i for i, name in enumerate(ids) if not name]
            read = self._store.records_of(self._txn, [rows[i] for i in unknown])
            for i, name, ordinal in zip(unknown, read[0], read[1], strict=True):
                ids[i], ordinals[i] = name, ordinal
        return ids, ordinals

    def _add_vectors(self, vectors: list[bytes], keys: Sequence[int]) -> int:
        """Append the vectors of keys, and give how many bytes they have."""
        size = 0
        for key in keys:
            vector = self._store.vector(self._txn, key)
            if vector is None:
                raise DamagedValueError(f"the vector of key {key} is missing")
            vectors.append(vector)
            size += len(vector)
        return size


def _size_of(values: Sequence[bytes | None]) -> int:
    """Give roughly what values weigh in a message."""
    return _STRING_OVERHEAD_BYTES * len(values) + sum(map(len, filter(None, values)))


def too_large(max_bytes: int) -> OverloadedError:
    """Refuse an answer over its bound: it names `include`, which is what the caller can change."""
    return OverloadedError(
        f"the answer would exceed {max_bytes} bytes: ask for less with `include`, or for fewer "
        "results or queries",
        metadata={"limit": "max_answer_bytes", "field": "include"},
    )


def packed_ordinals(ordinals: Sequence[int]) -> bytes:
    """Give ordinals as little-endian uint64 bytes."""
    return struct.pack(f"<{len(ordinals)}Q", *ordinals)
