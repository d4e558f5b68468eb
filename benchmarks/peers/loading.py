"""Writing everything: until acknowledged, and until all is indexed."""

from __future__ import annotations

from benchmarks.peers.bench import Bench, Figures
from benchmarks.peers.systems import System
from benchmarks.record import INGEST_ACKNOWLEDGED, INGEST_INDEXED


def load(bench: Bench) -> None:
    """Have every system hold everything: found as an earlier run left it, or written.

    What is written counts as the first round of ingest, if all systems have to.
    """
    figures: dict[str, Figures] = {}

    def one(system: System) -> None:
        found = system.start()
        if found["is_loaded"]:
            return
        if found["is_there"]:
            system.do("drop")
        figures[system.name] = _written(bench, system, "load")

    def again(system: System) -> None:
        bench.keep(system, _written(bench, system, "ingest"))

    bench.try_each(one)
    if "ingest" in bench.options.parts:
        are_first = len(figures) == len(bench.systems)
        for system in bench.systems:
            if are_first:
                bench.keep(system, figures[system.name])
        for turn in range(1 if are_first else 0, bench.options.ingest_rounds):
            bench.try_each(again, turn)


def _written(bench: Bench, system: System, command: str) -> Figures:
    times = system.do(command)
    bench.say(
        f"{system.name}: written in {times['written_s']:.1f} s, indexed in {times['indexed_s']:.1f}"
    )
    return [
        (INGEST_ACKNOWLEDGED, "records/s", bench.count / times["written_s"], {}),
        (INGEST_INDEXED, "records/s", bench.count / times["indexed_s"], {}),
    ]
