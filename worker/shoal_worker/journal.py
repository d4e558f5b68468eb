"""Which rows each log entry changed, and what they held before: what derived indexes follow.

| Database | Key | Value |
|---|---|---|
| `changes` | sequence | rows (uint32 each), then a set of bits for each |
| `before` | kind, row, sequence | whether there was a value, the value |

An index that covers the log up to a position needs three things to go on: which rows changed since,
what they hold now, and what they held when it took them in. The third is noted here by the commit
that replaces it, which costs an update or a deletion one more read and put, and a new record, the
bulk of what is written, nothing. (The alternative, a copy of everything indexed beside the index,
costs each new record as much as its metadata.)

A position is an entry's sequence and how many rows of the next entry are taken, so that an entry of
10,000 documents need not be taken at once. An entry changes a row at most once. What every index
has passed is trimmed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from shoal.internal.v1.storage_pb2 import LogEntry
from shoal_worker.apply import DOCUMENT_CHANGES, IS_NEW, METADATA_CHANGES
from shoal_worker.environment import Database, Environment, Transaction
from shoal_worker.rows import bitmap_of
from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived
from shoal_worker.store import Meta, Store, number_key, row_key

__all__ = [
    "DELETED",
    "JOURNAL_DATABASES",
    "VECTOR_CHANGES",
    "Journal",
    "Position",
    "RowChange",
    "Window",
]

JOURNAL_DATABASES: Final = ("changes", "before")

# Beside the bits of ResolvedPuts.changes.
VECTOR_CHANGES: Final = 16
DELETED: Final = 32

_ALWAYS: Final = IS_NEW | DELETED
"""What concerns every index."""

_BYTES_PER_CHANGE: Final = 5
_BEFORE: Final = struct.Struct(">BIQ")
_SEQUENCE: Final = struct.Struct(">Q")
_ABSENT: Final = b"\x00"
_PRESENT: Final = b"\x01"

_TRIM_STEP: Final = 64
_TRIM_ROWS: Final = 4096
"""Entries, and replaced rows, that are removed at once, so that no writer waits for a clean-up: ten
entries that deleted 1,000 rows each took 1.5 s on a busy machine."""
"""Entries that one transaction trims at most."""


class Position(NamedTuple):
    """How far something has followed: every entry up to `sequence`, and `offset` rows of the next
    one."""

    sequence: int
    offset: int


class _Entry(NamedTuple):
    """What one log entry changed."""

    sequence: int
    rows: npt.NDArray[np.uint32]
    bits: npt.NDArray[np.uint8]


@dataclass(slots=True)
class RowChange:
    """What became of a row between two positions. Values that were not asked for are None.

    Attributes:
        row: The row.
        was_there: Whether the record existed at the first position.
        is_there: Whether it exists at the second.
        old_metadata: Serialised; None if there was none.
        new_metadata: Serialised; None if there is none.
        old_document: None if there was none.
        new_document: None if there is none.
    """

    row: int
    was_there: bool
    is_there: bool
    old_metadata: bytes | None = None
    new_metadata: bytes | None = None
    old_document: str | None = None
    new_document: str | None = None


@dataclass(slots=True)
class Window:
    """The rows changed between two positions.

    Attributes:
        end: The second position.
        change_count: Changes between them.
        rows: For each row the sequences of its first and last change, and all their bits.
    """

    end: Position
    change_count: int
    rows: dict[int, tuple[int, int, int]]


class Journal:
    """Reads and writes the journal inside transactions that the caller owns."""

    def __init__(self, environment: Environment, store: Store) -> None:
        databases: Mapping[str, Database] = environment.databases
        self._changes = databases["changes"]
        self._before = databases["before"]
        self._store = store

    # Writing.

    def note(self, txn: Transaction, sequence: int, entry: LogEntry) -> int:
        """Note what an entry is about to change, before it is applied.

        Returns:
            How many rows it changes.
        """
        puts = entry.puts
        rows = np.array(puts.rows, "<u4")
        bits = np.frombuffer(puts.changes, np.uint8).copy()
        bits[np.array(puts.keys, np.uint64) != 0] |= VECTOR_CHANGES
        concerned = (bits & IS_NEW == 0) & (bits & (METADATA_CHANGES | DOCUMENT_CHANGES) != 0)
        for i in np.flatnonzero(concerned).tolist():
            self._note_before(txn, sequence, int(rows[i]), int(bits[i]))
        if entry.deletes.rows:
            gone = np.array(entry.deletes.rows, "<u4")
            for row in gone.tolist():
                self._note_before(txn, sequence, row, METADATA_CHANGES | DOCUMENT_CHANGES)
            rows = np.concatenate((rows, gone))
            bits = np.concatenate((bits, np.full(len(gone), DELETED, np.uint8)))
        value = seal(rows.astype("<u4").tobytes() + bits.tobytes(), sequence)
        txn.put(number_key(sequence), value, db=self._changes, append=True)
        return len(rows)

    def _note_before(self, txn: Transaction, sequence: int, row: int, bits: int) -> None:
        for kind, database in self._kinds(bits):
            stored = self._store.value(txn, database, row)
            value = _ABSENT if stored is None else _PRESENT + stored
            txn.put(_BEFORE.pack(kind, row, sequence), seal(value, row), db=self._before)

    def _kinds(self, bits: int) -> Iterator[tuple[int, Database]]:
        if bits & METADATA_CHANGES:
            yield METADATA_CHANGES, self._store.metadata
        if bits & DOCUMENT_CHANGES:
            yield DOCUMENT_CHANGES, self._store.documents

    def oldest(self, txn: Transaction) -> int | None:
        """Give the first sequence of which something is noted, or None."""
        with txn.cursor(db=self._changes) as cursor:
            return int(_SEQUENCE.unpack(cursor.key())[0]) if cursor.first() else None

    def trim(self, txn: Transaction, sequence: int) -> int:
        """Remove what lies up to a sequence: a step of it at most, one entry at least.

        A damaged entry goes as well: nobody reads it any more, and if it stayed, every step would
        fail on it for ever.

        Returns:
            How many entries were removed.
        """
        row_count = 0
        with txn.cursor(db=self._changes) as cursor:
            for removed in range(_TRIM_STEP):
                if row_count >= _TRIM_ROWS or not cursor.first():
                    return removed
                (oldest,) = _SEQUENCE.unpack(cursor.key())
                if oldest > sequence:
                    return removed
                try:
                    entry = self._decode(oldest, cursor.value())
                except DamagedIndexError:
                    self._trim_all_before(txn, oldest)
                else:
                    for row, bits in zip(entry.rows.tolist(), entry.bits.tolist(), strict=True):
                        self._trim_before(txn, oldest, row, bits)
                    row_count += int(np.count_nonzero(entry.bits & IS_NEW == 0))
                cursor.delete()
        return _TRIM_STEP

    def _trim_all_before(self, txn: Transaction, sequence: int) -> None:
        """Remove what entries up to a sequence replaced, without knowing which rows those were."""
        with txn.cursor(db=self._before) as cursor:
            passed = [
                bytes(key)
                for key in cursor.iternext(values=False)
                if _BEFORE.unpack(key)[2] <= sequence
            ]
        for key in passed:
            txn.delete(key, db=self._before)

    def _trim_before(self, txn: Transaction, sequence: int, row: int, bits: int) -> None:
        if bits & IS_NEW:
            return
        for kind in (METADATA_CHANGES, DOCUMENT_CHANGES):
            if bits & (kind | DELETED):
                txn.delete(_BEFORE.pack(kind, row, sequence), db=self._before)

    def clear(self, txn: Transaction) -> None:
        """Remove everything, when no index follows."""
        txn.drop(self._changes, delete=False)
        txn.drop(self._before, delete=False)

    # Reading.

    def reaches_from(self, txn: Transaction, sequence: int, meta: Meta) -> bool:
        """Whether every entry after a sequence is here."""
        with txn.cursor(db=self._changes) as cursor:
            if sequence >= meta.sequence:
                return sequence == meta.sequence
            if not cursor.first():
                return False
            (first,) = _SEQUENCE.unpack(cursor.key())
            cursor.last()
            (last,) = _SEQUENCE.unpack(cursor.key())
            count: int = txn.stat(self._changes)["entries"]
            return bool(
                first <= sequence + 1 and last == meta.sequence and count == last - first + 1
            )

    def _decode(self, sequence: int, value: memoryview) -> _Entry:
        payload = unseal_derived(value, sequence, "the changes of log entry")
        count = len(payload) // _BYTES_PER_CHANGE
        return _Entry(
            sequence,
            np.frombuffer(payload, "<u4", count),
            np.frombuffer(payload, np.uint8, count, 4 * count),
        )

    def _after(self, txn: Transaction, position: Position) -> Iterator[_Entry]:
        """Walk over what comes after a position."""
        with txn.cursor(db=self._changes) as cursor:
            if not cursor.set_range(number_key(position.sequence + 1)):
                return
            skipped = position.offset
            for key, value in cursor:
                entry = self._decode(_SEQUENCE.unpack(key)[0], value)
                yield _Entry(entry.sequence, entry.rows[skipped:], entry.bits[skipped:])
                skipped = 0

    def rows_after(self, txn: Transaction, position: Position, concerns: int) -> BitMap:
        """Give the rows that changed after a position.

        Args:
            txn: The transaction.
            position: Where.
            concerns: Bits of change, of which at least one must be set; new and deleted rows always
                count.
        """
        wanted = np.uint8(concerns | _ALWAYS)
        parts = [
            entry.rows if (entry.bits & wanted).all() else entry.rows[entry.bits & wanted != 0]
            for entry in self._after(txn, position)
        ]
        return bitmap_of(np.concatenate(parts)) if parts else BitMap()

    def count_after(self, txn: Transaction, position: Position) -> int:
        """Count the changes after a position."""
        return sum(len(entry.rows) for entry in self._after(txn, position))

    def window(self, txn: Transaction, position: Position, max_rows: int) -> Window:
        """Give the rows of the next `max_rows` changes after a position."""
        rows: dict[int, tuple[int, int, int]] = {}
        end, left = position, max_rows
        for entry in self._after(txn, position):
            taken = min(left, len(entry.rows))
            for row, bits in zip(
                entry.rows[:taken].tolist(), entry.bits[:taken].tolist(), strict=True
            ):
                before = rows.get(row)
                rows[row] = (
                    (entry.sequence, entry.sequence, bits)
                    if before is None
                    else (before[0], entry.sequence, before[2] | bits)
                )
            left -= taken
            if taken < len(entry.rows):
                passed = position.offset if entry.sequence == position.sequence + 1 else 0
                end = Position(entry.sequence - 1, passed + taken)
                break
            end = Position(entry.sequence, 0)
            if not left:
                break
        return Window(end, max_rows - left, rows)

    def value_before(
        self, txn: Transaction, kind: int, row: int, sequence: int, current: bytes | None
    ) -> bytes | None:
        """Give what a row held before an entry.

        Args:
            txn: The transaction.
            kind: METADATA_CHANGES or DOCUMENT_CHANGES.
            row: The row.
            sequence: The entry's.
            current: What it holds in the transaction, and held if nothing was noted since.
        """
        with txn.cursor(db=self._before) as cursor:
            if not cursor.set_range(_BEFORE.pack(kind, row, sequence)):
                return current
            if bytes(cursor.key())[:5] != bytes([kind]) + row_key(row):
                return current
            value = unseal_derived(cursor.value(), row, "what was before in row")
        return value[1:] if value[:1] == _PRESENT else None
