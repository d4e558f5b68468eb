"""Requests on their way: each comes to its end in time, and few take long.

gRPC waits for the rest of a request without an end, and keeps what has come of it. How much that is
nobody is told. So what takes long to arrive is bounded by number: as many requests as, all of the
largest size, are what a server may have under way at all. A request of which the network brings the
rest at once is not counted, nor what has waited because the event loop was late.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

import grpc.aio

from shoal.errors import DeadlineExceededError, OverloadedError, ShoalError
from shoal.server.admission import MAX_REQUEST_BYTES, count_as_shed
from shoal.server.methods import MAX_MESSAGE_BYTES

__all__ = ["Receiving"]

_SWEEP_EVERY_S: Final = 1.0

_SLOW_AFTER_SWEEPS: Final = 2
"""Sweeps that have seen a request on its way make it a slow one: two to three seconds. By sweeps,
since between two of them the loop has looked at what had come: a clock would count the time that
the loop itself was late."""

_RETRY_AFTER_S: Final = 2.0


class Receiving:
    """Receives the requests of one server.

    Args:
        timeout_s: How long one may take.
        max_bytes: What the server may have under way; bounds how many slow ones there are.
    """

    def __init__(self, timeout_s: float, max_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._timeout_s = timeout_s
        self._most_slow = max(1, max_bytes // MAX_MESSAGE_BYTES)
        # By gRPC's task for each call, those that began first at the front: when, and after how
        # many sweeps. Without those that the sweep has ended.
        self._under_way: dict[asyncio.Task[Any], tuple[float, int]] = {}
        # Why the sweep has ended a call, until its task has been told.
        self._ended: dict[asyncio.Task[Any], ShoalError] = {}
        self._sweep_count = 0
        self._sweep_is_due = False

    @property
    def count(self) -> int:
        """Requests on their way."""
        return len(self._under_way)

    async def read(self, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Receive the request of a call; `grpc.aio.EOF` if it has none.

        Raises:
            DeadlineExceededError: It did not come to its end.
            OverloadedError: It takes long, as too many others do.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._under_way[task] = time.monotonic(), self._sweep_count
        if not self._sweep_is_due:
            self._sweep_is_due = True
            asyncio.get_running_loop().call_later(_SWEEP_EVERY_S, self._sweep)
        try:
            return await context.read()
        except asyncio.CancelledError:
            error = self._ended.pop(task, None)
            if error is None:
                raise
            task.uncancel()
            raise error from None
        finally:
            self._under_way.pop(task, None)

    def _sweep(self) -> None:
        """End calls whose request is on its way for too long, and those that are too many."""
        self._sweep_count += 1
        earliest = time.monotonic() - self._timeout_s
        for before, (task, (began, sweep_count)) in enumerate(list(self._under_way.items())):
            if began < earliest:
                self._end(task, DeadlineExceededError("the request did not come to its end"))
            elif self._sweep_count - sweep_count <= _SLOW_AFTER_SWEEPS:
                break  # and so are those that began later
            elif before >= self._most_slow:
                count_as_shed("bytes")
                self._end(
                    task,
                    OverloadedError(
                        f"{self._most_slow} requests before this one are slow to arrive, as many "
                        "as the server keeps room for: repeat later, or send smaller ones",
                        metadata={"limit": "slow_requests", "value": str(self._most_slow)},
                        retry_after_s=_RETRY_AFTER_S,
                    ),
                )
        self._sweep_is_due = bool(self._under_way)
        if self._sweep_is_due:
            asyncio.get_running_loop().call_later(_SWEEP_EVERY_S, self._sweep)

    def _end(self, task: asyncio.Task[Any], error: ShoalError) -> None:
        del self._under_way[task]
        self._ended[task] = error
        task.cancel()
