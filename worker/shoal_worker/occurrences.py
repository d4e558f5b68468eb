"""Where numbers occur in the rows of a shard at one sequence, and the best rows by them.

What an index holds comes from its segments; what changed since its coverage is counted directly,
and takes the place of what the index says of these rows. Both come out as parts of the same form,
which are scored number by number in one order, so that a row's score is the same sum of the same
numbers whatever the index holds, and in whatever shard it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.environment import Transaction
from shoal_worker.matching import Selection, select
from shoal_worker.segment_format import Contents, Posting, among
from shoal_worker.segments import Segments
from shoal_worker.state import Pinned

__all__ = ["Found", "Part", "RankedRows", "best"]

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
        row_count: Rows that hold anything.
        length_sum: Of their lengths.
        frequencies: How many rows have each number, shape ``(numbers,)``.
        parts: The rows that have one; no row is in two.
    """

    numbers: Sequence[int]
    row_count: int = 0
    length_sum: int = 0
    frequencies: npt.NDArray[np.int64] = field(init=False)
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frequencies = np.zeros(len(self.numbers), np.int64)

    def add_segments(
        self,
        txn: Transaction,
        segments: Segments,
        without: npt.NDArray[np.uint32],
        check: Callable[[], None],
        *,
        only_count: bool = False,
    ) -> None:
        """Look in segments.

        Args:
            txn: The reader's transaction.
            segments: Where.
            without: Rows that do not count there, sorted.
            check: Called now and then; what it raises ends the search.
            only_count: Whether the parts are not wanted.

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
            self._add(
                segment.rows, segment.lengths, is_live, postings, check, only_count=only_count
            )

    def add_contents(self, contents: Contents, *, only_count: bool = False) -> None:
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
        self._add(
            contents.rows, contents.lengths, None, postings, lambda: None, only_count=only_count
        )

    def _add(
        self,
        rows: npt.NDArray[np.uint32],
        lengths: npt.NDArray[np.uint32],
        is_live: npt.NDArray[np.bool_] | None,
        postings: Iterable[Posting],
        check: Callable[[], None],
        *,
        only_count: bool,
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
            if len(places) and not only_count:
                has_one[places] = True
                kept.append((positions[number], places, weights))
        if not kept:
            return
        self.parts.append(Part(rows, lengths, has_one, kept))

    @property
    def size_bytes(self) -> int:
        """What it weighs."""
        return self.frequencies.nbytes + sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Rows, best first, equal distances by row.

    Attributes:
        rows: Shape ``(n,)``.
        distances: Ascending, shape ``(n,)``.
    """

    rows: npt.NDArray[np.uint32]
    distances: npt.NDArray[np.float64]


def best(
    pinned: Pinned,
    parts: Sequence[Part],
    distances_of: Callable[[Part], npt.NDArray[np.float64]],
    selection: Selection,
    limit: int,
    check: Callable[[], None],
) -> RankedRows:
    """Give the best rows that match.

    Args:
        pinned: The shard.
        parts: Its candidates.
        distances_of: Gives the distance of each row of a part; of one that has none of the
            numbers, any.
        selection: Which of them match.
        limit: How many.
        check: Called now and then; what it raises ends the search.

    Raises:
        InvalidArgumentError: A filter is not one.
    """
    matching = None
    if not selection.is_everything:
        matching = select(pinned.source, selection, check=check).array()
    all_rows: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    all_distances: list[npt.NDArray[np.float64]] = [np.empty(0)]
    for part in parts:
        check()
        held = np.flatnonzero(part.has_one)
        rows = part.rows[held]
        if matching is not None:
            is_matching = among(rows, matching)
            rows, held = rows[is_matching], held[is_matching]
        distances = distances_of(part)[held]
        if len(rows) > limit:
            # With all that are equal to the last: of them the first rows count.
            kept = distances <= np.partition(distances, limit - 1)[limit - 1]
            rows, distances = rows[kept], distances[kept]
        all_rows.append(rows)
        all_distances.append(distances)
    rows, distances = np.concatenate(all_rows), np.concatenate(all_distances)
    order = np.lexsort((rows, distances))[:limit]
    return RankedRows(rows[order], distances[order])
