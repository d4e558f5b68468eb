"""Reading records in order of insertion, page by page.

Of one shard a page is one read. Of several, each is asked for its share and a little more, and if
the merge ends before the page is full, for more. If one of them was written to in between, the
page is read anew, in one go and with the whole limit from each: what a shard contributes to an
answer is of one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from shoal.errors import ShoalError
from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import value_pb2
from shoal.wire.limits import Limits
from shoal_gateway.columns import concatenated, gather, record_bytes
from shoal_gateway.fanout import FanOut
from shoal_gateway.filters import Wanted
from shoal_gateway.merge import Picks, Run, merge_runs
from shoal_gateway.selection import Selection, position_of
from shoal_gateway.table import CollectionRoute, ShardRoute
from shoal_gateway.tokens import Page

__all__ = ["Reader", "Records"]

_SPARE_BYTES: Final = 64 * 1024
"""Of an answer's bound, what is left for tokens, unsearched shards and the lengths of columns."""

_LEAST_SHARD_BYTES: Final = 64 * 1024
"""What a shard may give to a page, however many shards there are."""

_GROWTH: Final = 4
"""By how much more each further round asks for than its share: matches of a filter may all lie in
one shard, and then a page should not take many rounds."""

_MOST_PLACINGS: Final = 3
"""How often an offset is counted again because records were written meanwhile. Then the page begins
where it began when that was counted, as after a page token."""


@dataclass(frozen=True, slots=True)
class Records:
    """A page.

    Attributes:
        columns: Its records, in order.
        ordinals: Theirs, shape ``(records,)``.
        last: Where the next page goes on; None if this was all.
        failures: Shards that are missing, by UUID.
    """

    columns: worker_service_pb2.RecordColumns
    ordinals: npt.NDArray[np.uint64]
    last: Page | None
    failures: dict[str, ShoalError]

    @classmethod
    def none(cls, failures: dict[str, ShoalError]) -> Self:
        """Give an empty page that is the last."""
        return cls(worker_service_pb2.RecordColumns(), np.empty(0, np.uint64), None, failures)


class Reader:
    """Reads pages.

    Args:
        fan_out: Calls workers.
        selection: Finds the place of an offset.
        clock: Sent along.
        limits: The bounds.
    """

    def __init__(
        self, fan_out: FanOut, selection: Selection, clock: HybridClock, limits: Limits
    ) -> None:
        self._fan_out = fan_out
        self._selection = selection
        self._clock = clock
        self._limits = limits

    async def page(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        context: CallContext,
        *,
        limit: int | None,
        start: Page | None = None,
        offset: int = 0,
        include: Sequence[value_pb2.Include.ValueType] = (),
        allow_partial: bool = False,
    ) -> Records:
        """Read a page.

        Args:
            route: The collection.
            wanted: Which records.
            context: The caller's.
            limit: At most so many records; None, or more than the bound of a page: that bound.
            start: After this record.
            offset: Pass over so many first.
            include: Columns beside the IDs.
            allow_partial: Leave out shards that cannot answer.
        """
        maximum = self._limits.max_page_records
        limit = maximum if limit is None else min(limit, maximum)
        if limit == 0:
            return Records.none({})
        reading = _PageReading(self, route, wanted, context, limit, include, allow_partial)
        if not offset or len(wanted.shards) == 1:
            return await reading.read(position_of(start), offset)
        attempt = 0
        while True:
            attempt += 1
            place = await self._selection.place_of(
                route, wanted, start, offset, context, allow_partial=allow_partial
            )
            answered = [s for s in wanted.shards if s.shard_id not in place.failures]
            if place.is_end or not answered:
                return Records.none(place.failures)
            reading = _PageReading(
                self,
                route,
                replace(wanted, shards=answered),
                context,
                limit,
                include,
                allow_partial,
            )
            records = await reading.read(place.after, 0, skip=place.skip)
            records.failures.update(place.failures)
            if reading.sequences == place.sequences or attempt == _MOST_PLACINGS:
                return records

    async def ask(
        self,
        route: CollectionRoute,
        shards: Sequence[ShardRoute],
        wanted: Wanted,
        context: CallContext,
        allow_partial: bool,
        **options: Any,
    ) -> Any:
        """Ask some shards for records."""

        def ask(stub: Any, some: Any) -> tuple[Any, Any]:
            return stub.GetFromShards, wanted.get_request(some, self._clock.now(), **options)

        return await self._fan_out.read(route, shards, ask, context, allow_partial=allow_partial)

    @property
    def max_bytes(self) -> int:
        """Bytes of records in one page."""
        return self._limits.max_answer_bytes - _SPARE_BYTES


class _Changed(Exception):
    """A shard was written to between two reads for one page."""


