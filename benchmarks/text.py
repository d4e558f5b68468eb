"""Texts and sparse vectors: what ranking by them takes, beside reading all of them.

    python -m benchmarks.text [--lines texts,sparse] [--count 100000]

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
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import documents
from benchmarks.measure import rounds_of, without_indexes
from benchmarks.record import (
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    QUERY_CPU,
    QUERY_P50,
    Recorder,
    print_run,
)
from shoal_worker.indexing import Indexing
from shoal_worker.shard import Shard

SHOAL: Final = "shoal embedded"
READING: Final = "shoal embedded, reading all"
BATCH: Final = 1_000
_LIMIT: Final = 10
_VOCABULARY: Final = 30_000
_WEIGHTS: Final = 100
"""Of a sparse vector: what learned sparse models give to a passage."""

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
def _written_to() -> Iterator[set[Shard]]:
    """Give the shards that are written to."""
    consider = Indexing.consider
    shards: set[Shard] = set()

    def watched(self: Indexing, shard: Shard) -> None:
        shards.add(shard)
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


def _take(
    recorder: Recorder,
    dataset: str,
    system: str,
    ranking: str,
    run: Callable[[int], object],
    times: int,
) -> None:
    """Call so often, and record the medians of each part, by the clock and by CPU."""
    clock, cpu = [], []
    for turn in range(times):
        began, cpu_began = time.perf_counter(), time.process_time()
        run(turn)
        clock.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    for what, unit, scale, values in ((QUERY_P50, "ms", 1e3, clock), (QUERY_CPU, "us", 1e6, cpu)):
        for part in rounds_of(values):
            value = scale * statistics.median(part)
            recorder.add(dataset, system, what, unit, value, ranking=ranking)


def _queries(texts: Sequence[str], count: int) -> list[str]:
    """Texts of five words that stand together in a document."""
    chance = random.Random(5)
    found = []
    for text in chance.sample(list(texts), count):
        words = text.split()
        first = chance.randrange(max(1, len(words) - 5))
        found.append(" ".join(words[first : first + 5]))
    return found


def texts(recorder: Recorder, count: int) -> None:
    """Record what a ranking by a text takes, with the index and by reading every document."""
    written = documents(count)
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    queries = _queries(written, 160)

    def search(collection: shoal.Collection, turn: int, where: Any = None) -> Any:
        ranking = shoal.Search().rank(shoal.Text(queries[turn], limit=_LIMIT)).limit(_LIMIT)
        return collection.search(ranking.where(where) if where else ranking)["ids"]

    with shoal.EphemeralClient() as client, _written_to() as shards:
        metadatas = [{"tenth": n % 10} for n in range(count)]
        collection, _ = _written(client, vectors, documents=written, metadatas=metadatas)
        _wait_until_indexed(shards)
        [shard] = [shard for shard in shards if shard.newest.meta.record_count == count]
        name, words = f"texts {count:,}", "5 words"
        _take(recorder, name, SHOAL, words, lambda turn: search(collection, turn), 100)
        filtered = f"{words}, a tenth matches a filter"
        _take(
            *(recorder, name, SHOAL, filtered),
            lambda turn: search(collection, 100 + turn, {"tenth": 3}),
            50,
        )
        found = [search(collection, turn) for turn in range(155, 160)]
        # Others than before: what was found of late is kept.
        with without_indexes():
            _take(recorder, name, READING, words, lambda turn: search(collection, 150 + turn), 5)
            again = [search(collection, turn) for turn in range(150, 155)]
        index = shard.indexes.terms
        assert index is not None
        with shard.pin() as pinned:
            blocks, segments = (
                sum(len(value) for _, value in pinned.txn.cursor(db=database))
                for database in (index.segments._blocks, index.segments._segments)
            )
    assert all(answer[0] for answer in found + again)
    recorder.add(name, SHOAL, "postings of a document", "bytes", blocks / count)
    recorder.add(name, SHOAL, "rows and lengths of a document", "bytes", segments / count)


def sparse(recorder: Recorder, count: int) -> None:
    """Record what a ranking by a sparse vector takes, with the index and by reading all of them."""
    written = sparse_vectors(count)
    vectors = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    queries = [shoal.SparseVector(v.indices[::3], v.values[::3]) for v in written[:: count // 120]]

    def search(collection: shoal.Collection, turn: int) -> Any:
        knn = shoal.Knn(queries[turn], key="words", limit=_LIMIT)
        return collection.search(shoal.Search().rank(knn).limit(_LIMIT))["ids"]

    with shoal.EphemeralClient() as client, _written_to() as shards:
        metadatas = [{"words": vector} for vector in written]
        declared = {"sparse_vectors": {"words": {"idf": True}}}
        collection, seconds = _written(client, vectors, declared, metadatas=metadatas)
        began = time.perf_counter()
        _wait_until_indexed(shards)
        behind = time.perf_counter() - began
        found: list[Any] = []
        name, ranking = f"sparse {count:,}", f"{_WEIGHTS} weights"
        _take(
            *(recorder, name, SHOAL, ranking),
            lambda turn: found.append(search(collection, turn)),
            100,
        )
        with without_indexes():
            _take(recorder, name, READING, ranking, lambda turn: search(collection, turn), 5)
            assert [search(collection, turn) for turn in range(2)] == [found[0], found[1]]
    recorder.add(name, SHOAL, INGEST_ACKNOWLEDGED, "records/s", count / seconds)
    recorder.add(name, SHOAL, INGEST_INDEXED, "records/s", count / (seconds + behind))


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("--lines", default="texts,sparse")
    parser.add_argument("--count", type=int, default=100_000, help="records that are searched")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    recorder = Recorder("text")
    for name, run in (("texts", texts), ("sparse", sparse)):
        if name in options.lines.split(","):
            run(recorder, options.count)
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
