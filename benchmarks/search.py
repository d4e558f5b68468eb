"""A collection as its users see it, by a client: filled, tuned to a recall, and searched."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

import shoal
from benchmarks.data import Dataset
from benchmarks.measure import least_effort
from shoal_worker.building import MINIMUM_GRAPH_VECTORS

_LIMIT: Final = 10
_LOAD_BATCH: Final = 1_000
_RECALL_BATCH: Final = 64
_BUILD_TIMEOUT_S: Final = 1_200.0
_POLL_S: Final = 0.1
_SETTLED_S: Final = 3.0
_IDLE_S: Final = 30.0
"""How long nothing must change where more than a few records stay outside: what is left when nobody
writes any more is taken in only after a time, and one build of a large graph takes as long."""


def load(client: shoal.Client, name: str, dataset: Dataset, shards: int) -> shoal.Collection:
    """Write the data set into a new collection, without waiting for graphs."""
    collection = client.create_collection(
        name,
        configuration={"hnsw": {"space": "cosine", "shards": shards}},
        embedding_function=None,
    )
    ids = [str(n) for n in range(len(dataset.base))]
    for first in range(0, len(ids), _LOAD_BATCH):
        part = slice(first, first + _LOAD_BATCH)
        collection.add(ids=ids[part], embeddings=dataset.base[part])
    return collection


def fresh_counts(collection: shoal.Collection) -> list[int]:
    """Records of each shard that are not in a graph yet."""
    probe = np.ones(collection.dimension or 1, np.float32)
    plan: Any = collection.query(query_embeddings=probe, n_results=1, explain=True)["plan"]
    return [shard["fresh_count"] for shard in plan["shards"]]


def wait_until_built(collection: shoal.Collection) -> int:
    """Wait until the graphs take in no more, and give the records that stay outside.

    Some may stay: a graph takes in what is worth a build, and a small shard needs none. So it is
    over when the rest has not changed for a while.

    Raises:
        TimeoutError: It takes too long.
    """
    deadline = time.monotonic() + _BUILD_TIMEOUT_S
    fresh, since = fresh_counts(collection), time.monotonic()
    while any(fresh):
        is_small = max(fresh) <= MINIMUM_GRAPH_VECTORS
        if time.monotonic() - since > (_SETTLED_S if is_small else _IDLE_S):
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{sum(fresh):,} records are still not in a graph")
        time.sleep(_POLL_S)
        before, fresh = fresh, fresh_counts(collection)
        if fresh != before:
            since = time.monotonic()
    return sum(fresh)


def tune(collection: shoal.Collection, dataset: Dataset, target: float) -> tuple[int, float]:
    """Let searches reach a recall with the least effort; give the effort and the recall."""

    def recall_of(ef: int) -> float:
        collection.modify(configuration={"hnsw": {"ef_search": ef}})
        found: list[list[int]] = []
        for first in range(0, len(dataset.queries), _RECALL_BATCH):
            part = dataset.queries[first : first + _RECALL_BATCH]
            answer = collection.query(query_embeddings=part, n_results=_LIMIT, include=[])
            found += [[int(record_id) for record_id in ids] for ids in answer["ids"]]
        return dataset.recall(found, range(len(found)))

    effort, _ = least_effort(recall_of, target)
    return effort, recall_of(effort)


@dataclass(frozen=True, slots=True)
class Searched:
    """What came of searching for a while.

    Attributes:
        seconds: How long it was.
        latencies_s: Of each call.
        client_cpu_s: That this process used.
    """

    seconds: float
    latencies_s: list[float]
    client_cpu_s: float


def searched(call: Callable[[int], object], callers: int, count: int, seconds: float) -> Searched:
    """Search from several threads, each one call after another.

    Args:
        call: Asks one of the queries.
        callers: Threads.
        count: Queries there are.
        seconds: How long.
    """
    times: list[list[float]] = [[] for _ in range(callers)]
    failures: list[BaseException] = []
    cpu, start = time.process_time(), time.perf_counter()
    end = start + seconds

    def go(caller: int) -> None:
        for query in itertools.cycle(range(caller, count, callers)):
            began = time.perf_counter()
            if began > end or failures:
                return
            try:
                call(query)
            except shoal.ShoalError as error:
                failures.append(error)
            times[caller].append(time.perf_counter() - began)

    threads = [threading.Thread(target=go, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    latencies = list(itertools.chain.from_iterable(times))
    return Searched(time.perf_counter() - start, latencies, time.process_time() - cpu)
