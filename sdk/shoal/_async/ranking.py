"""Searching by rankings: what is text is embedded, then one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal import _hybrid, _ranking, _requests
from shoal._async import runtime
from shoal._async.session import AsyncSession
from shoal._embedder import Embedder
from shoal._methods import SEARCH
from shoal._vectors import check_dimension, to_vectors
from shoal.search_result import SearchResult, search_result
from shoal.v1 import collection_pb2, record_service_pb2
from shoal.wire.sparse import SparseVector


class AsyncRanker:
    """Searches one collection by rankings.

    Args:
        session: Makes the calls.
        collection: As the server describes it.
        embedder: Makes vectors of texts.
    """

    def __init__(
        self, session: AsyncSession, collection: collection_pb2.Collection, embedder: Embedder
    ) -> None:
        self._session = session
        self._collection = collection
        self._embedder = embedder

    async def search(self, searches: Any) -> SearchResult:
        """Answer one search or several."""
        limits = await self._session.limits()
        dicts = _ranking.search_dicts(searches)
        texts = list(
            dict.fromkeys(
                text for search in dicts for text in _ranking.texts_to_embed(search.get("rank"))
            )
        )
        vectors = dict(zip(texts, await self._embedded(texts), strict=True)) if texts else {}
        translated = [
            _ranking.ranked_query(search, vectors, limits, f"searches[{position}]")
            for position, search in enumerate(dicts)
        ]
        request = record_service_pb2.SearchRequest(
            collection=_requests.by_id(self._collection),
            searches=[message for message, _ in translated],
        )
        response = await self._session.call(SEARCH, request)
        return search_result(
            response.results,
            [selected for _, selected in translated],
            self._collection.dimension,
            "ascending",
        )

    async def hybrid_search(
        self, query: Any, knn: Any, rank: Any, n_results: Any, include: Any
    ) -> SearchResult:
        """Answer a hybrid search."""
        limits = await self._session.limits()
        routes = _hybrid.Routes.of(query, knn)
        vectors: list[npt.NDArray[np.float32] | list[SparseVector]] = []
        for route, texts in zip(routes.knns, routes.texts(), strict=True):
            if route.get("key") is not None:
                vectors.append(_hybrid.sparse_queries(route))
                continue
            if texts:
                dense = await self._embedded(texts)
            else:
                dense = to_vectors(route["query_embeddings"], "query_embeddings", limits)
            check_dimension(self._collection.name, self._collection.dimension, dense)
            vectors.append(dense)
        message, selected = _hybrid.hybrid_query(routes, vectors, rank, n_results, include, limits)
        request = record_service_pb2.SearchRequest(
            collection=_requests.by_id(self._collection), searches=[message]
        )
        response = await self._session.call(SEARCH, request)
        return search_result(response.results, [selected], self._collection.dimension, "descending")

    async def _embedded(self, texts: list[str]) -> npt.NDArray[np.float32]:
        return await runtime.in_thread(lambda: self._embedder.embed_queries(texts))
