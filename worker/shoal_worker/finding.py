"""Finds the nearest of one pinned state, exactly ranked: the graph, the fresh set, scans.

A way is chosen by what it is estimated to cost. A candidate of the graph that is not its row's
current vector has died by the state's sequence, and drops out; one that does not match the filter
drops out by its row. Where too few are left, the graph is asked for more, and before an answer
comes out short it is scanned exactly instead (law 4).
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.candidate_vectors import CandidateVectors
from shoal_worker.distances import Queries, Space, exact, exact_of_each
from shoal_worker.exact_scans import ExactScans, least_scan_us
from shoal_worker.graph import Graph
from shoal_worker.nearest import Candidates, ranked, ranked_of_each
from shoal_worker.planning import walk_us
from shoal_worker.rows import BitMap
from shoal_worker.sought import Method, Search
from shoal_worker.state import Pinned
from shoal_worker.vector_file import HEAD_WORDS

__all__ = ["Finder"]

_OVERFETCH_LEAST: Final = 6
_OVERFETCH_SHARE: Final = 0.5
"""Candidates beyond the limit that are ranked exactly, because the graph's order is that of a
coarser number type: half as many again."""

_LEAST_SPARE: Final = 2
_LEAST_SPARE_SHARE: Final = 0.2
"""Of those, how many there are in any case. More are only taken from what `ef_search` has the graph
consider: they would widen the walk, and who sets `ef_search` so low wants it short. The order of 16
bits is near enough: with `ef_search` 10 recall@10 on a mixture of 30,000 is 0.946 by the graph
alone, 0.964 with 12 candidates, and 0.982 with 16, as with `ef_search` 16 and 12 of them. i8 needs
all."""

_FILTERED_OVERFETCH: Final = 3
"""Matches that the graph is to find under a filter, for each that is wanted. Of the candidates it
is asked for, the last are found less surely than the first, and under a filter an answer reaches
down to them: with 1.6 recall@10 was 0.97 at a tenth of 20,000 records, with 3 it is above 0.99."""

_LOOK_SHARE: Final = 100
"""Matching rows whose keys are read in the time of looking at one candidate."""

_REFILL_FACTOR: Final = 4
"""How much wider the graph is searched at once when too few candidates were left."""

_LEAST_FOUND: Final = 0.5
"""Matches that count as found where none was: where they begin is then not known, but it is likely
to be far."""

_REFILL_SHARE: Final = 0.25
"""Of what an exact scan would cost, what the walk may cost that is likely to find enough, by what
the walks before it found. Matches that lie far from the query are walked to for nothing; the walks
together then cost less than half of the scan."""

_GATHER_PAIRS: Final = 4096
"""Query-vector pairs that are ranked at once: 12 MB in double precision at 384 dimensions."""

_REMEMBERED_PLANS: Final = 1024
"""Estimates that are kept: one search is planned as the one before it."""

_walk_us = functools.lru_cache(_REMEMBERED_PLANS)(walk_us)


@functools.lru_cache(_REMEMBERED_PLANS)
def _planned(
    vector_count: int,
    matching_share: float,
    matching_count: int,
    stored_count: int,
    dimension: int,
    limit: int,
    ef_search: int,
    is_coarse: bool,
    is_filtered: bool,
    query_count: int,
) -> tuple[int, bool]:
    """Say how many candidates to ask of a graph at first, and whether a scan is cheaper."""
    # So many are to be ranked that the limit is surely among them.
    if is_filtered:
        wanted = limit * _FILTERED_OVERFETCH
    else:
        spare = max(_OVERFETCH_LEAST, int(limit * _OVERFETCH_SHARE))
        if not is_coarse and ef_search < limit + spare:
            least = max(_LEAST_SPARE, int(limit * _LEAST_SPARE_SHARE))
            spare = max(least, ef_search - limit)
        wanted = limit + spare
    count = min(vector_count, math.ceil(wanted / matching_share))
    scanned_us = least_scan_us(matching_count, stored_count, dimension, query_count)
    return count, scanned_us < walk_us(count, matching_share, dimension, query_count)


class Finder:
    """Finds what one search seeks."""

    def __init__(
        self,
        pinned: Pinned,
        space: Space,
        sought: Search,
        rows: BitMap | None,
        matching_count: int,
    ) -> None:
        self._state = pinned.state
        self._space = space
        self._sought = sought
        self._queries = Queries.of(sought.queries)
        self._rows = rows
        self._matching_count = matching_count
        self._limit = min(sought.limit, matching_count)
        self._candidates = CandidateVectors(pinned, rows)
        self._pinned = pinned
        self._made_scans: ExactScans | None = None
        self._ranked_count = 0

    @property
    def candidate_count(self) -> int:
        """Candidates whose exact distance was computed."""
        scans = self._made_scans
        return self._ranked_count + (scans.candidate_count if scans is not None else 0)

    @property
    def _scans(self) -> ExactScans:
        # Most searches need none.
        if self._made_scans is None:
            self._made_scans = ExactScans(
                self._pinned,
                self._space,
                self._sought,
                self._queries,
                self._rows,
                self._matching_count,
                self._candidates,
            )
        return self._made_scans

    def run(self) -> tuple[Method, list[Candidates]]:
        """Find each query's nearest."""
        state = self._state
        graph, fresh_count = state.graph, state.fresh.live_count
        if graph is None or fresh_count == state.meta.record_count:
            return Method.EXACT, self._scans.without_graph()
        query_count = len(self._queries.single)
        first_count, is_scan_cheaper = _planned(
            graph.vector_count,
            self._share(graph),
            self._matching_count,
            graph.vector_count if graph.has_stored else 0,
            state.meta.dimension,
            self._limit,
            graph.ef_search,
            graph.is_coarse,
            self._rows is not None,
            query_count,
        )
        if is_scan_cheaper:
            return Method.EXACT, self._scans.of_all(np.arange(query_count))
        beside = self._scans.of_fresh() if fresh_count else None
        if self._rows is None and query_count == 1:
            only = self._walk_once(graph, first_count, beside)
            if only is not None:
                return Method.GRAPH, [only]
        return Method.GRAPH, self._walk(graph, first_count, beside)

    def _walk_once(
        self, graph: Graph, count: int, beside: list[Candidates] | None
    ) -> Candidates | None:
        """Walk for one query without a filter: most searches, in the fewest steps.

        Returns:
            None if too little was found.
        """
        self._sought.check()
        keys, counts = graph.search(self._sought.queries, count, 1)
        candidates = self._rank_one(0, keys[0, : int(counts[0])])
        if len(candidates.rows) < self._limit:
            return None
        return candidates if beside is None else candidates.merged(beside[0], self._limit)

    @property
    def _kept(self) -> int:
        """Candidates of the graph that are kept of each query."""
        return self._limit if self._rows is None else 2 * self._limit

    def _share(self, graph: Graph) -> float:
        """Of the graph's vectors, those that are current and match, if they lie evenly."""
        share = self._state.graph_live_count / graph.vector_count
        return share * self._matching_count / self._state.meta.record_count

    def _walk_us(self, graph: Graph, count: int, query_count: int) -> float:
        return _walk_us(count, self._share(graph), self._state.meta.dimension, query_count)

    def _walk(self, graph: Graph, count: int, beside: list[Candidates] | None) -> list[Candidates]:
        found: list[Candidates] = [Candidates.none()] * len(self._queries.single)
        scanned: set[int] = set()
        pending = np.arange(len(found))
        enough = self._enough(graph)
        while pending.size:
            self._sought.check()
            for i, candidates in zip(
                pending.tolist(), self._ask(graph, pending, count), strict=True
            ):
                found[i] = candidates
            pending = pending[
                [
                    len(found[i].rows) < max(enough, self._limit - len(beside[i].rows))
                    if beside is not None
                    else len(found[i].rows) < max(enough, self._limit)
                    for i in pending.tolist()
                ]
            ]
            if not pending.size:
                break
            counted = sum(len(found[i].rows) for i in pending.tolist()) / pending.size
            likely = count * max(enough, self._limit) / max(counted, _LEAST_FOUND)
            count *= _REFILL_FACTOR
            if not self._is_worth(graph, max(count, int(likely)), int(pending.size)):
                for i, candidates in zip(
                    pending.tolist(), self._scans.of_all(pending), strict=True
                ):
                    found[i] = candidates
                scanned.update(pending.tolist())
                break
        return [
            candidates.part(self._limit)
            if beside is None or i in scanned
            else candidates.merged(beside[i], self._limit)
            for i, candidates in enumerate(found)
        ]

    def _is_worth(self, graph: Graph, count: int, query_count: int) -> bool:
        """Whether to walk once more, farther, rather than scan what matches."""
        if count >= graph.vector_count:
            return False
        return self._walk_us(graph, count, query_count) < _REFILL_SHARE * self._scans.us(
            query_count
        )

    def _enough(self, graph: Graph) -> int:
        """How many candidates the graph must find, so that it need not be asked again.

        Under a filter more than the limit: where matches begin so far away that only the last
        candidates match, those are found less surely, and others that are nearer are missed.
        """
        if self._rows is None:
            return self._limit
        return max(1, min(self._kept, int(self._share(graph) * graph.vector_count)))

    def _ask(self, graph: Graph, which: npt.NDArray[np.intp], count: int) -> list[Candidates]:
        """Ask the graph, and rank what is current and matches."""
        asked = (
            self._sought.queries
            if which.size == len(self._queries.single)
            else (self._sought.queries[which])
        )
        keys, counts = graph.search(asked, count, self._sought.threads)
        step = max(1, _GATHER_PAIRS // count)
        found: list[Candidates] = []
        for first in range(0, len(keys), step):
            part = slice(first, first + step)
            found += self._rank(which[part], keys[part], counts[part])
        return found

    def _rank(
        self,
        which: npt.NDArray[np.intp],
        keys: npt.NDArray[np.uint64],
        counts: npt.NDArray[np.intp],
    ) -> list[Candidates]:
        """Rank each query's candidates exactly, leaving out what is not current or not matching."""
        if self._rows is None and which.size == 1:
            return [self._rank_one(int(which[0]), keys[0, : int(counts[0])])]
        shape, dimension = keys.shape, self._state.meta.dimension
        is_candidate: npt.NDArray[np.bool_] | None = None
        flat = keys.ravel()
        if int(counts.min()) < shape[1]:
            is_candidate = (np.arange(shape[1]) < counts[:, None]).ravel()
            flat = flat[is_candidate]
        if self._rows is not None:
            places = np.arange(keys.size) if is_candidate is None else np.flatnonzero(is_candidate)
            return self._rank_few(which, flat, places // shape[1])
        current = self._candidates.read(flat)
        rows, vectors, heads, positions = current
        if is_candidate is not None or positions is not None:
            # Spread out again, so that every query has as many places.
            places = np.arange(keys.size) if is_candidate is None else np.flatnonzero(is_candidate)
            places = places if positions is None else places[positions]
            is_candidate = np.zeros(keys.size, np.bool_)
            is_candidate[places] = True
            rows, vectors = (
                np.zeros(keys.size, np.uint32),
                np.zeros((keys.size, dimension), np.float32),
            )
            rows[places], vectors[places] = current.rows, current.vectors
            if heads is not None:
                spread = np.zeros((keys.size, HEAD_WORDS), np.uint64)
                spread[places] = heads
                heads = spread
        queries = self._queries
        if which.size != len(queries.single):
            queries = queries.part(which)
        distances = exact_of_each(self._space, queries, vectors.reshape(*shape, dimension))
        if is_candidate is None:
            self._ranked_count += keys.size
        else:
            self._ranked_count += int(np.count_nonzero(is_candidate))
            distances[~is_candidate.reshape(shape)] = np.inf
        return ranked_of_each(distances, rows.reshape(shape), keys, self._limit, heads)

    def _rank_one(self, query: int, keys: npt.NDArray[np.uint64]) -> Candidates:
        """Rank the candidates of one query exactly, leaving out what is not current."""
        current = self._candidates.read(keys)
        if current.positions is not None:
            keys = keys[current.positions]
        self._ranked_count += len(keys)
        distances = exact(self._space, self._queries.double[query], current.vectors)
        return ranked(distances, current.rows, keys, self._limit, current.heads)

    def _rank_few(
        self,
        which: npt.NDArray[np.intp],
        keys: npt.NDArray[np.uint64],
        owners: npt.NDArray[np.intp],
    ) -> list[Candidates]:
        """Rank what a filter leaves of each query's candidates, in no more room than that.

        Args:
            which: The queries.
            keys: Candidates, query by query.
            owners: For each its query, as a place in `which`, ascending.
        """
        among = self._rows
        if among is not None and self._candidates.places is not None:
            rows = self._candidates.places.rows_of_keys(keys).tolist()
            matching = np.array([row in among for row in rows], np.bool_)
            keys, owners, among = keys[matching], owners[matching], None
        elif (
            _LOOK_SHARE * len(keys) > self._matching_count
            and self._candidates.matching_keys is not None
        ):
            # What does not match, or is not current, need not even be read.
            places = np.searchsorted(self._candidates.matching_keys, keys)
            places[places == len(self._candidates.matching_keys)] = 0
            matching = self._candidates.matching_keys[places] == keys
            keys, owners, among = keys[matching], owners[matching], None
        current = self._candidates.read(keys, among)
        if current.positions is not None:
            owners, keys = owners[current.positions], keys[current.positions]
        self._ranked_count += len(owners)
        bounds = np.searchsorted(owners, np.arange(which.size + 1)).tolist()
        found = []
        for i, query in enumerate(which.tolist()):
            part = slice(bounds[i], bounds[i + 1])
            distances = exact(self._space, self._queries.double[query], current.vectors[part])
            heads = None if current.heads is None else current.heads[part]
            found.append(ranked(distances, current.rows[part], keys[part], self._kept, heads))
        return found
