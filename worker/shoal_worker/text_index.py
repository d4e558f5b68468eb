"""The trigram index of documents: a superset of the documents that may match.

It lies in segments of some thousand documents, each written once, from sorted arrays, in order:

| Database | Key | Value |
|---|---|---|
| `trigram_segments` | segment | its rows |
| `trigram_blocks` | segment, first trigram | trigrams, how many documents have each, which |

A document is a place among its segment's rows. A document that is replaced is indexed once more, in
a later segment, and what was indexed before stays: the index only says which documents may match,
and they are read. When a quarter of it stands for documents that are replaced or gone, it is built
again. A document has about 260 distinct trigrams, 520 bytes here; one key for each trigram and
1,000 documents would cost ten times the time and twice the room.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from shoal.v1.filter_pb2 import DocumentCondition, DocumentOperator, WhereDocument
from shoal_worker.apply import DOCUMENT_CHANGES
from shoal_worker.environment import Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.journal import RowChange
from shoal_worker.rows import BitMap, bitmap_of
from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived
from shoal_worker.trigrams import (
    AllOf,
    AnyOf,
    Anything,
    Required,
    required_by_regex,
    required_by_substring,
    trigrams_of,
)

__all__ = ["Bounds", "TextIndex"]

_SEGMENT: Final = struct.Struct(">I")
_BLOCK: Final = struct.Struct(">II")
_COUNTS: Final = struct.Struct("<II")
_STALE_KEY: Final = _SEGMENT.pack(2**32 - 1)
_STALE: Final = struct.Struct("<QQ")

_BLOCK_POSTINGS: Final = 4096
"""Places in a block, roughly: 8 KB, read whole for one trigram."""

_MERGED_SEGMENTS: Final = 8
_MERGED_ROWS: Final = 8192
"""Segments of fewer rows are merged, eight at a time: a search asks each segment for each trigram,
and a merge sorts two million places."""

_STALE_LEAST: Final = 4096
_STALE_SHARE: Final = 0.25

_MOST_TRIGRAMS: Final = 12
"""Trigrams of one literal that a segment is asked for: the rest hardly narrows down further."""

_place = xxhash.xxh3_64_intdigest


class Bounds:
    """Which rows surely match, and which may, among the covered ones.

    Attributes:
        surely: A subset of the rows that match.
        maybe: A superset.
    """

    __slots__ = ("maybe", "surely")

    def __init__(self, surely: BitMap, maybe: BitMap) -> None:
        self.surely = surely
        self.maybe = maybe


class TextIndex:
    """The trigram index of one shard; see `indexes.DerivedIndex`."""

    name: Final = "trigrams"
    format: Final = 1  # 1: the first
    databases: Final = ("trigram_segments", "trigram_blocks")
    concerns: Final = DOCUMENT_CHANGES
    reads: Final = DOCUMENT_CHANGES
    concerns_bare_rows: Final = False
    step_rows: Final = 1024
    step_bytes: Final = 4 * 1024 * 1024

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._segments = databases["trigram_segments"]
        self._blocks = databases["trigram_blocks"]

    # Keeping it up.

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """See `indexes.DerivedIndex`."""
        rows, trigrams = [], []
        stale = 0
        for change in changes:
            if change.new_document == change.old_document and change.was_there == change.is_there:
                continue
            stale += change.old_document is not None
            if change.new_document is not None:
                rows.append(change.row)
                trigrams.append(trigrams_of(change.new_document.encode()))
        batch = Batch()
        if not rows and not stale:
            return batch
        count_before, stale_before = self._stale(txn)
        count, stale = count_before + len(rows), stale_before + stale
        if stale > max(_STALE_LEAST, _STALE_SHARE * count):
            raise DamagedIndexError(
                f"{stale} of {count} documents that the trigram index holds are replaced or gone"
            )
        segments = self._rows_of_segments(txn)
        segment_puts = []
        if rows:
            number = max(segments, default=0) + 1
            places = np.repeat(
                np.arange(len(rows), dtype=np.uint16), [len(found) for found in trigrams]
            )
            small = [n for n, held in segments.items() if len(held) < _MERGED_ROWS]
            held = np.array(rows, "<u4")
            numbers = np.concatenate(trigrams)
            if len(small) >= _MERGED_SEGMENTS - 1:
                held, numbers, places = self._merged(txn, segments, small, held, numbers, places)
                for old in small:
                    batch.deletes.append((self._blocks, self._keys(txn, old)))
                batch.deletes.append((self._segments, [_SEGMENT.pack(n) for n in small]))
            batch.puts.append((self._blocks, _blocks(number, numbers, places)))
            key = _SEGMENT.pack(number)
            segment_puts.append((key, seal(held.tobytes(), _place(key))))
        counts = _STALE.pack(count, stale)
        segment_puts.append((_STALE_KEY, seal(counts, _place(_STALE_KEY))))
        batch.puts.append((self._segments, segment_puts))
        return batch

    def _stale(self, txn: Transaction) -> tuple[int, int]:
        """Give how many documents were indexed, and how many of them are replaced or gone."""
        value = txn.get(_STALE_KEY, db=self._segments)
        if value is None:
            return 0, 0
        count, stale = _STALE.unpack(
            unseal_derived(value, _place(_STALE_KEY), "the count of the trigram index")
        )
        return count, stale

    def _rows_of_segments(self, txn: Transaction) -> dict[int, npt.NDArray[np.uint32]]:
        found = {}
        with txn.cursor(db=self._segments) as cursor:
            for stored, value in cursor:
                key = bytes(stored)
                if key != _STALE_KEY:
                    payload = unseal_derived(value, _place(key), "a segment of trigrams")
                    found[_SEGMENT.unpack(key)[0]] = np.frombuffer(payload, "<u4")
        return found

    def _keys(self, txn: Transaction, segment: int) -> list[bytes]:
        first, end = _BLOCK.pack(segment, 0), _BLOCK.pack(segment + 1, 0)
        keys = []
        with txn.cursor(db=self._blocks) as cursor:
            if cursor.set_range(first):
                for stored in cursor.iternext(values=False):
                    key = bytes(stored)
                    if key >= end:
                        break
                    keys.append(key)
        return keys

    def _merged(
        self,
        txn: Transaction,
        segments: Mapping[int, npt.NDArray[np.uint32]],
        small: Sequence[int],
        rows: npt.NDArray[np.uint32],
        numbers: npt.NDArray[np.uint32],
        places: npt.NDArray[np.uint16],
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
        """Join small segments with a new one; of a row that is in several, the newest counts."""
        held, all_numbers, all_places = [rows], [numbers], [places]
        offset = len(rows)
        newer = bitmap_of(rows)
        for segment in sorted(small, reverse=True):
            old_rows = segments[segment]
            blocks = [
                self._decode(key, txn.get(key, db=self._blocks)) for key in self._keys(txn, segment)
            ]
            # A segment of nothing but short documents has no blocks.
            old_numbers = np.concatenate([numbers[:0], *(np.repeat(b[0], b[1]) for b in blocks)])
            old_places = np.concatenate([places[:0], *(b[2] for b in blocks)])
            stays = np.array([row not in newer for row in old_rows.tolist()], np.bool_)
            moved = np.cumsum(stays) - 1 + offset
            kept = stays[old_places]
            held.append(old_rows[stays])
            all_numbers.append(old_numbers[kept])
            all_places.append(moved[old_places[kept]].astype(np.uint16))
            offset += int(stays.sum())
            newer |= bitmap_of(old_rows)
        return np.concatenate(held), np.concatenate(all_numbers), np.concatenate(all_places)

    def _decode(
        self, key: bytes, value: memoryview | None
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
        """Give a block's trigrams, how many documents have each, and which."""
        if value is None:
            raise DamagedIndexError("a block of trigrams is missing")
        payload = unseal_derived(value, _place(key), "a block of trigrams")
        trigram_count, posting_count = _COUNTS.unpack_from(payload)
        at = _COUNTS.size
        numbers = np.frombuffer(payload, "<u4", trigram_count, at)
        at += 4 * trigram_count
        counts = np.frombuffer(payload, "<u4", trigram_count, at)
        at += 4 * trigram_count
        return numbers, counts, np.frombuffer(payload, "<u2", posting_count, at)

    # Reading.

    def bounds(self, txn: Transaction, where: WhereDocument, everything: BitMap) -> Bounds:
        """Give which rows surely match, and which may.

        Args:
            txn: The reader's transaction.
            where: A filter that has been compiled, and so is one.
            everything: All rows in question.

        Raises:
            DamagedIndexError: If the index is not what was stored.
        """
        return _Reading(txn, self, everything).bounds(where)

    def places(self, txn: Transaction, segment: int, number: int) -> npt.NDArray[np.uint16]:
        """Give the places in a segment of the documents that have a trigram."""
        key = _BLOCK.pack(segment, number)
        with txn.cursor(db=self._blocks) as cursor:
            found = cursor.set_range(key)
            if not found or bytes(cursor.key()) != key:
                found = cursor.prev() if found else cursor.last()
            if not found or bytes(cursor.key())[:4] != key[:4]:
                return np.empty(0, np.uint16)
            numbers, counts, places = self._decode(bytes(cursor.key()), cursor.value())
        at = int(np.searchsorted(numbers, number))
        if at == len(numbers) or numbers[at] != number:
            return np.empty(0, np.uint16)
        end = int(counts[: at + 1].sum())
        return places[end - int(counts[at]) : end]


