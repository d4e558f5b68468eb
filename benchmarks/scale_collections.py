"""How cost grows with the collections of a cluster: 1 to 2,000 of 100 records on one worker."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

import shoal
from benchmarks.cluster import started, temporary
from benchmarks.measure import percentile, rounds_of
from benchmarks.record import QUERY_P50, QUERY_P99, START, Recorder, Series

COLLECTIONS: Final = (1, 10, 100, 500, 1_000, 2_000)
RECORDS: Final = 100
DIMENSION: Final = 384
SHOAL: Final = "shoal server"

CREATE: Final = "creation of a collection"
DESCRIBE: Final = "description of a collection"
OPENING: Final = "first query of a collection after a start"

_CALLS: Final = 200
_OPENED: Final = 50


def measure(recorder: Recorder, counts: Sequence[int]) -> None:
    """Add collections up to each count; there measure calls, stop, start, and measure again."""
    rng = np.random.default_rng(8)
    with temporary() as home:
        made = 0
        for count in sorted(counts):
            add = recorder.series(
                f"collections of {RECORDS} x {DIMENSION}", SHOAL, collections=count
            )
            with (
                started(1, home / "data") as cluster,
                shoal.Client(port=cluster.port, timeout=120) as client,
            ):
                _create(client, rng, range(made, count), add)
                made = count
                _calls(client, count, add)
                for kind, value in cluster.memory().items():
                    add("memory of all processes", "bytes", value, kind=kind)
            _start(home / "data", count, add)


def _name(number: int) -> str:
    return f"collection-{number}"


def _create(client: shoal.Client, rng: np.random.Generator, numbers: range, add: Series) -> None:
    seconds = []
    for number in numbers:
        vectors = rng.standard_normal((RECORDS, DIMENSION)).astype(np.float32)
        began = time.perf_counter()
        collection = client.create_collection(
            _name(number),
            configuration={"hnsw": {"space": "cosine"}},
            embedding_function=None,
        )
        seconds.append(time.perf_counter() - began)
        collection.add(ids=[str(n) for n in range(RECORDS)], embeddings=vectors)
    _add_latencies(add, CREATE, seconds)


def _add_latencies(add: Series, what: str, seconds: Sequence[float]) -> None:
    for part in rounds_of(seconds):
        add(f"{what}, p50", "ms", 1e3 * statistics.median(part))
    add(f"{what}, p99", "ms", 1e3 * percentile(seconds, 0.99))


def _calls(client: shoal.Client, count: int, add: Series) -> None:
    """Describe and query collections at random."""
    pick = random.Random(count)
    query = np.random.default_rng(9).standard_normal(DIMENSION).astype(np.float32)
    described, queried = [], []
    for _ in range(_CALLS):
        began = time.perf_counter()
        collection = client.get_collection(_name(pick.randrange(count)), embedding_function=None)
        between = time.perf_counter()
        collection.query(query_embeddings=query, n_results=10)
        described.append(between - began)
        queried.append(time.perf_counter() - between)
    _add_latencies(add, DESCRIBE, described)
    for part in rounds_of(queried):
        add(QUERY_P50, "ms", 1e3 * statistics.median(part))
    add(QUERY_P99, "ms", 1e3 * percentile(queried, 0.99))


def _start(directory: Path, count: int, add: Series) -> None:
    """Start with what is there; how long until it answers, and the first query of each of some."""
    query = np.ones(DIMENSION, np.float32)
    began = time.perf_counter()
    with (
        started(1, directory) as cluster,
        shoal.Client(port=cluster.port, timeout=120) as client,
    ):
        seconds: list[float] = []
        for number in random.Random(7).sample(range(count), min(count, _OPENED)):
            collection = client.get_collection(_name(number), embedding_function=None)
            seconds.append(_taken(lambda c=collection: c.query(query_embeddings=query)))  # type: ignore[misc]
            if len(seconds) == 1:
                add(START, "s", time.perf_counter() - began)
        add("memory of all processes", "bytes", cluster.memory()["Pss"], state="started")
        if seconds[1:]:  # the first pays for what a process does once
            _add_latencies(add, OPENING, seconds[1:])


def _taken(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
