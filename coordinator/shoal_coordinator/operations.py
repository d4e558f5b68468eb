"""Long work that a client waits for by repeating its request.

A request that names its operation is answered when the work has ended, or after some seconds
without a result; the same request then waits on. So no call is open for hours, and one that was cut
off is taken up again. How it ended is remembered for a while.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from shoal.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.server import logs

_log = logs.get_logger(__name__)

_Result = TypeVar("_Result")

ANSWER_S: Final = 5.0
"""After so long a request is answered, whether or not its work has ended."""

ANSWER_SHARE: Final = 0.8
"""Of the caller's remaining time: the answer must still reach it."""

REMEMBERED_S: Final = 600.0
"""For so long it is known how an operation ended."""

MAX_BEGINNINGS: Final = 3
"""After so many failures whose reason might have passed, the last one is what a repetition gets: a
client that repeats without end, as it should, must not keep a sick cluster busy for ever."""

MAX_UNDER_WAY: Final = 64
MAX_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class Progress:
    """How far an operation has come.

    Attributes:
        done_count: Records.
        total_count: Records in all, as soon as that is known.
        collection_count: Collections that are whole.
    """

    done_count: int = 0
    total_count: int = 0
    collection_count: int = 0


class Operation(Generic[_Result]):
    """One that was begun.

    Attributes:
        progress: As of now.
        beginning: Which beginning of it this is, from 1.
    """

    def __init__(self, digest: bytes, beginning: int) -> None:
        self.digest = digest
        self.beginning = beginning
        self.progress = Progress()
        self.ended_at_s: float | None = None
        self.task: asyncio.Task[_Result]

    @property
    def may_succeed_later(self) -> bool:
        """Whether it has failed for a reason that may have passed: a repetition begins it anew."""
        return (
            self.beginning < MAX_BEGINNINGS
            and self.task.done()
            and not self.task.cancelled()
            and isinstance(self.task.exception(), UnavailableError | DeadlineExceededError)
        )

    async def result(self, timeout_s: float | None) -> _Result | None:
        """Give the result, or None if the time runs out before.

        Raises:
            ShoalError: The operation failed.
        """
        await asyncio.wait([self.task], timeout=timeout_s)
        return await self.task if self.task.done() else None


class Operations:
    """Begins operations, and finds them again."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Operation[Any]] = {}

    async def run(
        self,
        operation_id: bytes,
        digest: bytes,
        work: Callable[[bytes, Progress], Coroutine[Any, Any, _Result]],
        time_remaining_s: float,
    ) -> tuple[_Result | None, Progress]:
        """Begin an operation, or take up the one of this ID, and wait a while for its end.

        It goes on whether or not somebody waits.

        Args:
            operation_id: Empty: nobody can take it up, and it is waited for to the end.
            digest: Of all that the request says; the same ID with another one is refused.
            work: Gets the operation's ID, which is never empty.
            time_remaining_s: Of the caller.

        Returns:
            What came of it, or None if it goes on; and how far it is.

        Raises:
            InvalidArgumentError: The ID was given to another request.
            OverloadedError: Too many are under way.
            ShoalError: It failed.
        """
        self._forget()
        known = self._by_id.get(operation_id) if operation_id else None
        beginning = 1
        if known is not None and known.may_succeed_later and known.digest == digest:
            beginning = known.beginning + 1
            known = None
        if known is None:
            own_id = operation_id or secrets.token_bytes(16)
            known = self._begin(own_id, Operation(digest, beginning), work)
        elif known.digest != digest:
            raise InvalidArgumentError(
                "operation_id was given to another request: use a new one for each operation"
            )
        wait_s = min(ANSWER_S, ANSWER_SHARE * time_remaining_s) if operation_id else None
        return await known.result(wait_s), known.progress

    async def close(self) -> None:
        """Break off what is under way; the next start clears up after it."""
        tasks = [operation.task for operation in self._by_id.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(
        self,
        operation_id: bytes,
        operation: Operation[_Result],
        work: Callable[[bytes, Progress], Coroutine[Any, Any, _Result]],
    ) -> Operation[_Result]:
        under_way = sum(known.ended_at_s is None for known in self._by_id.values())
        if under_way >= MAX_UNDER_WAY:
            raise OverloadedError(
                f"{MAX_UNDER_WAY} restorations and clones are under way already; repeat later",
                metadata={"limit": "MAX_UNDER_WAY", "value": str(MAX_UNDER_WAY)},
            )
        operation.task = asyncio.create_task(work(operation_id, operation.progress))
        operation.task.add_done_callback(lambda task: self._ended(operation, task))
        self._by_id[operation_id] = operation
        return operation

    def _ended(self, operation: Operation[Any], task: asyncio.Task[Any]) -> None:
        operation.ended_at_s = time.monotonic()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, ShoalError):
            _log.error("operation_failed", error=repr(error))

    def _forget(self) -> None:
        """Forget what ended long ago; the oldest of too many as well."""
        horizon = time.monotonic() - REMEMBERED_S
        ended = [
            (operation.ended_at_s, operation_id)
            for operation_id, operation in self._by_id.items()
            if operation.ended_at_s is not None
        ]
        ended.sort()
        excess = len(ended) - MAX_REMEMBERED
        for position, (ended_at_s, operation_id) in enumerate(ended):
            if ended_at_s < horizon or position < excess:
                del self._by_id[operation_id]
