"""How a collection's cost grows with its shards, on one and two workers, at equal recall."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import shoal
from benchmarks.cluster import Cluster, started
from benchmarks.data import Dataset
from benchmarks.measure import percentile
from benchmarks.record import (
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    QUERY_CPU,
    QUERY_P50,
    QUERY_P95,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    Recorder,
    Series,
)
from benchmarks.search import load, searched, tune, wait_until_built

SHARDS: Final = (1, 2, 4, 8)
WORKERS: Final = (1, 2)
CALLERS: Final = (1, 8, 32)
SHOAL: Final = "shoal server"

_WARM_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Variant:
    """One number of shards on one number of workers."""

    cluster: Cluster
    collection: shoal.Collection
    add: Series


def measure(
    recorder: Recorder,
    dataset: Dataset,
    *,
    shards: Sequence[int],
    recalls: Sequence[float],
    rounds: int,
    seconds: float,
) -> None:
    """Load every variant, then let them take turns."""
    with contextlib.ExitStack() as stack:
        variants = []
        for workers in WORKERS:
            cluster = stack.enter_context(started(workers))
            client = stack.enter_context(shoal.Client(port=cluster.port, timeout=600))
            for count in shards:
                add = recorder.series(dataset.name, SHOAL, shards=count, workers=workers)
                began = time.perf_counter()
                collection = load(client, f"shards-{count}", dataset, count)
                add(INGEST_ACKNOWLEDGED, "records/s", _rate(dataset, began))
                wait_until_built(collection)
                add(INGEST_INDEXED, "records/s", _rate(dataset, began))
                variants.append(_Variant(cluster, collection, add))
        for target in recalls:
            for variant in variants:
                effort, recall = tune(variant.collection, dataset, target)
                variant.add(RECALL, "", recall, recall_target=target)
                variant.add("effort", "ef", effort, recall_target=target)
            for callers in CALLERS:
                for turn in range(rounds + 1):
                    for variant in variants[:: 1 if turn % 2 else -1]:
                        _search(variant, dataset, target, callers, seconds if turn else _WARM_S,
                                is_counted=turn > 0)  # fmt: skip


def _rate(dataset: Dataset, began: float) -> float:
    return len(dataset.base) / (time.perf_counter() - began)


def _asking(collection: shoal.Collection, dataset: Dataset) -> Callable[[int], object]:
    return lambda query: collection.query(query_embeddings=dataset.queries[query], n_results=10)


def _search(
    variant: _Variant,
    dataset: Dataset,
    target: float,
    callers: int,
    seconds: float,
    *,
    is_counted: bool,
) -> None:
    used = variant.cluster.cpu_s()
    call = _asking(variant.collection, dataset)
    found = searched(call, callers, len(dataset.queries), seconds)
    used = variant.cluster.cpu_s() - used + found.client_cpu_s
    if not is_counted:
        return
    count = len(found.latencies_s)
    figures = {
        (QUERY_RATE, "queries/s"): count / found.seconds,
        (QUERY_CPU, "us"): 1e6 * used / count,
    }
    for what, share in ((QUERY_P50, 0.5), (QUERY_P95, 0.95), (QUERY_P99, 0.99)):
        figures[what, "ms"] = 1e3 * percentile(found.latencies_s, share)
    for (what, unit), value in figures.items():
        variant.add(what, unit, value, recall_target=target, callers=callers)
