"""Calls between processes, and the same calls within one.

A service is a plain object with one async method for each RPC, named in snake case::

    async def search_shards(self, request: SearchShardsRequest, context: CallContext)
        -> SearchShardsResponse
    async def watch_table(self, requests: AsyncIterator[WatchTableRequest], context: CallContext)
        -> AsyncIterator[WatchTableResponse]            # an async generator

It raises `ShoalError`. `add_service` puts it behind a gRPC server and `local_stub` gives it the
shape of a generated stub; `call` and `stream` take either, so that a caller does not know whether
the other role is in its process. Messages that are passed within a process are shared, not copied:
neither side changes one after it was passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from shoal.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
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
_Metadata = Iterable[tuple[str, str | bytes]]

_MAX_DETAILS_CHARACTERS: Final = 1_000
"""Of a status' message, which travels in a header."""


# Serving


def add_service(
    target: grpc.aio.Server,
    full_name: str,
    instance: object,
    *,
    admission: Admission | None = None,
    cost: Cost | None = None,
    default_timeout_s: float = DEFAULT_LIMITS.default_timeout_s,
    max_request_bytes: int | None = None,
    guard: Guard | None = None,
    receiving: Receiving | None = None,
) -> None:
    """Let a server answer a service's calls by an object's methods.

    Args:
        target: Not started yet.
        full_name: For example ``shoal.v1.RecordService``.
        instance: See the module.
        admission: Decides how much is taken on; one for several services of a server.
        cost: Weighs calls for it; None: all alike.
        default_timeout_s: Deadline of a unary call that sets none.
        max_request_bytes: A larger request is INVALID_ARGUMENT; None: the transport's limit alone.
        guard: Decides which calls are answered; None: all.
        receiving: Bounds the requests on their way to guarded services; one for several services of
            a server.

    Raises:
        TypeError: The object lacks a method.
    """
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    methods = [
        BoundMethod(
            descriptor,
            instance,
            admission=admission,
            cost=cost,
            max_request_bytes=max_request_bytes,
            guard=guard,
        )
        for descriptor in find_service(full_name).methods
    ]
    if guard is not None:
        receiving = receiving or Receiving(default_timeout_s)
        guarded = _GuardedHandlers(methods, default_timeout_s, receiving)
        target.add_generic_rpc_handlers((guarded,))
        return
    for method in methods:
        # Requests arrive as bytes: a message that cannot be parsed is then our error, with our
        # reason, and not an exception somewhere inside gRPC.
        handlers[method.name] = (
            grpc.stream_stream_rpc_method_handler(_stream_handler(method))
            if method.is_stream
            else grpc.unary_unary_rpc_method_handler(_unary_handler(method, default_timeout_s))
        )
    target.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(full_name, handlers),))


class _GuardedHandlers(grpc.GenericRpcHandler):
    """Handlers of unary methods with a guard, which decides before a request is received.

    gRPC asks for a handler as soon as it has a call's metadata. One who is refused gets a handler
    that never takes the request: else anybody could fill the memory with requests that are of the
    size that is allowed, without a key.
    """

    def __init__(
        self, methods: Iterable[BoundMethod], default_timeout_s: float, receiving: Receiving
    ) -> None:
        self._methods = {f"/{method.full_name}": method for method in methods}
        self._default_timeout_s = default_timeout_s
        self._receiving = receiving

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        call = Call(math.inf, handler_call_details.invocation_metadata or ())
        try:
            method.admit(call)
        except ShoalError as error:
            return grpc.stream_stream_rpc_method_handler(_refusal(error, call.request_id))
        return grpc.stream_unary_rpc_method_handler(self._receiving_handler(method, call))

    def _receiving_handler(self, method: BoundMethod, call: Call) -> Any:
        """Receive the request by our own hand: gRPC would wait for it without an end."""

        async def handle(
            _raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
        ) -> bytes:
            try:
                raw = await self._receiving.read(context)
                if raw is grpc.aio.EOF:
                    raise InvalidArgumentError(f"the call of {method.full_name} has no request")
            except ShoalError as error:
                method.refuse(error, call)
                return await _abort(context, error, call.request_id)
            call.begin(_timeout_s(context, self._default_timeout_s))
            return await _answered(method, raw, call, context, is_admitted=True)

        return handle


