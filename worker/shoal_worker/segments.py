"""Inverted segments: which rows have a number, with which weight, in LMDB.

A number stands for a term of a text or a dimension of a sparse vector; a row has it once, with a
weight (how often, or how much). Rows lie in segments, each written once, from sorted arrays:

| Database | Key | Value |
|---|---|---|
| `…_segments` | segment | rows, and the length of each |
| `…_segments` | segment, 1 | which of them are dead |
| `…_blocks` | segment, first number | numbers, how many rows have each, which, with which weight |

What has a row is at one *place* of one segment; other places of the same row are dead, since it was
replaced or deleted there. So counts over live places are exact, which BM25 and inverse document
frequencies need. Eight segments of about the same size are merged into one, and one of which a
quarter is dead is written again without it: each posting is written some five times in all.

One key for each term would cost ten times the time and twice the room, as it did with trigrams.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from shoal_worker.environment import Cursor, Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived

__all__ = ["MAX_ROWS", "Contents", "Posting", "Segment", "Segments"]

Rows = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint16]
Weights = npt.NDArray[np.generic]

_SEGMENT: Final = struct.Struct(">I")
_BLOCK: Final = struct.Struct(">IQ")
_DEAD: Final = b"\x01"
_HEAD: Final = struct.Struct("<II")
_COUNTS: Final = struct.Struct("<IIB")

_BLOCK_POSTINGS: Final = 4096
"""Postings in a block, roughly: some ten pages, read whole for one number."""

MAX_ROWS: Final = 1 << 16
"""Rows of a segment: a place is two bytes."""

_MERGED_POSTINGS: Final = 1 << 21
"""Of the segments that are merged: some 20 MB in the database and 100 in memory."""

_MERGED_SEGMENTS: Final = 8
_LEVEL_BITS: Final = 3
_ROW_POSTINGS: Final = 32
"""What a row weighs beside its postings, when segments are compared."""

_DEAD_SHARE: Final = 0.25

# Kinds of weights; part of the format.
_DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u4"),
    3: np.dtype("<f4"),
}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}

_place = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Contents:
    """What rows hold.

    Attributes:
        rows: Each once, shape ``(n,)``, at most `MAX_ROWS`.
        lengths: Of each, shape ``(n,)``.
        numbers: Ascending, shape ``(postings,)``.
        places: The place of each posting's row, shape ``(postings,)``; ascending where numbers are
            equal.
        weights: Of each posting, shape ``(postings,)``.
    """

    rows: Rows
    lengths: Rows
    numbers: Numbers
    places: Places
    weights: Weights


@dataclass(frozen=True, slots=True)
class Segment:
    """A stored segment, without its postings.

    Attributes:
        number: Names it.
        posting_count: Postings in it, dead ones included.
        rows: The row of each place.
        lengths: The length of each place.
        live: Whether each place is its row's current one.
    """

    number: int
    posting_count: int
    rows: Rows
    lengths: Rows
    live: npt.NDArray[np.bool_]

    @property
    def live_count(self) -> int:
        """Places that are not dead."""
        return int(np.count_nonzero(self.live))

    def without(self, rows: Rows) -> Segment:
        """The segment with the places of some rows (sorted) dead."""
        if not len(rows):
            return self
        return replace(self, live=self.live & ~among(self.rows, rows))


class Posting(NamedTuple):
    """The places of a segment that have a number.

    Attributes:
        number: The number.
        places: Dead ones included.
        weights: Of each.
    """

    number: int
    places: Places
    weights: Weights


def among(rows: Rows, wanted: Rows) -> npt.NDArray[np.bool_]:
    """Say of each row whether it is among others, which are sorted."""
    if not len(wanted):
        return np.zeros(len(rows), np.bool_)
    found = np.searchsorted(wanted, rows)
    found[found == len(wanted)] = 0
    is_among: npt.NDArray[np.bool_] = wanted[found] == rows
    return is_among


class Segments:
    """Two databases that hold segments.

    Args:
        segments: The database of rows.
        blocks: The database of postings.
        what: They hold, for messages.
    """

    def __init__(self, segments: Database, blocks: Database, what: str) -> None:
        self._segments = segments
        self._blocks = blocks
        self._what = what

    # Reading.

    def all(self, txn: Transaction) -> list[Segment]:
        """Give every segment.

        Raises:
            DamagedIndexError: If one is not what was stored.
        """
        found: list[Segment] = []
        with txn.cursor(db=self._segments) as cursor:
            for stored, value in cursor:
                key = bytes(stored)
                payload = unseal_derived(value, _place(key), f"a segment of {self._what}")
                if len(key) == _SEGMENT.size:
                    found.append(self._decode_segment(key, payload))
                    continue
                if not found or key != _SEGMENT.pack(found[-1].number) + _DEAD:
                    raise DamagedIndexError(f"a segment of {self._what} is missing")
                dead = np.unpackbits(np.frombuffer(payload, np.uint8), count=len(found[-1].rows))
                found[-1] = replace(found[-1], live=dead == 0)
        return found

    def _decode_segment(self, key: bytes, payload: bytes) -> Segment:
        row_count, posting_count = _HEAD.unpack_from(payload)
        if len(payload) != _HEAD.size + 8 * row_count:
            raise DamagedIndexError(f"a segment of {self._what} is cut short")
        rows = np.frombuffer(payload, "<u4", row_count, _HEAD.size)
        lengths = np.frombuffer(payload, "<u4", row_count, _HEAD.size + 4 * row_count)
        return Segment(
            _SEGMENT.unpack(key)[0], posting_count, rows, lengths, np.ones(row_count, np.bool_)
        )

    def postings(
        self, txn: Transaction, segment: Segment, numbers: Sequence[int]
    ) -> Iterator[Posting]:
        """Give what a segment holds of some numbers, which ascend; nothing of those it has not.

        Raises:
            DamagedIndexError: If it is not what was stored.
        """
        if not segment.posting_count:
            return
        with txn.cursor(db=self._blocks) as cursor:
            block: _Block | None = None
            for number in numbers:
                if block is None or number > block.last:
                    block = self._block_for(cursor, segment.number, number)
                if block is not None and (posting := block.of(number)) is not None:
                    yield posting

    def _block_for(self, cursor: Cursor, segment: int, number: int) -> _Block | None:
        """Give the block that a number is in, if it is in one; None if it is below the first."""
        key = _BLOCK.pack(segment, number)
        found = cursor.set_range(key)
        if not found or bytes(cursor.key()) != key:
            found = cursor.prev() if found else cursor.last()
        if not found or bytes(cursor.key())[: _SEGMENT.size] != key[: _SEGMENT.size]:
            return None
        return self._decode_block(bytes(cursor.key()), cursor.value())

    def _decode_block(self, key: bytes, value: memoryview) -> _Block:
        payload = unseal_derived(value, _place(key), f"a block of {self._what}")
        number_count, posting_count, code = _COUNTS.unpack_from(payload)
        dtype = _DTYPES[code]
        at = _COUNTS.size
        numbers = np.frombuffer(payload, "<u8", number_count, at)
        at += 8 * number_count
        counts = np.frombuffer(payload, "<u4", number_count, at)
        at += 4 * number_count
        places = np.frombuffer(payload, "<u2", posting_count, at)
        at += 2 * posting_count
        return _Block(numbers, counts, places, np.frombuffer(payload, dtype, posting_count, at))

    # Writing.

    def changed(self, txn: Transaction, gone: Rows, new: Contents) -> Batch:
        """Say what to put and what to delete.

        Args:
            txn: What is stored now.
            gone: Rows whose live places, if there are any, are dead from now on; sorted. Those of
                `new` that were there are among them.
            new: What rows hold from now on.

        Raises:
            DamagedIndexError: If what is stored is not what was stored.
        """
        stored = {segment.number: segment for segment in self.all(txn)}
        next_number = max(stored, default=0) + 1
        batch = _Changes()
        if len(gone):
            for number, segment in stored.items():
                without = segment.without(gone)
                if without.live_count != segment.live_count:
                    stored[number] = without
                    batch.dead.add(number)
        for number in [n for n, segment in stored.items() if not segment.live_count]:
            self._delete(txn, number, batch)
            del stored[number]
        group, takes_new = _to_merge(list(stored.values()), new)
        if group:
            parts = [self._contents(txn, stored[number]) for number in group]
            if takes_new:
                parts.append(new)
            for number in group:
                self._delete(txn, number, batch)
                del stored[number]
            self._put(next_number, _merged(parts), batch)
            next_number += 1
        if len(new.rows) and not takes_new:
            self._put(next_number, new, batch)
        for number in batch.dead & stored.keys():
            key = _SEGMENT.pack(number) + _DEAD
            dead = np.packbits(~stored[number].live).tobytes()
            batch.segment_puts.append((key, seal(dead, _place(key))))
        return batch.of(self._segments, self._blocks)

    def _delete(self, txn: Transaction, number: int, batch: _Changes) -> None:
        key = _SEGMENT.pack(number)
        batch.segment_deletes += [key, key + _DEAD]
        batch.block_deletes += [stored for stored, _ in self._blocks_of(txn, number)]

    def _blocks_of(self, txn: Transaction, number: int) -> Iterator[tuple[bytes, memoryview]]:
        first, end = _BLOCK.pack(number, 0), _BLOCK.pack(number + 1, 0)
        with txn.cursor(db=self._blocks) as cursor:
            if not cursor.set_range(first):
                return
            for stored, value in cursor:
                key = bytes(stored)
                if key >= end:
                    return
                yield key, value

    def _contents(self, txn: Transaction, segment: Segment) -> Contents:
        """Give what the live places of a segment hold."""
        blocks = [self._decode_block(*item) for item in self._blocks_of(txn, segment.number)]
        if sum(len(block.places) for block in blocks) != segment.posting_count:
            raise DamagedIndexError(f"a block of {self._what} is missing")
        if not blocks:
            return _without_postings(segment.rows[segment.live], segment.lengths[segment.live])
        numbers = np.concatenate([np.repeat(b.numbers, b.counts) for b in blocks])
        places = np.concatenate([b.places for b in blocks])
        weights = np.concatenate([b.weights for b in blocks])
        if segment.live.all():
            return Contents(segment.rows, segment.lengths, numbers, places, weights)
        kept = segment.live[places]
        moved = (np.cumsum(segment.live) - 1).astype(np.uint16)
        return Contents(
            segment.rows[segment.live],
            segment.lengths[segment.live],
            numbers[kept],
            moved[places[kept]],
            weights[kept],
        )

    def _put(self, number: int, contents: Contents, batch: _Changes) -> None:
        head, blocks = _encoded(number, contents)
        batch.segment_puts.append(head)
        batch.block_puts += blocks

    # Without what is dead.

    def cleaned(
        self, txn: Transaction
    ) -> tuple[Iterator[tuple[bytes, bytes]], Iterator[tuple[bytes, bytes]]]:
        """Give what the two databases are to hold so that nothing of dead places is in them."""
        segments = [segment for segment in self.all(txn) if segment.live_count]

        def heads() -> Iterator[tuple[bytes, bytes]]:
            for segment in segments:
                key = _SEGMENT.pack(segment.number)
                if segment.live.all():
                    value = txn.get(key, db=self._segments)
                    assert value is not None
                    yield key, bytes(value)
                else:
                    yield _encoded(segment.number, self._contents(txn, segment))[0]

        def blocks() -> Iterator[tuple[bytes, bytes]]:
            for segment in segments:
                if segment.live.all():
                    for key, value in self._blocks_of(txn, segment.number):
                        yield key, bytes(value)
                else:
                    yield from _encoded(segment.number, self._contents(txn, segment))[1]

        return heads(), blocks()


@dataclass(frozen=True, slots=True)
class _Block:
    """Neighbouring numbers of a segment, and their postings."""

    numbers: Numbers
    counts: Rows
    places: Places
    weights: Weights

    @property
    def last(self) -> int:
        return int(self.numbers[-1])

    def of(self, number: int) -> Posting | None:
        at = int(np.searchsorted(self.numbers, np.uint64(number)))
        if at == len(self.numbers) or int(self.numbers[at]) != number:
            return None
        start = int(self.counts[:at].sum())
        end = start + int(self.counts[at])
        return Posting(number, self.places[start:end], self.weights[start:end])


class _Changes:
    """What a step puts and deletes, in the making."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.segment_puts: list[tuple[bytes, bytes]] = []
        self.segment_deletes: list[bytes] = []
        self.block_puts: list[tuple[bytes, bytes]] = []
        self.block_deletes: list[bytes] = []

    def of(self, segments: Database, blocks: Database) -> Batch:
        batch = Batch()
        batch.deletes += [(segments, self.segment_deletes), (blocks, self.block_deletes)]
        batch.puts += [(segments, sorted(self.segment_puts)), (blocks, sorted(self.block_puts))]
        return batch


