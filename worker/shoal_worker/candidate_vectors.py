"""Reads the exact vectors of candidates, and tells which of them count in a pinned state.

A candidate that is not its row's current vector has died by the state's sequence; one of another
row than those that match does not count either.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from shoal_worker.places import Places, places_of
from shoal_worker.rows import BitMap, rows_of
from shoal_worker.scanning import current_keys
from shoal_worker.state import Pinned
from shoal_worker.vector_file import Gathered

__all__ = ["CandidateVectors"]


class CandidateVectors:
    """Reads for one search.

    Args:
        pinned: In which state.
        rows: Those that match; None: all.
    """

    def __init__(self, pinned: Pinned, rows: BitMap | None) -> None:
        self._pinned = pinned
        self._state = pinned.state
        self._rows = rows

    def read(self, keys: npt.NDArray[np.uint64], among: BitMap | None = None) -> Gathered:
        """Read the vectors of candidates without those that are not current, or not `among`.

        From the file beside the graph, and if there is none, or damaged, from the records.
        """
        state = self._state
        read = None if state.vectors is None else state.vectors.current(keys, state.meta.sequence)
        if read is None:
            batch, positions = self._pinned.store.vectors_of(
                self._pinned.txn, keys.tolist(), state.meta.dimension, among
            )
            return Gathered(batch.rows, batch.vectors, None, positions)
        if among is None:
            return read
        rows, vectors, heads, positions = read
        matching = np.array([row in among for row in rows.tolist()], np.bool_)
        if matching.all():
            return read
        return Gathered(
            rows[matching],
            vectors[matching],
            None if heads is None else heads[matching],
            np.flatnonzero(matching) if positions is None else positions[matching],
        )

    @functools.cached_property
    def matching_keys(self) -> npt.NDArray[np.uint64] | None:
        """The keys of the rows that match, ascending; None if the index of keys is of no use."""
        if self._rows is None:
            return None
        keys = current_keys(self._pinned.source, rows_of(self._rows))
        if keys is not None and not (keys[1:] > keys[:-1]).all():
            # Only where vectors were replaced: keys rise with rows, and sorting costs milliseconds.
            keys.sort()
        return keys

    @functools.cached_property
    def places(self) -> Places | None:
        """Where rows lie in the graph; None if that cannot be known."""
        vectors, source = self._state.vectors, self._pinned.source
        if vectors is None or not len(vectors.keys):
            return None
        if vectors.places is None:
            vectors.places = places_of(source, vectors.keys)
        places = vectors.places
        return None if places is None or places.sequence > source.meta.sequence else places
