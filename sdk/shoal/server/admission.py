"""Which calls a server takes on, and which it turns away before they make all of them late.

A server that takes on more than it can do answers nobody in time: the queue grows, what comes out
of it is too late, and the work is lost. So what is under way is bounded three ways, and a call
beyond a bound is refused at once, with the time after which to come back:

- calls, and the bytes of their requests, because both take memory;
- the time that a call would wait. What is under way has a cost, and lately so much cost was done in
  a second: if what is ahead of a call would take longer than `MAX_WAIT_S`, it is refused. So the
  bound follows the machine, the size of the collections and what else is going on, and is nobody's
  to configure (Little's law; CoDel's idea of bounding time instead of length: Nichols & Jacobson
  2012). A few calls are always taken on, however long they take: batches of thousands of records
  wait for each other rightly.

Costs are weights: one is about what a query for ten matches costs. They need to be right only
relative to each other, and within a small factor.

Belongs to one event loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from shoal.errors import OverloadedError
from shoal.server import metrics

__all__ = ["MAX_REQUEST_BYTES", "MAX_WAIT_S", "Admission", "Place", "count_as_shed"]

MAX_WAIT_S: Final = 0.5
"""How long a call may have to wait for those before it. Much less would refuse bursts that are
served in a moment, much more would be noticed as a server that hangs."""

ALWAYS_ADMITTED: Final = 64
"""Calls that are taken on whatever they cost: as many as one batch to a worker gathers."""

MAX_REQUEST_BYTES: Final = 512 * 1024 * 1024
"""Bytes of the requests under way: eight of the largest. They take several times as much, decoded,
and while they wait for a disk."""

_WINDOW_S: Final = 0.25
"""Over which what was done is counted; two of them count half as much as the newest one."""

_STANDSTILL: Final = 1e-3
"""A rate below which nothing gets done."""

_LEAST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 2.0

_under_way: Final = metrics.gauge(
    "shoal_server_calls_under_way", "Calls that this process works on."
)
_bytes_under_way: Final = metrics.gauge(
    "shoal_server_request_bytes_under_way", "Bytes of the requests that this process works on."
)
_expected_wait: Final = metrics.gauge(
    "shoal_server_expected_wait_seconds",
    "How long what is under way would take at the rate at which work was done lately.",
)
_shed: Final = metrics.counter(
    "shoal_server_shed_calls",
    "Calls refused because the process has too much to do, by the bound: calls, bytes, or wait.",
    ("bound",),
)
_shed_for: Final = {bound: _shed.labels(bound) for bound in ("calls", "bytes", "wait")}


def count_as_shed(bound: str) -> None:
    """Count a call that is refused because of a bound: ``calls``, ``bytes`` or ``wait``."""
    _shed_for[bound].inc()


class Place:
    """What one call takes up while it is under way: within a `with` statement."""

    __slots__ = ("_admission", "cost", "size")

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self.cost = 1.0
        self.size = size

    def weigh(self, cost: float) -> None:
        """Say what the call costs, once that is known; 1 until then."""
        self._admission.cost += cost - self.cost
        self.cost = cost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Give it back, where that is not left to a `with` statement; once."""
        self._admission.leave(self)


class Admission:
    """Bounds what one server works on.

    Args:
        max_calls: At a time, at least 1.
        max_bytes: Of the requests under way. One request is always taken on.
        max_wait_s: See the module; None: calls are not refused for the time they would wait.
        clock: Monotonic, seconds.

    Attributes:
        cost: Of what is under way.
    """

    def __init__(
        self,
        max_calls: int,
        *,
        max_bytes: int = MAX_REQUEST_BYTES,
        max_wait_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._count = 0
        self._bytes = 0
        self.cost = 0.0
        # Cost done a second while there was something to do; None until that is known.
        self._rate: float | None = None
        self._done = 0.0  # in this window
        self._busy_s = 0.0  # in this window, until _busy_since
        self._busy_since = 0.0
        self._window_begin = clock()

    def publish(self) -> None:
        """Let the process's gauges tell of this one; read when they are scraped."""
        _under_way.set_function(lambda: float(self._count))
        _bytes_under_way.set_function(lambda: float(self._bytes))
        _expected_wait.set_function(self.expected_wait_s)

    @property
    def count(self) -> int:
        """Calls under way."""
        return self._count

    def expected_wait_s(self) -> float:
        """How long what is under way will take, at the rate of late."""
        if self._rate is None or not self._count:
            return 0.0
        return self.cost / self._rate if self._rate else math.inf

    def check(self) -> None:
        """Refuse a call of which nothing is known yet, if it could not be taken on.

        Raises:
            OverloadedError: Too much is under way.
        """
        if self._count >= self._max_calls:
            count_as_shed("calls")
            raise OverloadedError(
                f"the server works on {self._count} calls, which is its limit: "
                "repeat later, or raise max_concurrent_calls",
                metadata={"limit": "max_concurrent_calls", "value": str(self._max_calls)},
                retry_after_s=self._retry_after_s(),
            )
        if self._max_wait_s is None or self._count < ALWAYS_ADMITTED:
            return
        self._look_at_the_clock()
        wait_s = self.expected_wait_s()
        if wait_s > self._max_wait_s:
            count_as_shed("wait")
            raise OverloadedError(
                f"the server has {self._count} calls under way, which take {wait_s:.2g} s, of at "
                f"most {self._max_wait_s:g}: repeat later",
                metadata={"limit": "max_wait_s", "value": f"{self._max_wait_s:g}"},
                retry_after_s=self._retry_after_s(),
            )

    def enter(self, size: int = 0) -> Place:
        """Take a call on; its place is given back by `leave`, or at the end of its `with`.

        Args:
            size: Of its request, bytes.

        Raises:
            OverloadedError: Too much is under way.
        """
        self.check()
        if self._count and self._bytes + size > self._max_bytes:
            count_as_shed("bytes")
            raise OverloadedError(
                f"the server works on requests of {self._bytes} bytes, and at most "
                f"{self._max_bytes} at a time: repeat later, or send smaller ones",
                metadata={"limit": "max_request_bytes", "value": str(self._max_bytes)},
                retry_after_s=self._retry_after_s(),
            )
        if not self._count:
            self._busy_since = self._clock()
        self._count += 1
        self._bytes += size
        self.cost += 1.0
        return Place(self, size)

    def leave(self, place: Place) -> None:
        """Give a place back."""
        self._count -= 1
        self._bytes -= place.size
        self.cost -= place.cost
        self._done += place.cost
        if not self._count:
            self.cost = 0.0  # what rounding has left
            self._busy_s += self._clock() - self._busy_since
        self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        """Take what was done in a window that is over into the rate."""
        now = self._clock()
        if now - self._window_begin < _WINDOW_S:
            return
        self._window_begin = now
        if self._count:
            self._busy_s += now - self._busy_since
            self._busy_since = now
        if self._busy_s < _WINDOW_S / 10:
            return  # too little to say anything yet: it counts with what comes
        rate = self._done / self._busy_s
        self._rate = rate if self._rate is None else (self._rate + rate) / 2
        if self._rate < _STANDSTILL:
            self._rate = 0.0
        self._done = 0.0
        self._busy_s = 0.0

    def _retry_after_s(self) -> float:
        return min(_LONGEST_RETRY_S, max(_LEAST_RETRY_S, self.expected_wait_s()))