class _PageReading:
    """One page in the making."""

    def __init__(
        self,
        reader: Reader,
        route: CollectionRoute,
        wanted: Wanted,
        context: CallContext,
        limit: int,
        include: Sequence[value_pb2.Include.ValueType],
        allow_partial: bool,
    ) -> None:
        self._reader = reader
        self._route = route
        self._wanted = wanted
        self._context = context
        self._limit = limit
        self._include = include
        self._partial = allow_partial
        self._failures: dict[str, ShoalError] = {}
        self.sequences: dict[str, int] = {}

    async def read(
        self, after: worker_service_pb2.OrderPosition | None, offset: int, skip: int = 0
    ) -> Records:
        """Read the page after a place.

        Args:
            after: The place.
            offset: How many records to pass over; of one shard.
            skip: The same, of several: few.
        """
        if len(self._wanted.shards) == 1:
            return await self._read_one(after, offset + skip)
        try:
            return await self._read_several(after, skip, whole=False)
        except _Changed:
            return await self._read_several(after, skip, whole=True)

    async def _read_one(
        self, after: worker_service_pb2.OrderPosition | None, offset: int
    ) -> Records:
        answers = await self._ask(
            self._wanted.shards, after, self._limit, self._reader.max_bytes, offset
        )
        if not answers:
            return Records.none(self._failures)
        ((_, answer),) = answers
        ordinals = np.frombuffer(answer.ordinals, "<u8")
        last = Page(int(ordinals[-1]), answer.records.ids[-1]) if answer.more else None
        return Records(answer.records, ordinals, last, self._failures)

    async def _read_several(
        self, after: worker_service_pb2.OrderPosition | None, skip: int, *, whole: bool
    ) -> Records:
        """Read in rounds, each of which goes on where the merge of the one before ended.

        Args:
            after: The place.
            skip: How many records to pass over.
            whole: Ask each shard for the whole page, so that there is one round.
        """
        self._failures.clear()
        self.sequences.clear()
        chunks: list[worker_service_pb2.RecordColumns] = []
        ordinals: list[npt.NDArray[np.uint64]] = []
        asked: Sequence[ShardRoute] = self._wanted.shards
        left, budget, growth = self._limit + skip, self._reader.max_bytes, 1
        last: Page | None = None
        while True:
            part = left if whole else min(left, growth * _part(left, len(asked)))
            max_bytes = max(budget // len(asked), _LEAST_SHARD_BYTES)
            answers = await self._ask(asked, after, part, max_bytes)
            self._check_sequences(answers)
            runs = [_run(answer) for _, answer in answers]
            if not runs:
                return self._finished(chunks, ordinals, None)
            picks = merge_runs(runs, left)
            taken = np.bincount(picks.sources, minlength=len(runs)).tolist()
            asked = [
                shard
                for (shard, answer), run, count in zip(answers, runs, taken, strict=True)
                if answer.more or count < len(run.ordinals)
            ]
            passed = min(skip, len(picks.items))
            columns = [answer.records for _, answer in answers]
            chunk, kept = _fitting(columns, picks.after(passed), budget, at_least=not chunks)
            if len(chunk.ids):
                chunks.append(chunk)
                ordinals.append(_ordinals(runs, picks)[passed : passed + kept])
                last = _place_of(runs, picks, passed + kept - 1)
            skip -= passed
            left -= passed + kept
            budget -= chunk.ByteSize()
            if not asked and passed + kept == len(picks.items):
                return self._finished(chunks, ordinals, None)
            is_cut = passed + kept < len(picks.items)
            if whole or is_cut or not left or not len(picks.items) or budget < _LEAST_SHARD_BYTES:
                return self._finished(chunks, ordinals, last)
            after = position_of(_place_of(runs, picks, len(picks.items) - 1))
            growth *= _GROWTH

    def _check_sequences(
        self, answers: Sequence[tuple[ShardRoute, worker_service_pb2.ShardRecords]]
    ) -> None:
        for shard, answer in answers:
            if self.sequences.setdefault(shard.shard_id, answer.sequence) != answer.sequence:
                raise _Changed

    def _finished(
        self,
        chunks: Sequence[worker_service_pb2.RecordColumns],
        ordinals: Sequence[npt.NDArray[np.uint64]],
        last: Page | None,
    ) -> Records:
        if not chunks:
            return Records.none(self._failures)
        columns = chunks[0] if len(chunks) == 1 else concatenated(chunks)
        return Records(columns, np.concatenate(ordinals), last, self._failures)

    async def _ask(
        self,
        shards: Sequence[ShardRoute],
        after: worker_service_pb2.OrderPosition | None,
        limit: int,
        max_bytes: int,
        offset: int = 0,
    ) -> list[tuple[ShardRoute, worker_service_pb2.ShardRecords]]:
        answers = await self._reader.ask(
            self._route,
            shards,
            self._wanted,
            self._context,
            self._partial,
            limit=limit,
            after=after,
            offset=offset,
            max_bytes=max_bytes,
            include=self._include,
        )
        self._failures.update(answers.failures)
        return list(zip(answers.shards, answers.answers, strict=True))


def _part(left: int, shard_count: int) -> int:
    """Give how much of a page to ask of each shard: its share, and three standard deviations of
    what hashing gives it.
    """
    share = left / shard_count
    return math.ceil(share + 3 * math.sqrt(share)) + 1


def _run(answer: worker_service_pb2.ShardRecords) -> Run:
    return Run(np.frombuffer(answer.ordinals, "<u8"), list(answer.records.ids), answer.more)


def _ordinals(runs: Sequence[Run], picks: Picks) -> npt.NDArray[np.uint64]:
    starts = np.cumsum([0, *(len(run.ordinals) for run in runs[:-1])])
    return np.concatenate([run.ordinals for run in runs])[starts[picks.sources] + picks.items]


def _place_of(runs: Sequence[Run], picks: Picks, place: int) -> Page:
    run, item = runs[int(picks.sources[place])], int(picks.items[place])
    return Page(int(run.ordinals[item]), run.ids[item])


def _fitting(
    columns: Sequence[worker_service_pb2.RecordColumns],
    picks: Picks,
    budget_bytes: int,
    *,
    at_least: bool,
) -> tuple[worker_service_pb2.RecordColumns, int]:
    """Gather as many picked records as fit, but one `at_least`; give also how many."""
    chunk = gather(columns, picks)
    if chunk.ByteSize() <= budget_bytes:
        return chunk, len(chunk.ids)
    sizes = np.cumsum(record_bytes(chunk))
    kept = max(int(np.searchsorted(sizes, budget_bytes, side="right")), int(at_least))
    return gather(columns, picks.first(kept)), kept
