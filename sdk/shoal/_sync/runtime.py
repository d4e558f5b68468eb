"""What threads and asyncio do differently: where a channel may live, waiting, taking turns.

Written by hand for both clients, with the same names; everything else of this package is generated.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from shoal._embedded import Store

Result = TypeVar("Result")

Given = TypeVar("Given")

Ask: TypeAlias = Callable[[Given], Result]
"""A call that is made with what is given."""

Mutex = threading.Lock
"""Lets one at a time change something without waiting."""

Place = tuple[int, int]
"""Where a channel may be used: it does not survive a fork."""


CLOSED = (ValueError,)
"""What gRPC raises in a call whose channel is closed under it, and perhaps for other reasons."""


def is_of_closed_channel(error: BaseException) -> bool:
    """Whether one of `CLOSED` says so; gRPC has no class for it."""
    return "closed" in str(error)


def current_place() -> Place:
    """Return the place in which this call runs."""
    return os.getpid(), 0


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def in_thread(function: Callable[[], Result]) -> Result:
    """Run what blocks: here, where nothing else waits for this thread."""
    return function()


def call_store(store: Store, service: str, method: str, request: bytes, timeout_s: float) -> bytes:
    """Call a store in this process."""
    return store.call(service, method, request, timeout_s)


class Signal:
    """Given once, to one who waits for it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        # Held until the signal is given: a lock costs a tenth of an event.
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Give it."""
        self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait for it, and say whether it came; may be waited for again if not."""
        return self._lock.acquire(timeout=max(timeout_s, 0.0))
