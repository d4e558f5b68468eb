"""One search of one shard: plan, search, drop what is not current, rank exactly, make up for
losses.

The plan is the cheapest of: nothing (no record, or none that matches) · an exact scan of the rows
that match · the graph, over-fetched, with the fresh set scanned beside it. A candidate of the
graph that is not its row's current vector is not in the transaction's `vectors` and drops out
there; one that does not match the filter drops out by its row. Where too few are left, the graph
is asked for more, and before an answer comes out short it is scanned exactly instead (law 4).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.errors import DimensionMismatchError
from shoal_worker.columns import Column, ColumnReader, Columns, check_answer_fits
from shoal_worker.distances import Queries, Space, bounded, exact, exact_of_each, norms
from shoal_worker.graph import Graph, Walked
from shoal_worker.matching import Selection, select
from shoal_worker.nearest import Candidates, Nearest, ranked_of_each
from shoal_worker.sealed import DamagedValueError
from shoal_worker.state import Pinned

__all__ = ["Matches", "Method", "Search", "search"]

_OVERFETCH_LEAST: Final = 6
_OVERFETCH_SHARE: Final = 0.5
"""Candidates beyond the limit that are ranked exactly, because the graph's order is that of a
coarser number type: half as many again."""

_REFILL_FACTOR: Final = 4
"""How much wider the graph is searched when too few candidates were left."""

_GRAPH_CANDIDATE_US: Final = 3.0
_SCAN_ROW_US: Final = 4.0
_SCAN_QUERY_US: Final = 0.2
"""What one candidate of the graph costs (walked, read, ranked), and one row of an exact scan (read
once, and then for each query), microseconds, at 384 dimensions. Only their ratio matters."""

_GATHER_PAIRS: Final = 4096
"""Query-vector pairs that are ranked at once: 12 MB in double precision at 384 dimensions."""

_AHEAD_QUERIES: Final = 16
"""Queries of a batch that the graph is walked for while the ones before them are ranked. With two
threads and cores a query of a batch of 64 takes 418 us if one comes after the other, 372 in parts
of 32, 244 of 16 and 214 of 8; each part costs CPU time for its threads."""

_SCAN_ROWS: Final = 2048
"""Rows that an exact scan reads at once."""


class Method(Enum):
    """How a search found what it found."""

    NOTHING = auto()
    EXACT = auto()
    GRAPH = auto()


@dataclass(frozen=True, slots=True)
class Search:
    """What is sought.

    Attributes:
        queries: Shape ``(q, d)``.
        limit: Matches wanted of each.
        selection: Among which records.
        include: What to return of them.
        max_bytes: Bound of the answer.
        threads: For the graph, at most.
        walker: Walks a graph while candidates are ranked, if there is one and `threads` allows.
        check: Called now and then; what it raises ends the search.
    """

    queries: npt.NDArray[np.float32]
    limit: int
    selection: Selection
    include: frozenset[Column]
    max_bytes: int
    threads: int
    check: Callable[[], None]
    walker: Executor | None = None


@dataclass(slots=True)
class Matches:
    """What was found.

    Attributes:
        counts: Matches of each query; they follow one another in the columns.
        columns: The records.
        distances: One for each match.
        method: How it was found.
        matching_count: Records that match the selection.
        candidate_count: Candidates whose exact distance was computed.
    """

    counts: list[int]
    columns: Columns
    distances: npt.NDArray[np.float64]
    method: Method
    matching_count: int
    candidate_count: int


def search(pinned: Pinned, space: Space, sought: Search) -> Matches:
    """Search a shard in a pinned state.

    Raises:
        DimensionMismatchError: If the queries are of another dimension.
        InvalidArgumentError: If a filter is not one.
        OverloadedError: If the answer would exceed its bound.
        DamagedValueError: If something stored is not what was stored.
    """
    meta = pinned.state.meta
    given = sought.queries.shape[1]
    if meta.dimension and given != meta.dimension:
        raise DimensionMismatchError(
            f"the collection holds vectors of dimension {meta.dimension}, got {given}",
            metadata={"expected": str(meta.dimension), "actual": str(given)},
        )
    rows: npt.NDArray[np.uint32] | None = None
    matching_count = meta.record_count
    if not sought.selection.is_everything and meta.record_count:
        rows = select(pinned.source, sought.selection, check=sought.check).array()
        matching_count = len(rows)
        if matching_count == meta.record_count:
            rows = None
    if not matching_count:
        none = Columns.empty(sought.include)
        return Matches([0] * len(sought.queries), none, np.empty(0), Method.NOTHING, 0, 0)
    searcher = _Searcher(pinned, space, sought, rows, matching_count)
    method, found = searcher.run()
    return _read(pinned, sought, found, method, matching_count, searcher.candidate_count)


def _read(
    pinned: Pinned,
    sought: Search,
    found: list[Candidates],
    method: Method,
    matching_count: int,
    candidate_count: int,
) -> Matches:
    reader = ColumnReader(pinned.txn, pinned.store, sought.include, sought.max_bytes)
    for candidates in found:
        sought.check()
        check_answer_fits(reader.add_rows(candidates.rows.tolist()), sought.max_bytes)
    distances = np.concatenate([c.distances for c in found])
    counts = [len(c.rows) for c in found]
    return Matches(counts, reader.columns, distances, method, matching_count, candidate_count)


class _Searcher:
    """A search under way."""

    def __init__(
        self,
        pinned: Pinned,
        space: Space,
        sought: Search,
        rows: npt.NDArray[np.uint32] | None,
        matching_count: int,
    ) -> None:
        self._pinned = pinned
        self._state = pinned.state
        self._space = space
        self._sought = sought
        self._queries = Queries.of(sought.queries)
        self._rows = rows
        self._matching_count = matching_count
        self._limit = min(sought.limit, matching_count)
        self.candidate_count = 0

    def run(self) -> tuple[Method, list[Candidates]]:
        """Find each query's nearest."""
        graph = self._state.graph
        if graph is None or not self._state.graph_live_count:
            if self._rows is not None and self._scan_us() < self._state.fresh.size:
                return Method.EXACT, self._scan(np.arange(len(self._queries.single)))
            return Method.EXACT, self._fresh()
        first_count = self._first_count(graph)
        if self._prefers_scan(first_count):
            return Method.EXACT, self._scan(np.arange(len(self._queries.single)))
        beside = self._fresh() if self._state.fresh.live_count else None
        found = self._walk(graph, first_count, beside)
        return Method.GRAPH, found

    def _fresh(self) -> list[Candidates]:
        self.candidate_count += self._state.fresh.live_count * len(self._queries.single)
        return self._state.fresh.search(self._space, self._queries, self._limit, self._rows)

    def _first_count(self, graph: Graph) -> int:
        """How many candidates to ask of the graph at first."""
        wanted = self._limit + max(_OVERFETCH_LEAST, int(self._limit * _OVERFETCH_SHARE))
        share = self._state.graph_live_count / graph.vector_count
        if self._rows is not None:
            share *= self._matching_count / self._state.meta.record_count
        return min(graph.vector_count, int(wanted / share) + 1)

    def _scan_us(self) -> float:
        return self._matching_count * (_SCAN_ROW_US + _SCAN_QUERY_US * len(self._queries.single))

    def _prefers_scan(self, count: int) -> bool:
        return self._scan_us() < _GRAPH_CANDIDATE_US * count * len(self._queries.single)

    # The graph.

    def _walk(self, graph: Graph, count: int, beside: list[Candidates] | None) -> list[Candidates]:
        found: list[Candidates] = [Candidates.none()] * len(self._queries.single)
        pending = np.arange(len(found))
        while pending.size:
            self._sought.check()
            for i, candidates in zip(
                pending.tolist(), self._ask(graph, pending, count), strict=True
            ):
                found[i] = candidates
                if beside is not None:
                    found[i] = candidates.merged(beside[i], self._limit)
            pending = pending[[len(found[i].rows) < self._limit for i in pending.tolist()]]
            count *= _REFILL_FACTOR
            if pending.size and (count >= graph.vector_count or self._prefers_scan(count)):
                for i, candidates in zip(pending.tolist(), self._scan(pending), strict=True):
                    found[i] = candidates
                break
        return found

    def _ask(self, graph: Graph, which: npt.NDArray[np.intp], count: int) -> list[Candidates]:
        """Ask the graph, and rank what is current and matches."""
        asked = (
            self._sought.queries
            if which.size == len(self._queries.single)
            else (self._sought.queries[which])
        )
        step = max(1, _GATHER_PAIRS // count)
        found: list[Candidates] = []
        for start, (keys, counts) in self._walked(graph, asked, count):
            for first in range(0, len(keys), step):
                part = slice(first, first + step)
                asked_here = which[start + first : start + first + len(keys[part])]
                found += self._rank(asked_here, keys[part], counts[part])
        return found

    def _walked(
        self, graph: Graph, asked: npt.NDArray[np.float32], count: int
    ) -> Iterator[tuple[int, Walked]]:
        """Give the graph's candidates of parts of a batch, each with where it begins.

        With threads to spare the next part is walked while the caller ranks this one.
        """
        walker, threads = self._sought.walker, self._sought.threads
        if walker is None or threads < 2 or len(asked) < 2 * _AHEAD_QUERIES:
            yield 0, graph.search(asked, count, threads)
            return
        starts = range(0, len(asked), _AHEAD_QUERIES)
        walk = functools.partial(graph.search, count=count, threads=threads)
        ahead = walker.submit(walk, asked[:_AHEAD_QUERIES])
        for start in starts:
            walked = ahead.result()
            following = start + _AHEAD_QUERIES
            if following < len(asked):
                ahead = walker.submit(walk, asked[following : following + _AHEAD_QUERIES])
            yield start, walked

    def _rank(
        self,
        which: npt.NDArray[np.intp],
        keys: npt.NDArray[np.uint64],
        counts: npt.NDArray[np.intp],
    ) -> list[Candidates]:
        """Rank each query's candidates exactly, leaving out what is not current or not matching."""
        shape, dimension = keys.shape, self._state.meta.dimension
        is_candidate: npt.NDArray[np.bool_] | None = None
        flat = keys.ravel()
        if int(counts.min()) < shape[1]:
            is_candidate = (np.arange(shape[1]) < counts[:, None]).ravel()
            flat = flat[is_candidate]
        batch, positions = self._pinned.store.vectors_of(self._pinned.txn, flat.tolist(), dimension)
        rows, vectors = batch.rows, batch.vectors
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
            rows[places], vectors[places] = batch.rows, batch.vectors
        if self._rows is not None:
            matching = _among(rows, self._rows)
            is_candidate = matching if is_candidate is None else is_candidate & matching
        queries = self._queries
        if which.size != len(queries.single):
            queries = queries.part(which)
        distances = exact_of_each(self._space, queries, vectors.reshape(*shape, dimension))
        if is_candidate is None:
            self.candidate_count += keys.size
        else:
            self.candidate_count += int(np.count_nonzero(is_candidate))
            distances[~is_candidate.reshape(shape)] = np.inf
        return ranked_of_each(distances, rows.reshape(shape), keys, self._limit)

    # Exact scans of the stored vectors.

    def _scan(self, which: npt.NDArray[np.intp]) -> list[Candidates]:
        queries = self._queries.part(which)
        nearest = [Nearest(self._limit) for _ in range(which.size)]
        rows = self._rows
        if rows is None:
            rows = select(self._pinned.source, Selection(), check=self._sought.check).array()
        for first in range(0, len(rows), _SCAN_ROWS):
            self._sought.check()
            self._scan_rows(queries, nearest, rows[first : first + _SCAN_ROWS])
        return [n.candidates() for n in nearest]

    def _scan_rows(
        self, queries: Queries, nearest: list[Nearest], rows: npt.NDArray[np.uint32]
    ) -> None:
        store, txn = self._pinned.store, self._pinned.txn
        records = [store.record(txn, row) for row in rows.tolist()]
        keys = [record.key for record in records if record is not None]
        batch, missing = store.vectors_of(txn, keys, self._state.meta.dimension)
        if missing is not None or len(keys) != len(rows):
            raise DamagedValueError("a record has no vector")
        self.candidate_count += len(keys) * len(nearest)
        if len(nearest) == 1:
            distances = exact(self._space, queries.double[0], batch.vectors)
            nearest[0].add(distances, batch.rows, batch.keys)
            return
        vectors = np.ascontiguousarray(batch.vectors)
        distance, error = bounded(self._space, queries, vectors, norms(vectors))
        eligible = np.ones(len(keys), np.bool_)
        for i, collected in enumerate(nearest):
            chosen = collected.survivors(distance[i] - error[i], distance[i] + error[i], eligible)
            collected.add(
                exact(self._space, queries.double[i], vectors[chosen]),
                batch.rows[chosen],
                batch.keys[chosen],
            )


def _among(
    rows: npt.NDArray[np.uint32], ascending: npt.NDArray[np.uint32]
) -> npt.NDArray[np.bool_]:
    """Say for each row whether it is in an ascending array that is not empty."""
    places = np.searchsorted(ascending, rows)
    places[places == len(ascending)] = 0
    result: npt.NDArray[np.bool_] = ascending[places] == rows
    return result
