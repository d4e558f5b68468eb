"""How cost grows with the collections of a cluster: 1 to 2,000 of 100 records on one worker."""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.cluster import Cluster, started, temporary
from benchmarks.measure import percentile, rounds_of
from benchmarks.record import QUERY_P50, QUERY_P99, START, Recorder, Series

COLLECTIONS: Final = (1, 10, 100, 500, 1_000, 2_000)
RECORDS: Final = 100
DIMENSION: Final = 384
SHOAL: Final = "shoal server"

CREATE: Final = "creation of a collection"
DESCRIBE: Final = "description of a collection"
OPENING: Final = "first query of a collection after a start"
LIST: Final = "listing of all collections"
DELETE: Final = "deletion of a collection"
MEMORY: Final = "memory of all processes"
REST: Final = "CPU of all processes at rest"

_CALLS: Final = 200
_OPENED: Final = 50
_DELETED: Final = 100

_REST_S: Final = 10.0
"""How long nobody asks anything: some heartbeats, and looks at what is open."""

_CLOSE_AFTER_S: Final = 10
"""Instead of a minute, where it is measured what unused collections give back."""


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
                    add(MEMORY, "bytes", value, kind=kind)
                add(REST, "%", _at_rest(cluster), state="used")
            _start(home / "data", count, add)
            _leave_unused(home / "data", count, add)


def _name(number: int) -> str:
    return f"collection-{number}"


def _create(client: shoal.Client, rng: np.random.Generator, numbers: range, add: Series) -> None:
    seconds = []
    for number in numbers:
        vectors = rng.standard_normal((RECORDS, DIMENSION)).astype(np.float32)
        began = time.perf_counter()
        collection = _created(client, number)
        seconds.append(time.perf_counter() - began)
        _fill(collection, vectors)
    _add_latencies(add, CREATE, seconds)


def _created(client: shoal.Client, number: int) -> shoal.Collection:
    return client.create_collection(
        _name(number), configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )


def _fill(collection: shoal.Collection, vectors: npt.NDArray[np.float32]) -> None:
    collection.add(ids=[str(n) for n in range(RECORDS)], embeddings=vectors)


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
    add(LIST, "ms", 1e3 * _taken(client.list_collections))


def _at_rest(cluster: Cluster) -> float:
    """Give the CPU that is used while nobody asks anything, in percent of a core."""
    before, began = cluster.cpu_s(), time.perf_counter()
    time.sleep(_REST_S)
    return 100 * (cluster.cpu_s() - before) / (time.perf_counter() - began)


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
        add(MEMORY, "bytes", cluster.memory()["Pss"], state="started")
        if seconds[1:]:  # the first pays for what a process does once
            _add_latencies(add, OPENING, seconds[1:])


def _leave_unused(directory: Path, count: int, add: Series) -> None:
    """Query all collections, then none until they are closed; then delete some."""
    query = np.ones(DIMENSION, np.float32)
    with (
        started(1, directory, {"SHOAL_CLOSE_AFTER_S": str(_CLOSE_AFTER_S)}) as cluster,
        shoal.Client(port=cluster.port, timeout=120) as client,
    ):
        for number in range(count):
            collection = client.get_collection(_name(number), embedding_function=None)
            collection.query(query_embeddings=query)
        time.sleep(2 * _CLOSE_AFTER_S)
        for kind, value in cluster.memory().items():
            add(MEMORY, "bytes", value, kind=kind, state="unused")
        add(REST, "%", _at_rest(cluster), state="unused")
        seconds = []
        for number in random.Random(6).sample(range(count), min(count - 1, _DELETED)):
            seconds.append(_taken(functools.partial(client.delete_collection, _name(number))))
            # What is measured next has as many as it says.
            _fill(_created(client, number), np.ones((RECORDS, DIMENSION), np.float32))
        if seconds:
            _add_latencies(add, DELETE, seconds)


def _taken(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
