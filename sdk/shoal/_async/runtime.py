"""What asyncio and threads do differently: where a channel may live, and waiting.

Written by hand for both clients, with the same names; everything else of the blocking client is
generated from the asyncio one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from shoal._embedded import Store

Result = TypeVar("Result")

Place = tuple[int, int]
"""Where a channel may be used: it does not survive a fork, nor work on another event loop."""


def current_place() -> Place:
    """Return the place in which this coroutine runs."""
    return os.getpid(), id(asyncio.get_running_loop())


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def in_thread(function: Callable[[], Result]) -> Result:
    """Run what blocks (a model, the embedded store) without holding up the event loop."""
    return await asyncio.to_thread(function)


async def call_store(
    store: Store, service: str, method: str, request: bytes, timeout_s: float
) -> bytes:
    """Call a store in this process."""
    return await store.call_async(service, method, request, timeout_s)
