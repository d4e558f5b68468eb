"""Where numbers occur in the rows of a shard at one sequence, and the best rows by them.

What an index holds comes from its segments; what changed since its coverage is counted directly,
and takes the place of what the index says of these rows. Both come out as parts of the same form,
which are scored number by number in one order, so that a row's score is the same sum of the same
numbers whatever the index holds, and in whatever shard it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.environment import Transaction
from shoal_worker.matching import Selection, select
from shoal_worker.rows import rows_of
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.segment_format import Contents, Posting, among
from shoal_worker.segments import Segments
from shoal_worker.sparse_index import SparseIndex
from shoal_worker.state import Pinned
from shoal_worker.terms_index import TermsIndex

__all__ = ["Begin", "Best", "Found", "Part", "RankedRows", "find"]

_CHECK_EVERY: Final = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of which some have at least one of the numbers.

    Attributes:
        rows: Shape ``(n,)``.
        lengths: Of each, shape ``(n,)``.
        has_one: Whether each has one of the numbers, shape ``(n,)``.
        postings: Of each number that occurs, its position among those sought, the places in `rows`
            that have it, and the weights there; by ascending position.
    """

    rows: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint32]
    has_one: npt.NDArray[np.bool_]
    postings: Sequence[tuple[int, npt.NDArray[np.uint16], npt.NDArray[np.generic]]]

    def kept(self) -> Part:
        """Give it without what only lies beside it in memory."""
        return replace(self, postings=[(at, p.copy(), w.copy()) for at, p, w in self.postings])

    @property
    def size_bytes(self) -> int:
        """What it weighs."""
        arrays = (array for _, *both in self.postings for array in both)
        return 9 * len(self.rows) + sum(array.nbytes for array in arrays)


@dataclass(slots=True)
class Found:
    """What was found of some numbers, as far as was looked.

    Attributes:
        numbers: Those sought, ascending, none twice.
        take: Given the rows that have one, part by part; no row is in two. None: only counted.
        row_count: Rows that hold anything.
        length_sum: Of their lengths.
        frequencies: How many rows have each number, shape ``(numbers,)``.
    """

    numbers: Sequence[int]
    take: Callable[[Part], None] | None
    row_count: int = 0
    length_sum: int = 0
    frequencies: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.frequencies = np.zeros(len(self.numbers), np.int64)

    def add_segments(
        self,
        txn: Transaction,
        segments: Segments,
        without: npt.NDArray[np.uint32],
        check: Callable[[], None],
    ) -> None:
        """Look in segments.

        Args:
            txn: The reader's transaction.
            segments: Where.
            without: Rows that do not count there, sorted.
            check: Called now and then; what it raises ends the search.

        Raises:
            DamagedIndexError: If they are not what was stored.
        """
        for stored in segments.all(txn):
            check()
            segment = stored.without(without)
            is_live = None if segment.live.all() else segment.live
            self.row_count += segment.live_count
            lengths = segment.lengths if is_live is None else segment.lengths[is_live]
            self.length_sum += int(lengths.sum(dtype=np.int64))
            postings = segments.postings(txn, segment, self.numbers)
            self._add(segment.rows, segment.lengths, is_live, postings, check)

    def add_contents(self, contents: Contents) -> None:
        """Look in rows that were counted directly."""
        self.row_count += len(contents.rows)
        self.length_sum += int(contents.lengths.sum(dtype=np.int64))
        sought = np.array(self.numbers, np.uint64)
        starts = np.searchsorted(contents.numbers, sought, "left").tolist()
        ends = np.searchsorted(contents.numbers, sought, "right").tolist()
        postings = (
            Posting(number, contents.places[start:end], contents.weights[start:end])
            for number, start, end in zip(self.numbers, starts, ends, strict=True)
            if end > start
        )
        self._add(contents.rows, contents.lengths, None, postings, lambda: None)

    def _add(
        self,
        rows: npt.NDArray[np.uint32],
        lengths: npt.NDArray[np.uint32],
        is_live: npt.NDArray[np.bool_] | None,
        postings: Iterable[Posting],
        check: Callable[[], None],
    ) -> None:
        positions = {number: position for position, number in enumerate(self.numbers)}
        kept: list[tuple[int, npt.NDArray[np.uint16], npt.NDArray[np.generic]]] = []
        has_one = np.zeros(len(rows), np.bool_)
        for count, (number, places, weights) in enumerate(postings):
            if count % _CHECK_EVERY == 0:
                check()
            if is_live is not None:
                live = is_live[places]
                places, weights = places[live], weights[live]
            self.frequencies[positions[number]] += len(places)
            if len(places) and self.take is not None:
                has_one[places] = True
                kept.append((positions[number], places, weights))
        if kept and self.take is not None:
            self.take(Part(rows, lengths, has_one, kept))


