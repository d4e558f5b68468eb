"""Calls between processes, and the same calls within one.

A service is a plain object with one async method for each RPC, named in snake case::

    async def search_shards(self, request: SearchShardsRequest, context: CallContext)
        -> SearchShardsResponse
    async def watch_table(self, requests: AsyncIterator[WatchTableRequest], context: CallContext)
        -> AsyncIterator[WatchTableResponse]            # an async generator

It raises `ShoalError`. `add_service` puts it behind a gRPC server and `local_stub`
gives it the shape of a generated stub; `call` and `stream` take either, so that a caller does not
know whether the other role is in its process. Messages that are passed within a process are shared,
not copied: neither side changes one after it was passed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from shoal.errors import (
    DeadlineExceededError,
    ShoalError,
    UnavailableError,
)
from shoal.server import tracing
from shoal.server.admission import Admission
from shoal.server.calls import (
    REQUEST_ID_KEY,
    Call,
    CallContext,
    context_for,
    current_request_id,
)
from shoal.server.methods import MAX_MESSAGE_BYTES, BoundMethod, Cost, Guard, find_service
from shoal.server.receiving import Receiving
from shoal.server.serving import add_service
from shoal.server.transport import bind, channel, server
from shoal.wire import status
from shoal.wire.limits import DEFAULT_LIMITS

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Admission",
    "CallContext",
    "Cost",
    "Guard",
    "LocalService",
    "Receiving",
    "add_service",
    "bind",
    "call",
    "channel",
    "context_for",
    "local_stub",
    "server",
    "stream",
]

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Metadata = Collection[tuple[str, str | bytes]]


# Calling


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
    request: _Request,
    *,
    timeout_s: float,
    metadata: Sequence[tuple[str, str]] = (),
) -> _Response:
    """Call a unary method, and raise what it raised there.

    The ID of the request that this task works for goes along.

    Args:
        method: Of a generated aio stub, or of `local_stub`.
        request: Not changed afterwards by either side.
        timeout_s: What is left of the caller's deadline.
        metadata: Further gRPC metadata.

    Raises:
        ShoalError: Of the class that the other side raised. `UnavailableError` if it cannot be
            reached and `DeadlineExceededError` if it did not answer in time, with
            ``metadata["address"]``; in both cases the outcome of a write is unknown.
    """
    address = getattr(method, "address", "this process")
    if timeout_s <= 0:
        raise DeadlineExceededError("the deadline has passed before the call was made")
    request_id = current_request_id.get()
    try:
        local: Any = method
        if isinstance(local, _LocalUnary):
            answer: _Response = await local.answer(request, Call(timeout_s, metadata, request_id))
            return answer
        if request_id is not None:
            metadata = (*metadata, (REQUEST_ID_KEY, request_id))
        active = tracing.active()
        if active is not None:
            return await _traced(active, method, request, timeout_s, metadata)
        return await _uncancelled(method(request, timeout=timeout_s, metadata=tuple(metadata)))
    except grpc.aio.AioRpcError as error:
        raise _decoded(error, address, timeout_s) from None
    except grpc.aio.UsageError:
        raise UnavailableError(
            f"the channel to {address} is closed", metadata={"address": address}
        ) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling() == 0:
            # Not we were cancelled: the channel was closed under the call.
            raise UnavailableError(
                f"the channel to {address} was closed during the call",
                metadata={"address": address},
            ) from None
        raise


async def _traced(
    active: tracing.Tracing,
    method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
    request: _Request,
    timeout_s: float,
    metadata: Sequence[tuple[str, str]],
) -> _Response:
    """Make a call with a span, which the other side joins."""
    address = getattr(method, "address", "")
    span, carried = active.of_request(getattr(method, "full_name", "call"), address)
    code = "CANCELLED"
    try:
        answer = await _uncancelled(
            method(request, timeout=timeout_s, metadata=(*metadata, *carried))
        )
        code = "OK"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        raise
    finally:
        active.finish(span, code, None if code == "OK" else code)
    return answer


async def _uncancelled(answer: Awaitable[_Response]) -> _Response:
    """Wait for a gRPC call without cancelling it if the caller is cancelled.

    A call that is cancelled while its answer is awaited leaves 0.8 KB behind for ever, and a torn
    heap of ten times that (measured with grpcio 1.85). It has a deadline, and its answer is mostly
    on its way: it ends by itself.
    """

    async def wait() -> _Response:
        return await answer

    waiting = asyncio.ensure_future(wait())
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        # Whatever becomes of it, nobody wants to know.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def stream(
    method: grpc.aio.StreamStreamMultiCallable[_Request, _Response],
    requests: AsyncIterator[_Request],
    *,
    address: str = "the other process",
) -> AsyncIterator[_Response]:
    """Open a stream, and raise what it raised there. Ends when either side ends.

    Args:
        method: Of a generated aio stub, or of `local_stub`.
        requests: Consumed by a task of its own.
        address: For messages.
    """
    answers = method(requests)
    try:
        async for answer in answers:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise _decoded(error, address, math.inf) from None
    except grpc.aio.UsageError:
        raise UnavailableError(
            f"the channel to {address} is closed", metadata={"address": address}
        ) from None
    finally:
        answers.cancel()


def _decoded(error: grpc.aio.AioRpcError, address: str, timeout_s: float) -> ShoalError:
    code = error.code().name
    trailer = next((v for k, v in error.trailing_metadata() or () if k == status.TRAILER), None)
    message = error.details() or code
    if trailer is None and code == "UNAVAILABLE":
        message = f"{address} cannot be reached: {message}"
    elif trailer is None and code == "CANCELLED":
        # By the other side, which stops or sheds: `call` never cancels.
        code, message = "UNAVAILABLE", f"{address} broke the call off: {message}"
    elif trailer is None and code == "DEADLINE_EXCEEDED":
        message = f"no answer from {address} within {timeout_s:.3g} s"
    decoded = status.decode(code, message, cast("bytes | None", trailer))
    if trailer is None:
        decoded.metadata["address"] = address
    return decoded


# Within the process


class _LocalUnary:
    def __init__(self, method: BoundMethod, default_timeout_s: float) -> None:
        # Answers with the message that this method answers with, which no type says.
        self.answer: Callable[[Message, Call], Awaitable[Any]] = method.answer
        self._default_timeout_s = default_timeout_s

    async def __call__(
        self, request: Message, *, timeout: float | None = None, metadata: _Metadata | None = None
    ) -> Message:
        timeout_s = self._default_timeout_s if timeout is None else timeout
        answer: Message = await self.answer(request, Call(timeout_s, metadata or ()))
        return answer


class _LocalStreamCall:
    """The part of a grpc.aio.StreamStreamCall that `stream` uses."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers

    def __aiter__(self) -> AsyncIterator[Message]:
        return cast("AsyncIterator[Message]", self._answers)

    def cancel(self) -> bool:
        """Nothing is left to do: whoever iterates closes the generator."""
        return False


