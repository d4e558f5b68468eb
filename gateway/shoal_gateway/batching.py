"""Queries that arrive together travel together.

What costs in this system is the call and not the search. So while a batch of a collection is under
way to the workers, what arrives for the same collection with the same parameters gathers, and
leaves when that batch is back. Nothing waits for a timer: a query that finds nothing under way
leaves at once, in its caller's own task, and pays nothing.

Each caller keeps its own deadline and its own end. A batch has as much time as its most patient
caller; who has less, or goes away, leaves it alone: out of the line if it has not left yet, or from
what is under way, whose answer the others still get. A failure of the batch is every caller's, each
as an error of its own.

Every collection, and within one every set of parameters, has a line of its own: a busy one cannot
hold up another here, and its batches are small enough not to do so at a worker.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from shoal.errors import DeadlineExceededError, OverloadedError, ShoalError, UnavailableError
from shoal.server import metrics, tracing
from shoal.server.calls import CallContext, context_for, current_request_id

__all__ = ["Batcher", "Part"]

MAX_BATCH_QUERIES: Final = 64
"""Queries of one batch. Beyond, a batch gains little: the call is a hundredth of it by then, and
whoever comes next waits for all of it."""

MAX_BATCH_COST: Final = 64 * 128
"""Queries times matches wanted of a batch, so that one with many matches is not a slow one."""

MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the vectors of one batch."""

MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Bytes of the vectors that wait, of all lines: the calls that a server works on bound it too, but
not each of them."""

_LEAST_COST: Final = 128
"""What a query counts at least, in matches."""

_queries_per_batch: Final = metrics.histogram(
    "shoal_gateway_batch_queries",
    "Queries that went to the workers together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
_joined: Final = metrics.counter(
    "shoal_gateway_gathered_calls", "Calls that travelled in a batch with others."
)
_waiting_bytes: Final = metrics.gauge(
    "shoal_gateway_waiting_bytes", "Vectors of queries that wait for the batch before theirs."
)

ParametersT = TypeVar("ParametersT", bound=Hashable)
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Part(Generic[AnswerT]):
    """One caller's part of a batch's answer.

    Attributes:
        answer: Of the whole batch.
        first: Position in the batch of the caller's first query.
    """

    answer: AnswerT
    first: int


class _Waiter(Generic[AnswerT]):
    """A call that waits in a line, or for its batch."""

    __slots__ = ("context", "cost", "count", "future", "vectors")

    def __init__(
        self,
        vectors: bytes,
        count: int,
        cost: int,
        context: CallContext,
        future: asyncio.Future[Part[AnswerT]],
    ) -> None:
        self.vectors = vectors
        self.count = count
        self.cost = cost
        self.context = context
        self.future = future


class _Line(Generic[AnswerT]):
    """The calls with one set of parameters."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[_Waiter[AnswerT]] = deque()


