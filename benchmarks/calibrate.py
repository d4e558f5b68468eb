"""Measure what `shoal_worker.planning` says that searches cost.

    python -m benchmarks.calibrate --data DIRECTORY [--rounds 7]

One shard of `filtered_records`' mixture, and a small one of few dimensions, each asked in the ways
that a plan chooses from, on one thread, without gateway and client. The least CPU time of some runs
counts: that is the work itself. Printed are the constants that fit best, and how well the two ways'
costs are foretold where they meet.
"""

from __future__ import annotations

import argparse
import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import mixture
from benchmarks.filtered_records import (
    BATCH,
    Records,
    collection_in,
    dataset_in,
    wait_until_indexed,
)
from benchmarks.search import wait_until_built
from shoal.wire.filters import where_from_dict
from shoal_worker import planning
from shoal_worker.finding import Finder
from shoal_worker.matching import Selection, select
from shoal_worker.rows import BitMap
from shoal_worker.shard import Shard
from shoal_worker.sought import Search
from shoal_worker.state import Pinned

_SMALL: Final = (20_000, 32)
_LIMIT: Final = 10
_COUNTS: Final = (35, 60, 100, 200, 400, 800, 1600)
_SHARES: Final = (0.5, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

Vectors = npt.NDArray[np.float32]


@contextmanager
def _shards(directory: Path) -> Iterator[list[tuple[Shard, Vectors]]]:
    """Open two shards, each with queries."""
    records = Records(dataset_in(directory, "mixture", 100_000))
    small = mixture(*_SMALL)
    with (
        shoal.PersistentClient(directory / "mixture-100000") as large_client,
        shoal.EphemeralClient() as small_client,
    ):
        collection_in(large_client, records)
        collection = small_client.create_collection(
            "small", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
        rank = np.random.default_rng(5).permutation(len(small.base))
        for first in range(0, len(small.base), BATCH):
            numbers = range(first, first + BATCH)
            collection.add(
                ids=[str(n) for n in numbers],
                embeddings=small.base[first : first + BATCH],
                metadatas=[{"rank": int(rank[n])} for n in numbers],
            )
        wait_until_indexed(collection)
        wait_until_built(collection)
        shards = [o for o in gc.get_objects() if isinstance(o, Shard) and o.newest.graph]
        shards.sort(key=lambda shard: -shard.newest.meta.record_count)
        yield list(zip(shards, (records.queries, small.queries), strict=True))


_ONE: Final = np.arange(1)


def _searcher(
    shard: Shard, pinned: Pinned, queries: Vectors, selection: Selection, rows: BitMap, query: int
) -> Finder:
    asked = queries[query : query + 1]
    sought = Search(asked, _LIMIT, selection, frozenset(), 1 << 26, 1, lambda: None)
    return Finder(pinned, shard.configuration.fit.space, sought, rows, len(rows))


def _scanned(searcher: Finder) -> object:
    return searcher._scans.of_all(_ONE)


def _asked(searcher: Finder, count: int) -> object:
    graph = searcher._state.graph
    assert graph is not None
    return searcher._ask(graph, _ONE, count)


class _Measured:
    """Costs in microseconds, each with the terms that it is to be a sum of."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.walks: list[tuple[list[float], float]] = []
        self.scans: list[tuple[list[float], float]] = []

    def take(self, shard: Shard, queries: Vectors) -> None:
        """Measure a shard."""
        with shard.pin() as pinned:
            graph, meta = pinned.state.graph, pinned.state.meta
            assert graph is not None
            dimension, stored = meta.dimension, graph.vector_count
            for share in _SHARES:
                end = int(share * meta.record_count)
                selection = Selection(where=where_from_dict({"rank": {"$lt": end}}))
                rows = select(pinned.source, selection).rows
                searcher = functools.partial(_searcher, shard, pinned, queries, selection, rows)
                terms = planning.scan_terms(len(rows), stored, dimension)
                self.scans.append(([1.0, *terms], self._least(searcher, _scanned)))
                for count in _COUNTS:
                    ask = functools.partial(_asked, count=count)
                    terms = planning.walk_terms(count, share, dimension)
                    self.walks.append(([1.0, *terms], self._least(searcher, ask)))

    def _least(self, searcher: Callable[[int], Finder], run: Callable[[Finder], Any]) -> float:
        """Give the mean over some queries of the least that each took, in microseconds."""
        total = 0.0
        for query in range(5):
            best = float("inf")
            for _ in range(self._rounds):
                began = time.thread_time()
                run(searcher(query))
                best = min(best, time.thread_time() - began)
            total += best
        return total / 5 * 1e6


def _fitted(measured: list[tuple[list[float], float]]) -> npt.NDArray[np.float64]:
    """Give the coefficients, none below 0, whose relative errors are least."""
    terms = np.array([given for given, _ in measured])
    taken = np.array([us for _, us in measured])
    weighed = terms / taken[:, None]
    used = np.ones(terms.shape[1], np.bool_)
    while True:
        found = np.zeros(terms.shape[1])
        found[used] = np.linalg.lstsq(weighed[:, used], np.ones(len(taken)), rcond=None)[0]
        if (found >= 0).all():
            return found
        used &= found >= 0


def main() -> None:
    """Measure, and print constants."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="of `benchmarks.filters`")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    measured = _Measured(options.rounds)
    with _shards(options.data) as shards:
        for shard, queries in shards:
            measured.take(shard, queries)
    for name, found in (("WALK", measured.walks), ("SCAN", measured.scans)):
        fitted = _fitted(found)
        print(f"_{name}_US: Final = ({', '.join(f'{c:.3g}' for c in fitted)})")
        ratios = sorted(float(np.dot(terms, fitted)) / us for terms, us in found)
        print(f"# foretold / measured: {ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} of them")
        for terms, us in found:
            print(f"#   {us:9.0f} us, foretold {np.dot(terms, fitted):9.0f}: {terms}")


if __name__ == "__main__":
    main()