class _LocalStream:
    def __init__(self, method: BoundMethod) -> None:
        self._method = method

    def __call__(
        self, requests: AsyncIterator[Message], *, metadata: _Metadata | None = None
    ) -> _LocalStreamCall:
        return _LocalStreamCall(self._method.answers(requests, Call(math.inf, metadata or ())))


class LocalService:
    """A service object in this process, in the shape of a generated async stub.

    Args:
        full_name: Of the service.
        instance: As for `add_service`.
        default_timeout_s: Deadline of a unary call that sets none.
        admission: Decides how much is taken on; None: everything.
        guard: Decides which calls are answered; None: all.
    """

    def __init__(
        self,
        full_name: str,
        instance: object,
        *,
        default_timeout_s: float = DEFAULT_LIMITS.default_timeout_s,
        admission: Admission | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._default_timeout_s = default_timeout_s
        self._methods = {}
        for descriptor in find_service(full_name).methods:
            method = BoundMethod(descriptor, instance, admission=admission, guard=guard)
            self._methods[descriptor.name] = method
            setattr(
                self,
                descriptor.name,
                _LocalStream(method)
                if method.is_stream
                else _LocalUnary(method, default_timeout_s),
            )

    def answer_bytes(
        self, method: str, request: bytes, timeout_s: float, metadata: _Metadata = ()
    ) -> Coroutine[Any, Any, bytes]:
        """Answer a serialised request by a serialised answer; of a unary method.

        Raises:
            ShoalError: As the method does.
        """
        return self._methods[method].answer_bytes(request, Call(timeout_s, metadata))


def local_stub(full_name: str, instance: object) -> Any:
    """Give a service object in this process the shape of its generated async stub."""
    return LocalService(full_name, instance)
