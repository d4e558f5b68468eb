"""How commands show work that goes on on the server: one line, written over, for people only."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypeVar

from shoal.errors import DeadlineExceededError, FailedPreconditionError, UnavailableError
from shoal.v1 import snapshot_service_pb2 as api

__all__ = ["ProgressLine", "finished", "progress_line", "taken"]

_POLL_S: Final = 0.5
_PATIENCE_S: Final = 120.0
"""So long the server may be away while something is waited for: a coordinator that is restarted."""


class _Taken(Protocol):
    """A snapshot or backup."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> api.SnapshotStatus.ValueType: ...
    @property
    def failure(self) -> str: ...
    @property
    def vector_count(self) -> int: ...


class _Answer(Protocol):
    """An answer that may come before the end."""

    @property
    def done(self) -> bool: ...
    @property
    def restored_count(self) -> int: ...
    @property
    def total_count(self) -> int: ...


_Result = TypeVar("_Result")
_TakenT = TypeVar("_TakenT", bound=_Taken)
_AnswerT = TypeVar("_AnswerT", bound=_Answer)

ProgressLine = Callable[[str], None]


@contextlib.asynccontextmanager
async def progress_line() -> AsyncIterator[ProgressLine]:
    """Give what shows a text in the last line of a terminal, and clears it in the end."""
    is_terminal = sys.stderr.isatty()
    width = 0

    def show(text: str) -> None:
        nonlocal width
        if is_terminal:
            print(f"\r{text.ljust(width)}", end="", file=sys.stderr, flush=True)
            width = len(text)

    try:
        yield show
    finally:
        if width:
            show("")
            print("\r", end="", file=sys.stderr, flush=True)


async def taken(
    what: str, describe: Callable[[], Awaitable[_TakenT]], show: ProgressLine
) -> _TakenT:
    """Wait until a snapshot or backup is ready, and give it.

    Raises:
        FailedPreconditionError: It failed, or was deleted.
        ShoalError: The server was away for too long.
    """
    while True:
        found = await _patiently(describe)
        if found.status == api.SNAPSHOT_STATUS_READY:
            return found
        if found.status != api.SNAPSHOT_STATUS_INITIALIZING:
            raise FailedPreconditionError(
                f"{what} {found.name!r} failed: {found.failure or 'it was deleted'}"
            )
        show(f"{what} {found.name}: copying {found.vector_count:,} records")
        await asyncio.sleep(_POLL_S)


async def finished(
    what: str, send: Callable[[], Awaitable[_AnswerT]], show: ProgressLine
) -> _AnswerT:
    """Send a request that names its operation until that is done, and give the last answer.

    Raises:
        ShoalError: It failed, or the server was away for too long.
    """
    while True:
        answer = await _patiently(send)
        if answer.done:
            return answer
        show(f"{what}: {answer.restored_count:,} of {answer.total_count:,} records")


async def _patiently(ask: Callable[[], Awaitable[_Result]]) -> _Result:
    give_up_at = asyncio.get_running_loop().time() + _PATIENCE_S
    while True:
        try:
            return await ask()
        except (UnavailableError, DeadlineExceededError):
            if asyncio.get_running_loop().time() > give_up_at:
                raise
        await asyncio.sleep(_POLL_S)
