"""Segments as keys and values: the rows of each, and blocks of numbers with their postings."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived

__all__ = [
    "BLOCK_KEY",
    "DEAD",
    "MAX_ROWS",
    "SEGMENT_KEY",
    "Block",
    "Contents",
    "Posting",
    "Rows",
    "Segment",
    "among",
    "decode_block",
    "decode_segment",
    "encode_dead",
    "encode_segment",
    "with_dead",
    "without_postings",
]

Rows = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint16]
Weights = npt.NDArray[np.generic]

SEGMENT_KEY: Final = struct.Struct(">I")
BLOCK_KEY: Final = struct.Struct(">IQ")
DEAD: Final = b"\x01"
_HEAD: Final = struct.Struct("<II")
_COUNTS: Final = struct.Struct("<IIB")

_BLOCK_POSTINGS: Final = 4096
"""Postings in a block, roughly: some ten pages, read whole for one number."""

MAX_ROWS: Final = 1 << 16
"""Rows of a segment: a place is two bytes."""

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


@dataclass(frozen=True, slots=True)
class Block:
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


def decode_segment(key: bytes, value: memoryview, what: str) -> Segment:
    """Read a segment, all of whose places are alive.

    Raises:
        DamagedIndexError: It is not what was stored.
    """
    payload = unseal_derived(value, _place(key), f"a segment of {what}")
    row_count, posting_count = _HEAD.unpack_from(payload)
    if len(payload) != _HEAD.size + 8 * row_count:
        raise DamagedIndexError(f"a segment of {what} is cut short")
    rows = np.frombuffer(payload, "<u4", row_count, _HEAD.size)
    lengths = np.frombuffer(payload, "<u4", row_count, _HEAD.size + 4 * row_count)
    (number,) = SEGMENT_KEY.unpack(key)
    return Segment(number, posting_count, rows, lengths, np.ones(row_count, np.bool_))


def with_dead(segment: Segment, key: bytes, value: memoryview, what: str) -> Segment:
    """Read which places of a segment are dead.

    Raises:
        DamagedIndexError: It is not what was stored.
    """
    payload = unseal_derived(value, _place(key), f"a segment of {what}")
    dead = np.unpackbits(np.frombuffer(payload, np.uint8), count=len(segment.rows))
    return replace(segment, live=dead == 0)


def encode_dead(segment: Segment) -> tuple[bytes, bytes]:
    """Give the key and value of which places are dead."""
    key = SEGMENT_KEY.pack(segment.number) + DEAD
    return key, seal(np.packbits(~segment.live).tobytes(), _place(key))


def decode_block(key: bytes, value: memoryview, what: str) -> Block:
    """Read a block.

    Raises:
        DamagedIndexError: It is not what was stored.
    """
    payload = unseal_derived(value, _place(key), f"a block of {what}")
    number_count, posting_count, code = _COUNTS.unpack_from(payload)
    dtype = _DTYPES[code]
    at = _COUNTS.size
    numbers = np.frombuffer(payload, "<u8", number_count, at)
    at += 8 * number_count
    counts = np.frombuffer(payload, "<u4", number_count, at)
    at += 4 * number_count
    places = np.frombuffer(payload, "<u2", posting_count, at)
    at += 2 * posting_count
    return Block(numbers, counts, places, np.frombuffer(payload, dtype, posting_count, at))


def without_postings(rows: Rows, lengths: Rows) -> Contents:
    """Give rows that have no number."""
    return Contents(rows, lengths, np.empty(0, "<u8"), np.empty(0, "<u2"), np.empty(0, _DTYPES[1]))


def encode_segment(
    number: int, contents: Contents
) -> tuple[tuple[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Give a segment's key and value, and its blocks, by ascending key."""
    key = SEGMENT_KEY.pack(number)
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
        key = BLOCK_KEY.pack(number, int(distinct[first]))
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
