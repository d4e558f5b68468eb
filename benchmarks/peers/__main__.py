"""`make bench-peers`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.data import Dataset
from benchmarks.peers.driver import BATCH
from benchmarks.peers.systems import Kind, System, started

KINDS = (
    Kind("Chroma server", "chroma", is_server=True),
    Kind("Shoal server, 1 process", "shoal", is_server=True, workers=0),
    Kind("Shoal server, 2 workers, 2 shards", "shoal", is_server=True, workers=2, shards=2),
    Kind("Chroma embedded", "chroma", is_server=False),
    Kind("Shoal embedded", "shoal", is_server=False),
    Kind("raw USearch, 2 threads", "usearch", is_server=False),
)

BARE = "IDs and distances alone"

WAYS = {
    "1 caller": (1, 1),
    "8 callers": (8, 1),
    "32 callers": (32, 1),
    f"1 caller, batches of {BATCH}": (1, BATCH),
    f"1 caller, batches of {BATCH}, {BARE}": (1, BATCH),
}

RECALL_STEP = 0.001
"""Recalls that lie nearer to each other are equal: two hits among 2,000."""

EF_SEARCH = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512)


def main() -> None:
    """Measure, print tables, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--count", type=int, default=100_000, help="vectors of the synthetic data")
    parser.add_argument(
        "--ef-search", type=int, default=64, help="Chroma's; Shoal's is what gives the same recall"
    )
    parser.add_argument(
        "--only",
        default="",
        help="measure stores whose names hold one of these, with commas between",
    )
    parser.add_argument("--way", default="", help="measure ways whose names hold this")
    parser.add_argument("--data", choices=("both", "mixture", "passages"), default="both")
    parser.add_argument("--ingest-rounds", type=int, default=1)
    parser.add_argument("--chroma", type=Path, default=Path(".venv-peers/bin"))
    parser.add_argument(
        "--keep", type=Path, help="keep the loaded stores here, and use those that are there"
    )
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()

    makers: dict[str, Callable[[], Dataset]] = {
        "mixture": lambda: data.mixture(options.count),
        "passages": lambda: data.passages_varied(options.count),
    }
    raw = {
        name: _measure(make(), options)
        for name, make in makers.items()
        if options.data in ("both", name)
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(raw, indent=1))


