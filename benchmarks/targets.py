"""`make bench-targets`: measure every target of targets.md, and print which are met.

    python -m benchmarks.targets                     all, well under an hour
    python -m benchmarks.targets --quick             all with small data, some minutes: a rehearsal
    python -m benchmarks.targets --only shard-query,serve-one
    python -m benchmarks.targets --from-raw DIR      judge what was measured before
    python -m benchmarks.targets --reuse             measure what no raw file has yet

Each benchmark runs in a process of its own, and leaves its raw figures in a file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import batching, filters, overload, scale_collections, scale_sizes, snapshots
from benchmarks import filtered_ingest as writing
from benchmarks import shard_ingest as ingest
from benchmarks import shard_search as shard
from benchmarks.judging import Pick, Target, Verdict, columns, judge, words_of_targets
from benchmarks.record import (
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    MEMORY,
    QUERY_P50,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    RESULTS,
    SHORT_ANSWERS,
    START,
    Parameter,
    Run,
    load_all,
)

PEERS: Final = Path(".venv-peers/bin")

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
        Pick(f"{scale_collections.OPENING}, p50", scale_collections.SHOAL),
        at_most=10,
    ),
    _million("million-memory", MEMORY, {"kind": "Pss"}),
    _million("million-start", START, {}),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One benchmark, as targets need it.

    Attributes:
        benchmark: What its run is called.
        file: Where its raw figures go; where a command of its own measures more, another.
        module: Below `benchmarks`.
        arguments: For its full size.
        quick: For a rehearsal.
    """

    benchmark: str
    file: str
    module: str
    arguments: str
    quick: str


_PEERS: Final = "--only shoal,chroma,usearch --what ingest,search --recall 0.99"
STEPS: Final = (
    Step(
        *("shard-search", "shard-search.json", "shard_search", ""),
        "--count 5000 --data mixture --seconds 1",
    ),
    Step(
        *("shard-ingest", "shard-ingest.json", "shard_ingest", "--rounds 2"),
        "--count 5000 --data mixture --bytes-count 10000 --rounds 2",
    ),
    Step(
        *("filters", "filters.json", "filters", "--rounds 50"),
        "--count 5000 --kind mixture --rounds 10",
    ),
    Step(
        *("filtered-ingest", "filtered-ingest.json", "filtered_ingest", "--rounds 2"),
        "--count 2000 --rounds 2",
    ),
    Step(
        *("batching", "batching.json", "batching", "--rounds 4"),
        "--count 5000 --rounds 2 --seconds 1",
    ),
    Step(
        *("overload", "overload.json", "overload", "--times 3"),
        "--times 3 --seconds 2 --rounds 2 --count 5000",
    ),
    Step(
        *("snapshots", "snapshots.json", "snapshots", ""),
        "--count 5000 --rounds 2 --seconds 2",
    ),
    Step(
        *("scaling", "scaling-targets.json", "scaling"),
        "--lines collections,sizes --sizes 100000,1000000 --collections 1,2000 --rounds 2",
        "--lines collections,sizes --sizes 2500,5000 --collections 10,50 --rounds 1",
    ),
    Step(
        *("peers", "peers-targets.json", "peers"),
        f"{_PEERS} --data passages,mixture --count 100000",
        f"{_PEERS} --rounds 1 --count 2000",
    ),
)
"""What targets need of each benchmark, which by itself may measure more."""


def steps_for(targets: Sequence[Target], runs: Sequence[Run]) -> list[Step]:
    """Give the steps that measure what no run has yet."""
    needed = {verdict.target.benchmark for verdict in judged(targets, runs) if not verdict.cases}
    return [step for step in STEPS if step.benchmark in needed]


def measure(steps: Sequence[Step], directory: Path, peers: Path, *, quick: bool) -> None:
    """Run benchmarks one after another, each into its file; one that fails is named."""
    for step in steps:
        if step.benchmark == "peers" and not peers.is_dir():
            continue
        arguments = (step.quick if quick else step.arguments).split()
        if step.benchmark == "peers":
            arguments += ["--peers", str(peers)]
        output = directory / step.file
        command = [sys.executable, "-m", f"benchmarks.{step.module}", *arguments]
        command += ["--output", str(output)]
        print(f"measuring: python -m benchmarks.{step.module} {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
            if done.returncode:
                log.seek(0)
                last = log.read().strip().splitlines()[-1:]
                print(f"  it failed: {' '.join(last)}", flush=True)


def judged(targets: Sequence[Target], runs: Sequence[Run]) -> list[Verdict]:
    """Judge targets by raw figures, with what to do about those that are missing."""
    words = words_of_targets()
    verdicts = []
    for target in targets:
        verdict = judge(target, words[target.name], runs)
        if not verdict.cases and target.benchmark == "peers" and "no run" in verdict.missing:
            advice = "Chroma is not installed, or was not measured: run `make bench-peers` first"
            verdict = Verdict(target, verdict.words, (), advice)
        verdicts.append(verdict)
    return verdicts


def table(verdicts: Sequence[Verdict]) -> str:
    """Give verdicts as a table."""
    head = "| ID | Target | Where it is hardest | Measured | Met |\n|---|---|---|---|---|"
    rows = ["| " + " | ".join(columns(verdict)) + " |" for verdict in verdicts]
    return "\n".join([head, *rows])


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count verdicts."""
    met = sum(verdict.is_met is True for verdict in verdicts)
    missed = [verdict.target.name for verdict in verdicts if verdict.is_met is False]
    unmeasured = [verdict.target.name for verdict in verdicts if not verdict.cases]
    stated = len(verdicts) - met - len(missed) - len(unmeasured)
    parts = [f"{met} of {len(verdicts)} targets are met", f"{stated} are only to be stated"]
    for what, names in (("not met", missed), ("not measured", unmeasured)):
        parts.append(f"{len(names)} {what}" + (f" ({', '.join(names)})" if names else ""))
    return "; ".join(parts) + "."


def main() -> None:
    """Measure, and print a table; raw figures are kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="IDs, with commas between")
    parser.add_argument("--quick", action="store_true", help="small data, raw files thrown away")
    parser.add_argument("--from-raw", type=Path, help="measure nothing; judge these raw files")
    parser.add_argument("--reuse", action="store_true", help="measure what no raw file has")
    parser.add_argument("--raw", type=Path, help="where raw files go; benchmarks/results")
    parser.add_argument("--peers", type=Path, default=PEERS, help="bin of the peers' environment")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    unknown = only - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no such targets: {', '.join(sorted(unknown))}")
    targets = [target for target in TARGETS if not only or target.name in only]
    if options.from_raw:
        _print(judged(targets, load_all(options.from_raw)))
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        directory = options.raw or (Path(temporary) if options.quick else RESULTS)
        runs = load_all(directory) if options.reuse else []
        steps = steps_for(targets, runs)
        measure(steps, directory, options.peers, quick=options.quick)
        _print(judged(targets, load_all(directory)))


def _print(verdicts: Sequence[Verdict]) -> None:
    print(f"\n{table(verdicts)}\n\n{summary(verdicts)}")


if __name__ == "__main__":
    main()
