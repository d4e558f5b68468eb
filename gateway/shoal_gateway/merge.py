"""Merging the shards' answers into one.

A merge gives only where each item comes from (`Picks`); whoever asks then moves the columns it
wants, once. Each shard's answer is sorted and the shards are disjoint, so that the merge of the
shards' answers is the answer of the union: that law is what the tests of this module are about.

All items of all queries are sorted at once, column by column: numpy's sort over an array takes less
time for the 64 x 10 x 4 items of a usual batch than a heap in Python does for those of one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Matches", "Picks", "Run", "merge_matches", "merge_one", "merge_runs"]


@dataclass(frozen=True, slots=True)
class Matches:
    """What one shard found, the matches of all queries one after another.

    Attributes:
        counts: Matches of each query, shape ``(queries,)``.
        distances: Ascending within a query, shape ``(matches,)``.
        ordinals: Shape ``(matches,)``.
        ids: One for each match.
    """

    counts: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    ordinals: npt.NDArray[np.uint64]
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one shard, in order of insertion.

    Attributes:
        ordinals: Ascending, shape ``(records,)``.
        ids: One for each record.
        more: Whether the shard has more records after the last one here.
    """

    ordinals: npt.NDArray[np.uint64]
    ids: Sequence[str]
    more: bool


@dataclass(frozen=True, slots=True)
class Picks:
    """Where the items of a merged answer come from.

    Attributes:
        sources: Which answer, shape ``(items,)``.
        items: Which item of that answer, shape ``(items,)``.
        counts: Items of each query, shape ``(queries,)``; of a merge of runs, one number.
    """

    sources: npt.NDArray[np.intp]
    items: npt.NDArray[np.intp]
    counts: npt.NDArray[np.int64]

    def places(self) -> list[tuple[int, int]]:
        """Give source and item of each, as Python's numbers."""
        return list(zip(self.sources.tolist(), self.items.tolist(), strict=True))

    def after(self, passed: int) -> Picks:
        """Leave out the first items, of a merge of runs."""
        return Picks(self.sources[passed:], self.items[passed:], self.counts - passed)

    def first(self, kept: int) -> Picks:
        """Leave out all but the first items, of a merge of runs."""
        return Picks(self.sources[:kept], self.items[:kept], np.minimum(self.counts, kept))


def merge_matches(answers: Sequence[Matches], limit: int) -> Picks:
    """Merge the shards' matches, nearest first, ties by (ordinal, ID).

    Args:
        answers: One for each shard, at least one, all of the same queries.
        limit: Matches wanted of each query, at least 1.
    """
    queries = len(answers[0].counts)
    sources, items = _places([len(answer.ids) for answer in answers])
    query = np.concatenate([np.repeat(np.arange(queries), answer.counts) for answer in answers])
    distances = np.concatenate([answer.distances for answer in answers])
    ordinals = np.concatenate([answer.ordinals for answer in answers])

    order = np.lexsort((ordinals, distances, query))
    tied = _equal_neighbours(query, order)
    tied &= _equal_neighbours(distances, order)
    tied &= _equal_neighbours(ordinals, order)
    _order_ties_by_id(order, tied, sources, items, [answer.ids for answer in answers])

    totals = np.bincount(query, minlength=queries)
    starts = np.cumsum(totals) - totals
    ranks = np.arange(len(order)) - np.repeat(starts, totals)
    order = order[ranks < limit]
    return Picks(sources[order], items[order], np.minimum(totals, limit))


def merge_one(answers: Sequence[Matches], limit: int) -> list[tuple[int, int]]:
    """Merge the shards' matches of one query, and give source and item of each.

    The same as `merge_matches`, for few items: below a few hundred the dozen calls into numpy cost
    more than sorting tuples does.
    """
    items = [
        (distance, ordinal, answer.ids[item], source, item)
        for source, answer in enumerate(answers)
        for item, (distance, ordinal) in enumerate(
            zip(answer.distances.tolist(), answer.ordinals.tolist(), strict=True)
        )
    ]
    items.sort()
    return [(source, item) for _, _, _, source, item in items[:limit]]


def merge_runs(runs: Sequence[Run], limit: int) -> Picks:
    """Merge the shards' records, in order of insertion, ties by ID.

    The answer ends before `limit` where a run ends of which there is more: what follows there is
    not known, and may come before the other runs' next records.
    """
    sources, items = _places([len(run.ordinals) for run in runs])
    ordinals = np.concatenate([run.ordinals for run in runs])

    order = np.argsort(ordinals, kind="stable")
    tied = _equal_neighbours(ordinals, order)
    _order_ties_by_id(order, tied, sources, items, [run.ids for run in runs])

    for source, run in enumerate(runs):
        if run.more:
            order = order[: _end_of(source, len(run.ordinals), sources, items, order)]
    order = order[:limit]
    return Picks(sources[order], items[order], np.array([len(order)], np.int64))


def _end_of(
    source: int,
    length: int,
    sources: npt.NDArray[np.intp],
    items: npt.NDArray[np.intp],
    order: npt.NDArray[np.intp],
) -> int:
    """Give the length of `order` up to the last item of one source; all of it if it is not there.

    A run of nothing that says there is more tells nothing about what follows: then 0.
    """
    if length == 0:
        return 0
    last = np.flatnonzero((sources[order] == source) & (items[order] == length - 1))
    return int(last[0]) + 1 if len(last) else len(order)


def _places(lengths: Sequence[int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For items that follow one another: which source, and which item of it."""
    sources = np.repeat(np.arange(len(lengths), dtype=np.intp), lengths)
    items = np.concatenate([np.arange(length, dtype=np.intp) for length in lengths])
    return sources, items


def _equal_neighbours(
    keys: npt.NDArray[np.generic], order: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Whether each item but the last has the same key as the next, in sorted order."""
    sorted_keys = keys[order]
    return np.asarray(sorted_keys[1:] == sorted_keys[:-1])


def _order_ties_by_id(
    order: npt.NDArray[np.intp],
    tied: npt.NDArray[np.bool_],
    sources: npt.NDArray[np.intp],
    items: npt.NDArray[np.intp],
    ids: Sequence[Sequence[str]],
) -> None:
    """Sort, in place, each stretch of items with equal keys by ID.

    Ordinals are unique within a shard, so that a stretch has at most one item of each shard, and
    there is hardly ever one at all.
    """
    place = 0
    ties = np.flatnonzero(tied)
    while place < len(ties):
        first = last = int(ties[place])
        while place < len(ties) and int(ties[place]) == last:
            last += 1
            place += 1
        stretch = order[first : last + 1].tolist()
        stretch.sort(key=lambda item: ids[int(sources[item])][int(items[item])])
        order[first : last + 1] = stretch
