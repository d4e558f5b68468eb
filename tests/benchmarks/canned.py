"""Raw figures as benchmarks leave them, of few systems, with ratios that one can reckon."""

from __future__ import annotations

from pathlib import Path

from benchmarks import filters, scale_collections, scale_shards, scale_sizes
from benchmarks import shard_search as shard
from benchmarks.record import (
    DISK,
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
    Recorder,
)

PASSAGES = "passages 1,000 x 384"
MIXTURE = "mixture 1,000 x 384"


def shard_searches(path: Path, *, at_95: float = 2.0) -> None:
    """One query takes the shard 1 ms of raw USearch's 0.8 at 0.99, and as long as told at 0.95."""
    recorder = Recorder("shard-search")
    for turn in range(3):
        noise = 1 + turn / 10
        for target, ours in ((0.99, 1.0), (0.95, at_95)):
            for system, value in ((shard.RAW, 0.8), (shard.SERVICE, ours * noise)):
                recorder.add(
                    *(PASSAGES, system, QUERY_P50, "ms", value), recall_target=target, batch=1
                )
    recorder.write(path / "shard-search.json")


def peers(path: Path) -> None:
    """Shoal's server is 3, 5 and 7 times as fast as Chroma's for 1, 8 and 32 callers.

    Under a filter it is slow, which no target is about.
    """
    recorder = Recorder("peers", {"chroma": "1.5.9"})
    for turn in range(2):
        for callers, times in ((1, 3.0), (8, 5.0), (32, 7.0)):
            way: dict[str, Parameter] = {"recall_target": 0.99, "callers": callers, "batch": 1}
            way["include"] = "all"
            for system, rate in (("chroma server", 100.0), ("shoal server", 100.0 * times)):
                recorder.add(PASSAGES, system, QUERY_RATE, "queries/s", rate + turn, **way)
                recorder.add(PASSAGES, system, QUERY_P50, "ms", 1_000 / rate, **way)
                recorder.add(PASSAGES, system, QUERY_P99, "ms", 2_000 / rate, **way)
        for system, rate in (("chroma server", 100.0), ("shoal server", 10.0)):
            slow: dict[str, Parameter] = {"callers": 1, "batch": 1, "include": "all"}
            recorder.add(
                PASSAGES, system, QUERY_RATE, "queries/s", rate, matches_percent=1.0, **slow
            )
        for system, rate in (("chroma server", 1_000.0), ("shoal server", 1_500.0)):
            recorder.add(PASSAGES, system, INGEST_ACKNOWLEDGED, "records/s", rate)
            recorder.add(PASSAGES, system, INGEST_INDEXED, "records/s", rate)
    for system in ("chroma server", "shoal server"):
        bare: dict[str, Parameter] = {"callers": 1, "batch": 1, "recall_target": 0.99}
        bare["include"] = "distances"
        recorder.add(PASSAGES, system, QUERY_RATE, "queries/s", 200.0, **bare)
        recorder.add(PASSAGES, system, RECALL, "share", 0.991, recall_target=0.99, effort=64)
    recorder.skip("seekdb embedded", "it does not install here")
    recorder.write(path / "peers.json")


def more_peers(path: Path) -> None:
    """On other data Shoal's server is half as fast, and alone at the recall with texts."""
    recorder = Recorder("peers")
    way: dict[str, Parameter] = {"recall_target": 0.99, "callers": 1, "batch": 1}
    for system, rate in (("chroma server", 200.0), ("shoal server", 100.0)):
        recorder.add(MIXTURE, system, RECALL, "share", 0.991, recall_target=0.99, effort=64)
        recorder.add(MIXTURE, system, QUERY_RATE, "queries/s", rate, **way, include="distances")
    recorder.add(MIXTURE, "shoal server", QUERY_RATE, "queries/s", 7.0, **way, include="all")
    recorder.write(path / "peers-mixture.json")


def filtered(path: Path) -> None:
    """Filters cost twice the time, but for one that costs four times."""
    recorder = Recorder("filters")
    for name, percent, times in (
        (filters.UNFILTERED, 100.0, 1.0),
        ("90.00%, a range", 90.0, 2.0),
        ("0.10%, a range", 0.1, 4.0),
    ):
        asked: dict[str, Parameter] = {"filter": name, "is_far": False}
        asked["matches_percent"] = percent
        for _ in range(5):
            recorder.add(MIXTURE, filters.SHOAL, QUERY_P50, "ms", times, **asked)
        recorder.add(MIXTURE, filters.SHOAL, RECALL, "", 1.0, **asked)
        recorder.add(MIXTURE, filters.SHOAL, SHORT_ANSWERS, "", 0, **asked)
    recorder.write(path / "filters.json")


def scaling(path: Path) -> None:
    """Two shards are half as fast as one; ten times the records take twice the time."""
    recorder = Recorder("scaling")
    for shards in (1, 2):
        for workers in scale_shards.WORKERS:
            for callers in scale_shards.CALLERS:
                recorder.add(
                    *(MIXTURE, scale_shards.SHOAL, QUERY_RATE, "queries/s", 1_000 / shards),
                    shards=shards,
                    workers=workers,
                    callers=callers,
                    recall_target=0.99,
                )
    for count, milliseconds in ((10_000, 1.0), (100_000, 2.0), (1_000_000, 4.0)):
        add = recorder.series("mixture x 128", scale_sizes.SHARD, count=count)
        add(QUERY_P50, "ms", milliseconds, recall_target=0.99)
        add(MEMORY, "bytes", 1_000.0, kind="Pss")
        add(DISK, "bytes", 2_000.0)
        add(START, "s", milliseconds / 10)
    for count in (10, 2_000):
        add = recorder.series("collections of 100 x 384", scale_collections.SHOAL,
                              collections=count)  # fmt: skip
        add(f"{scale_collections.OPENING}, p50", "ms", 3.0)
    recorder.write(path / "scaling.json")


def everything(path: Path) -> Path:
    """All of them."""
    for make in (shard_searches, peers, more_peers, filtered, scaling):
        make(path)
    return path