def _level(row_count: int, posting_count: int) -> int:
    return (row_count + posting_count // _ROW_POSTINGS).bit_length() // _LEVEL_BITS


def _to_merge(stored: Sequence[Segment], new: Contents) -> tuple[list[int], bool]:
    """Choose segments to be written as one, and whether what is new joins them."""
    for segment in stored:
        # Beside one that is merged anyway this would be a second merge in a step.
        if len(segment.rows) - segment.live_count > _DEAD_SHARE * len(segment.rows):
            return [segment.number], False
    levels: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for segment in stored:
        counts = (len(segment.rows), segment.posting_count)
        levels[_level(*counts)].append((segment.number, *counts))
    new_counts = (len(new.rows), len(new.numbers))
    if len(new.rows):
        levels[_level(*new_counts)].append((0, *new_counts))
    for _, members in sorted(levels.items()):
        if len(members) < _MERGED_SEGMENTS:
            continue
        rows = postings = 0
        group: list[int] = []
        for number, row_count, posting_count in members:
            if rows + row_count <= MAX_ROWS and postings + posting_count <= _MERGED_POSTINGS:
                rows += row_count
                postings += posting_count
                group.append(number)
        if len(group) >= _MERGED_SEGMENTS // 2:
            return [number for number in group if number], 0 in group
    return [], False


def _without_postings(rows: Rows, lengths: Rows) -> Contents:
    return Contents(rows, lengths, np.empty(0, "<u8"), np.empty(0, "<u2"), np.empty(0, _DTYPES[1]))


def _merged(parts: Sequence[Contents]) -> Contents:
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.rows) for part in parts)])
    numbers = np.concatenate([part.numbers for part in parts])
    places = np.concatenate(
        [
            part.places + np.uint16(offset)
            for part, offset in zip(parts, offsets[:-1].tolist(), strict=True)
        ]
    )
    # Sorted runs, which this sort merges: places ascend where numbers are equal.
    order = np.argsort(numbers, kind="stable")
    weights = np.concatenate([part.weights for part in parts])
    return Contents(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        numbers[order],
        places[order],
        weights[order],
    )


