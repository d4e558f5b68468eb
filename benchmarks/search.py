"""Searching: embedded and over gRPC, beside raw USearch in this process."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from usearch.index import Index

import shoal
from benchmarks.cluster import running
from benchmarks.data import Dataset
from benchmarks.measure import Figure, interleaved, percentile

BATCH = 64
CALLERS = 8
ROUND_S = 2.0
_LOAD_BATCH = 1_000
_BUILD_TIMEOUT_S = 600.0
_SETTLED_POLLS = 30


def raw_index(dataset: Dataset) -> Index:
    """The ceiling: USearch itself, bfloat16, inner product of normalised vectors, one thread."""
    index = Index(
        ndim=dataset.base.shape[1],
        metric="ip",
        dtype="bf16",
        connectivity=16,
        expansion_add=100,
        expansion_search=100,
    )
    index.add(np.arange(len(dataset.base), dtype=np.uint64), dataset.base, threads=1)
    return index


def load(client: shoal.Client, dataset: Dataset, shards: int = 1) -> shoal.Collection:
    """Write the data set into a new collection, and wait until all is in a graph."""
    collection = client.create_collection(
        f"bench-{len(dataset.base)}-{shards}",
        configuration={"hnsw": {"space": "cosine", "shards": shards}},
        embedding_function=None,
    )
    ids = [str(n) for n in range(len(dataset.base))]
    for first in range(0, len(ids), _LOAD_BATCH):
        part = slice(first, first + _LOAD_BATCH)
        collection.add(ids=ids[part], embeddings=dataset.base[part])
    wait_until_built(collection)
    return collection


def fresh_count(collection: shoal.Collection) -> int:
    """Records that are not in a graph yet."""
    probe = np.ones(collection.dimension or 1, np.float32)
    plan: Any = collection.query(query_embeddings=probe, n_results=1, explain=True)["plan"]
    return sum(shard["fresh_count"] for shard in plan["shards"])


def wait_until_built(collection: shoal.Collection) -> int:
    """Wait until the graphs take in no more, and give the records that stay outside.

    A few may stay: a graph takes in what is worth a build. So it is over when the rest is small and
    has not changed for a while.
    """
    deadline = time.monotonic() + _BUILD_TIMEOUT_S
    small = collection.count() // 5
    count, same = fresh_count(collection), 0
    while count and same < _SETTLED_POLLS and time.monotonic() < deadline:
        time.sleep(0.1)
        before, count = count, fresh_count(collection)
        same = same + 1 if count == before and count < small else 0
    return count


def measure(dataset: Dataset, rounds: int) -> list[Figure]:
    """Every way of searching, interleaved."""
    index = raw_index(dataset)
    with contextlib.ExitStack() as stack:
        embedded = stack.enter_context(shoal.EphemeralClient())
        collections = {"embedded": load(embedded, dataset)}
        for workers in (0, 2):
            client = stack.enter_context(
                shoal.Client(port=stack.enter_context(running(workers)), timeout=120)
            )
            collections[f"gRPC, {workers} workers"] = load(client, dataset)
        return [
            *_one_by_one(dataset, index, collections, rounds),
            *_batches(dataset, index, collections, rounds),
        ]


def _ids(found: list[list[str]]) -> list[list[int]]:
    return [[int(record_id) for record_id in ids] for ids in found]


def _one_by_one(
    dataset: Dataset, index: Index, collections: dict[str, shoal.Collection], rounds: int
) -> list[Figure]:
    queries = dataset.queries
    ways: dict[str, Callable[[int], Any]] = {
        "raw USearch": lambda q: index.search(queries[q], 10, threads=1)
    }
    for name, collection in collections.items():
        ways[name] = lambda q, c=collection: c.query(  # type: ignore[misc]
            query_embeddings=queries[q], n_results=10
        )
    latencies: dict[str, list[float]] = {}

    def callers(name: str, count: int) -> Callable[[], int]:
        def run() -> int:
            done = [0] * count
            times: list[list[float]] = [[] for _ in range(count)]
            end = time.perf_counter() + ROUND_S

            def call(caller: int) -> None:
                for q in itertools.cycle(range(caller, len(queries), count)):
                    began = time.perf_counter()
                    if began > end:
                        return
                    ways[name](q)
                    times[caller].append(time.perf_counter() - began)
                    done[caller] += 1

            threads = [threading.Thread(target=call, args=(c,)) for c in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            latencies.setdefault(f"{name}, {count} callers", []).extend(
                itertools.chain.from_iterable(times)
            )
            return sum(done)

        return run

    variants = {f"{n}, {c} callers": callers(n, c) for c in (1, CALLERS) for n in ways}
    rates = interleaved(variants, rounds)
    recalls = {"raw USearch": _raw_recall(dataset, index)}
    for name, collection in collections.items():
        found = [collection.query(query_embeddings=q, n_results=10)["ids"][0] for q in queries]
        recalls[name] = dataset.recall(_ids(found), range(len(queries)))
    return [
        Figure(name, rate, recalls[name.rsplit(",", 1)[0]], latencies[name])
        for name, rate in rates.items()
    ]


def _raw_recall(dataset: Dataset, index: Index) -> float:
    found = index.search(dataset.queries, 10, threads=1).keys
    return dataset.recall(found.astype(np.int64).tolist(), range(len(dataset.queries)))


def _batches(
    dataset: Dataset, index: Index, collections: dict[str, shoal.Collection], rounds: int
) -> list[Figure]:
    batch = dataset.queries[:BATCH]

    def raw() -> int:
        for _ in range(10):
            index.search(batch, 10, threads=2)
        return 10 * BATCH

    def shoal_batches(collection: shoal.Collection) -> Callable[[], int]:
        def run() -> int:
            for _ in range(10):
                collection.query(query_embeddings=batch, n_results=10)
            return 10 * BATCH

        return run

    variants = {f"raw USearch, 2 threads, batches of {BATCH}": raw}
    for name, collection in collections.items():
        variants[f"{name}, batches of {BATCH}"] = shoal_batches(collection)
    return [Figure(name, rate) for name, rate in interleaved(variants, rounds).items()]


def rows(figures: list[Figure]) -> list[str]:
    """The figures as lines of a table, each beside the raw one of its group."""
    lines = []
    raw = figures[0]
    for figure in figures:
        if figure.name.startswith("raw"):
            raw = figure
        median, low, high = figure.ratio_to(raw)
        line = f"| {figure.name} | {figure.median:,.0f} | {median:.2f} ({low:.2f}-{high:.2f}) |"
        line += f" {figure.recall:.3f} |" if figure.recall is not None else " |"
        if figure.latencies_s:
            p50, p99 = (1e3 * percentile(figure.latencies_s, share) for share in (0.5, 0.99))
            line += f" {p50:.2f} / {p99:.2f} |"
        else:
            line += " |"
        lines.append(line)
    return lines
