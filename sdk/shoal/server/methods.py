"""A method of a service, bound to the object that implements it.

Here is the one place where a failure becomes an answer: what service code raises as a `ShoalError`
passes as it is, anything else is logged with its request's ID and becomes INTERNAL without a word
of what happened inside. Also in one place: deadlines, metrics, request IDs. It knows nothing of
gRPC, so that a call within the process goes exactly the same way as one from a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from shoal.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    ShoalError,
)
from shoal.server import logs, tracing
from shoal.server.admission import Admission
from shoal.server.call_metrics import of_method
from shoal.server.calls import Call, current_request_id
from shoal.server.remainder import Remainder
from shoal.server.slow_calls import SLOW_CALLS
from shoal.wire.limits import DEFAULT_LIMITS

__all__ = ["MAX_MESSAGE_BYTES", "BoundMethod", "Cost", "Guard", "find_service"]

MAX_MESSAGE_BYTES: Final = DEFAULT_LIMITS.max_message_bytes + 4 * 1024 * 1024
"""What the transport takes. Above the limit that services enforce, so that a request a little too
large is told what the limit is, and a worker's answer has room for what it adds to the records."""

_log: Final = logs.get_logger("shoal.server")

_MODULES: Final = (
    "shoal.v1.admin_service_pb2",
    "shoal.v1.collection_service_pb2",
    "shoal.v1.record_service_pb2",
    "shoal.internal.v1.catalog_service_pb2",
    "shoal.internal.v1.membership_service_pb2",
    "shoal.internal.v1.routing_service_pb2",
    "shoal.internal.v1.worker_service_pb2",
)


def find_service(full_name: str) -> ServiceDescriptor:
    """Find a service by its full name, for example ``shoal.v1.RecordService``."""
    for module in _MODULES:
        importlib.import_module(module)  # puts it into the pool
    service: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(full_name)
    return service


_Encoded = TypeVar("_Encoded")

Cost: TypeAlias = Callable[[str, Message, int], float]
"""Gives the weight of a call by the method's full name, its request, and that one's bytes."""


class Guard(Protocol):
    """Decides which calls a service answers. Never waits."""

    def admit(self, method: str, call: Call) -> None:
        """Decide by the method's full name and what came with the call; before it is read.

        Raises:
            ShoalError: It is refused.
        """

    def check(self, method: str, request: Message, call: Call) -> None:
        """Decide by the request.

        Raises:
            ShoalError: It is refused.
        """


