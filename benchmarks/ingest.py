"""Ingest: until acknowledged, and until everything is in a graph, beside raw USearch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
from usearch.index import Index

import shoal
from benchmarks.cluster import running
from benchmarks.data import Dataset
from benchmarks.measure import Figure
from benchmarks.search import wait_until_built

BATCH = 1_000


def measure(dataset: Dataset, rounds: int) -> list[Figure]:
    """Interleaved: raw `index.add`, embedded, and over gRPC with one worker."""
    rates: dict[str, list[float]] = {}
    with running(1) as port, shoal.Client(port=port, timeout=120) as remote:
        for turn in range(rounds):
            rates.setdefault("raw USearch add, 1 thread", []).append(_raw(dataset))
            with shoal.EphemeralClient() as embedded:
                for name, client in (("embedded", embedded), ("gRPC, 1 worker", remote)):
                    acknowledged, built = _ingest(client, dataset, turn)
                    rates.setdefault(f"{name}, until acknowledged", []).append(acknowledged)
                    rates.setdefault(f"{name}, until in a graph", []).append(built)
    return [Figure(name, rate) for name, rate in rates.items()]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _raw(dataset: Dataset) -> float:
    index = Index(
        ndim=dataset.base.shape[1], metric="ip", dtype="bf16", connectivity=16, expansion_add=100
    )
    keys = np.arange(len(dataset.base), dtype=np.uint64)
    return len(keys) / _timed(lambda: index.add(keys, dataset.base, threads=1))


def _batches(dataset: Dataset) -> Iterator[dict[str, object]]:
    for first in range(0, len(dataset.base), BATCH):
        numbers = range(first, min(first + BATCH, len(dataset.base)))
        yield {
            "ids": [f"id-{n}" for n in numbers],
            "embeddings": dataset.base[numbers.start : numbers.stop],
            "documents": [f"The document of record {n}, which says little. " * 5 for n in numbers],
            "metadatas": [
                {"number": n, "even": n % 2 == 0, "share": n / 7, "group": f"g{n % 50}"}
                for n in numbers
            ],
        }


_numbers = itertools.count()


def _ingest(client: shoal.Client, dataset: Dataset, turn: int) -> tuple[float, float]:
    collection = client.create_collection(
        f"ingest-{turn}-{next(_numbers)}",
        configuration={"hnsw": {"space": "cosine"}},
        embedding_function=None,
    )
    batches = list(_batches(dataset))

    def write() -> None:
        for batch in batches:
            collection.add(**batch)  # type: ignore[arg-type]

    acknowledged_s = _timed(write)
    outside = 0

    def build() -> None:
        nonlocal outside
        outside = wait_until_built(collection)

    built_s = acknowledged_s + _timed(build)
    client.delete_collection(collection.name)
    count = len(dataset.base)
    return count / acknowledged_s, (count - outside) / built_s
