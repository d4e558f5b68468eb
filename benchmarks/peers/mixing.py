"""Searches while records come at a steady rate, beside searches at rest."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.bench import WARM_S, Bench, Figures
from benchmarks.peers.filtering import holds
from benchmarks.peers.searching import figures, timed
from benchmarks.peers.systems import System
from benchmarks.peers.tuning import Tuned
from benchmarks.record import Parameter

WRITE_RATE: Final = "write rate"

_LONGER: Final = 2.0
"""Times as long as other measurements, so that no single write decides."""


def mix(bench: Bench, tuned: Tuned) -> None:
    """Search with one caller at rest, then beside writes; what was written is removed again."""
    call: dict[str, Parameter] = {"callers": 1, "batch": 1, "include": "all"}

    def one(system: System, seconds: float) -> Figures:
        rest = timed(system, seconds, callers=1, batch=1)
        if seconds == WARM_S:
            return []
        beside = system.do(
            "mixed", seconds=seconds, rate=bench.options.write_rate, servers=system.servers()
        )
        return [
            *figures(rest, {**call, "is_ingesting": False}),
            *figures(beside, {**call, "is_ingesting": True}),
            (WRITE_RATE, "records/s", beside["write_rate"], {"is_ingesting": True}),
        ]

    def cleaned(system: System) -> None:
        if holds(system):
            system.do("remove_written")

    bench.try_each(tuned.set_highest)
    bench.rounds(one, holds, _LONGER * bench.options.seconds)
    bench.try_each(cleaned)
