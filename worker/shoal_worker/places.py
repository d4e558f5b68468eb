"""Where the vectors of rows lie in a graph, and of which row each vector of a graph is.

A vector is of one row for ever, so that this is made once for a graph, of the index of keys: twelve
bytes a vector. A row may have had several vectors in one graph; only the one counts that was
current when this was made, or none. So it serves readers of that sequence and later ones: whatever
was put since is not in the graph, but in the fresh set, and what died since is known to have died.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.matching import Source
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.stored import places_in

__all__ = ["Places", "places_of"]

_NONE: Final = -1

_SPREAD: Final = 16
"""Rows for each vector of the graph, at most: rows are never used again, and after many deletions
the few that are left lie far apart."""

_LOOKED_UP: Final = 4096
"""Rows that the index of keys has not taken in, at most: each is a lookup in the records."""


class Places:
    """Places of a graph's vectors, in order of their keys.

    Args:
        keys: The graph's, ascending.
        current: The keys of all rows, beginning with row 0; 0 where there is no record.
        sequence: Of the transaction that this was read in.
    """

    def __init__(
        self, keys: npt.NDArray[np.uint64], current: npt.NDArray[np.uint64], sequence: int
    ) -> None:
        self.sequence = sequence
        self._keys = keys
        self._same: npt.NDArray[np.uint64] | None = None
        places = places_in(keys, current)
        is_there = keys[places] == current
        self._place_of = np.where(is_there, places, _NONE).astype(np.int32)
        self._has_none = not is_there.all()
        # Where no row is known, one that no record has: rows are below 2^32 - 1.
        self._row_of = np.full(len(keys), 2**32 - 1, np.uint32)
        self._row_of[places[is_there]] = np.flatnonzero(is_there)

    def are_of(self, keys: npt.NDArray[np.uint64]) -> bool:
        """Whether these are the keys whose places it knows: found out once for an array."""
        if self._same is not keys:
            if not np.array_equal(keys, self._keys):
                return False
            # Replaced whole, so that no lock is needed.
            self._same = keys
        return True

    def of_rows(self, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
        """Give the places of those of the rows, ascending, that have a vector in the graph."""
        if len(rows) and int(rows[-1]) >= len(self._place_of):
            rows = rows[: int(np.searchsorted(rows, len(self._place_of)))]
        places = self._place_of[rows].astype(np.intp)
        return places[places != _NONE] if self._has_none else places

    def rows_of_keys(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """Give the rows of keys of the graph; of vectors that died before, any that has none."""
        return self._row_of[places_in(self._keys, keys)]


def places_of(source: Source, keys: npt.NDArray[np.uint64]) -> Places | None:
    """Find out where everything lies.

    Args:
        source: A transaction of the graph's sequence or a later one.
        keys: The graph's, ascending, at least one.

    Returns:
        None if the index of keys cannot be used, or it would take too much.
    """
    next_row = source.meta.next_row
    if next_row > _SPREAD * len(keys):
        return None
    indexes, index = source.indexes, source.indexes.keys
    try:
        uncovered = indexes.uncovered(source.txn, index, source.meta, remember=source.is_committed)
        if uncovered is None or len(uncovered) > _LOOKED_UP:
            return None
        current = index.keys_of(source.txn, np.arange(next_row, dtype=np.uint32))
    except DamagedIndexError:
        indexes.report_damage(index)
        return None
    for row in uncovered:
        current[row] = source.store.key_of(source.txn, row)
    return Places(keys, current, source.meta.sequence)
