"""Equal recall, rounds and percentiles: what all measurements of searches need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
