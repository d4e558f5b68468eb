"""Equal recall: the least effort with which each system reaches what is aimed at."""

from __future__ import annotations

from benchmarks.measure import EFFORTS
from benchmarks.peers.bench import Bench
from benchmarks.peers.systems import System


class Tuned:
    """How far each system must search for each recall.

    Args:
        bench: Whose systems are tuned.
    """

    def __init__(self, bench: Bench) -> None:
        self._recalls: dict[str, dict[int, float]] = {}
        self._highest = max(bench.options.recalls)
        for target in bench.options.recalls:
            self._seek_all(bench, target)

    def _seek_all(self, bench: Bench, target: float) -> None:
        def seek(system: System) -> None:
            low, high = 0, len(EFFORTS)
            while low < high:
                middle = (low + high) // 2
                if self._recall(system, EFFORTS[middle]) >= target:
                    high = middle
                else:
                    low = middle + 1

        bench.try_each(seek)

    def _recall(self, system: System, effort: int) -> float:
        known = self._recalls.setdefault(system.name, {})
        if effort not in known:
            tune(system, effort)
            known[effort] = system.do("recall")["recall"]
        return known[effort]

    def effort(self, system: System, target: float) -> int | None:
        """The least effort that reaches a recall; None if none does."""
        known = self._recalls[system.name]
        return min((e for e, recall in known.items() if recall >= target), default=None)

    def set(self, system: System, target: float) -> int | None:
        """Let a system search so far, or as far as it can; gives the effort that reaches it."""
        effort = self.effort(system, target)
        tune(system, EFFORTS[-1] if effort is None else effort)
        return effort

    def set_highest(self, system: System) -> None:
        """Let a system search as far as the highest recall needs that is aimed at."""
        self.set(system, self._highest)

    def recall(self, system: System, effort: int | None) -> float:
        """What an effort gives; of none, the highest that was seen."""
        known = self._recalls[system.name]
        return max(known.values()) if effort is None else known[effort]


def tune(system: System, effort: int) -> None:
    """Set how far searches go."""
    system.do("tune", effort=effort)
    if system.store.tunes_on_open:
        system.restart()
