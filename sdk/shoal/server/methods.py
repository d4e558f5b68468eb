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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

import structlog
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
from shoal.server import tracing
from shoal.server.admission import Admission, Place
from shoal.server.call_metrics import MethodMetrics, of_method
from shoal.server.calls import Call, current_request_id
from shoal.server.slow_calls import SLOW_CALLS
from shoal.wire.limits import DEFAULT_LIMITS

__all__ = ["MAX_MESSAGE_BYTES", "BoundMethod", "Cost", "Guard", "find_service"]

MAX_MESSAGE_BYTES: Final = DEFAULT_LIMITS.max_message_bytes + 4 * 1024 * 1024
"""What the transport takes. Above the limit that services enforce, so that a request a little too
large is told what the limit is, and a worker's answer has room for what it adds to the records."""

_log: Final = structlog.get_logger("shoal.server")

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
        with self._accounted(call):
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
                return self.response_class.FromString(answer.SerializeToString())
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
        except Exception:
            self._metrics.was_not_read()
            with self._accounted(call):
                raise

    def refuse(self, error: ShoalError, call: Call) -> None:
        """Count an admitted call whose request does not come as the answer that it gets."""
        self._metrics.was_not_read()
        with contextlib.suppress(ShoalError), self._accounted(call):
            raise error

    async def answer_bytes(self, request: bytes, call: Call, *, is_admitted: bool = False) -> bytes:
        """Answer one serialised request by a serialised answer; of a unary method.

        Args:
            request: Serialised.
            call: What came with it.
            is_admitted: Whether `admit` was asked.

        Raises:
            ShoalError: Whatever went wrong.
        """
        with self._accounted(call):
            call.time_remaining()  # or it passed while the request was on its way: nobody waits
            if self._admission is None:
                return await self._answer_bytes(request, call, None, is_admitted)
            with self._admission.enter(len(request)) as place:
                return await self._answer_bytes(request, call, place, is_admitted)

    async def _answer_bytes(
        self, request: bytes, call: Call, place: Place | None, is_admitted: bool
    ) -> bytes:
        if self._guard is not None and not is_admitted:
            self._guard.admit(self.full_name, call)
        message = self.parse(request)
        if self._guard is not None:
            self._guard.check(self.full_name, message, call)
        if place is not None and self._cost is not None:
            place.weigh(self._cost(self.full_name, message, len(request)))
        return self.serialise(await self._bounded(message, call))

    async def answers(
        self, requests: AsyncIterator[Message], call: Call
    ) -> AsyncGenerator[Message, None]:
        """Answer a stream of requests; of a streaming method.

        A stream takes no place: it waits most of its life.
        """
        with self._accounted(call):
            async with contextlib.aclosing(
                self._function(self._counted(requests), call)
            ) as answers:
                async for answer in answers:
                    self._metrics.sent()
                    yield answer

    async def answers_bytes(
        self, requests: AsyncIterator[bytes], call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Answer a stream of serialised requests by serialised answers."""

        async def parsed() -> AsyncIterator[Message]:
            async for request in requests:
                yield self.parse(request)

        with self._accounted(call):
            async with contextlib.aclosing(
                self._function(self._counted(parsed()), call)
            ) as answers:
                async for answer in answers:
                    raw = self.serialise(answer)
                    self._metrics.sent()
                    yield raw

    async def _counted(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            self._metrics.received()
            yield request

    def _accounted(self, call: Call) -> _Accounted:
        """Count and time a call, and let nothing out but a `ShoalError` or a cancellation."""
        return _Accounted(self.full_name, self._metrics, call, not self.is_stream)

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
            answer = await self._bounded_rest(_Rest(coroutine, waiting), call)
        finally:
            current_request_id.reset(token)
        if not isinstance(answer, Message):
            raise TypeError(f"{self.full_name} answered with a {type(answer).__name__}")
        return answer

    async def _bounded_rest(self, rest: _Rest, call: Call) -> object:
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


class _Accounted:
    """What surrounds the work on one call; see `BoundMethod`."""

    __slots__ = ("_begin", "_call", "_method", "_metrics", "_span", "_traced")

    def __init__(
        self, method: str, method_metrics: MethodMetrics, call: Call, traced: bool
    ) -> None:
        self._method = method
        self._metrics = method_metrics
        self._call = call
        self._traced = traced  # a stream is not: it lasts, and is never slow
        self._span: tracing.Begun | None = None

    def __enter__(self) -> None:
        self._metrics.began()
        self._begin = time.perf_counter()
        active = tracing.active()
        if active is not None and self._traced:
            call = self._call
            self._span = active.of_call(self._method, call.metadata, call.request_id)
            call.span = self._span.span

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_val is None:
            self._end("OK")
        elif isinstance(exc_val, ShoalError):
            self._end(exc_val.code, exc_val.reason)
        elif isinstance(exc_val, asyncio.CancelledError | GeneratorExit):
            self._call.cancel()
            self._end("CANCELLED", "CANCELLED")
        elif isinstance(exc_val, Exception):
            self._end("INTERNAL", type(exc_val).__name__)
            request_id = self._call.request_id
            _log.error("call_failed", method=self._method, request_id=request_id, exc_info=exc_val)
            raise InternalError(
                f"internal error in {self._method}; "
                f"the server's log has it under request ID {request_id}",
                metadata={"request_id": request_id},
            ) from None
        else:
            self._end("OK")

    def _end(self, code: str, reason: str | None = None) -> None:
        seconds = time.perf_counter() - self._begin
        self._metrics.ended(code, seconds)
        if seconds >= SLOW_CALLS.threshold_s and self._traced:
            SLOW_CALLS.note(
                "call_was_slow",
                method=self._method,
                request_id=self._call.request_id,
                seconds=round(seconds, 4),
                code=code,
                **self._call.facts,
            )
        if self._span is not None:
            span, self._span = self._span, None
            active = tracing.active()
            if active is not None:
                active.finish(span, code, reason)


class _Rest:
    """What is left of a coroutine that has begun elsewhere, and now waits."""

    __slots__ = ("_coroutine", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waiting = self._coroutine, self._waiting
        while True:
            try:
                try:
                    sent = yield waiting
                except BaseException as error:  # noqa: BLE001 - for the coroutine to treat
                    waiting = coroutine.throw(error)
                else:
                    waiting = coroutine.send(sent)
            except StopIteration as end:
                return end.value


def _snake_case(name: str) -> str:
    """Turn ``SearchShards`` into ``search_shards``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")
