"""Starting loaded stores: time until the first answer; memory after some queries; disk."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.bench import Bench, Figures
from benchmarks.peers.systems import System
from benchmarks.processes import memory
from benchmarks.record import DISK, MEMORY, START

MEMORY_WHOLE: Final = "memory"
MEMORY_ANONYMOUS: Final = "memory, of it no file's"


def start(bench: Bench) -> None:
    """Start each system anew in every round.

    Memory is what all its processes have beyond an idle driver, whose client is not imported yet,
    after each held-out query was asked once.
    """
    kept: dict[str, list[Figures]] = {}

    def one(system: System) -> None:
        system.stop()
        seconds, idle = system.start_timed()
        system.do("ask_all")
        used = memory(system.processes())
        figures: Figures = []
        if "start" in bench.options.parts:
            figures.append((START, "s", seconds, {}))
        if "memory" in bench.options.parts:
            whole, anonymous = (used[kind] - idle[kind] for kind in ("Pss", "Anonymous"))
            figures += [
                (MEMORY, "bytes", whole / bench.count, {}),
                (MEMORY_WHOLE, "bytes", whole, {}),
                (MEMORY_ANONYMOUS, "bytes", anonymous, {}),
                (DISK, "bytes", system.disk_bytes() / bench.count, {}),
            ]
        kept.setdefault(system.name, []).append(figures)

    for turn in range(bench.options.rounds):
        bench.try_each(one, turn)
    for system in bench.systems:
        for figures in kept[system.name]:
            bench.keep(system, figures)
