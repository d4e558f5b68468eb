"""Operations that outlast a call: each call waits some seconds, and the next one waits on."""

from __future__ import annotations

import secrets
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from shoal._async.session import AsyncSession
from shoal._methods import Method
from shoal._progress import Progress

_OPERATION_ID_BYTES = 16


class _Answer(Protocol):
    """An answer that may come before the end."""

    @property
    def done(self) -> bool: ...
    @property
    def restored_count(self) -> int: ...
    @property
    def total_count(self) -> int: ...


_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


def new_operation_id() -> bytes:
    """Name an operation, so that its request can be repeated."""
    return secrets.token_bytes(_OPERATION_ID_BYTES)


async def finish(
    session: AsyncSession,
    method: Method[_Request, _Response],
    request: _Request,
    title: str,
    *,
    progress: bool,
) -> _Response:
    """Send a request until what it asks for is done, as long as that takes.

    Args:
        session: Whose timeout is that of each call.
        method: Whose answers say how far it is.
        request: Names its operation.
        title: Of the progress bar.
        progress: Whether to show one.

    Raises:
        ShoalError: It failed, or the server cannot be reached.
    """
    shown_count = 0
    with Progress(progress, None, title) as bar:
        while True:
            response = await session.call(method, request)
            answer: _Answer = response  # type: ignore[assignment]
            bar.expect(answer.total_count)
            bar.advance(answer.restored_count - shown_count)
            shown_count = answer.restored_count
            if answer.done:
                return response
