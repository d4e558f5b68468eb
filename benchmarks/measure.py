"""Interleaved rounds: what is compared takes turns, so that the machine's moods hit all alike."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

RECALL_TARGETS: Final = (0.95, 0.99)
"""What is compared is compared at equal recall: at these."""

EFFORTS: Final = (
    *(10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80, 90, 100, 112, 128, 144, 160),
    *(180, 200, 225, 256, 288, 320, 360, 400, 450, 512, 640, 800, 1_024),
)
"""Candidates that a search may consider (ef), of which the least that will do is taken."""


def least_effort(recall_of: Callable[[int], float], target: float) -> tuple[int, float]:
    """Find the least effort that reaches a recall; or the greatest, if none does.

    More effort finds more, but for hundredths, so that a search by halves will do.

    Returns:
        The effort, and its recall.
    """
    low, high = 0, len(EFFORTS) - 1
    recalls = {high: recall_of(EFFORTS[high])}
    while low < high and recalls[high] >= target:
        middle = (low + high) // 2
        recalls[middle] = recall_of(EFFORTS[middle])
        if recalls[middle] >= target:
            high = middle
        else:
            low = middle + 1
    return EFFORTS[high], recalls[high]


@dataclass(frozen=True, slots=True)
class Figure:
    """A rate over several rounds.

    Attributes:
        name: What was measured.
        rates: Operations a second of each round.
        recall: recall@10, if it is a search.
        latencies_s: Of single calls, if they were timed one by one.
    """

    name: str
    rates: Sequence[float]
    recall: float | None = None
    latencies_s: Sequence[float] = ()

    @property
    def median(self) -> float:
        """The median rate."""
        return statistics.median(self.rates)

    def ratio_to(self, other: Figure) -> tuple[float, float, float]:
        """Median, lowest and highest ratio of the rounds, pair by pair."""
        ratios = [a / b for a, b in zip(self.rates, other.rates, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def interleaved(variants: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Run each variant in turn, `rounds` times, after one turn that is not counted.

    A variant gives the number of operations it did.

    Returns:
        Operations a second, by variant, one for each round.
    """
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            operations = run()
            elapsed_s = time.perf_counter() - began
            if turn:
                rates[name].append(operations / elapsed_s)
    return rates


ROUNDS_OF_TURNS: Final = 5
"""Turns of single calls are told as so many rounds, each the median of its part."""


def rounds_of(turns: Sequence[float], rounds: int = ROUNDS_OF_TURNS) -> list[Sequence[float]]:
    """Cut turns that followed each other into rounds of equal length, or one length nearly."""
    count = min(rounds, len(turns))
    ends = [len(turns) * part // count for part in range(count + 1)]
    return [turns[first:last] for first, last in itertools.pairwise(ends)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def without_indexes() -> Iterator[None]:
    """Let the shards of this process use no index."""
    from shoal_worker.indexes import Indexes

    uncovered = Indexes.uncovered
    Indexes.uncovered = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Indexes.uncovered = uncovered  # type: ignore[method-assign]
