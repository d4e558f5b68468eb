"""Searches under filters that match 90 to 0.1 % of the records, beside the same without."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.bench import Bench, Figures
from benchmarks.peers.searching import figures, timed
from benchmarks.peers.store import SHARES
from benchmarks.peers.systems import System
from benchmarks.peers.tuning import Tuned, tune
from benchmarks.record import RECALL, SHORT_ANSWERS, Parameter

MATCHING: Final = (900, 500, 100, 10, 1)
"""How many of a thousand records match."""


def filters(bench: Bench, tuned: Tuned) -> None:
    """Every system searches as far as it must for the highest recall without a filter."""
    target = max(bench.options.recalls)

    def prepared(system: System) -> None:
        effort = tuned.effort(system, target)
        if effort is not None:
            tune(system, effort)

    bench.try_each(prepared)
    for below in (SHARES, *MATCHING):
        if below < SHARES:
            bench.write_truth(below)
        _filter(bench, below)


def _filter(bench: Bench, below: int) -> None:
    where = None if below == SHARES else below
    matching: dict[str, Parameter] = {"matches_percent": 100 * below / SHARES}

    def exactness(system: System) -> None:
        if holds(system):
            found = system.do("recall", below=where)
            bench.keep(
                system,
                [
                    (RECALL, "share", found["recall"], matching),
                    (SHORT_ANSWERS, "share", found["short"], matching),
                ],
            )

    def one(system: System, seconds: float) -> Figures:
        answer = timed(system, seconds, callers=1, batch=1, below=where)
        return figures(answer, {**matching, "callers": 1, "batch": 1, "include": "all"})

    bench.try_each(exactness)
    bench.rounds(one, holds)


def holds(system: System) -> bool:
    """Whether it has records, and not vectors alone."""
    return not system.kind.is_index
