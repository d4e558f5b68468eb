"""Reading records: pages put together, many queries taken apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal import _decoding, _requests, errors
from shoal._async import runtime
from shoal._async.session import AsyncSession
from shoal._decoding import Columns
from shoal._embedder import Embedder
from shoal._methods import GET, LIST_IDS, QUERY
from shoal._question import Question
from shoal._vectors import check_dimension, to_vectors
from shoal.results import GetResult, IdPage, QueryResult
from shoal.v1 import collection_pb2, record_service_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import invalid


class AsyncReader:
    """Reads the records of one collection.

    Args:
        session: Makes the calls.
        collection: As the server describes it.
        embedder: Makes vectors of query texts.
    """

    def __init__(
        self, session: AsyncSession, collection: collection_pb2.Collection, embedder: Embedder
    ) -> None:
        self._session = session
        self._collection = collection
        self._embedder = embedder
        # The last question without filters: most ask again what was asked before.
        self._plain: Question | None = None

    async def get(
        self, ids: Any, where: Any, where_document: Any, limit: Any, offset: Any, include: Any
    ) -> GetResult:
        """Get records in order of insertion, all pages."""
        limits = await self._session.limits()
        included = _requests.check_include(include, distances=False)
        checked_ids = _requests.optional_ids(ids, limits)
        wanted = _requests.check_optional_count("limit", limit)
        skipped = _requests.check_optional_count("offset", offset) or 0
        request = self._get_request(where, where_document, included, limits)
        if checked_ids is not None and len(checked_ids) > limits.max_page_records:
            return await self._get_many(request, checked_ids, included, wanted, skipped, limits)
        if checked_ids is not None:
            request.ids.values.extend(checked_ids)
        request.offset = skipped
        columns = Columns(included)
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(columns.ids))
            response = await self._session.call(GET, request)
            columns.extend(response.records)
            is_enough = wanted is not None and len(columns.ids) >= wanted
            if not response.next_page_token or is_enough:
                return self._result(columns)
            request.page_token = response.next_page_token
            request.offset = 0

    async def _get_many(
        self,
        request: record_service_pb2.GetRequest,
        ids: list[str],
        included: list[str],
        wanted: int | None,
        skipped: int,
        limits: Limits,
    ) -> GetResult:
        """Get more records by ID than one request may name.

        First only which there are and their places, then those that are wanted, in order.
        """
        step = limits.max_page_records
        columns = Columns(included)
        del request.include[:]
        places: list[tuple[int, str]] = []
        for start in range(0, len(ids), step):
            async for response in self._pages(request, ids[start : start + step]):
                places += zip(response.ordinals, response.records.ids, strict=True)
        stop = None if wanted is None else skipped + wanted
        found = [record_id for _, record_id in sorted(places)][skipped:stop]
        request.include.extend(_requests.include_numbers(included))
        for start in range(0, len(found), step):
            async for response in self._pages(request, found[start : start + step]):
                columns.extend(response.records)
        return self._result(columns)

    async def _pages(
        self, request: record_service_pb2.GetRequest, ids: list[str]
    ) -> AsyncIterator[record_service_pb2.GetResponse]:
        del request.ids.values[:]
        request.ids.values.extend(ids)
        request.page_token = ""
        while True:
            response = await self._session.call(GET, request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def walk(
        self, batch_size: int, where: Any, where_document: Any, include: Any
    ) -> AsyncIterator[GetResult]:
        """Give the records in order of insertion, batch by batch."""
        limits = await self._session.limits()
        included = _requests.check_include(include, distances=False)
        request = self._get_request(where, where_document, included, limits)
        request.limit = _requests.fits_uint32(batch_size)
        while True:
            response = await self._session.call(GET, request)
            if response.records.ids:
                columns = Columns(included)
                columns.extend(response.records)
                yield self._result(columns)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def _get_request(
        self, where: Any, where_document: Any, included: list[str], limits: Limits
    ) -> record_service_pb2.GetRequest:
        return record_service_pb2.GetRequest(
            collection=_requests.by_id(self._collection),
            where=_requests.check_where(where, limits),
            where_document=_requests.check_where_document(where_document, limits),
            include=_requests.include_numbers(included),
        )

    def _result(self, columns: Columns) -> GetResult:
        return _decoding.get_result(columns, self._collection.dimension)

    async def list_ids(self, prefix: Any, limit: Any, page_token: Any) -> IdPage:
        """List IDs; without a limit all that are left."""
        wanted = _requests.check_optional_count("limit", limit)
        request = record_service_pb2.ListIdsRequest(
            collection=_requests.by_id(self._collection),
            prefix="" if prefix is None else _requests.check_text("prefix", prefix),
            page_token="" if page_token is None else _requests.check_text("page_token", page_token),
        )
        found: list[str] = []
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(found))
            response = await self._session.call(LIST_IDS, request)
            found += response.ids
            token = response.next_page_token
            if not token or (wanted is not None and len(found) >= wanted):
                return IdPage(found, token or None)
            request.page_token = token

    async def query(
        self,
        queries: tuple[Any, Any, Any],
        n_results: Any,
        ids: Any,
        where: Any,
        where_document: Any,
        include: Any,
        *,
        allow_partial: bool,
        explain: bool,
    ) -> QueryResult:
        """Find the nearest records, in as many calls as the limits demand.

        Args:
            queries: Vectors, texts, IDs; exactly one of them.
        """
        session = self._session
        limits = session.known_limits or await session.limits()
        is_plain = ids is None and where is None and where_document is None
        is_plain = is_plain and not (allow_partial or explain)
        question = self._plain if is_plain else None
        if question is None or not question.asks(n_results, include):
            question = Question(
                self._collection.id,
                n_results,
                ids,
                where,
                where_document,
                include,
                allow_partial=bool(allow_partial),
                explain=bool(explain),
                limits=limits,
            )
            if is_plain:
                self._plain = question
        query = await self._queries(*queries, limits)
        if isinstance(query, list) or ids is not None or allow_partial or explain:
            # What is asked about this call alone is asked alone.
            return await self._answer(question, query, limits)
        found, first = await session.gatherer.ask(
            (question.parameters, query.shape[1]),
            query,
            question.n_results,
            session.timeout_s,
            lambda together: self._answer(question, together, limits),
        )
        count = len(query)
        return found if len(found["ids"]) == count else _decoding.part(found, first, count)

    async def _answer(
        self, question: Question, query: npt.NDArray[np.float32] | list[str], limits: Limits
    ) -> QueryResult:
        """Ask queries, in as many calls as the limits demand."""
        dimension = self._collection.dimension or (1 if isinstance(query, list) else query.shape[1])
        most = question.most_queries(dimension, limits)
        if len(query) <= most:
            answers = await self._ask(question, query)
        else:
            answers = []
            for start in range(0, len(query), most):
                answers += await self._ask(question, query[start : start + most])
        return _decoding.query_result(
            answers,
            question.included,
            dimension,
            explain=question.explain,
            allow_partial=question.allow_partial,
        )

    async def _queries(
        self, embeddings: Any, texts: Any, ids: Any, limits: Limits
    ) -> npt.NDArray[np.float32] | list[str]:
        """Check the queries, and embed what is text."""
        given = (embeddings is not None) + (texts is not None) + (ids is not None)
        if given != 1:
            raise invalid(
                "query_embeddings",
                "query needs exactly one of query_embeddings, query_texts and query_ids, "
                f"got {given}",
            )
        if ids is not None:
            return _requests.query_ids(ids, limits)
        if texts is not None:
            checked = _requests.check_texts("query_texts", texts)
            vectors = await runtime.in_thread(lambda: self._embedder.embed_queries(checked))
        else:
            vectors = to_vectors(embeddings, "query_embeddings", limits)
        check_dimension(self._collection.name, self._collection.dimension, vectors)
        return vectors

    async def _ask(
        self, question: Question, query: npt.NDArray[np.float32] | list[str]
    ) -> list[record_service_pb2.QueryResponse]:
        """Ask some queries; those whose answers do not fit together are asked apart."""
        try:
            return [await self._session.call(QUERY, question.request(query))]
        except errors.OverloadedError as error:
            if not _requests.is_answer_too_large(error) or len(query) == 1:
                raise
        middle = len(query) // 2
        first = await self._ask(question, query[:middle])
        return first + await self._ask(question, query[middle:])