def _refusal(error: ShoalError, request_id: str) -> Any:
    async def handle(
        _raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        _set_status(context, error, request_id)
        return
        # Makes it a stream, whose requests are taken only when they are asked for.
        yield b""  # type: ignore[unreachable]

    return handle


def _unary_handler(method: BoundMethod, default_timeout_s: float) -> Any:
    async def handle(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        timeout_s = _timeout_s(context, default_timeout_s)
        received = Call(timeout_s, context.invocation_metadata() or ())
        return await _answered(method, raw, received, context)

    return handle


async def _answered(
    method: BoundMethod,
    raw: bytes,
    received: Call,
    context: grpc.aio.ServicerContext[Any, Any],
    *,
    is_admitted: bool = False,
) -> bytes:
    try:
        answer = await method.answer_bytes(raw, received, is_admitted=is_admitted)
    except ShoalError as error:
        return await _abort(context, error, received.request_id)
    context.set_trailing_metadata(((REQUEST_ID_KEY, received.request_id),))
    return answer


def _timeout_s(context: grpc.aio.ServicerContext[Any, Any], default_timeout_s: float) -> float:
    left = _time_remaining(context)
    return default_timeout_s if left is None else left


def _time_remaining(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds until the client's deadline; None if it set none, which gRPC's types do not say."""
    return context.time_remaining()


def _stream_handler(method: BoundMethod) -> Any:
    async def handle(
        raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        left = _time_remaining(context)
        received = Call(math.inf if left is None else left, context.invocation_metadata() or ())

        try:
            async with contextlib.aclosing(method.answers_bytes(raws, received)) as answers:
                async for answer in answers:
                    yield answer
        except ShoalError as error:
            _set_status(context, error, received.request_id)
        else:
            context.set_trailing_metadata(((REQUEST_ID_KEY, received.request_id),))

    return handle


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], error: ShoalError, request_id: str
) -> NoReturn:
    """End a unary call with an error.

    Not by setting its status and returning: gRPC would send an empty answer before it, and clients
    repeat no call of which they have received anything, whatever their service config says.
    """
    await context.abort(
        grpc.StatusCode[error.code],
        error.message[:_MAX_DETAILS_CHARACTERS],
        _trailers(error, request_id),
    )


def _set_status(
    context: grpc.aio.ServicerContext[Any, Any], error: ShoalError, request_id: str
) -> None:
    context.set_code(grpc.StatusCode[error.code])
    context.set_details(error.message[:_MAX_DETAILS_CHARACTERS])
    context.set_trailing_metadata(_trailers(error, request_id))


def _trailers(error: ShoalError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    return (REQUEST_ID_KEY, request_id), (status.TRAILER, status.encode(error))


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
        local: object = method
        if isinstance(local, _LocalUnary):
            here = Call(timeout_s, metadata, request_id)
            return cast("_Response", await local.answer(request, here))
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
        self._method = method
        self._default_timeout_s = default_timeout_s

    async def __call__(
        self, request: Message, *, timeout: float | None = None, metadata: _Metadata | None = None
    ) -> Message:
        timeout_s = self._default_timeout_s if timeout is None else timeout
        return await self.answer(request, Call(timeout_s, metadata or ()))

    async def answer(self, request: Message, call: Call) -> Message:
        return await self._method.answer(request, call)


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

    async def answer_bytes(
        self, method: str, request: bytes, timeout_s: float, metadata: _Metadata = ()
    ) -> bytes:
        """Answer a serialised request by a serialised answer; of a unary method.

        Raises:
            ShoalError: As the method does.
        """
        return await self._methods[method].answer_bytes(request, Call(timeout_s, metadata))


def local_stub(full_name: str, instance: object) -> Any:
    """Give a service object in this process the shape of its generated async stub."""
    return LocalService(full_name, instance)
