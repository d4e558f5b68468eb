"""What asyncio and threads do differently: where a channel may live, waiting, taking turns.

Written by hand for both clients, with the same names; everything else of the blocking client is
generated from the asyncio one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc.aio

if TYPE_CHECKING:
    from shoal._embedded import Store

Result = TypeVar("Result")

Given = TypeVar("Given")

Ask: TypeAlias = Callable[[Given], Awaitable[Result]]
"""A call that is made with what is given."""

Mutex = contextlib.nullcontext
"""Lets one at a time change something without waiting; which tasks do anyhow."""

Place = tuple[int, int]
"""Where a channel may be used: it does not survive a fork, nor work on another event loop."""


CLOSED = (asyncio.CancelledError, grpc.aio.UsageError)
"""What gRPC raises in a call whose channel is closed under it, and perhaps for other reasons."""


def is_of_closed_channel(error: BaseException) -> bool:
    """Whether one of `CLOSED` says so: the task itself was not cancelled."""
    task = asyncio.current_task()
    return isinstance(error, grpc.aio.UsageError) or task is None or task.cancelling() == 0


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


class Signal:
    """Given once, to one who waits for it."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """Give it."""
        self._future.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for it, and say whether it came; may be waited for again if not."""
        if not self._future.done():
            await asyncio.wait([self._future], timeout=max(timeout_s, 0.0))
        return self._future.done()
