"""Texts and sparse vectors: what ranking by them takes, and what indexing costs those who write.

    python -m benchmarks.text [--lines ingest,texts,sparse] [--count 100000] [--rounds 3]

Everything runs in one process, by the embedded client. Variants take turns, so that the ratios hold
on a busy machine, too. Documents are real texts with their sentences in another order.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import documents
from benchmarks.measure import percentile, without_indexes
from shoal_worker.indexing import Indexing
from shoal_worker.shard import Shard

BATCH: Final = 1_000
_DIMENSION: Final = 384
_LIMIT: Final = 10
_VOCABULARY: Final = 30_000
_WEIGHTS: Final = 100
"""Of a sparse vector: what learned sparse models give to a passage."""

_INGEST_TARGET: Final = 0.8

Vectors = npt.NDArray[np.float32]


def sparse_vectors(count: int) -> list[shoal.SparseVector]:
    """Vectors whose dimensions are as unevenly used as the words of a language."""
    chance = np.random.default_rng(4)
    weights = 1.0 / np.arange(10, _VOCABULARY + 10)
    drawn = chance.choice(_VOCABULARY, (count, 2 * _WEIGHTS), p=weights / weights.sum())
    values = chance.gamma(2.0, 0.5, (count, _WEIGHTS)).astype(np.float32)
    made = []
    for row, own in zip(drawn, values, strict=True):
        indices = np.unique(row)[:_WEIGHTS]
        made.append(shoal.SparseVector(indices.tolist(), own[: len(indices)].tolist()))
    return made


@contextmanager
def _indexing(*, still: bool) -> Iterator[set[Shard]]:
    """Give the shards that are written to; perhaps let no index take anything in."""
    consider = Indexing.consider
    shards: set[Shard] = set()

    def watched(self: Indexing, shard: Shard) -> None:
        shards.add(shard)
        if not still:
            consider(self, shard)

    Indexing.consider = watched  # type: ignore[method-assign]
    try:
        yield shards
    finally:
        Indexing.consider = consider  # type: ignore[method-assign]


def _wait_until_indexed(shards: set[Shard]) -> None:
    while any(shard.indexes.lag for shard in shards):
        time.sleep(0.02)


def _written(
    client: shoal.Client, vectors: Vectors, configuration: Any = None, **columns: Sequence[Any]
) -> tuple[shoal.Collection, float]:
    """Write records; give their collection, and the seconds until all were acknowledged."""
    collection = client.create_collection(
        "text", configuration=configuration or {}, embedding_function=None
    )
    began = time.perf_counter()
    for first in range(0, len(vectors), BATCH):
        part = slice(first, first + BATCH)
        collection.add(
            ids=[str(n) for n in range(first, min(first + BATCH, len(vectors)))],
            embeddings=vectors[part],
            **{name: list(values[part]) for name, values in columns.items()},  # type: ignore[arg-type]
        )
    return collection, time.perf_counter() - began


def ingest(options: argparse.Namespace) -> None:
    """Print ingest of documents with all indexes, and with indexing held still."""
    count, rounds = options.ingest, options.rounds
    vectors = np.random.default_rng(1).normal(size=(count, _DIMENSION)).astype(np.float32)
    texts = documents(count)
    acknowledged: dict[bool, list[float]] = {True: [], False: []}
    indexed: list[float] = []
    for turn in range(rounds + 1):
        for still in (True, False):
            with shoal.EphemeralClient() as client, _indexing(still=still) as shards:
                began = time.perf_counter()
                _, seconds = _written(client, vectors, documents=texts)
                if not still:
                    _wait_until_indexed(shards)
                whole = time.perf_counter() - began
            if turn:
                acknowledged[still].append(count / seconds)
                if not still:
                    indexed.append(count / whole)
    ratios = [a / b for a, b in zip(acknowledged[False], acknowledged[True], strict=True)]
    print(f"| {count:,} documents, records a second | median | rounds | target |")
    print("|---|---|---|---|")
    rows = (
        ("acknowledged, indexing held still", acknowledged[True]),
        ("acknowledged, with all indexes", acknowledged[False]),
        ("indexed", indexed),
    )
    for name, rates in rows:
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        print(f"| {name} | {statistics.median(rates):,.0f} | {spread} | |")
    spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
    median = statistics.median(ratios)
    print(f"| ratio, until acknowledged | {median:.2f} | {spread} | >= {_INGEST_TARGET} |")


@dataclass(frozen=True, slots=True)
class _Taken:
    """Milliseconds of each of some calls: by the clock, and of the process' CPU."""

    clock: list[float]
    cpu: list[float]

    def row(self, name: str) -> str:
        """Give it as a row of a table."""
        shares = (percentile(self.clock, 0.5), percentile(self.clock, 0.95))
        figures = (*shares, percentile(self.cpu, 0.5))
        return f"| {name} | {' | '.join(f'{figure:,.1f}' for figure in figures)} |"


