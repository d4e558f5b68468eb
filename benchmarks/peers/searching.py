"""Searches at equal recall: one caller, several, and batches."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.peers.bench import Bench, Figures
from benchmarks.peers.systems import System
from benchmarks.peers.tuning import Tuned
from benchmarks.record import (
    QUERY_CPU,
    QUERY_P50,
    QUERY_P95,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    Parameter,
)

QUERY_CLIENT_CPU: Final = "CPU a query, of it the client"

BATCH: Final = 64
WAYS: Final = (
    (1, 1, "all"),
    (8, 1, "all"),
    (32, 1, "all"),
    (1, BATCH, "all"),
    (1, 1, "distances"),
    (1, BATCH, "distances"),
)
"""Callers, queries of a call, and what comes with IDs; of an index alone there are distances."""

_US: Final = 1e6
_MS: Final = 1e3


def search(bench: Bench, tuned: Tuned) -> None:
    """Search in every way, at every recall that is aimed at."""
    for target in bench.options.recalls:
        _search_at(bench, tuned, target)


def _search_at(bench: Bench, tuned: Tuned, target: float) -> None:
    able: set[str] = set()

    def prepared(system: System) -> None:
        effort = tuned.set(system, target)
        reached: dict[str, Parameter] = {"recall_target": target}
        if effort is not None:
            able.add(system.name)
            reached["effort"] = effort
        bench.keep(system, [(RECALL, "share", tuned.recall(system, effort), reached)])

    bench.try_each(prepared)
    for callers, batch, include in WAYS:
        _search_so(bench, able, target, callers, batch, include)


def _search_so(
    bench: Bench, able: set[str], target: float, callers: int, batch: int, include: str
) -> None:
    bare = include == "distances"

    def one(system: System, seconds: float) -> Figures:
        answer = timed(system, seconds, callers=callers, batch=batch, bare=bare)
        return figures(
            answer,
            {"recall_target": target, "callers": callers, "batch": batch, "include": include},
        )

    def takes_part(system: System) -> bool:
        return system.name in able and (bare or not system.kind.is_index)

    bench.rounds(one, takes_part)


def timed(system: System, seconds: float, **call: Any) -> dict[str, Any]:
    """Have a system search."""
    return system.do("search", seconds=seconds, servers=system.servers(), **call)


def figures(answer: dict[str, Any], parameters: dict[str, Parameter]) -> Figures:
    """What a search that was timed gives."""
    values = (
        (QUERY_RATE, "queries/s", answer["rate"]),
        (QUERY_P50, "ms", _MS * answer["p50_s"]),
        (QUERY_P95, "ms", _MS * answer["p95_s"]),
        (QUERY_P99, "ms", _MS * answer["p99_s"]),
        (QUERY_CPU, "us", _US * (answer["client_cpu_s"] + answer["server_cpu_s"])),
        (QUERY_CLIENT_CPU, "us", _US * answer["client_cpu_s"]),
    )
    return [(what, unit, value, parameters) for what, unit, value in values]
