"""The nearest so far of one query, gathered from scans and graphs.

Ranked by (distance, row). In a shard rows rise with ordinals, so that equal distances come in order
of insertion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shoal_worker.vector_file import HEAD_WORDS

__all__ = ["Candidates", "Nearest", "heads_of_all", "ranked", "ranked_of_each"]


class Candidates(NamedTuple):
    """Exactly ranked candidates of one query, nearest first, equal distances by row.

    Attributes:
        distances: Shape ``(n,)``, ascending.
        rows: Shape ``(n,)``.
        keys: Shape ``(n,)``.
        heads: What was read of their records beside their vectors (`vector_file.HEAD`), shape
            ``(n, HEAD_WORDS)``; zeros where nothing was. None: nothing of any.
    """

    distances: npt.NDArray[np.float64]
    rows: npt.NDArray[np.uint32]
    keys: npt.NDArray[np.uint64]
    heads: npt.NDArray[np.uint64] | None = None

    @staticmethod
    def none() -> Candidates:
        """Give no candidates."""
        return Candidates(np.empty(0, np.float64), np.empty(0, np.uint32), np.empty(0, np.uint64))

    def part(self, limit: int) -> Candidates:
        """Give the `limit` nearest."""
        if len(self.rows) <= limit:
            return self
        heads = None if self.heads is None else self.heads[:limit]
        return Candidates(self.distances[:limit], self.rows[:limit], self.keys[:limit], heads)

    def merged(self, other: Candidates, limit: int) -> Candidates:
        """Give the `limit` nearest of both; no row may be in both."""
        if not len(other.rows) and len(self.rows) <= limit:
            return self
        if not len(self.rows) and len(other.rows) <= limit:
            return other
        return ranked(
            np.concatenate((self.distances, other.distances)),
            np.concatenate((self.rows, other.rows)),
            np.concatenate((self.keys, other.keys)),
            limit,
            heads_of_all((self, other)),
        )


def heads_of_all(parts: Sequence[Candidates]) -> npt.NDArray[np.uint64] | None:
    """Give the heads of several lists of candidates, one list after the other; None: of none."""
    if all(part.heads is None for part in parts):
        return None
    return np.concatenate(
        [
            np.zeros((len(part.rows), HEAD_WORDS), np.uint64) if part.heads is None else part.heads
            for part in parts
        ]
    )


def ranked(
    distances: npt.NDArray[np.float64],
    rows: npt.NDArray[np.uint32],
    keys: npt.NDArray[np.uint64],
    limit: int,
    heads: npt.NDArray[np.uint64] | None = None,
) -> Candidates:
    """Give the `limit` nearest of unsorted candidates."""
    order = np.lexsort((rows, distances))[:limit]
    return Candidates(
        distances[order], rows[order], keys[order], None if heads is None else heads[order]
    )


def ranked_of_each(
    distances: npt.NDArray[np.float64],
    rows: npt.NDArray[np.uint32],
    keys: npt.NDArray[np.uint64],
    limit: int,
    heads: npt.NDArray[np.uint64] | None = None,
) -> list[Candidates]:
    """Give the `limit` nearest of each query's candidates.

    Args:
        distances: Shape ``(q, n)``; infinite where there is none.
        rows: Shape ``(q, n)``.
        keys: Shape ``(q, n)``.
        limit: At least 1.
        heads: Shape ``(q * n, HEAD_WORDS)``, if they were read.
    """
    order = np.lexsort((rows, distances), axis=-1)[:, :limit]
    # Places in the flat arrays: `take` is several times faster than `take_along_axis`.
    order += np.arange(0, rows.size, rows.shape[1])[:, None]
    distances, rows, keys = distances.take(order), rows.take(order), keys.take(order)
    counts = (distances < np.inf).sum(axis=1).tolist()
    if heads is None:
        return [
            Candidates(distances[i, :count], rows[i, :count], keys[i, :count])
            for i, count in enumerate(counts)
        ]
    heads = heads.take(order, axis=0)
    return [
        Candidates(distances[i, :count], rows[i, :count], keys[i, :count], heads[i, :count])
        for i, count in enumerate(counts)
    ]


class Nearest:
    """Gathers the nearest of one query from parts whose approximate distances have bounds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found = Candidates.none()

    def survivors(
        self,
        lower: npt.NDArray[np.float64],
        upper: npt.NDArray[np.float64],
        eligible: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.intp]:
        """Choose the vectors of a part that may be among the nearest.

        If at least `limit` vectors are surely within a distance, one that is surely farther is not
        among the nearest. Ties at that distance survive.

        Args:
            lower: Lower bounds of the part's distances, shape ``(n,)``.
            upper: Upper bounds.
            eligible: Which of them count at all.
        """
        # Written so that a bound that is not a number discards nothing.
        places = np.flatnonzero(eligible & ~(lower > self.bound))
        if places.size > self._limit:
            bound = np.partition(upper[places], self._limit - 1)[self._limit - 1]
            places = places[~(lower[places] > bound)]
        return places

    def add(
        self,
        distances: npt.NDArray[np.float64],
        rows: npt.NDArray[np.uint32],
        keys: npt.NDArray[np.uint64],
    ) -> None:
        """Take in exact distances."""
        self._found = self._found.merged(ranked(distances, rows, keys, self._limit), self._limit)

    @property
    def limit(self) -> int:
        """How many are wanted."""
        return self._limit

    @property
    def bound(self) -> float:
        """What is farther is not among the nearest; ties at it are."""
        if len(self._found.rows) < self._limit:
            return np.inf
        return float(self._found.distances[self._limit - 1])

    def candidates(self) -> Candidates:
        """Give what was found."""
        return self._found
