"""Asking the coordinator: the one way, and the words for when it does not answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import Message

from shoal.errors import DeadlineExceededError, UnavailableError
from shoal.server.rpc import CallContext, call
from shoal_gateway.deadlines import within

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["ASK_TIMEOUT_S", "ask"]

ASK_TIMEOUT_S: Final = 5.0
"""How long a question to the coordinator may take: it answers from memory, or it is in trouble."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


async def ask(
    method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
    request: _Request,
    context: CallContext,
    *,
    longest_s: float | None = None,
) -> _Response:
    """Call the coordinator.

    Args:
        method: Of its stub.
        request: What to ask.
        context: The caller's.
        longest_s: At most so long; None: as long as the caller waits.

    Raises:
        UnavailableError: It cannot be reached, or did not answer in `longest_s`.
        ShoalError: What it answered.
    """
    timeout_s = within(context.time_remaining())
    is_bounded = longest_s is not None and longest_s < timeout_s
    try:
        return await call(method, request, timeout_s=min(timeout_s, longest_s or timeout_s))
    except UnavailableError as error:
        if "address" not in error.metadata:
            raise  # the coordinator's own word
        raise UnavailableError(
            f"the coordinator cannot be reached: {error.message}", metadata=error.metadata
        ) from None
    except DeadlineExceededError as error:
        failure = UnavailableError if is_bounded else DeadlineExceededError
        raise failure(
            f"the coordinator did not answer in time: {error.message}", metadata=error.metadata
        ) from None
