"""What threads and asyncio do differently: where a channel may live, and waiting.

Written by hand for both clients, with the same names; everything else of this package is generated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from shoal._embedded import Store

Result = TypeVar("Result")

Place = tuple[int, int]
"""Where a channel may be used: it does not survive a fork."""


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