class Batcher(Generic[ParametersT, AnswerT]):
    """Gathers calls.

    Args:
        send: Answers a batch: its parameters, the bytes of its vectors, how many they are, and the
            time it has.
        start: Starts a task that nobody waits for.
        in_flight: Batches of one line that may be under way at a time.
        max_waiting_bytes: Of the vectors that wait, of all lines.
    """

    def __init__(
        self,
        send: Callable[[ParametersT, bytes, int, CallContext], Awaitable[AnswerT]],
        start: Callable[[Coroutine[Any, Any, None]], object],
        *,
        in_flight: int = 1,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._send = send
        self._start = start
        self._in_flight = in_flight
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._lines: dict[ParametersT, _Line[AnswerT]] = {}

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the vectors that wait."""
        return self._waiting_bytes

    @property
    def line_count(self) -> int:
        """Lines in which something waits or is under way."""
        return len(self._lines)

    async def ask(
        self,
        parameters: ParametersT,
        vectors: bytes,
        count: int,
        results: int,
        context: CallContext,
    ) -> Part[AnswerT]:
        """Answer a call's queries, with others' or alone.

        Args:
            parameters: Only calls with equal ones travel together.
            vectors: The queries, one after another.
            count: How many.
            results: Matches wanted of each.
            context: The call's.

        Raises:
            ShoalError: The batch failed, or too much waits already.
        """
        cost = count * max(results, _LEAST_COST)
        line = self._lines.get(parameters)
        if line is None:
            line = self._lines[parameters] = _Line()
        # A call that fills a batch of its own gains nothing by waiting for another.
        if line.under_way < self._in_flight or _fills_a_batch(count, cost, len(vectors)):
            return await self._alone(parameters, line, vectors, count, context)
        return await self._in_line(line, vectors, count, cost, context)

    async def _alone(
        self,
        parameters: ParametersT,
        line: _Line[AnswerT],
        vectors: bytes,
        count: int,
        context: CallContext,
    ) -> Part[AnswerT]:
        line.under_way += 1
        _queries_per_batch.observe(count)
        try:
            return Part(await self._send(parameters, vectors, count, context), 0)
        finally:
            self._came_back(parameters, line)

    async def _in_line(
        self, line: _Line[AnswerT], vectors: bytes, count: int, cost: int, context: CallContext
    ) -> Part[AnswerT]:
        if self._waiting_bytes + len(vectors) > self._max_waiting_bytes:
            raise OverloadedError(
                f"queries of {self._waiting_bytes} bytes wait to be searched already, of at most "
                f"{self._max_waiting_bytes}: repeat later",
                metadata={"limit": "max_waiting_bytes", "value": str(self._max_waiting_bytes)},
                retry_after_s=0.1,
            )
        future: asyncio.Future[Part[AnswerT]] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(vectors, count, cost, context, future)
        line.waiting.append(waiter)
        self._count_waiting(len(vectors))
        try:
            return await future
        except asyncio.CancelledError:
            # The caller has gone, or its deadline has passed.
            if waiter in line.waiting:
                line.waiting.remove(waiter)
                self._count_waiting(-len(vectors))
            raise

    def _came_back(self, parameters: ParametersT, line: _Line[AnswerT]) -> None:
        """Let the next batches of a line leave, or forget the line."""
        line.under_way -= 1
        while line.waiting and line.under_way < self._in_flight:
            batch = self._take(line)
            if batch:
                line.under_way += 1
                self._start(self._together(parameters, line, batch))
        if not line.under_way and not line.waiting:
            del self._lines[parameters]

    def _take(self, line: _Line[AnswerT]) -> list[_Waiter[AnswerT]]:
        """Take the next batch out of a line; those whose time is up are told so instead."""
        batch: list[_Waiter[AnswerT]] = []
        count = cost = size = 0
        while line.waiting:
            waiter = line.waiting[0]
            count += waiter.count
            cost += waiter.cost
            size += len(waiter.vectors)
            if batch and _is_too_much(count, cost, size):
                break
            line.waiting.popleft()
            self._count_waiting(-len(waiter.vectors))
            if waiter.future.done():
                continue
            try:
                waiter.context.check()
            except DeadlineExceededError as error:
                waiter.future.set_exception(error)
            else:
                batch.append(waiter)
        return batch

    async def _together(
        self, parameters: ParametersT, line: _Line[AnswerT], batch: Sequence[_Waiter[AnswerT]]
    ) -> None:
        count = sum(waiter.count for waiter in batch)
        _queries_per_batch.observe(count)
        if len(batch) > 1:
            _joined.inc(len(batch))
        try:
            context = _context_of(batch)
            current_request_id.set(context.request_id)
            tracing.adopt(batch[0].context.span)
            vectors = b"".join([waiter.vectors for waiter in batch])
            answer = await self._send(parameters, vectors, count, context)
        except OverloadedError as error:
            if len(batch) == 1 or error.metadata.get("limit") != "max_answer_bytes":
                _fail(batch, error)
            else:
                # Together they exceed what one answer may hold; each alone may not.
                for waiter in batch:
                    line.under_way += 1
                    self._start(self._together(parameters, line, [waiter]))
        except ShoalError as error:
            _fail(batch, error)
        except asyncio.CancelledError:
            _fail(batch, UnavailableError("the gateway is closing"))
            raise
        except BaseException as error:
            _fail(batch, error)
            raise
        else:
            first = 0
            for waiter in batch:
                if not waiter.future.done():
                    waiter.future.set_result(Part(answer, first))
                first += waiter.count
        finally:
            self._came_back(parameters, line)

    def _count_waiting(self, change: int) -> None:
        self._waiting_bytes += change
        _waiting_bytes.set(self._waiting_bytes)


def _is_too_much(count: int, cost: int, size: int) -> bool:
    return count > MAX_BATCH_QUERIES or cost > MAX_BATCH_COST or size > MAX_BATCH_BYTES


def _fills_a_batch(count: int, cost: int, size: int) -> bool:
    return _is_too_much(2 * count, 2 * cost, 2 * size)


def _context_of(batch: Sequence[_Waiter[Any]]) -> CallContext:
    """Make the context of a batch: the longest of the callers' deadlines, the first one's ID."""
    first = batch[0].context.request_id
    left = []
    for waiter in batch:
        try:
            left.append(waiter.context.time_remaining())
        except DeadlineExceededError:
            continue
    if not left:
        raise DeadlineExceededError("the deadline of the call has passed")
    return context_for(max(left), first if len(batch) == 1 else f"{first}+{len(batch) - 1}")


def _fail(batch: Sequence[_Waiter[Any]], error: BaseException) -> None:
    """Give each caller an error of its own: one for all would be changed by every task."""
    for waiter in batch:
        if not waiter.future.done():
            own = copy.copy(error)
            if isinstance(own, ShoalError):
                own.metadata = dict(own.metadata)
            waiter.future.set_exception(own)
