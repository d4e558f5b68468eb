"""Counting and finding places in the order of all shards, by ordinals alone.

Nothing but ordinals travels: eight bytes a record, in windows, so that passing over a million
records of four shards costs some megabytes and not their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.errors import ShoalError
from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal_gateway.fanout import FanOut
from shoal_gateway.filters import Filters, Wanted
from shoal_gateway.table import CollectionRoute
from shoal_gateway.tokens import Page

__all__ = ["Place", "Selection", "position_of"]

_WINDOW: Final = 1 << 18
"""Ordinals asked of all shards together at a time: 2 MiB."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins.

    Attributes:
        after: The page's records come after it; None: it begins with the first.
        skip: How many records after it to pass over: ties of ordinals, so fewer than shards.
        is_end: Whether there are no records after it.
        sequences: The sequence at which each shard was read, by UUID.
        failures: Shards that could not be counted, by UUID.
    """

    after: worker_service_pb2.OrderPosition | None
    skip: int
    is_end: bool
    sequences: dict[str, int]
    failures: dict[str, ShoalError]


@dataclass(frozen=True, slots=True)
class _Window:
    """Ordinals of several shards, sorted; none is left out before the last, or equal to it.

    Attributes:
        ordinals: Ascending, shape ``(n,)``.
        sources: Position of each one's shard, shape ``(n,)``.
        more: Whether any follow.
        sequences: By shard.
        failures: By shard.
    """

    ordinals: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.intp]
    more: bool
    sequences: dict[str, int]
    failures: dict[str, ShoalError]


class Selection:
    """Counts and places records.

    Args:
        fan_out: Calls workers.
        clock: Sent along.
    """

    def __init__(self, fan_out: FanOut, clock: HybridClock) -> None:
        self._fan_out = fan_out
        self._clock = clock

    async def count(self, route: CollectionRoute, filters: Filters, context: CallContext) -> int:
        """Count the records that match."""

        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            request = worker_service_pb2.CountShardsRequest(
                shards=[shard.reference for shard in shards], clock=self._clock.now()
            )
            filters.put_into(request)
            return stub.CountShards, request

        answers = await self._fan_out.read(route, route.shards, ask, context)
        return sum(answer.count for answer in answers.answers)

    async def place_of(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        start: Page | None,
        offset: int,
        context: CallContext,
        *,
        allow_partial: bool,
    ) -> Place:
        """Find the place so many matches after another."""
        after = position_of(start)
        while True:
            window = await self._window(route, wanted, after, offset + 1, context, allow_partial)
            ordinals = window.ordinals
            if len(ordinals) > offset:
                ordinal = ordinals[offset]
                before = int(np.searchsorted(ordinals, ordinal))
                # The start itself may be one of several records of this ordinal.
                if before:
                    after = worker_service_pb2.OrderPosition(ordinal=int(ordinal))
                return Place(after, offset - before, False, window.sequences, window.failures)
            if not window.more:
                return Place(None, 0, True, window.sequences, window.failures)
            offset -= len(ordinals)
            after = _after_all_of(ordinals[-1])

    async def shares(
        self, route: CollectionRoute, wanted: Wanted, limit: int, context: CallContext
    ) -> dict[str, int]:
        """Give how many of the first matches, in the order of all shards, are in each shard."""
        totals = np.zeros(len(wanted.shards), np.int64)
        after: worker_service_pb2.OrderPosition | None = None
        while True:
            window = await self._window(route, wanted, after, limit, context)
            ordinals = window.ordinals
            if len(ordinals) >= limit:
                last = ordinals[limit - 1]
                before = int(np.searchsorted(ordinals, last))
                tied = window.sources[ordinals == last].tolist()
                if len(tied) > limit - before:
                    place = worker_service_pb2.OrderPosition(ordinal=int(last))
                    tied = await self._firsts(route, wanted, place, limit - before, context)
                chosen = np.concatenate([window.sources[:before], np.array(tied, np.intp)])
            else:
                chosen = window.sources
            totals += np.bincount(chosen, minlength=len(totals))
            limit -= len(chosen)
            if limit == 0 or not window.more:
                return {
                    shard.shard_id: int(total)
                    for shard, total in zip(wanted.shards, totals, strict=True)
                }
            after = _after_all_of(ordinals[-1])

    async def _firsts(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        after: worker_service_pb2.OrderPosition | None,
        count: int,
        context: CallContext,
    ) -> list[int]:
        """Give the shards of the first records after a place: of records of one ordinal, by ID."""

        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            request = wanted.get_request(shards, self._clock.now(), limit=1, after=after)
            return stub.GetFromShards, request

        answers = (await self._fan_out.read(route, wanted.shards, ask, context)).answers
        firsts = [
            (int(np.frombuffer(answer.ordinals, "<u8")[0]), answer.records.ids[0], source)
            for source, answer in enumerate(answers)
            if answer.records.ids
        ]
        return [source for _, _, source in sorted(firsts)[:count]]

    async def _window(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        after: worker_service_pb2.OrderPosition | None,
        enough: int,
        context: CallContext,
        allow_partial: bool = False,
    ) -> _Window:
        limit = min(enough, _WINDOW // len(wanted.shards))

        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            request = wanted.get_request(
                shards, self._clock.now(), limit=limit, after=after, ordinals_only=True
            )
            return stub.GetFromShards, request

        read = await self._fan_out.read(
            route, wanted.shards, ask, context, allow_partial=allow_partial
        )
        found = [np.frombuffer(answer.ordinals, "<u8") for answer in read.answers]
        # Named by their place among all, also if some did not answer.
        numbers = [wanted.shards.index(shard) for shard in read.shards]
        ordinals = np.concatenate([np.empty(0, np.uint64), *found])
        sources = np.repeat(np.array(numbers, np.intp), [len(some) for some in found])
        order = np.argsort(ordinals, kind="stable")
        ordinals, sources = ordinals[order], sources[order]
        ends = [some[-1] for some, answer in zip(found, read.answers, strict=True) if answer.more]
        if ends:
            complete = int(np.searchsorted(ordinals, min(ends), side="right"))
            ordinals, sources = ordinals[:complete], sources[:complete]
        sequences = {
            shard.shard_id: answer.sequence
            for shard, answer in zip(read.shards, read.answers, strict=True)
        }
        return _Window(ordinals, sources, bool(ends), sequences, dict(read.failures))


def _after_all_of(ordinal: np.uint64) -> worker_service_pb2.OrderPosition:
    # Before every record of the next ordinal, since no ID is empty.
    return worker_service_pb2.OrderPosition(ordinal=int(ordinal) + 1)


def position_of(page: Page | None) -> worker_service_pb2.OrderPosition | None:
    """Give a place as workers are told it; None: the beginning."""
    if page is None:
        return None
    return worker_service_pb2.OrderPosition(ordinal=page.ordinal, id=page.id)