def _blocks(
    segment: int, numbers: npt.NDArray[np.uint32], places: npt.NDArray[np.uint16]
) -> list[tuple[bytes, bytes]]:
    """Give the blocks of a segment, by ascending key."""
    if not len(numbers):
        return []
    pairs = (numbers.astype(np.uint64) << np.uint64(16)) | places
    pairs.sort()
    numbers = (pairs >> np.uint64(16)).astype("<u4")
    places = (pairs & np.uint64(0xFFFF)).astype("<u2")
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    distinct = numbers[starts]
    counts = np.diff(np.append(starts, len(numbers))).astype("<u4")
    # A block ends with the trigram that fills it: none is in two.
    filled = starts // _BLOCK_POSTINGS
    firsts = np.flatnonzero(np.concatenate(([True], filled[1:] != filled[:-1]))).tolist()
    items = []
    for first, end in zip(firsts, [*firsts[1:], len(distinct)], strict=True):
        start = int(starts[first])
        stop = int(starts[end]) if end < len(starts) else len(places)
        key = _BLOCK.pack(segment, int(distinct[first]))
        payload = b"".join(
            (
                _COUNTS.pack(end - first, stop - start),
                distinct[first:end].tobytes(),
                counts[first:end].tobytes(),
                places[start:stop].tobytes(),
            )
        )
        items.append((key, seal(payload, _place(key))))
    return items