Begin = Callable[[], Callable[[Part], None] | None]
"""Gives what takes the parts; called again where the first attempt met damage."""


def find(
    pinned: Pinned,
    index: SparseIndex | TermsIndex | None,
    numbers: Sequence[int],
    begin: Begin,
    count: Callable[[Iterable[int] | None], Iterator[Contents]],
    check: Callable[[], None],
) -> Found:
    """Find numbers in all rows: by an index and in what it lacks, or directly.

    Args:
        pinned: The shard.
        index: That holds the numbers; None: there is none that does.
        numbers: Ascending, none twice.
        begin: Gives what takes the parts.
        count: Counts some rows directly, ascending; None: all.
        check: Called now and then; what it raises ends the search.
    """
    txn, indexes = pinned.txn, pinned.indexes
    lacking: npt.NDArray[np.uint32] | None = None
    found = Found(numbers, begin())
    if index is not None:
        try:
            uncovered = indexes.uncovered(txn, index, pinned.state.meta, remember=True)
            if uncovered is not None:
                lacking = rows_of(uncovered)
                found.add_segments(txn, index.segments, lacking, check)
        except DamagedIndexError:
            indexes.report_damage(index)
            lacking, found = None, Found(numbers, begin())
    for contents in count(None if lacking is None else lacking.tolist()):
        check()
        found.add_contents(contents)
    return found


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Rows, best first, equal distances by row.

    Attributes:
        rows: Shape ``(n,)``.
        distances: Ascending, shape ``(n,)``.
    """

    rows: npt.NDArray[np.uint32]
    distances: npt.NDArray[np.float64]


_NONE: Final = RankedRows(np.empty(0, np.uint32), np.empty(0))


class Best:
    """The best rows that match, of the parts that it was given.

    Args:
        pinned: The shard.
        distances_of: Gives the distance of each row of a part; of one that has none of the numbers,
            any.
        selection: Which rows match.
        limit: How many are wanted.
        check: Called now and then; what it raises ends the search.

    Raises:
        InvalidArgumentError: A filter is not one.
    """

    def __init__(
        self,
        pinned: Pinned,
        distances_of: Callable[[Part], npt.NDArray[np.float64]],
        selection: Selection,
        limit: int,
        check: Callable[[], None],
    ) -> None:
        self._matching: npt.NDArray[np.uint32] | None = None
        if not selection.is_everything:
            self._matching = select(pinned.source, selection, check=check).array()
        self._distances_of = distances_of
        self._limit = limit
        self._check = check
        self._best = _NONE

    def take(self, part: Part) -> None:
        """Take the best of a part."""
        self._check()
        held = np.flatnonzero(part.has_one)
        rows = part.rows[held]
        if self._matching is not None:
            is_matching = among(rows, self._matching)
            rows, held = rows[is_matching], held[is_matching]
        distances = self._distances_of(part)[held]
        limit = self._limit
        if len(rows) > limit:
            # With all that are equal to the last: of them the first rows count.
            kept = distances <= np.partition(distances, limit - 1)[limit - 1]
            rows, distances = rows[kept], distances[kept]
        rows = np.concatenate((self._best.rows, rows))
        distances = np.concatenate((self._best.distances, distances))
        order = np.lexsort((rows, distances))[:limit]
        self._best = RankedRows(rows[order], distances[order])

    @property
    def ranked(self) -> RankedRows:
        """What is best so far."""
        return self._best

    def begin(self) -> Callable[[Part], None]:
        """Begin anew, and give what takes the parts."""
        self._best = _NONE
        return self.take
