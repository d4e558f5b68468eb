"""A service behind a gRPC server: how requests come in, how answers and errors go out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from shoal.errors import InvalidArgumentError, ShoalError
from shoal.server.admission import Admission
from shoal.server.calls import REQUEST_ID_KEY, Call
from shoal.server.methods import BoundMethod, Cost, Guard, find_service
from shoal.server.receiving import Receiving
from shoal.wire import status
from shoal.wire.limits import DEFAULT_LIMITS

__all__ = ["add_service"]

_MAX_DETAILS_CHARACTERS: Final = 1_000
"""Of a status' message, which travels in a header."""


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
        instance: See `shoal.server.rpc`.
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