def _measure(dataset: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    print(f"\n## {dataset.name}\n", flush=True)
    raw: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if options.keep:
            home = options.keep / dataset.name.replace(" ", "-").replace(",", "")
            home.mkdir(parents=True, exist_ok=True)
        else:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-peers-")))
        vectors = home / "vectors.npz"
        np.savez(vectors, base=dataset.base, queries=dataset.queries, truth=dataset.truth)
        systems: list[System] = []
        for number, kind in enumerate(KINDS):
            if any(part in kind.name for part in options.only.split(",")):
                directory = home / str(number)
                directory.mkdir(exist_ok=True)
                systems.append(
                    stack.enter_context(started(kind, directory, vectors, options.chroma))
                )
        for system in systems:
            raw[system.kind.name] = {
                "load": system.do("load", shards=system.kind.shards, ef_search=options.ef_search),
                "search": {},
                "ingest": [],
            }
        _tune_all(systems, raw, options.ef_search)
        for way, (callers, batch) in WAYS.items():
            if options.way in way:
                taking_part = [s for s in systems if s.kind.is_store or BARE in way]
                _search(taking_part, raw, way, callers, batch, options)
                _print_search(taking_part, raw, way)
        if options.ingest_rounds:
            _ingest([s for s in systems if s.kind.is_store], raw, options.ingest_rounds)
    return raw


def _ingest(systems: Sequence[System], raw: dict[str, Any], rounds: int) -> None:
    """Write everything anew, taking turns."""
    print("\n| Ingest until searchable | records/s | ratio |\n|---|---|---|")
    for turn in range(rounds):
        for system in systems if turn % 2 == 0 else systems[::-1]:
            raw[system.kind.name]["ingest"].append(system.do("ingest")["rate"])
    for system in systems:
        rates, base = raw[system.kind.name]["ingest"], _peer(raw, system.kind)["ingest"]
        print(f"| {system.kind.name} | {statistics.median(rates):,.0f} | {_ratio(rates, base)} |")


def _tune_all(systems: Sequence[System], raw: dict[str, Any], ef_search: int) -> None:
    """Let Shoal search as far as it must for the recall that Chroma reaches."""
    reached = []
    for system in systems:
        if system.kind.store == "chroma":
            recall = system.do("recall")["recall"]
            reached.append(recall)
            raw[system.kind.name]["tuned"] = {"ef_search": ef_search, "recall": recall}
    target = min(reached, default=0.98) - RECALL_STEP
    efforts = []
    for system in systems:
        if system.kind.store == "shoal":
            raw[system.kind.name]["tuned"] = _tune(system, target)
            efforts.append(raw[system.kind.name]["tuned"]["ef_search"])
    # Of one shard, as it has.
    effort = efforts[0] if efforts else ef_search
    for system in systems:
        if system.kind.store == "usearch":
            # The same effort: without exact ranking it may never reach the recall.
            raw[system.kind.name]["tuned"] = {
                "ef_search": effort,
                **system.do("tune", ef_search=effort),
            }


def _tune(system: System, target: float) -> dict[str, Any]:
    """Find the least effort with which a store reaches the recall."""
    tuned: dict[str, Any] = {}
    for ef_search in EF_SEARCH:
        tuned = {"ef_search": ef_search, **system.do("tune", ef_search=ef_search)}
        if tuned["recall"] >= target:
            break
    return tuned


def _search(
    systems: Sequence[System],
    raw: dict[str, Any],
    way: str,
    callers: int,
    batch: int,
    options: argparse.Namespace,
) -> None:
    """Interleaved rounds, the first of which is not counted."""
    for turn in range(options.rounds + 1):
        # Back and forth, so that none always comes after the same other.
        for system in systems if turn % 2 == 0 else systems[::-1]:
            cpu_s = system.server_cpu_s()
            answer = system.do(
                "search",
                callers=callers,
                batch=batch,
                seconds=options.seconds if turn else 1.0,
                bare=BARE in way,
            )
            answer["server_cpu_s"] = system.server_cpu_s() - cpu_s
            if turn:
                raw[system.kind.name]["search"].setdefault(way, []).append(answer)


def _peer(raw: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The figures that a store is compared with: Chroma's, run alike."""
    name = "Chroma server" if kind.is_server else "Chroma embedded"
    peer: dict[str, Any] = raw.get(name, raw[kind.name])
    return peer


def _ratio(rates: Sequence[float], base: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(rates, base, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _print_search(systems: Sequence[System], raw: dict[str, Any], way: str) -> None:
    print(
        f"\n| {way} | queries/s | ratio to Chroma | p50 / p99 ms | CPU µs a query, server + client "
        "| recall@10 (ef) |\n|---|---|---|---|---|---|"
    )
    for system in systems:
        own = raw[system.kind.name]
        rounds = own["search"][way]
        base = _peer(raw, system.kind)["search"][way]
        rates = [r["rate"] for r in rounds]

        def middle(key: str, rounds: Sequence[dict[str, Any]] = rounds) -> float:
            return float(statistics.median(r[key] for r in rounds))

        queries = [r["calls"] * WAYS[way][1] for r in rounds]
        server, client = (
            statistics.median(1e6 * r[k] / q for r, q in zip(rounds, queries, strict=True))
            for k in ("server_cpu_s", "client_cpu_s")
        )
        print(
            f"| {system.kind.name} | {statistics.median(rates):,.0f} "
            f"| {_ratio(rates, [r['rate'] for r in base])} "
            f"| {1e3 * middle('p50_s'):.2f} / {1e3 * middle('p99_s'):.2f} "
            f"| {server:,.0f} + {client:,.0f} "
            f"| {own['tuned']['recall']:.3f} ({own['tuned']['ef_search']}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