_HEAD: Final = "| p50 ms | p95 ms | p50 ms of CPU |\n|---|---|---|---|"


def _taken(run: Callable[[int], object], times: int) -> _Taken:
    taken = _Taken([], [])
    for turn in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        run(turn)
        taken.clock.append(1e3 * (time.perf_counter() - began))
        taken.cpu.append(1e3 * (time.process_time() - cpu))
    return taken


def _queries(texts: Sequence[str], count: int) -> list[str]:
    """Texts of five words that stand together in a document."""
    chance = random.Random(5)
    found = []
    for text in chance.sample(list(texts), count):
        words = text.split()
        first = chance.randrange(max(1, len(words) - 5))
        found.append(" ".join(words[first : first + 5]))
    return found


def texts(options: argparse.Namespace) -> None:
    """Print what a ranking by a text takes, with the index and by reading every document."""
    count = options.count
    written = documents(count)
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    queries = _queries(written, 160)

    def search(collection: shoal.Collection, turn: int, where: Any = None) -> Any:
        ranking = shoal.Search().rank(shoal.Text(queries[turn], limit=_LIMIT)).limit(_LIMIT)
        return collection.search(ranking.where(where) if where else ranking)["ids"]

    with shoal.EphemeralClient() as client, _indexing(still=False) as shards:
        metadatas = [{"tenth": n % 10} for n in range(count)]
        collection, _ = _written(client, vectors, documents=written, metadatas=metadatas)
        _wait_until_indexed(shards)
        [shard] = [shard for shard in shards if shard.newest.meta.record_count == count]
        with_index = _taken(lambda turn: search(collection, turn), 100)
        filtered = _taken(lambda turn: search(collection, 100 + turn, {"tenth": 3}), 50)
        found = [search(collection, turn) for turn in range(155, 160)]
        # Others than before: what was found of late is kept.
        with without_indexes():
            scanned = _taken(lambda turn: search(collection, 150 + turn), 5)
            again = [search(collection, turn) for turn in range(150, 155)]
        index = shard.indexes.terms
        assert index is not None
        with shard.pin() as pinned:
            blocks, segments = (
                sum(len(value) for _, value in pinned.txn.cursor(db=database))
                for database in (index.segments._blocks, index.segments._segments)
            )
    assert all(answer[0] for answer in found + again)
    print(f"| {count:,} documents, 5 words, best {_LIMIT} {_HEAD}")
    print(with_index.row("with the index"))
    print(filtered.row("with the index, a tenth matches a filter"))
    print(scanned.row("reading every document"))
    ratio = percentile(scanned.cpu, 0.5) / percentile(with_index.cpu, 0.5)
    print(
        f"\nReading takes {ratio:.0f} times the CPU. The index has {blocks / count:.0f} bytes a "
        f"document in postings, {segments / count:.1f} in rows and lengths."
    )


def sparse(options: argparse.Namespace) -> None:
    """Print what a ranking by a sparse vector takes, with the index and by reading all of them."""
    count = options.count
    written = sparse_vectors(count)
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    queries = [shoal.SparseVector(v.indices[::3], v.values[::3]) for v in written[:: count // 120]]

    def search(collection: shoal.Collection, turn: int) -> Any:
        knn = shoal.Knn(queries[turn], key="words", limit=_LIMIT)
        return collection.search(shoal.Search().rank(knn).limit(_LIMIT))["ids"]

    with shoal.EphemeralClient() as client, _indexing(still=False) as shards:
        metadatas = [{"words": vector} for vector in written]
        declared = {"sparse_vectors": {"words": {"idf": True}}}
        collection, seconds = _written(client, vectors, declared, metadatas=metadatas)
        began = time.perf_counter()
        _wait_until_indexed(shards)
        behind = time.perf_counter() - began
        found: list[Any] = []
        with_index = _taken(lambda turn: found.append(search(collection, turn)), 100)
        with without_indexes():
            scanned = _taken(lambda turn: search(collection, turn), 2)
            assert [search(collection, turn) for turn in range(2)] == [found[0], found[1]]
    print(f"| {count:,} vectors of {_WEIGHTS} weights, best {_LIMIT} {_HEAD}")
    print(with_index.row("with the index"))
    print(scanned.row("reading every vector"))
    print(f"\nAcknowledged {count / seconds:,.0f} a second, indexed {behind:.1f} s later.")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", default="ingest,texts,sparse")
    parser.add_argument("--count", type=int, default=100_000, help="records that are searched")
    parser.add_argument("--ingest", type=int, default=20_000, help="records to ingest")
    parser.add_argument("--rounds", type=int, default=3, help="ingests of each kind")
    options = parser.parse_args()
    lines = options.lines.split(",")
    for name, run in (
        ("ingest", ingest),
        ("texts", texts),
        ("sparse", sparse),
    ):
        if name in lines:
            print(f"\n## {name.capitalize()}\n")
            run(options)


if __name__ == "__main__":
    main()
