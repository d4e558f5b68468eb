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

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from shoal_worker.environment import Cursor, Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.segment_format import (
    BLOCK_KEY,
    DEAD,
    MAX_ROWS,
    SEGMENT_KEY,
    Block,
    Contents,
    Posting,
    Rows,
    Segment,
    decode_block,
    decode_segment,
    encode_dead,
    encode_segment,
    with_dead,
    without_postings,
)

__all__ = ["Segments"]

_MERGED_POSTINGS: Final = 1 << 21
"""Of the segments that are merged: some 20 MB in the database and 100 in memory."""

_MERGED_SEGMENTS: Final = 8
_LEVEL_BITS: Final = 3
_ROW_POSTINGS: Final = 32
"""What a row weighs beside its postings, when segments are compared."""

_DEAD_SHARE: Final = 0.25


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
                if len(key) == SEGMENT_KEY.size:
                    found.append(decode_segment(key, value, self._what))
                    continue
                if not found or key != SEGMENT_KEY.pack(found[-1].number) + DEAD:
                    raise DamagedIndexError(f"a segment of {self._what} is missing")
                found[-1] = with_dead(found[-1], key, value, self._what)
        return found

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
            block: Block | None = None
            for number in numbers:
                if block is None or number > block.last:
                    block = self._block_for(cursor, segment.number, number)
                if block is not None and (posting := block.of(number)) is not None:
                    yield posting

    def _block_for(self, cursor: Cursor, segment: int, number: int) -> Block | None:
        """Give the block that a number is in, if it is in one; None if it is below the first."""
        key = BLOCK_KEY.pack(segment, number)
        found = cursor.set_range(key)
        if not found or bytes(cursor.key()) != key:
            found = cursor.prev() if found else cursor.last()
        if not found or bytes(cursor.key())[: SEGMENT_KEY.size] != key[: SEGMENT_KEY.size]:
            return None
        return decode_block(bytes(cursor.key()), cursor.value(), self._what)

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
            batch.segment_puts.append(encode_dead(stored[number]))
        return batch.of(self._segments, self._blocks)

    def _delete(self, txn: Transaction, number: int, batch: _Changes) -> None:
        key = SEGMENT_KEY.pack(number)
        batch.segment_deletes += [key, key + DEAD]
        batch.block_deletes += [stored for stored, _ in self._blocks_of(txn, number)]

    def _blocks_of(self, txn: Transaction, number: int) -> Iterator[tuple[bytes, memoryview]]:
        first, end = BLOCK_KEY.pack(number, 0), BLOCK_KEY.pack(number + 1, 0)
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
        blocks = [decode_block(*item, self._what) for item in self._blocks_of(txn, segment.number)]
        if sum(len(block.places) for block in blocks) != segment.posting_count:
            raise DamagedIndexError(f"a block of {self._what} is missing")
        if not blocks:
            return without_postings(segment.rows[segment.live], segment.lengths[segment.live])
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
        head, blocks = encode_segment(number, contents)
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
                key = SEGMENT_KEY.pack(segment.number)
                if segment.live.all():
                    value = txn.get(key, db=self._segments)
                    assert value is not None
                    yield key, bytes(value)
                else:
                    yield encode_segment(segment.number, self._contents(txn, segment))[0]

        def blocks() -> Iterator[tuple[bytes, bytes]]:
            for segment in segments:
                if segment.live.all():
                    for key, value in self._blocks_of(txn, segment.number):
                        yield key, bytes(value)
                else:
                    yield from encode_segment(segment.number, self._contents(txn, segment))[1]

        return heads(), blocks()


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
