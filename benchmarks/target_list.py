"""The targets of targets.md, as what raw figures must show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks import batching, filters, overload, scale_collections, scale_sizes, snapshots
from benchmarks import filtered_ingest as writing
from benchmarks import shard_ingest as ingest
from benchmarks import shard_search as shard
from benchmarks.judging import Pick, Target
from benchmarks.record import (
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    MEMORY,
    QUERY_P50,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    SHORT_ANSWERS,
    START,
    Parameter,
)

_SERVER, _CHROMA = "shoal server", "chroma server"
_AT_REST: Final = {"recall_target": None}
"""Searches without filter and writes have a recall that was aimed at; others have not."""

_EVEN: Final = {"is_far": False}
_FAR: Final = {"is_far": True}
_NO_FILTER: Final = {"filter": filters.UNFILTERED}


def _serving(
    name: str,
    callers: int,
    at_least: float,
    *,
    batch: int = 1,
    include: str = "all",
    ours: str = _SERVER,
    beside: str = _CHROMA,
) -> Target:
    asked: dict[str, Parameter] = {"callers": callers, "batch": batch, "include": include}
    return Target(
        name,
        "peers",
        Pick(QUERY_RATE, ours, asked, _AT_REST),
        Pick(QUERY_RATE, beside, asked, _AT_REST),
        at_least=at_least,
    )


def _tail(name: str, callers: int) -> Target:
    asked: dict[str, Parameter] = {"callers": callers, "batch": 1, "include": "all"}
    ours = Pick(QUERY_P99, _SERVER, asked, _AT_REST)
    beside = Pick(QUERY_P50, _SERVER, asked, _AT_REST)
    return Target(name, "peers", ours, beside, at_most=5)


def _read(name: str, read: str, at_most: float, *, beside_scan: bool = True) -> Target:
    ours = Pick(filters.READ_P50, filters.SHOAL, {"read": read})
    scan = Pick(filters.READ_P50, filters.SCAN, {"read": read}) if beside_scan else None
    return Target(name, "filters", ours, scan, at_most=at_most, is_absolute=True)


def _filtered(name: str, parameters: Mapping[str, Parameter], at_most: float) -> Target:
    return Target(
        name,
        "filters",
        Pick(QUERY_P50, filters.SHOAL, parameters, but=_NO_FILTER),
        Pick(QUERY_P50, filters.SHOAL, {**parameters, **_NO_FILTER}),
        at_most=at_most,
    )


def _exact(name: str, what: str, parameters: Mapping[str, Parameter]) -> Target:
    ours = Pick(what, filters.SHOAL, parameters, but=_NO_FILTER)
    if what == RECALL:
        return Target(name, "filters", ours, at_least=0.99)
    return Target(name, "filters", ours, at_most=0)


def _shard_query(name: str, batch: int, at_least: float) -> Target:
    return Target(
        name,
        "shard-search",
        Pick(QUERY_P50, shard.SERVICE, {"batch": batch}),
        Pick(QUERY_P50, shard.RAW, {"batch": batch}),
        at_least=at_least,
        is_latency=True,
    )


def _written(name: str, records: str, what: str, at_least: float | None) -> Target:
    return Target(
        name,
        "filtered-ingest",
        Pick(what, writing.SHOAL, {"records": records, "is_indexed": True}),
        Pick(INGEST_ACKNOWLEDGED, writing.SHOAL, {"records": records, "is_indexed": False}),
        at_least=at_least,
    )


def _overloaded(
    name: str, what: str, *, at_least: float | None = None, at_most: float | None = None
) -> Target:
    return Target(
        name,
        "overload",
        Pick(what, overload.SHOAL, {"load": "3 x"}),
        Pick(what, overload.SHOAL, {"load": overload.PEAK}),
        at_least=at_least,
        at_most=at_most,
        paired=("each", "workers"),
    )


def _million(name: str, what: str, parameters: Mapping[str, Parameter]) -> Target:
    return Target(
        name,
        "scaling",
        Pick(what, scale_sizes.SHARD, {**parameters, "count": 1_000_000}),
        Pick(what, scale_sizes.SHARD, {**parameters, "count": 100_000}),
        took_turns=False,
    )


TARGETS: Final = (
    Target(
        "shard-ingest",
        "shard-ingest",
        Pick(INGEST_INDEXED, ingest.SHARD),
        Pick(INGEST_INDEXED, ingest.RAW),
        at_least=0.7,
    ),
    Target(
        "shard-burst",
        "shard-ingest",
        Pick(INGEST_ACKNOWLEDGED, ingest.SHARD, {"burst": ingest.BURST}),
        Pick(INGEST_ACKNOWLEDGED, ingest.RAW, {"burst": ingest.BURST}),
        at_least=1.5,
    ),
    _shard_query("shard-query", 1, 0.7),
    _shard_query("shard-batch", shard.BATCH, 0.75),
    Target(
        "shard-tail",
        "shard-search",
        Pick(QUERY_P99, shard.SERVICE, {"is_ingesting": True}),
        Pick(QUERY_P99, shard.SERVICE, {"is_ingesting": False}),
        at_most=3,
    ),
    Target("shard-bytes", "shard-ingest", Pick(ingest.WRITTEN, ingest.SHARD), at_most=20),
    Target(
        "shard-open",
        "shard-search",
        Pick(START, shard.SHARD),
        Pick(START, shard.READING),
        at_most=1,
        is_absolute=True,
        paired=("place",),
    ),
    _filtered("filter-cost", _EVEN, 3),
    _exact("filter-recall", RECALL, _EVEN),
    _exact("filter-short", SHORT_ANSWERS, _EVEN),
    _filtered("far-cost", _FAR, 10),
    _exact("far-recall", RECALL, _FAR),
    _exact("far-short", SHORT_ANSWERS, _FAR),
    _read("read-get", filters.FIRST, 2),
    _read("read-count", filters.ONE_VALUE, 3),
    _read("read-count-range", filters.RANGE, 15, beside_scan=False),
    _read("read-contains", filters.CONTAINS, 20),
    _written("write-fields", writing.FIELDS, INGEST_ACKNOWLEDGED, 0.7),
    _written("write-texts", writing.DOCUMENTS, INGEST_ACKNOWLEDGED, 0.8),
    _written("write-texts-indexed", writing.DOCUMENTS, INGEST_INDEXED, None),
    _serving("serve-one", 1, 2.5),
    _serving("serve-8", 8, 4),
    _serving("serve-32", 32, 4),
    _serving("serve-8-far", 8, 8),
    _serving("serve-32-far", 32, 8),
    _tail("serve-8-tail", 8),
    _tail("serve-32-tail", 32),
    _serving("serve-batch", 1, 3, batch=64),
    _serving("serve-batch-raw", 1, 0.6, batch=64, include="distances", beside="raw usearch"),
    _serving("serve-embedded", 1, 3, ours="shoal embedded", beside="chroma embedded"),
    Target(
        "serve-ingest",
        "peers",
        Pick(INGEST_ACKNOWLEDGED, _SERVER),
        Pick(INGEST_ACKNOWLEDGED, _CHROMA),
        at_least=2,
    ),
    Target(
        "serve-batching",
        "batching",
        Pick(QUERY_RATE, batching.BATCHING),
        Pick(QUERY_RATE, batching.ALONE),
        at_least=2,
    ),
    _overloaded("overload-goodput", overload.GOODPUT, at_least=0.8),
    _overloaded("overload-memory", overload.MEMORY, at_most=1.5),
    Target(
        "snapshot-tail",
        "snapshots",
        Pick(snapshots.QUERY_P99, snapshots.SHOAL, {"during_snapshots": True}),
        Pick(snapshots.QUERY_P99, snapshots.SHOAL, {"during_snapshots": False}),
        at_most=1.5,
    ),
    Target(
        "snapshot-cost",
        "snapshots",
        Pick(snapshots.SNAPSHOT, snapshots.SHOAL),
        Pick(snapshots.COPY, snapshots.SHOAL),
    ),
    Target(
        "restore-cost",
        "snapshots",
        Pick(snapshots.RESTORATION, snapshots.SHOAL),
        Pick(snapshots.COPY, snapshots.SHOAL),
    ),
    Target(
        "many-open",
        "scaling",
        Pick(f"{scale_collections.OPENING}, p50", scale_collections.SHOAL, {"collections": 2_000}),
        at_most=10,
    ),
    _million("million-memory", MEMORY, {"kind": "Pss"}),
    _million("million-start", START, {}),
)
