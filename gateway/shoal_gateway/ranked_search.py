"""Searching by rankings: the candidates of each from all shards, scored here as one collection.

Candidates come as one search of the whole collection for each knn and text of an expression; only
IDs, ordinals and numbers travel. The expression is evaluated over them all, and then the columns of
the best are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.errors import OverloadedError
from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import ranking_pb2, record_service_pb2, value_pb2
from shoal.wire.limits import Limits
from shoal.wire.metadata import metadata_from_message
from shoal.wire.validation import check_metadata_key, check_record_ids, invalid
from shoal_gateway.candidates import Candidates, Found, check_sparse_key, check_ungrouped
from shoal_gateway.columns import Sources, concatenated
from shoal_gateway.fanout import FanOut
from shoal_gateway.filters import Filters, Wanted
from shoal_gateway.grouping import check_group_by, kept
from shoal_gateway.ranking import Leaf, Scores, check_rank, evaluate, leaves_of
from shoal_gateway.reads import Reader
from shoal_gateway.routing import Router
from shoal_gateway.search import check_include
from shoal_gateway.table import CollectionRoute
from shoal_gateway.tokens import Page

__all__ = ["RankedSearcher"]

MAX_SEARCHES: Final = 64
"""In one call: each costs at least one call to every worker."""

_GROUPED_AT_A_TIME: Final = 1_000
"""Candidates whose metadata are read in one call, to be grouped."""


@dataclass(frozen=True, slots=True)
class _Query:
    """One checked search."""

    message: ranking_pb2.RankedQuery
    filters: Filters
    ids: list[str] | None
    columns: tuple[value_pb2.Include.ValueType, ...]
    wants_scores: bool

    @property
    def limit(self) -> int | None:
        return self.message.limit if self.message.HasField("limit") else None


class RankedSearcher:
    """Answers searches.

    Args:
        router: Finds collections.
        fan_out: Calls workers.
        reader: Reads pages of records that are not ranked.
        clock: Sent along.
        limits: The bounds.
    """

    def __init__(
        self, router: Router, fan_out: FanOut, reader: Reader, clock: HybridClock, limits: Limits
    ) -> None:
        self._router = router
        self._fan_out = fan_out
        self._reader = reader
        self._clock = clock
        self._limits = limits
        self._candidates = Candidates(fan_out, reader, clock)

    async def search(
        self, request: record_service_pb2.SearchRequest, context: CallContext
    ) -> record_service_pb2.SearchResponse:
        """Answer the searches of a request; the session token is left out.

        Raises:
            ShoalError: The request is wrong, or a shard cannot answer.
        """
        if not 1 <= len(request.searches) <= MAX_SEARCHES:
            raise invalid(
                "searches",
                f"searches holds {len(request.searches)}; 1 to {MAX_SEARCHES} are allowed in one "
                "call",
            )
        queries = [
            self._checked(search, f"searches[{position}]")
            for position, search in enumerate(request.searches)
        ]
        self._check_candidates(queries)
        route = await self._router.find(request.collection, context)
        for query in queries:
            query.filters.check_keys(route)
            check_ungrouped(route, query.message.group_by)
            for leaf in leaves_of(query.message.rank):
                check_sparse_key(route, leaf)
        tasks = [self._fan_out.start(self._answer(route, query, context)) for query in queries]
        response = record_service_pb2.SearchResponse(results=await asyncio.gather(*tasks))
        self._check_size(response.ByteSize())
        return response

    def _checked(self, search: ranking_pb2.RankedQuery, field: str) -> _Query:
        limits = self._limits
        columns, wants_scores = check_include(tuple(search.include), distances=True)
        ids = None
        if search.HasField("ids"):
            ids = list(dict.fromkeys(search.ids.values))
            check_record_ids(ids, limits, f"{field}.ids", maximum=limits.max_page_records)
        if search.HasField("limit") and not 1 <= search.limit <= limits.max_n_results:
            raise invalid(
                f"{field}.limit",
                f"{field}.limit is {search.limit}; it must be 1 to {limits.max_n_results}",
            )
        if search.score_order not in ranking_pb2.ScoreOrder.values():
            raise invalid(
                f"{field}.score_order",
                f"{field}.score_order is {search.score_order}, which this server does not know",
            )
        if search.metadata_keys and value_pb2.INCLUDE_METADATAS not in columns:
            raise invalid(
                f"{field}.metadata_keys",
                f"{field}.metadata_keys is given, but metadata is not included",
            )
        for key in search.metadata_keys:
            check_metadata_key(key, limits, f"{field}.metadata_keys")
        if search.HasField("rank"):
            check_rank(search.rank, limits, f"{field}.rank")
        if search.HasField("group_by"):
            check_group_by(search.group_by, limits, f"{field}.group_by")
            if not search.HasField("rank"):
                raise invalid(f"{field}.group_by", f"{field}.group_by is given without a rank")
        return _Query(search, Filters.of(search, limits), ids, columns, wants_scores)

    def _check_candidates(self, queries: Sequence[_Query]) -> None:
        """Check how many candidates a request asks for: all of them are numbered here."""
        total = sum(
            leaf.limit
            for query in queries
            if query.message.HasField("rank")
            for leaf in leaves_of(query.message.rank)
        )
        maximum = self._limits.max_query_results
        if total > maximum:
            raise invalid(
                "searches",
                f"searches ask for {total} candidates, all limits together; at most {maximum} are "
                "allowed in one call",
            )

    # One search.

    async def _answer(
        self, route: CollectionRoute, query: _Query, context: CallContext
    ) -> ranking_pb2.RankedRecords:
        if query.message.HasField("rank"):
            records, scores = await self._ranked(route, query, context)
        else:
            records = await self._unranked(route, query, context)
            scores = [0.0] * len(records.ids)
        answer = ranking_pb2.RankedRecords(
            # The same bytes, with metadata decoded.
            records=value_pb2.RecordColumns.FromString(records.SerializeToString()),
            scores=scores if query.wants_scores else (),
            score_order=query.message.score_order or ranking_pb2.SCORE_ORDER_ASCENDING,
        )
        if query.message.metadata_keys:
            _keep_only(answer.records.metadatas, set(query.message.metadata_keys))
        return answer

    async def _ranked(
        self, route: CollectionRoute, query: _Query, context: CallContext
    ) -> tuple[worker_service_pb2.RecordColumns, list[float]]:
        rank = query.message.rank
        leaves = list(leaves_of(rank))
        found = await asyncio.gather(
            *(
                self._fan_out.start(
                    self._candidates.of(route, query.filters, query.ids, leaf, context)
                )
                for leaf in leaves
            )
        )
        ids, scores = _scored(rank, leaves, found)
        descending = query.message.score_order == ranking_pb2.SCORE_ORDER_DESCENDING
        order = scores.order(descending=descending)
        if query.message.HasField("group_by"):
            order = await self._grouped(route, query, ids, scores, order, context)
        order = order[query.message.offset :][: query.limit]
        best = [ids[place] for place in order.tolist()]
        values = scores.values[order].tolist()
        if not query.columns:
            return worker_service_pb2.RecordColumns(ids=best), values
        records = await self._columns(route, best, query.columns, context)
        value_of = dict(zip(best, values, strict=True))
        return records, [value_of[record_id] for record_id in records.ids]

    async def _grouped(
        self,
        route: CollectionRoute,
        query: _Query,
        ids: Sequence[str],
        scores: Scores,
        order: npt.NDArray[np.intp],
        context: CallContext,
    ) -> npt.NDArray[np.intp]:
        """Leave out of an order what its groups leave out, and what is gone meanwhile."""
        ranked = [ids[place] for place in order.tolist()]
        found: dict[str, bytes] = {}
        for first in range(0, len(ranked), _GROUPED_AT_A_TIME):
            part = ranked[first : first + _GROUPED_AT_A_TIME]
            records = await self._columns(route, part, [value_pb2.INCLUDE_METADATAS], context)
            found.update(zip(records.ids, records.metadatas, strict=True))
        here = np.array([record_id in found for record_id in ranked], np.bool_)
        order = order[here]
        metadatas = [
            metadata_from_message(value_pb2.Metadata.FromString(found[record_id]))
            for record_id in ranked
            if record_id in found
        ]
        return order[kept(query.message.group_by, metadatas, scores.values[order].tolist())]

    async def _unranked(
        self, route: CollectionRoute, query: _Query, context: CallContext
    ) -> worker_service_pb2.RecordColumns:
        wanted = Wanted.of(route, query.filters, query.ids)
        most = self._limits.max_n_results if query.limit is None else query.limit
        pages: list[worker_service_pb2.RecordColumns] = []
        start: Page | None = None
        count = size = 0
        while True:
            page = await self._reader.page(
                route,
                wanted,
                context,
                limit=most - count,
                start=start,
                offset=query.message.offset if start is None else 0,
                include=query.columns,
            )
            pages.append(page.columns)
            count += len(page.columns.ids)
            size += page.columns.ByteSize()
            self._check_size(size)
            start = page.last
            if start is None or count >= most:
                break
        if start is not None and query.limit is None:
            raise invalid(
                "limit",
                f"more than {most} records match, and nothing ranks them: give a limit",
            )
        return pages[0] if len(pages) == 1 else concatenated(pages)

    async def _columns(
        self,
        route: CollectionRoute,
        ids: Sequence[str],
        include: Sequence[value_pb2.Include.ValueType],
        context: CallContext,
    ) -> worker_service_pb2.RecordColumns:
        """Read records, in the order of their IDs; those that are gone are left out."""
        if not ids:
            return worker_service_pb2.RecordColumns()
        wanted = Wanted.of(route, Filters(), ids)

        def ask(stub: Any, shards: Any) -> tuple[Any, Any]:
            request = wanted.get_request(
                shards,
                self._clock.now(),
                limit=len(ids),
                max_bytes=self._limits.max_answer_bytes,
                include=include,
            )
            return stub.GetFromShards, request

        answers = (await self._fan_out.read(route, wanted.shards, ask, context)).answers
        if any(answer.more for answer in answers):
            self._check_size(self._limits.max_answer_bytes + 1)
        sources = Sources([answer.records for answer in answers])
        places = {
            record_id: (source, item)
            for source, own in enumerate(sources.ids)
            for item, record_id in enumerate(own)
        }
        return sources.gather([places[record_id] for record_id in ids if record_id in places])

    # Candidates.

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_answer_bytes:
            raise OverloadedError(
                f"the answer would exceed {self._limits.max_answer_bytes} bytes: include less, or "
                "ask for fewer searches or a lower limit in one call",
                metadata={"limit": "max_answer_bytes", "value": str(size)},
            )


def _scored(
    rank: ranking_pb2.Rank, leaves: Sequence[Leaf], found: Sequence[Found]
) -> tuple[list[str], Scores]:
    """Evaluate an expression over all candidates, which are numbered in order of insertion."""
    ordinal_of: dict[str, int] = {}
    for one in found:
        ordinal_of.update(zip(one.ids, one.ordinals.tolist(), strict=True))
    ids = sorted(ordinal_of, key=lambda record_id: (ordinal_of[record_id], record_id))
    place_of = {record_id: place for place, record_id in enumerate(ids)}
    scores = []
    for leaf, one in zip(leaves, found, strict=True):
        own = Scores.none(len(ids))
        places = [place_of[record_id] for record_id in one.ids]
        own.values[places] = np.arange(len(places)) if leaf.return_position else one.numbers
        own.held[places] = True
        default = leaf.default_value if leaf.HasField("default_value") else None
        scores.append(Scores(own.values, own.held, default))
    return ids, evaluate(rank, scores, len(ids))


def _keep_only(metadatas: Sequence[value_pb2.Metadata], keys: set[str]) -> None:
    for metadata in metadatas:
        for key in [key for key in metadata.fields if key not in keys]:
            del metadata.fields[key]
