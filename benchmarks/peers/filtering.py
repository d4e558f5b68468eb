"""Searches under filters that match 90 to 0.1 % of the records, beside the same without."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.bench import Bench, Figures
from benchmarks.peers.searching import figures, timed
from benchmarks.peers.store import SHARES
from benchmarks.peers.systems import System
from benchmarks.peers.tuning import Tuned
from benchmarks.record import RECALL, SHORT_ANSWERS, Parameter

MATCHING: Final = (900, 500, 100, 10, 1)
"""How many of a thousand records match."""


def filters(bench: Bench, tuned: Tuned) -> None:
    """Every system searches as far as it must for the highest recall without a filter."""
    bench.try_each(tuned.set_highest)
    for below in MATCHING:
        bench.write_truth(below)
    for below in (SHARES, *MATCHING):
        _exactness(bench, below)
    bench.rounds(_filtered, holds)


def _exactness(bench: Bench, below: int) -> None:
    def one(system: System) -> None:
        if holds(system):
            found = system.do("recall", below=_where(below))
            bench.keep(
                system,
                [
                    (RECALL, "share", found["recall"], _matching(below)),
                    (SHORT_ANSWERS, "share", found["short"], _matching(below)),
                ],
            )

    bench.try_each(one)


def _filtered(system: System, seconds: float) -> Figures:
    """All filters one after another, so that ratios are of neighbours in time."""
    found: Figures = []
    for below in (SHARES, *MATCHING):
        answer = timed(system, seconds / 2, callers=1, batch=1, below=_where(below))
        call: dict[str, Parameter] = {"callers": 1, "batch": 1, "include": "all"}
        found += figures(answer, {**_matching(below), **call})
    return found


def _where(below: int) -> int | None:
    return None if below == SHARES else below


def _matching(below: int) -> dict[str, Parameter]:
    return {"matches_percent": 100 * below / SHARES}


def holds(system: System) -> bool:
    """Whether it has records, and not vectors alone."""
    return not system.kind.is_index
