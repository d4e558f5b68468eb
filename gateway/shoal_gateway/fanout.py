"""Asking the shards: at once, each within what is left of the caller's deadline.

Reads go out as one call for each worker, with all its shards; writes as one for each shard. A call
that cannot have done harm is repeated for a bounded while: reads, writes with a write ID, and any
write that a shard refused because the route was stale. Then the answer is an error that names
shard, collection and worker, or, if the caller allowed it, a list of what was not searched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from shoal import errors
from shoal.errors import (
    DataLossError,
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    ShoalError,
    StaleRouteError,
    UnavailableError,
)
from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext, call
from shoal_gateway.deadlines import within
from shoal_gateway.failover import (
    PARTIAL_PATIENCE_S,
    PATIENCE_S,
    SHARDS_OWN,
    Holders,
    Patience,
    naming,
)
from shoal_gateway.table import CollectionRoute, ShardRoute, by_worker
from shoal_gateway.workers import WorkerStubs

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import ShardDataServiceAsyncStub

__all__ = ["FanOut", "ShardAnswers", "WriteFailure"]

PARTIAL_SHARE: Final = 0.7
"""Of the deadline, what a worker may take if the caller is content with the others' answers."""


class _Answer(Protocol):
    """What ShardMatches, ShardRecords and ShardCount have in common."""

    @property
    def error(self) -> worker_service_pb2.ShardError: ...
    def HasField(self, field_name: Any, /) -> bool: ...


AnswerT = TypeVar("AnswerT", bound=_Answer)


