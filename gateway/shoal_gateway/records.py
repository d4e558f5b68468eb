"""shoal.v1.RecordService: decode, call, encode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import record_service_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import check_record_ids, invalid
from shoal_gateway import tokens
from shoal_gateway.filters import Filters, Wanted
from shoal_gateway.ranked_search import RankedSearcher
from shoal_gateway.reads import Reader
from shoal_gateway.routing import Router
from shoal_gateway.search import Searcher, check_include, unsearched
from shoal_gateway.selection import Selection
from shoal_gateway.table import CollectionRoute
from shoal_gateway.writes import Writer

__all__ = ["RecordService"]


_Request = TypeVar("_Request", bound=Any)
_Response = TypeVar("_Response")
_Method: TypeAlias = (
    "Callable[[RecordService, _Request, CallContext], Coroutine[Any, Any, _Response]]"
)


def _on_collection(method: _Method[_Request, _Response]) -> _Method[_Request, _Response]:
    """Make a method continue the caller's session, and follow a name that was used again."""

    @functools.wraps(method)
    async def answer(self: RecordService, request: _Request, context: CallContext) -> _Response:
        if request.session_token:
            self.continue_session(request.session_token)
        if request.collection.id:  # for good: no name to follow
            return await method(self, request, context)
        return await self.router.by_the_name_in_force(
            request.collection, lambda: method(self, request, context)
        )

    return answer


class RecordService:
    """Writes, reads and searches records.

    Args:
        router: Finds collections.
        writer: Writes.
        reader: Reads pages.
        searcher: Answers queries.
        ranked_searcher: Answers searches by rankings.
        selection: Counts.
        clock: Merged with session tokens, and told in them.
        limits: The bounds.
    """

    def __init__(
        self,
        router: Router,
        writer: Writer,
        reader: Reader,
        searcher: Searcher,
        ranked_searcher: RankedSearcher,
        selection: Selection,
        clock: HybridClock,
        limits: Limits,
    ) -> None:
        self.router = router
        self._writer = writer
        self._reader = reader
        self._searcher = searcher
        self._ranked_searcher = ranked_searcher
        self._selection = selection
        self._clock = clock
        self._limits = limits

    @_on_collection
    async def add(
        self, request: record_service_pb2.AddRequest, context: CallContext
    ) -> record_service_pb2.AddResponse:
        written = await self._writer.put(worker_service_pb2.WRITE_KIND_ADD, request, context)
        return record_service_pb2.AddResponse(
            added=written.added, ignored=written.ignored, session_token=self._session_token()
        )

    @_on_collection
    async def upsert(
        self, request: record_service_pb2.UpsertRequest, context: CallContext
    ) -> record_service_pb2.UpsertResponse:
        written = await self._writer.put(worker_service_pb2.WRITE_KIND_UPSERT, request, context)
        return record_service_pb2.UpsertResponse(
            added=written.added, updated=written.updated, session_token=self._session_token()
        )

    @_on_collection
    async def update(
        self, request: record_service_pb2.UpdateRequest, context: CallContext
    ) -> record_service_pb2.UpdateResponse:
        written = await self._writer.put(worker_service_pb2.WRITE_KIND_UPDATE, request, context)
        return record_service_pb2.UpdateResponse(
            updated=written.updated, ignored=written.ignored, session_token=self._session_token()
        )

    @_on_collection
    async def update_where(
        self, request: record_service_pb2.UpdateWhereRequest, context: CallContext
    ) -> record_service_pb2.UpdateWhereResponse:
        written = await self._writer.update_where(request, context)
        return record_service_pb2.UpdateWhereResponse(
            matched=written.matched, updated=written.updated, session_token=self._session_token()
        )

    @_on_collection
    async def delete(
        self, request: record_service_pb2.DeleteRequest, context: CallContext
    ) -> record_service_pb2.DeleteResponse:
        written = await self._writer.delete(request, context)
        return record_service_pb2.DeleteResponse(
            deleted=written.deleted, session_token=self._session_token()
        )

    @_on_collection
    async def get(
        self, request: record_service_pb2.GetRequest, context: CallContext
    ) -> worker_service_pb2.GetResponse:
        columns, _ = check_include(tuple(request.include), distances=False)
        filters = Filters.of(request, self._limits)
        ids = None
        if request.HasField("ids"):
            ids = request.ids.values
            check_record_ids(ids, self._limits, "ids", maximum=self._limits.max_page_records)
        route = await self.router.find(request.collection, context)
        ids_part = b"" if ids is None else request.ids.SerializeToString()
        belongs_to = _page_digest("get", route, *filters.digest_parts(), ids_part)
        page = await self._reader.page(
            route,
            Wanted.of(route, filters, ids),
            context,
            limit=request.limit if request.HasField("limit") else None,
            start=tokens.decode_page(request.page_token, belongs_to),
            offset=request.offset,
            include=columns,
            allow_partial=request.allow_partial,
        )
        return worker_service_pb2.GetResponse(
            records=page.columns,
            ordinals=page.ordinals.tolist(),
            next_page_token="" if page.last is None else tokens.encode_page(page.last, belongs_to),
            unsearched_shards=unsearched(page.failures),
            session_token=self._session_token(),
        )

    @_on_collection
    async def count(
        self, request: record_service_pb2.CountRequest, context: CallContext
    ) -> record_service_pb2.CountResponse:
        filters = Filters.of(request, self._limits)
        route = await self.router.find(request.collection, context)
        filters.check_keys(route)
        count = await self._selection.count(route, filters, context)
        return record_service_pb2.CountResponse(count=count, session_token=self._session_token())

    @_on_collection
    async def list_ids(
        self, request: record_service_pb2.ListIdsRequest, context: CallContext
    ) -> record_service_pb2.ListIdsResponse:
        if len(request.prefix.encode()) > self._limits.max_id_bytes:
            raise invalid(
                "prefix",
                f"prefix has {len(request.prefix.encode())} bytes; an ID has at most "
                f"{self._limits.max_id_bytes}",
            )
        route = await self.router.find(request.collection, context)
        belongs_to = _page_digest("list_ids", route, request.prefix.encode())
        page = await self._reader.page(
            route,
            Wanted.of(route, Filters(), None, request.prefix),
            context,
            limit=request.limit if request.HasField("limit") else None,
            start=tokens.decode_page(request.page_token, belongs_to),
        )
        return record_service_pb2.ListIdsResponse(
            ids=page.columns.ids,
            next_page_token="" if page.last is None else tokens.encode_page(page.last, belongs_to),
            session_token=self._session_token(),
        )

    @_on_collection
    async def query(
        self, request: record_service_pb2.QueryRequest, context: CallContext
    ) -> worker_service_pb2.QueryResponse:
        response = await self._searcher.query(request, context)
        response.session_token = self._session_token()
        return response

    @_on_collection
    async def search(
        self, request: record_service_pb2.SearchRequest, context: CallContext
    ) -> record_service_pb2.SearchResponse:
        response = await self._ranked_searcher.search(request, context)
        response.session_token = self._session_token()
        return response

    def continue_session(self, token: bytes) -> None:
        """Order what follows after what the caller has seen.

        Raises:
            InvalidArgumentError: That is no session token.
        """
        clock = tokens.decode_session(token)
        if clock:
            self._clock.merge(clock)

    def _session_token(self) -> bytes:
        return tokens.encode_session(self._clock.now())


def _page_digest(method: str, route: CollectionRoute, *parts: bytes) -> bytes:
    return tokens.digest([method.encode(), route.collection_id.encode(), *parts])