def _encoded(
    number: int, contents: Contents
) -> tuple[tuple[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Give a segment's key and value, and its blocks, by ascending key."""
    key = _SEGMENT.pack(number)
    head = b"".join(
        (
            _HEAD.pack(len(contents.rows), len(contents.numbers)),
            contents.rows.astype("<u4").tobytes(),
            contents.lengths.astype("<u4").tobytes(),
        )
    )
    return (key, seal(head, _place(key))), list(_blocks(number, contents))


def _blocks(number: int, contents: Contents) -> Iterator[tuple[bytes, bytes]]:
    numbers, places, weights = contents.numbers, contents.places, contents.weights
    if not len(numbers):
        return
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    distinct = numbers[starts].astype("<u8")
    counts = np.diff(np.append(starts, len(numbers))).astype("<u4")
    # A block ends with the number that fills it: none is in two.
    filled = starts // _BLOCK_POSTINGS
    firsts = np.flatnonzero(np.concatenate(([True], filled[1:] != filled[:-1]))).tolist()
    for first, end in zip(firsts, [*firsts[1:], len(distinct)], strict=True):
        start = int(starts[first])
        stop = int(starts[end]) if end < len(starts) else len(places)
        own = _narrow(weights[start:stop])
        key = _BLOCK.pack(number, int(distinct[first]))
        payload = b"".join(
            (
                _COUNTS.pack(end - first, stop - start, _CODES[own.dtype]),
                distinct[first:end].tobytes(),
                counts[first:end].tobytes(),
                places[start:stop].astype("<u2").tobytes(),
                own.tobytes(),
            )
        )
        yield key, seal(payload, _place(key))


def _narrow(weights: Weights) -> Weights:
    """Give weights in the narrowest type that is stored and holds them."""
    if weights.dtype.kind == "f":
        return weights.astype("<f4")
    return weights.astype("u1" if weights.max() < 256 else "<u4")