class _Response(Protocol):
    @property
    def shards(self) -> Sequence[_Answer]: ...
    @property
    def clock(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ShardAnswers(Generic[AnswerT]):
    """What the shards of a read answered.

    Attributes:
        shards: Those that answered, in the order in which they were named.
        answers: Theirs.
        failures: The others, by UUID; only with allow_partial.
    """

    shards: Sequence[ShardRoute]
    answers: Sequence[AnswerT]
    failures: Mapping[str, ShoalError]


Ask = Callable[["ShardDataServiceAsyncStub", Sequence[ShardRoute]], tuple[Any, Any]]
"""Gives the method to call, and the request for some shards of one worker."""


class FanOut:
    """Calls workers.

    Args:
        holders: Who holds which shard.
        stubs: Leads to them.
        clock: Merged with theirs.
    """

    def __init__(self, holders: Holders, stubs: WorkerStubs, clock: HybridClock) -> None:
        self.holders = holders
        self.stubs = stubs
        self.clock = clock
        self._left_alone: set[asyncio.Task[Any]] = set()

    async def read(
        self,
        route: CollectionRoute,
        shards: Sequence[ShardRoute],
        ask: Ask,
        context: CallContext,
        *,
        allow_partial: bool = False,
    ) -> ShardAnswers[Any]:
        """Ask shards of one collection.

        Raises:
            ShoalError: Of the first shard that failed, naming it; with `allow_partial` only if
                the request is at fault.
        """
        reading = _Reading(self, route, ask, context, allow_partial)
        await reading.ask(route.by_worker if shards is route.shards else by_worker(shards))
        answers, failures = reading.answers, reading.failures
        if failures:
            shards = [shard for shard in shards if shard.shard_id in answers]
        return ShardAnswers(shards, [answers[shard.shard_id] for shard in shards], failures)

    async def write(
        self,
        route: CollectionRoute,
        requests: Sequence[tuple[ShardRoute, worker_service_pb2.WriteShardRequest]],
        context: CallContext,
    ) -> list[worker_service_pb2.WriteShardResponse | WriteFailure]:
        """Write to shards of one collection, and give what became of each part."""
        if len(requests) == 1:
            return [await self._write_one(route, *requests[0], context)]
        tasks = [
            self.start(self._write_one(route, shard, request, context))
            for shard, request in requests
        ]
        await asyncio.wait(tasks)
        return [task.result() for task in tasks]

    async def _write_one(
        self,
        route: CollectionRoute,
        shard: ShardRoute,
        request: worker_service_pb2.WriteShardRequest,
        context: CallContext,
    ) -> worker_service_pb2.WriteShardResponse | WriteFailure:
        patience = Patience(context, PATIENCE_S)
        unknown = False  # whether a former attempt may have been applied
        while True:
            worker = None
            try:
                worker = self.holders.worker_of(route, shard)
                answer = await call(
                    self.stubs.data(worker).WriteShard,
                    request,
                    timeout_s=within(context.time_remaining()),
                )
            except StaleRouteError as error:
                try:
                    shard = await self.holders.reroute(route, shard, error, patience, context)
                except ShoalError as refused:
                    return WriteFailure(refused, unknown)
                request = _readdressed(request, shard)
            except ShoalError as error:
                named = naming(error, route, shard, worker)
                unknown = unknown or (worker is not None and _may_be_applied(error))
                may_repeat = worker is None or bool(request.write_id)
                if not isinstance(error, UnavailableError) or not may_repeat:
                    return WriteFailure(named, unknown)
                if not await patience.wait():
                    return WriteFailure(named, unknown)
                moved = self.holders.current(route, shard)
                if moved is not shard:
                    shard, request = moved, _readdressed(request, moved)
            else:
                self.clock.merge(answer.clock)
                return answer

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start work that goes on if its caller leaves: it is bounded by the deadline, and
        cancelling calls leaks memory in gRPC.
        """
        task = asyncio.create_task(work)
        self._left_alone.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._left_alone.discard(task)
        if not task.cancelled():
            task.exception()  # seen, or nobody waits for it any more

    async def close(self) -> None:
        """End what is still under way."""
        for task in list(self._left_alone):
            task.cancel()
        await asyncio.gather(*self._left_alone, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """Why one shard's part of a write is not known to be applied.

    Attributes:
        error: Names the shard.
        unknown: Whether it may have been applied.
    """

    error: ShoalError
    unknown: bool


class _Reading:
    """One read: what came back, and what it still may do."""

    def __init__(
        self,
        fan_out: FanOut,
        route: CollectionRoute,
        ask: Ask,
        context: CallContext,
        allow_partial: bool,
    ) -> None:
        self._fan_out = fan_out
        self._route = route
        self._ask = ask
        self._context = context
        self._partial = allow_partial
        self.answers: dict[str, Any] = {}
        self.failures: dict[str, ShoalError] = {}
        # Counted from the beginning, also for a call that is repeated.
        self._give_up_at = (
            time.monotonic() + context.time_remaining() * PARTIAL_SHARE if allow_partial else None
        )

        self._patience = Patience(context, PARTIAL_PATIENCE_S if allow_partial else PATIENCE_S)

    async def ask(self, groups: Sequence[Sequence[ShardRoute]]) -> None:
        """Ask workers, each for the shards that it holds."""
        if len(groups) == 1:
            await self._ask_worker(groups[0])
            return
        tasks = [self._fan_out.start(self._ask_worker(group)) for group in groups]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task in done:
                task.result()

    async def _ask_worker(self, shards: Sequence[ShardRoute]) -> None:
        """Ask shards that one worker holds, until each has answered or failed for good."""
        stale, unavailable = await self._attempt(shards)
        if stale or unavailable:
            await self._ask_again(stale, unavailable)

    async def _ask_again(
        self,
        stale: Sequence[tuple[ShardRoute, StaleRouteError]],
        unavailable: Sequence[tuple[ShardRoute, ShoalError]],
    ) -> None:
        moved = [await self._rerouted(shard, error) for shard, error in stale]
        again = [shard for shard in moved if shard is not None]
        if unavailable:
            if await self._patience.wait():
                again += [
                    self._fan_out.holders.current(self._route, shard) for shard, _ in unavailable
                ]
            else:
                for shard, error in unavailable:
                    self._fail(shard, error)
        if again:
            await self.ask(by_worker(again))

    async def _attempt(
        self, shards: Sequence[ShardRoute]
    ) -> tuple[list[tuple[ShardRoute, StaleRouteError]], list[tuple[ShardRoute, ShoalError]]]:
        """Call one worker once; give the shards that are worth another attempt, and why."""
        worker = None
        found: Sequence[_Answer | ShoalError]
        try:
            worker = self._fan_out.holders.worker_of(self._route, shards[0])
            method, request = self._ask(self._fan_out.stubs.data(worker), shards)
            response: _Response = await call(method, request, timeout_s=self._timeout())
        except OverloadedError as error:
            if len(shards) > 1 and error.metadata.get("limit") == "max_answer_bytes":
                # Together they exceed a message between processes; one by one they may not.
                self._patience = Patience(self._context, PATIENCE_S)
                await self.ask([[shard] for shard in shards])
                return [], []
            found = [error] * len(shards)
        except ShoalError as error:
            found = [error] * len(shards)
        else:
            self._fan_out.clock.merge(response.clock)
            found = response.shards
            if len(found) != len(shards):
                raise InternalError(
                    f"worker {shards[0].worker_id} answered for {len(found)} shards, "
                    f"asked for {len(shards)}"
                )
        stale: list[tuple[ShardRoute, StaleRouteError]] = []
        unavailable: list[tuple[ShardRoute, ShoalError]] = []
        for shard, answer in zip(shards, found, strict=True):
            problem = answer if isinstance(answer, ShoalError) else _error_of(answer)
            if problem is None:
                self.answers[shard.shard_id] = answer
            elif isinstance(problem, StaleRouteError):
                stale.append((shard, problem))
            else:
                named = naming(problem, self._route, shard, worker)
                if isinstance(named, UnavailableError):
                    unavailable.append((shard, named))
                else:
                    self._fail(shard, named)
        return stale, unavailable

    async def _rerouted(self, shard: ShardRoute, error: StaleRouteError) -> ShardRoute | None:
        try:
            return await self._fan_out.holders.reroute(
                self._route, shard, error, self._patience, self._context
            )
        except (DataLossError, UnavailableError) as refused:
            self._fail(shard, refused)
            return None

    def _fail(self, shard: ShardRoute, error: ShoalError) -> None:
        if not self._partial or error.code not in SHARDS_OWN:
            raise error
        self.failures[shard.shard_id] = error

    def _timeout(self) -> float:
        left = within(self._context.time_remaining())
        if self._give_up_at is not None:
            left = min(left, self._give_up_at - time.monotonic())
        return left


def _error_of(answer: _Answer) -> ShoalError | None:
    if not answer.HasField("error"):
        return None
    error = answer.error
    return errors.make(error.code, error.reason, error.message, error.metadata)


def _may_be_applied(error: ShoalError) -> bool:
    """Whether a write that ended with this error may have been applied all the same."""
    return isinstance(error, UnavailableError | DeadlineExceededError | InternalError) or (
        error.code == "UNKNOWN"
    )


def _readdressed(
    request: worker_service_pb2.WriteShardRequest, shard: ShardRoute
) -> worker_service_pb2.WriteShardRequest:
    """Give the same write for another epoch. The old message may be in a worker's hands still."""
    copy = worker_service_pb2.WriteShardRequest()
    copy.CopyFrom(request)
    copy.shard.CopyFrom(shard.reference)
    return copy