class _Reading:
    """The evaluation of one filter."""

    def __init__(self, txn: Transaction, index: TextIndex, everything: BitMap) -> None:
        self._txn = txn
        self._index = index
        self._everything = everything
        self._segments = index._rows_of_segments(txn)

    def bounds(self, where: WhereDocument) -> Bounds:
        match where.WhichOneof("clause"):
            case "all_of":
                parts = [self.bounds(clause) for clause in where.all_of.clauses]
                return Bounds(
                    BitMap.intersection(*[part.surely for part in parts]),
                    BitMap.intersection(*[part.maybe for part in parts]),
                )
            case "any_of":
                parts = [self.bounds(clause) for clause in where.any_of.clauses]
                return Bounds(
                    BitMap.union(*[part.surely for part in parts]),
                    BitMap.union(*[part.maybe for part in parts]),
                )
            case "negation":
                return self._complement(self.bounds(where.negation))
            case _:
                return self._condition(where.condition)

    def _complement(self, bounds: Bounds) -> Bounds:
        return Bounds(self._everything - bounds.maybe, self._everything - bounds.surely)

    def _condition(self, condition: DocumentCondition) -> Bounds:
        is_regex = condition.operator in (
            DocumentOperator.DOCUMENT_OPERATOR_REGEX,
            DocumentOperator.DOCUMENT_OPERATOR_NOT_REGEX,
        )
        required = (required_by_regex if is_regex else required_by_substring)(condition.operand)
        maybe = self._everything if isinstance(required, Anything) else self._rows(required)
        bounds = Bounds(BitMap(), maybe)
        is_complement = condition.operator in (
            DocumentOperator.DOCUMENT_OPERATOR_NOT_CONTAINS,
            DocumentOperator.DOCUMENT_OPERATOR_NOT_REGEX,
        )
        return self._complement(bounds) if is_complement else bounds

    def _rows(self, required: Required) -> BitMap:
        parts = []
        for segment, rows in self._segments.items():
            has = self._documents(segment, len(rows), required)
            if has is not None:
                parts.append(rows[has])
        return bitmap_of(np.concatenate(parts)) & self._everything if parts else BitMap()

    def _documents(
        self, segment: int, count: int, required: Required
    ) -> npt.NDArray[np.bool_] | None:
        """Say of each document of a segment whether it may match; None: none does."""
        match required:
            case Anything():
                return np.ones(count, np.bool_)
            case AllOf(parts):
                every = [self._documents(segment, count, part) for part in parts]
                known = [part for part in every if part is not None]
                return np.logical_and.reduce(known) if len(known) == len(every) else None
            case AnyOf(parts):
                some = [self._documents(segment, count, part) for part in parts]
                known = [part for part in some if part is not None]
                return np.logical_or.reduce(known) if known else None
            case _:
                return self._with_all(segment, count, required.numbers)

    def _with_all(
        self, segment: int, count: int, numbers: Sequence[int]
    ) -> npt.NDArray[np.bool_] | None:
        found: npt.NDArray[np.bool_] | None = None
        step = -(-len(numbers) // _MOST_TRIGRAMS)
        for number in numbers[::step]:
            places = self._index.places(self._txn, segment, number)
            if not len(places):
                return None
            has = np.zeros(count, np.bool_)
            has[places] = True
            found = has if found is None else found & has
            if not found.any():
                return None
        return found
