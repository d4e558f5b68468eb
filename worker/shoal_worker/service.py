"""The worker's service for records: decode, call, encode."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from shoal.errors import InvalidArgumentError, ShoalError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import CallContext
from shoal.v1.record_service_pb2 import SearchMethod
from shoal.wire.vectors import decode_vectors
from shoal_worker import metrics
from shoal_worker.columns import packed_ordinals
from shoal_worker.matching import Selection
from shoal_worker.messages import (
    decode_filters,
    decode_include,
    decode_selection,
    decode_write,
    encode_columns,
    encode_error,
    encode_matches,
)
from shoal_worker.reading import PageRequest, count, page
from shoal_worker.search import Method, Search, search
from shoal_worker.shard import Shard
from shoal_worker.short_reads import ShortReads
from shoal_worker.sparse_ranking import measure_sparse, rank_sparse
from shoal_worker.text_messages import decode_dimensions, decode_weights, encode_ranked
from shoal_worker.text_ranking import Scans, rank

if TYPE_CHECKING:
    from shoal_worker.worker import Worker

__all__ = ["ShardDataService"]

_T = TypeVar("_T")

_INLINE_QUERY_US: Final = 2000.0
_INLINE_BATCH_US: Final = 1000.0
"""A search that is estimated to take less runs on the event loop. On a thread a single query of
800 µs takes half as long again: handed over and back, and with another core's cold caches; a batch
gains by what gathers meanwhile."""

_SHORT_LIMIT: Final = 100
"""Records that may be read on the event loop: 10 µs each."""

_GRAPH_US_PER_CANDIDATE: Final = 1.6
_SCAN_US_PER_CELL: Final = 0.0003
"""What a search costs: 160 µs for a walk with 100 candidates, and 0.3 ns for a number of the fresh
set."""

_METHODS: Final = {
    Method.NOTHING: SearchMethod.SEARCH_METHOD_NOTHING,
    Method.EXACT: SearchMethod.SEARCH_METHOD_EXACT,
    Method.GRAPH: SearchMethod.SEARCH_METHOD_GRAPH,
}


_SECONDS: Final = {m: metrics.SEARCH_SECONDS.labels(m.name.lower()) for m in Method}


class ShardDataService:
    """``shoal.internal.v1.ShardDataService``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._scans = Scans()
        self._filtered_searches = ShortReads()
        self._gets = ShortReads()
        self._counts = ShortReads()

    @functools.cached_property
    def _worker_id(self) -> str:
        return str(self._worker.worker_id)

    async def write_shard(
        self, request: pb.WriteShardRequest, context: CallContext
    ) -> pb.WriteShardResponse:
        """Apply one shard's part of a write."""
        context.check()
        write = decode_write(request, context.time_remaining())
        return await self._worker.write(request.shard, write)

    async def search_shards(
        self, request: pb.SearchShardsRequest, context: CallContext
    ) -> pb.SearchShardsResponse:
        """Search shards of this worker."""
        self._worker.clock.merge(request.clock)
        queries = decode_vectors(request.queries, None, field="queries")
        include = decode_include(request.include)
        selection = decode_selection(request)

        response = pb.SearchShardsResponse()
        # Filled where they lie: what is put into a message afterwards is copied.
        answers = [response.shards.add() for _ in request.shards]

        def run(shard: Shard, answer: pb.ShardMatches, check: Callable[[], None]) -> None:
            begin = time.perf_counter()
            sought = Search(
                queries,
                request.limit,
                selection,
                include,
                self._worker.settings.max_answer_bytes,
                shard.configuration.num_threads,
                check,
            )
            with shard.pin(copies=selection.is_everything) as pinned:
                matches = search(pinned, shard.configuration.fit.space, sought)
                state = pinned.state
            seconds = time.perf_counter() - begin
            _SECONDS[matches.method].observe(seconds)
            encode_matches(matches, queries.shape[1], answer)
            plan = answer.plan
            plan.shard_id = shard.shard_id
            plan.worker_id = self._worker_id
            plan.method = _METHODS[matches.method]
            plan.record_count = state.meta.record_count
            plan.matching_count = matches.matching_count
            plan.fresh_count = state.fresh.live_count
            plan.candidate_count = matches.candidate_count
            plan.examined_count = matches.examined_count
            plan.filter_seconds = matches.filter_seconds
            plan.seconds = seconds
            plan.sequence = state.meta.sequence

        def is_cheap(shard: Shard) -> bool:
            state = shard.newest
            if state.unloaded_below or state.ungraphed is not None:
                return False
            walk = _GRAPH_US_PER_CANDIDATE * max(request.limit, shard.configuration.ef_search)
            scan = _SCAN_US_PER_CELL * state.fresh.size * queries.shape[1]
            each = scan + (walk if state.graph is not None else 0.0) + 5.0 * request.limit
            bound = _INLINE_QUERY_US if len(queries) == 1 else _INLINE_BATCH_US
            return bool(each * len(queries) < bound)

        async def one(reference: pb.ShardReference, answer: pb.ShardMatches) -> None:
            try:
                if selection.is_everything:
                    await self._worker.read(
                        reference, lambda shard: run(shard, answer, context.check), is_cheap
                    )
                    return
                filtered = self._filtered_searches.attempt(
                    context.check,
                    may_be_short=selection.is_indexed
                    and len(queries) == len(answers) == 1
                    and request.limit <= _SHORT_LIMIT,
                )
                await self._worker.read(
                    reference,
                    lambda shard: filtered.run(shard, functools.partial(run, shard, answer)),
                    filtered.is_cheap,
                )
            except InvalidArgumentError:
                # The request's fault, whichever shard noticed.
                raise
            except ShoalError as error:
                answer.error.CopyFrom(encode_error(error))

        if len(answers) == 1:
            await one(request.shards[0], answers[0])
        else:
            await asyncio.gather(*map(one, request.shards, answers))
        response.clock = self._worker.clock.now()
        return response

    async def get_from_shards(
        self, request: pb.GetFromShardsRequest, context: CallContext
    ) -> pb.GetFromShardsResponse:
        """Read records in order of insertion."""
        self._worker.clock.merge(request.clock)
        selection = decode_selection(request, request.id_prefix)
        attempt = self._gets.attempt(
            context.check,
            may_be_short=selection.is_indexed
            and len(request.shards) == 1
            and request.offset + request.limit <= _SHORT_LIMIT,
        )
        page_request = functools.partial(
            PageRequest,
            selection=selection,
            after=(
                (request.after.ordinal, request.after.id) if request.HasField("after") else None
            ),
            offset=request.offset,
            limit=request.limit,
            max_bytes=request.max_bytes or self._worker.settings.max_answer_bytes,
            include=decode_include(request.include),
            ordinals_only=request.ordinals_only,
        )

        def run(shard: Shard, check: Callable[[], None]) -> pb.ShardRecords:
            with shard.pin() as pinned:
                found = page(pinned, page_request(check=check))
                dimension = pinned.state.meta.dimension
            return pb.ShardRecords(
                records=encode_columns(found.columns, dimension),
                ordinals=packed_ordinals(found.columns.ordinals),
                more=found.more,
                sequence=found.sequence,
            )

        shards = await self._read_all(
            request.shards,
            lambda shard: attempt.run(shard, functools.partial(run, shard)),
            attempt.is_cheap,
            lambda error: pb.ShardRecords(error=error),
        )
        return pb.GetFromShardsResponse(shards=shards, clock=self._worker.clock.now())

    async def count_shards(
        self, request: pb.CountShardsRequest, context: CallContext
    ) -> pb.CountShardsResponse:
        """Count records."""
        self._worker.clock.merge(request.clock)
        selection = Selection(None, *decode_filters(request))
        attempt = self._counts.attempt(
            context.check, may_be_short=selection.is_indexed and len(request.shards) == 1
        )

        def run(shard: Shard, check: Callable[[], None]) -> pb.ShardCount:
            with shard.pin() as pinned:
                found = count(pinned, selection, check)
                return pb.ShardCount(count=found, sequence=pinned.state.meta.sequence)

        shards = await self._read_all(
            request.shards,
            lambda shard: attempt.run(shard, functools.partial(run, shard)),
            lambda shard: selection.is_everything or attempt.is_cheap(shard),
            lambda error: pb.ShardCount(error=error),
        )
        return pb.CountShardsResponse(shards=shards, clock=self._worker.clock.now())

    async def measure_text(
        self, request: pb.MeasureTextRequest, context: CallContext
    ) -> pb.MeasureTextResponse:
        """Count what the scores of a text are computed from."""
        self._worker.clock.merge(request.clock)

        def run(shard: Shard) -> pb.ShardTextMeasures:
            with shard.pin() as pinned:
                occurrences = self._scans.occurrences(
                    pinned, request.query, request.language, context.check
                )
                return pb.ShardTextMeasures(
                    document_count=occurrences.found.row_count,
                    term_count=occurrences.found.length_sum,
                    terms=occurrences.terms,
                    document_frequencies=occurrences.found.frequencies.tolist(),
                    sequence=pinned.state.meta.sequence,
                )

        shards = await self._read_all(
            request.shards, run, lambda _: False, lambda error: pb.ShardTextMeasures(error=error)
        )
        return pb.MeasureTextResponse(shards=shards, clock=self._worker.clock.now())

    async def rank_text(
        self, request: pb.RankTextRequest, context: CallContext
    ) -> pb.RankTextResponse:
        """Find the documents that a text fits best."""
        self._worker.clock.merge(request.clock)
        selection = decode_selection(request)
        weights = decode_weights(request)

        def run(shard: Shard) -> pb.ShardMatches:
            with shard.pin() as pinned:
                found = self._scans.occurrences(
                    pinned, request.query, request.language, context.check
                )
                ranked = rank(pinned, found, weights, selection, request.limit, context.check)
                return encode_ranked(pinned, ranked)

        shards = await self._read_all(
            request.shards, run, lambda _: False, lambda error: pb.ShardMatches(error=error)
        )
        return pb.RankTextResponse(shards=shards, clock=self._worker.clock.now())

    async def measure_sparse(
        self, request: pb.MeasureSparseRequest, context: CallContext
    ) -> pb.MeasureSparseResponse:
        """Count what the inverse document frequencies of dimensions are computed from."""
        self._worker.clock.merge(request.clock)
        indices = decode_dimensions(request)

        def run(shard: Shard) -> pb.ShardSparseMeasures:
            with shard.pin() as pinned:
                count, frequencies = measure_sparse(pinned, request.key, indices, context.check)
                return pb.ShardSparseMeasures(
                    vector_count=count,
                    frequencies=frequencies,
                    sequence=pinned.state.meta.sequence,
                )

        shards = await self._read_all(
            request.shards, run, lambda _: False, lambda error: pb.ShardSparseMeasures(error=error)
        )
        return pb.MeasureSparseResponse(shards=shards, clock=self._worker.clock.now())

    async def rank_sparse(
        self, request: pb.RankSparseRequest, context: CallContext
    ) -> pb.RankSparseResponse:
        """Find the records whose sparse vectors have the greatest inner products."""
        self._worker.clock.merge(request.clock)
        selection = decode_selection(request)
        indices = decode_dimensions(request)
        weights = np.array(request.weights, np.float64)
        if len(weights) != len(indices):
            raise InvalidArgumentError(
                f"weights has {len(weights)} entries for {len(indices)} indices"
            )

        def run(shard: Shard) -> pb.ShardMatches:
            with shard.pin() as pinned:
                ranked = rank_sparse(
                    pinned, request.key, indices, weights, selection, request.limit, context.check
                )
                return encode_ranked(pinned, ranked)

        shards = await self._read_all(
            request.shards, run, lambda _: False, lambda error: pb.ShardMatches(error=error)
        )
        return pb.RankSparseResponse(shards=shards, clock=self._worker.clock.now())

    async def _read_all(
        self,
        references: Sequence[pb.ShardReference],
        run: Callable[[Shard], _T],
        is_cheap: Callable[[Shard], bool],
        failed: Callable[[pb.ShardError], _T],
    ) -> list[_T]:
        """Read every shard of a call; one that cannot answer gives its error in its place."""

        async def one(reference: pb.ShardReference) -> _T:
            try:
                return await self._worker.read(reference, run, is_cheap)
            except InvalidArgumentError:
                # The request's fault, whichever shard noticed.
                raise
            except ShoalError as error:
                return failed(
                    pb.ShardError(
                        code=error.code,
                        reason=error.reason,
                        message=error.message,
                        metadata=error.metadata,
                    )
                )

        if len(references) == 1:
            return [await one(references[0])]
        return list(await asyncio.gather(*(one(reference) for reference in references)))
