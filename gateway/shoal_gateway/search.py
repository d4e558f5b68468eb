"""Searching: one call to each worker for the queries that arrive together, and the merge of what
their shards found.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from shoal.errors import NotFoundError, OverloadedError, ShoalError
from shoal.internal.v1 import worker_service_pb2
from shoal.server import metrics
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.server.slow_calls import SLOW_CALLS
from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import check_record_ids, invalid, shown
from shoal.wire.vectors import decode_vectors, vectors_of
from shoal_gateway.answers import Answer
from shoal_gateway.batching import Batcher, Part
from shoal_gateway.fanout import FanOut
from shoal_gateway.filters import NO_FILTERS, Filters, Wanted
from shoal_gateway.plans import plan_of
from shoal_gateway.routing import Router
from shoal_gateway.table import CollectionRoute
from shoal_gateway.writes import check_dimension

__all__ = ["Searcher", "check_include", "unsearched"]

# Of a batch, not of each call in it: how long the others waited is in the calls' own time.
_stages: Final = metrics.histogram(
    "shoal_gateway_query_stage_seconds",
    "Stages of the queries that travelled together: the workers' search, and the merge.",
    ("stage",),
)
_searching: Final = _stages.labels("search")
_merging: Final = _stages.labels("merge")
_shards_asked: Final = metrics.histogram(
    "shoal_gateway_shards_asked",
    "Shards that were asked for the queries that travelled together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)

_INCLUDES: Final = frozenset(
    {
        value_pb2.INCLUDE_DOCUMENTS,
        value_pb2.INCLUDE_METADATAS,
        value_pb2.INCLUDE_VECTORS,
        value_pb2.INCLUDE_URIS,
        value_pb2.INCLUDE_DISTANCES,
    }
)


@functools.lru_cache(maxsize=64)
def check_include(
    include: tuple[value_pb2.Include.ValueType, ...], *, distances: bool
) -> tuple[tuple[value_pb2.Include.ValueType, ...], bool]:
    """Check what an answer is to carry; most requests ask for what others have asked for.

    Args:
        include: As the request has it.
        distances: Whether distances may be among it.

    Returns:
        The columns, each once, and whether distances are wanted.

    Raises:
        InvalidArgumentError: One is unknown, or distances have no place here.
    """
    columns = set(include)
    if not columns <= _INCLUDES:
        unknown = min(columns - _INCLUDES)
        raise invalid("include", f"include holds {unknown}, which this server does not know")
    wants_distances = value_pb2.INCLUDE_DISTANCES in columns
    if wants_distances and not distances:
        raise invalid("include", "include may hold distances only in a query")
    return tuple(sorted(columns - {value_pb2.INCLUDE_DISTANCES})), wants_distances


def unsearched(failures: Mapping[str, ShoalError]) -> list[record_service_pb2.UnsearchedShard]:
    """List shards that are missing from an answer."""
    return [
        record_service_pb2.UnsearchedShard(
            shard_id=shard_id, reason=error.reason, message=error.message
        )
        for shard_id, error in failures.items()
    ]


class _Parameters(tuple[object, ...]):
    """Everything that decides a search but its query vectors.

    Equal if, and only if, two calls may travel in one batch: a tuple of what says so, which Python
    compares and hashes by itself.
    """

    route: CollectionRoute
    filters: Filters
    n_results: int
    columns: tuple[value_pb2.Include.ValueType, ...]
    dimension: int

    @classmethod
    def of(
        cls,
        route: CollectionRoute,
        filters: Filters,
        n_results: int,
        columns: tuple[value_pb2.Include.ValueType, ...],
        dimension: int,
    ) -> Self:
        """Put them together."""
        # A route by its version, for a batch goes by the route of its first call.
        version = route.entry.table_version
        digest = () if filters is NO_FILTERS else filters.digest_parts()
        made = cls((route.collection_id, version, n_results, columns, dimension, *digest))
        made.route, made.filters = route, filters
        made.n_results, made.columns, made.dimension = n_results, columns, dimension
        return made


class Searcher:
    """Answers queries.

    Args:
        router: Finds collections.
        fan_out: Calls workers.
        clock: Sent along.
        limits: The bounds.
    """

    def __init__(self, router: Router, fan_out: FanOut, clock: HybridClock, limits: Limits) -> None:
        self._router = router
        self._fan_out = fan_out
        self._clock = clock
        self._limits = limits
        self._batcher: Batcher[_Parameters, Answer] = Batcher(self._send, fan_out.start)

    async def query(
        self, request: record_service_pb2.QueryRequest, context: CallContext
    ) -> worker_service_pb2.QueryResponse:
        """Answer the queries of a request; the session token is left out.

        Raises:
            ShoalError: The request is wrong, or a shard cannot answer.
        """
        begin = time.perf_counter()
        columns, wants_distances = check_include(tuple(request.include), distances=True)
        filters = Filters.of(request, self._limits)
        vectors, count = self._check_queries(request)
        ids = None
        if request.HasField("ids"):
            # A set: an ID that stands twice says nothing more.
            ids = list(dict.fromkeys(request.ids.values))
            check_record_ids(ids, self._limits, "ids", maximum=self._limits.max_page_records)
        route = self._router.known(request.collection)
        if route is None:
            route = await self._router.find(request.collection, context)
        if vectors is None:
            found = await self._stored_vectors(route, request.query_ids.values, context)
            vectors, dimension = found.tobytes(), found.shape[1]
        else:
            dimension = request.query_vectors.dimension
            # Without one there is no vector yet, as far as this gateway knows: the workers know
            # better if its table lags.
            if route.dimension and dimension != route.dimension:
                check_dimension(route, dimension, "query_vectors.dimension")
        context.check()
        n_results, explain = request.n_results, request.explain
        parameters = _Parameters.of(route, filters, n_results, columns, dimension)
        asked = time.perf_counter()
        if ids is None and not request.allow_partial and not explain:
            part = await self._batcher.ask(parameters, vectors, count, n_results, context)
        else:
            # What is asked about this call alone is answered alone: its records, its patience for
            # shards that are slow, its plan.
            wanted = Wanted.of(route, filters, ids)
            part = Part(
                await self._ask(
                    parameters, wanted, vectors, count, context, allow_partial=request.allow_partial
                ),
                0,
            )
        answered = time.perf_counter()
        response = part.answer.response(
            part.first, count, distances=wants_distances, explain=explain
        )
        failures = part.answer.found.failures
        if failures:
            response.unsearched_shards.extend(unsearched(failures))
        self._check_size(response, columns)
        seconds = time.perf_counter() - begin
        if explain:
            response.plan.gateway_seconds = seconds
        if seconds >= SLOW_CALLS.threshold_s:
            context.tell(
                **plan_of(part.answer.found.answers),
                collection=route.name,
                collection_id=route.collection_id,
                queries=count,
                n_results=n_results,
                filtered=bool(filters) or ids is not None,
                checking_s=round(asked - begin, 4),
                searching_s=round(answered - asked, 4),
                answering_s=round(begin + seconds - answered, 4),
            )
        return response

    def _check_queries(self, request: record_service_pb2.QueryRequest) -> tuple[bytes | None, int]:
        """Check the queries, and how many matches are asked for.

        Returns:
            The bytes of the vectors, None if records are named, and how many they are.
        """
        vectors = None
        has_vectors, has_ids = request.HasField("query_vectors"), request.HasField("query_ids")
        if has_vectors == has_ids:
            raise invalid("query_vectors", "exactly one of query_vectors and query_ids is needed")
        limits = self._limits
        if has_ids:
            count = len(request.query_ids.values)
            distinct = list(dict.fromkeys(request.query_ids.values))
            self._check_count(count, "query_ids")
            check_record_ids(distinct, limits, "query_ids", maximum=limits.max_queries)
        else:
            # Counted before each number is looked at; less than one is for `decode_vectors` to say.
            block = request.query_vectors
            vectors, size = block.values, 4 * block.dimension
            self._check_count(max(len(vectors) // size if size else 0, 1), "query_vectors")
            count = len(decode_vectors(block, None, limits, "query_vectors"))
        n_results = request.n_results
        if not 1 <= n_results <= limits.max_n_results:
            raise invalid(
                "n_results", f"n_results is {n_results}; it must be 1 to {limits.max_n_results}"
            )
        if count * n_results > limits.max_query_results:
            raise invalid(
                "n_results",
                f"{count} queries x n_results {n_results} is {count * n_results}; at most "
                f"{limits.max_query_results} are allowed in one call",
            )
        return vectors, count

    def _check_count(self, count: int, field: str) -> None:
        maximum = self._limits.max_queries
        if not 1 <= count <= maximum:
            raise invalid(
                field, f"{field} holds {count} queries; 1 to {maximum} are allowed in one call"
            )

    async def _stored_vectors(
        self, route: CollectionRoute, query_ids: Sequence[str], context: CallContext
    ) -> npt.NDArray[np.float32]:
        """Give the vectors of stored records, shape ``(n, d)``.

        Raises:
            NotFoundError: One of them is not stored.
        """
        distinct = list(dict.fromkeys(query_ids))
        wanted = Wanted.of(route, Filters(), distinct)

        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            request = wanted.get_request(
                shards,
                self._clock.now(),
                limit=len(distinct),
                max_bytes=self._limits.max_answer_bytes,
                include=[value_pb2.INCLUDE_VECTORS],
            )
            return stub.GetFromShards, request

        found = await self._fan_out.read(route, wanted.shards, ask, context)
        rows = {
            record_id: row
            for answer in found.answers
            for record_id, row in zip(
                answer.records.ids, vectors_of(answer.records.vectors), strict=True
            )
        }
        for position, record_id in enumerate(query_ids):
            if record_id not in rows:
                raise NotFoundError(
                    f"query_ids[{position}]: collection {route.name!r} has no record "
                    f"{shown(record_id)}",
                    metadata={"id": record_id[:100]},
                )
        return np.stack([rows[record_id] for record_id in query_ids])

    async def _send(
        self, parameters: _Parameters, vectors: bytes, count: int, context: CallContext
    ) -> Answer:
        """Answer a batch."""
        return await self._ask(
            parameters,
            Wanted.of(parameters.route, parameters.filters, None),
            vectors,
            count,
            context,
        )

    async def _ask(
        self,
        parameters: _Parameters,
        wanted: Wanted,
        vectors: bytes,
        count: int,
        context: CallContext,
        *,
        allow_partial: bool = False,
    ) -> Answer:
        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            search = worker_service_pb2.SearchShardsRequest(
                shards=[shard.reference for shard in shards],
                limit=parameters.n_results,
                ids=None if wanted.ids_of is None else wanted.ids(shards),
                include=parameters.columns,
                clock=self._clock.now(),
            )
            # Filled where they lie: what is put into a message afterwards is copied.
            queries = search.queries
            queries.dimension, queries.values = parameters.dimension, vectors
            if wanted.filters is not NO_FILTERS:
                wanted.filters.put_into(search)
            return stub.SearchShards, search

        _shards_asked.observe(len(wanted.shards))
        begin = time.perf_counter()
        found = await self._fan_out.read(
            parameters.route, wanted.shards, ask, context, allow_partial=allow_partial
        )
        searched = time.perf_counter()
        _searching.observe(searched - begin)
        answer = Answer(found, count, parameters.n_results)
        _merging.observe(time.perf_counter() - searched)
        return answer

    def _check_size(
        self,
        response: worker_service_pb2.QueryResponse,
        columns: Sequence[value_pb2.Include.ValueType],
    ) -> None:
        size = response.ByteSize()
        if size > self._limits.max_answer_bytes:
            names = ", ".join(
                value_pb2.Include.Name(column).removeprefix("INCLUDE_").lower()
                for column in columns
            )
            raise OverloadedError(
                f"the answer would have {size} bytes; at most {self._limits.max_answer_bytes} are "
                f"allowed: include less (now: {names or 'IDs alone'}), or ask for fewer queries or "
                "n_results in one call",
                metadata={"limit": "max_answer_bytes", "value": str(size)},
            )