class BoundMethod:
    """One method of one service object.

    Args:
        descriptor: Of the method.
        instance: Has an async method named as the RPC in snake case.
        admission: Shared by services of a server; None: every call is taken on.
        cost: Weighs calls for it; None: all alike.
        max_request_bytes: A larger request is refused; None for no limit but the transport's.
        guard: Decides which calls are answered; None: all.

    Raises:
        TypeError: The instance does not implement it, or it is a stream, which has no guard.
    """

    def __init__(
        self,
        descriptor: MethodDescriptor,
        instance: object,
        *,
        admission: Admission | None = None,
        cost: Cost | None = None,
        max_request_bytes: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        service = descriptor.containing_service.full_name
        self.name = descriptor.name
        self.full_name = f"{service}/{descriptor.name}"
        self.is_stream = descriptor.client_streaming and descriptor.server_streaming
        if descriptor.client_streaming != descriptor.server_streaming:
            raise TypeError(f"{self.full_name} streams one way only, which nothing here does yet")
        self.request_class: type[Message] = message_factory.GetMessageClass(descriptor.input_type)
        self.response_class: type[Message] = message_factory.GetMessageClass(descriptor.output_type)
        function = getattr(instance, _snake_case(descriptor.name), None)
        if function is None:
            raise TypeError(
                f"{type(instance).__name__} does not implement {self.full_name}: "
                f"it has no method {_snake_case(descriptor.name)!r}"
            )
        self._function: Callable[..., Any] = function
        self._admission = admission
        self._cost = cost
        self._max_request_bytes = max_request_bytes
        if guard is not None and self.is_stream:
            raise TypeError(f"{self.full_name} is a stream, which no guard can check")
        self._guard = guard
        self._metrics = of_method(
            "bidi_stream" if self.is_stream else "unary", service, descriptor.name
        )

    def parse(self, raw: bytes) -> Message:
        """Decode a request.

        Raises:
            InvalidArgumentError: It is too large, or no such message.
        """
        if self._max_request_bytes is not None and len(raw) > self._max_request_bytes:
            raise InvalidArgumentError(
                f"the request is {len(raw)} bytes, more than max_message_bytes: "
                f"{self._max_request_bytes}; split it",
                metadata={"limit": "max_message_bytes", "value": str(self._max_request_bytes)},
            )
        try:
            return self.request_class.FromString(raw)
        except DecodeError:
            raise InvalidArgumentError(
                f"the request of {self.full_name} is not a serialised "
                f"{self.request_class.DESCRIPTOR.full_name}"
            ) from None

    def serialise(self, answer: Message) -> bytes:
        """Encode an answer.

        Raises:
            OverloadedError: The other end would not take it: it is too large.
        """
        raw = answer.SerializeToString()
        if len(raw) > MAX_MESSAGE_BYTES:
            raise OverloadedError(
                f"the answer of {self.full_name} would be {len(raw)} bytes, "
                f"more than the {MAX_MESSAGE_BYTES} that a message may have: ask for less",
                metadata={"limit": "max_answer_bytes", "value": str(MAX_MESSAGE_BYTES)},
            )
        return raw

    async def answer(self, request: Message, call: Call) -> Message:
        """Answer one request of the same process; of a unary method.

        Raises:
            ShoalError: Whatever went wrong.
        """
        self._begin(call)
        try:
            if self._guard is not None:
                self._guard.admit(self.full_name, call)
            if not isinstance(request, self.request_class):
                # Another message with the same bytes.
                request = self.parse(request.SerializeToString())
            if self._guard is not None:
                self._guard.check(self.full_name, request, call)
            if self._admission is None:
                answer = await self._bounded(request, call)
            else:
                with self._admission.enter():
                    answer = await self._bounded(request, call)
            if not isinstance(answer, self.response_class):
                answer = self.response_class.FromString(answer.SerializeToString())
        except BaseException as error:
            self._fail(call, error)
            raise
        self._end(call, "OK")
        return answer

    def admit(self, call: Call) -> None:
        """Decide by what came with a call, before its request is received.

        Raises:
            ShoalError: The guard refuses it, or the server has too much to do; which is counted as
                the answer that it is.
        """
        try:
            if self._guard is not None:
                self._guard.admit(self.full_name, call)
            if self._admission is not None:
                self._admission.check()
        except Exception as error:
            self._metrics.was_not_read()
            self._begin(call)
            self._fail(call, error)
            raise

    def refuse(self, error: ShoalError, call: Call) -> None:
        """Count an admitted call whose request does not come as the answer that it gets."""
        self._metrics.was_not_read()
        self._begin(call)
        self._fail(call, error)

    async def answer_bytes(self, request: bytes, call: Call, *, is_admitted: bool = False) -> bytes:
        """Answer one serialised request by a serialised answer; of a unary method.

        Args:
            request: Serialised.
            call: What came with it.
            is_admitted: Whether `admit` was asked.

        Raises:
            ShoalError: Whatever went wrong.
        """
        self._begin(call)
        place = None
        try:
            if self._admission is not None:
                call.time_remaining()  # it passed while the request was on its way: nobody waits
                place = self._admission.enter(len(request))
            if self._guard is not None and not is_admitted:
                self._guard.admit(self.full_name, call)
            message = self.parse(request)
            if self._guard is not None:
                self._guard.check(self.full_name, message, call)
            if place is not None and self._cost is not None:
                place.weigh(self._cost(self.full_name, message, len(request)))
            answer = self.serialise(await self._bounded(message, call))
        except BaseException as error:
            self._fail(call, error)
            raise
        finally:
            if place is not None:
                place.leave()
        self._end(call, "OK")
        return answer

    def answers(
        self, requests: AsyncIterator[Message], call: Call
    ) -> AsyncGenerator[Message, None]:
        """Answer a stream of requests; of a streaming method.

        A stream takes no place: it waits most of its life.
        """
        return self._stream(requests, call, _as_it_is)

    def answers_bytes(
        self, requests: AsyncIterator[bytes], call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Answer a stream of serialised requests by serialised answers."""

        async def parsed() -> AsyncIterator[Message]:
            async for request in requests:
                yield self.parse(request)

        return self._stream(parsed(), call, self.serialise)

    async def _stream(
        self, requests: AsyncIterator[Message], call: Call, encode: Callable[[Message], _Encoded]
    ) -> AsyncGenerator[_Encoded, None]:
        self._begin(call)
        try:
            async with contextlib.aclosing(
                self._function(self._counted(requests), call)
            ) as answers:
                async for answer in answers:
                    encoded = encode(answer)
                    self._metrics.sent()
                    yield encoded
        except BaseException as error:
            self._fail(call, error)
            raise
        self._end(call, "OK")

    async def _counted(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            self._metrics.received()
            yield request

    async def _bounded(self, request: Message, call: Call) -> Message:
        """Let the service answer, until the deadline."""
        call.time_remaining()  # above 0, or this is over
        token = current_request_id.set(call.request_id)
        coroutine = self._function(request, call)
        try:
            # Most calls within a process, and many others, never wait: they need no timer.
            waiting = coroutine.send(None)
        except StopIteration as end:
            answer = end.value
        else:
            answer = await self._bounded_rest(Remainder(coroutine, waiting), call)
        finally:
            current_request_id.reset(token)
        if not isinstance(answer, Message):
            raise TypeError(f"{self.full_name} answered with a {type(answer).__name__}")
        return answer

    async def _bounded_rest(self, rest: Remainder, call: Call) -> object:
        left = call.seconds_left
        bound = asyncio.timeout(None if left == math.inf else left)
        try:
            async with bound:
                return await rest
        except TimeoutError:
            if not bound.expired():
                raise
            call.cancel()
            raise DeadlineExceededError(
                f"{self.full_name} did not answer within the deadline of the call"
            ) from None

    # What surrounds the work on a call: `_begin`, then either `_end` or `_fail`. Not a context
    # manager, which takes four calls more for each call of a service.

    def _begin(self, call: Call) -> None:
        """Count and time a call from here."""
        self._metrics.began()
        active = tracing.active()
        if active is not None and not self.is_stream:  # which lasts, and is never slow
            begun = active.of_call(self.full_name, call.metadata, call.request_id)
            call.begun_span, call.span = begun, begun.span
        call.began = time.perf_counter()

    def _fail(self, call: Call, error: BaseException) -> None:
        """End a call with an error, and let none out but a `ShoalError` or a cancellation.

        Raises:
            InternalError: What the error becomes, if it is neither.
        """
        if isinstance(error, ShoalError):
            self._end(call, error.code, error.reason)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            call.cancel()
            self._end(call, "CANCELLED", "CANCELLED")
        elif isinstance(error, Exception):
            self._end(call, "INTERNAL", type(error).__name__)
            request_id = call.request_id
            _log.error("call_failed", method=self.full_name, request_id=request_id, exc_info=error)
            raise InternalError(
                f"internal error in {self.full_name}; "
                f"the server's log has it under request ID {request_id}",
                metadata={"request_id": request_id},
            ) from None
        else:
            self._end(call, "OK")

    def _end(self, call: Call, code: str, reason: str | None = None) -> None:
        seconds = time.perf_counter() - call.began
        self._metrics.ended(code, seconds)
        if seconds >= SLOW_CALLS.threshold_s and not self.is_stream:
            SLOW_CALLS.note(
                "call_was_slow",
                method=self.full_name,
                request_id=call.request_id,
                seconds=round(seconds, 4),
                code=code,
                **call.facts,
            )
        if call.begun_span is not None:
            begun, call.begun_span = call.begun_span, None
            active = tracing.active()
            if active is not None:
                active.finish(begun, code, reason)


def _as_it_is(answer: Message) -> Message:
    return answer


def _snake_case(name: str) -> str:
    """Turn ``SearchShards`` into ``search_shards``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")
