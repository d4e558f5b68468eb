"""The log of slow calls: one event for each call that took longer than a threshold.

An event tells what an operator needs to see why: the request's ID, which all processes on its way
log, the method, how long it took and how it ended, and what the role knows besides (the plan of a
query, with the times of its stages). Never what is in a request: no vector, document, metadata,
filter operand, or key. At most ten a second are written, and the next says how many were not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from shoal.server import logs, metrics

__all__ = ["SLOW_CALLS", "SlowCalls"]

_log: Final = logs.get_logger("shoal.slow")

_MOST_A_SECOND: Final = 10.0

_counter: Final = metrics.counter(
    "shoal_server_slow_calls", "Calls that took longer than slow_call_s."
)


class SlowCalls:
    """Decides which calls are slow, and logs them at a bounded rate.

    Args:
        threshold_s: A call that takes at least so long is slow; 0: none is.
        clock: Monotonic, seconds.
    """

    def __init__(
        self, threshold_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._tokens = _MOST_A_SECOND
        self._filled_at = clock()
        self._suppressed = 0
        self.threshold_s = threshold_s or float("inf")

    def configure(self, threshold_s: float) -> None:
        """Set the threshold; 0 for none."""
        self.threshold_s = threshold_s or float("inf")

    def note(self, event: str, **facts: Any) -> None:
        """Log a slow call, unless too many are.

        Args:
            event: What was slow.
            facts: See the module.
        """
        _counter.inc()
        now = self._clock()
        self._tokens = min(_MOST_A_SECOND, self._tokens + (now - self._filled_at) * _MOST_A_SECOND)
        self._filled_at = now
        if self._tokens < 1:
            self._suppressed += 1
            return
        self._tokens -= 1
        if self._suppressed:
            facts["not_logged_before"] = self._suppressed
            self._suppressed = 0
        _log.warning(event, **facts)


SLOW_CALLS: Final = SlowCalls()
"""Of this process; its threshold is set when a role's settings are known."""
