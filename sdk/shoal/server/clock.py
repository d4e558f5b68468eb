"""The hybrid clock that gives ordinals: the order of insertion over all shards.

An ordinal is 64 bits: milliseconds since 1970 in the upper 42, a counter in the lower 22. It
rises with wall time, never falls when wall time does, and passes above every ordinal that the
process has seen, so that a write acknowledged to a client sorts before the client's next one
whichever gateways and workers the two go through (Kulkarni et al. 2014, "Logical Physical Clocks").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["COUNTER_BITS", "MAX_AHEAD_MS", "HybridClock", "wall_ms"]

COUNTER_BITS: Final = 22
"""Four million ordinals a millisecond before the clock runs ahead of wall time."""

MAX_AHEAD_MS: Final = 10_000
"""How far ahead of the own wall clock another's ordinal is believed, milliseconds.

One machine with a clock in the far future must not carry all the others with it.
"""


_NS_PER_MS: Final = 1_000_000


def wall_ms() -> int:
    """Give wall time, milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // _NS_PER_MS


class HybridClock:
    """Gives ordinals, rising, from several threads.

    Args:
        now_ms: Wall time, milliseconds since 1970-01-01 UTC; default: the machine's.
    """

    def __init__(self, now_ms: Callable[[], int] | None = None) -> None:
        # By default without a function of Python's: every query reads it five times.
        self._now_ns = time.time_ns if now_ms is None else (lambda: now_ms() * _NS_PER_MS)
        self._lock = threading.Lock()
        self._next = 1  # guarded by _lock: above every ordinal given or merged

    def reserve(self, count: int) -> int:
        """Reserve `count` ordinals that follow one another, and give the first."""
        with self._lock:
            first = max(self._next, self._now_ns() // _NS_PER_MS << COUNTER_BITS)
            self._next = first + count
            return first

    def merge(self, ordinal: int) -> bool:
        """Pass above another's ordinal.

        One that is more than `MAX_AHEAD_MS` ahead of wall time is not followed.

        Returns:
            Whether it was believed.
        """
        with self._lock:
            if ordinal < self._next:
                return True  # it was passed before
            if ordinal >> COUNTER_BITS > self._now_ns() // _NS_PER_MS + MAX_AHEAD_MS:
                return False
            self._next = ordinal + 1
        return True

    def believes(self, ordinal: int) -> bool:
        """Whether an ordinal is not too far ahead of wall time."""
        return ordinal >> COUNTER_BITS <= self._now_ns() // _NS_PER_MS + MAX_AHEAD_MS

    def now(self) -> int:
        """Give an ordinal that is above every one given or merged, without reserving it."""
        with self._lock:
            return max(self._next, self._now_ns() // _NS_PER_MS << COUNTER_BITS)
