"""Scans exactly what matches in one pinned state, in the cheapest way that there is.

By places in the graph, by coarse distances, or row by row from the records; and where a graph was
lost, all of the vectors that it held.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.candidate_vectors import CandidateVectors
from shoal_worker.distances import Queries, Space
from shoal_worker.matching import Selection, select
from shoal_worker.nearest import Candidates
from shoal_worker.planning import coarse_us, scan_us, ungraphed_us
from shoal_worker.rows import BitMap, rows_of
from shoal_worker.scanning import scan, scan_coarsely, scan_graph
from shoal_worker.sought import Search
from shoal_worker.state import Pinned
from shoal_worker.store import VectorBatch
from shoal_worker.ungraphed import Ungraphed
from shoal_worker.vector_file import DamagedVectorsError

__all__ = ["ExactScans", "least_scan_us"]

_REMEMBERED_PLANS: Final = 1024
"""Estimates that are kept: one search is planned as the one before it."""


@functools.lru_cache(_REMEMBERED_PLANS)
def least_scan_us(
    matching_count: int, stored_count: int, dimension: int, query_count: int
) -> float:
    """Estimate an exact scan in the cheaper of its ways; no vectors are stored: 0."""
    read = scan_us(matching_count, dimension, query_count)
    if not stored_count:
        return read
    return min(read, coarse_us(matching_count, stored_count, dimension, query_count))


class ExactScans:
    """Scans for one search.

    Args:
        pinned: In which state.
        space: The distance.
        sought: What is sought.
        queries: Its queries.
        rows: The rows that match; None: all.
        matching_count: How many.
        candidates: Reads exact vectors.

    Attributes:
        candidate_count: Candidates whose exact distance was computed.
    """

    def __init__(
        self,
        pinned: Pinned,
        space: Space,
        sought: Search,
        queries: Queries,
        rows: BitMap | None,
        matching_count: int,
        candidates: CandidateVectors,
    ) -> None:
        self._pinned = pinned
        self._state = pinned.state
        self._space = space
        self._sought = sought
        self._queries = queries
        self._rows = rows
        self._matching_count = matching_count
        self._limit = min(sought.limit, matching_count)
        self._candidates = candidates
        self.candidate_count = 0

    def us(self, query_count: int) -> float:
        """Estimate what a scan of what matches costs."""
        graph = self._state.graph
        stored_count = 0 if graph is None or not graph.has_stored else graph.vector_count
        return least_scan_us(
            self._matching_count, stored_count, self._state.meta.dimension, query_count
        )

    def of_fresh(self) -> list[Candidates]:
        """Scan what matches in the fresh set, for all queries."""
        self.candidate_count += self._state.fresh.live_count * len(self._queries.single)
        rows = None if self._rows is None else rows_of(self._rows)
        return self._state.fresh.search(self._space, self._queries, self._limit, rows)

    def without_graph(self) -> list[Candidates]:
        """Scan what matches where there is no graph, or nothing in it, for all queries."""
        state, query_count = self._state, len(self._queries.single)
        everything = np.arange(query_count)
        if state.unloaded_below:
            return self.of_all(everything)
        if state.ungraphed is not None:
            found = self._of_ungraphed(state.ungraphed)
            return self.of_all(everything) if found is None else found
        if self._rows is not None and self.us(query_count) < state.fresh.size:
            return self.of_all(everything)
        return self.of_fresh()

    def _of_ungraphed(self, ungraphed: Ungraphed) -> list[Candidates] | None:
        """Scan the vectors of a graph that was lost, and the fresh set.

        Returns:
            None if that would take longer than reading the records, or is not to be trusted.
        """
        state, queries = self._state, self._queries
        passed_us = ungraphed_us(ungraphed.count, state.meta.dimension, len(queries.single))
        if not ungraphed.is_sound or (
            self._rows is not None and self.us(len(queries.single)) < passed_us
        ):
            return None
        rows = None if self._rows is None else rows_of(self._rows)
        found = ungraphed.search(
            self._space, queries, self._limit, state.meta.sequence, rows, self._sought.check
        )
        self.candidate_count += ungraphed.count * len(queries.single)
        keys = np.unique(np.concatenate([candidates.keys for candidates in found]))
        batch, missing = self._pinned.store.vectors_of(
            self._pinned.txn, keys.tolist(), state.meta.dimension
        )
        if missing is not None or not ungraphed.holds(keys, batch.vectors):
            ungraphed.report(DamagedVectorsError("damaged", "a vector is not what is recorded"))
            return None
        if not state.fresh.live_count:
            return found
        beside = self.of_fresh()
        return [a.merged(b, self._limit) for a, b in zip(found, beside, strict=True)]

    def of_all(self, which: npt.NDArray[np.intp]) -> list[Candidates]:
        """Scan everything that matches, for some of the queries."""
        rows = self._rows
        if rows is None:
            rows = select(self._pinned.source, Selection(), check=self._sought.check).rows
        self.candidate_count += len(rows) * which.size
        by_place = self._by_place(which, rows)
        if by_place is not None:
            return by_place
        coarse = self._coarsely(which, rows)
        if coarse is not None:
            return coarse
        return scan(
            self._pinned.txn,
            self._pinned.store,
            self._space,
            self._queries.part(which),
            rows_of(rows),
            self._state.meta.dimension,
            self._limit,
            self._sought.check,
        )

    def _by_place(self, which: npt.NDArray[np.intp], rows: BitMap) -> list[Candidates] | None:
        """Scan what matches in the graph by its places, and in the fresh set.

        Returns:
            None if that cannot be done.
        """
        state, queries = self._state, self._queries.part(which)
        graph, vectors, places = state.graph, state.vectors, self._candidates.places
        if graph is None or vectors is None or places is None:
            return None
        matching = rows_of(rows)
        found_places = places.of_rows(matching)
        is_alive = vectors.deaths.alive(found_places, state.meta.sequence)
        if is_alive is not None:
            found_places = found_places[is_alive]

        def read(keys: npt.NDArray[np.uint64]) -> VectorBatch:
            counting = self._candidates.read(keys)
            if counting.positions is not None:
                keys = keys[counting.positions]
            return VectorBatch(keys, counting.rows, counting.vectors)

        stored = graph.stored
        if stored is not None and not places.are_of(stored.keys):
            stored = None
        found = scan_graph(
            self._space,
            queries,
            stored,
            graph.quantization,
            vectors.keys,
            found_places,
            self._limit,
            self._sought.threads,
            read,
            self._sought.check,
        )
        if state.fresh.live_count:
            beside = state.fresh.search(self._space, queries, self._limit, matching)
            found = [a.merged(b, self._limit) for a, b in zip(found, beside, strict=True)]
        # Whatever else there is to tell, an answer does not come out short.
        return found if all(len(c.rows) == self._limit for c in found) else None

    def _coarsely(self, which: npt.NDArray[np.intp], rows: BitMap) -> list[Candidates] | None:
        """Scan by coarse distances, if that is possible and cheaper."""
        graph, dimension = self._state.graph, self._state.meta.dimension
        if graph is None or not graph.has_stored:
            return None
        coarse = coarse_us(len(rows), graph.vector_count, dimension, which.size)
        if scan_us(len(rows), dimension, which.size) < coarse:
            return None
        stored = graph.stored
        if stored is None:
            return None
        return scan_coarsely(
            self._pinned.source,
            self._space,
            self._queries.part(which),
            rows_of(rows),
            self._limit,
            stored,
            graph.quantization,
            self._sought.threads,
            self._sought.check,
        )
