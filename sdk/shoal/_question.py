"""What a query asks, besides its vectors: checked once, and asked any number of times."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal import _requests
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2
from shoal.wire.limits import Limits
from shoal.wire.vectors import put_vectors


class Question:
    """Everything of a query but its vectors, or the records whose vectors they are. Never changed.

    Args:
        collection_id: The collection's.
        n_results: As the user gives it, like the next four.
        ids: Records to search among.
        where: Filter on metadata.
        where_document: Filter on documents.
        include: What is wanted of each match.
        allow_partial: Whether shards may be left out.
        explain: Whether it is told how the answer was found.
        limits: Of the server.

    Attributes:
        n_results: Matches wanted of each query.
        included: Names of what is wanted of each match.
        parameters: The request without queries, serialised: the same bytes for the same question.

    Raises:
        InvalidArgumentError: Something of it is not allowed.
    """

    __slots__ = ("_asked", "allow_partial", "explain", "included", "n_results", "parameters")

    def __init__(
        self,
        collection_id: str,
        n_results: Any,
        ids: Any,
        where: Any,
        where_document: Any,
        include: Any,
        *,
        allow_partial: bool,
        explain: bool,
        limits: Limits,
    ) -> None:
        self.included = _requests.check_include(include, distances=True)
        self.n_results = _requests.check_count("n_results", n_results, 1, limits.max_n_results)
        self.allow_partial = allow_partial
        self.explain = explain
        self.parameters = record_service_pb2.QueryRequest(
            collection=collection_pb2.CollectionReference(id=collection_id),
            n_results=self.n_results,
            ids=_requests.id_list(_requests.id_set(ids, limits)),
            where=_requests.check_where(where, limits),
            where_document=_requests.check_where_document(where_document, limits),
            include=_requests.include_numbers(self.included),
            allow_partial=allow_partial,
            explain=explain,
        ).SerializeToString(deterministic=True)
        # Of a list, which may be another by the next time, a copy.
        self._asked = (n_results, list(include) if isinstance(include, list) else include)

    def asks(self, n_results: Any, include: Any) -> bool:
        """Whether it was made of these."""
        known_n_results, known_include = self._asked
        return (
            type(n_results) is int
            and n_results == known_n_results
            and type(include) in (list, tuple)
            and include == known_include
        )

    def most_queries(self, dimension: int, limits: Limits) -> int:
        """Give how many queries a server answers in one call, at least 1."""
        n_results = self.n_results
        # The queries themselves must fit a message as well.
        most = min(
            limits.max_queries,
            limits.max_query_results // n_results,
            limits.max_message_bytes // 2 // (4 * dimension),
        )
        if "embeddings" in self.included:
            most = min(most, limits.max_answer_bytes // 2 // (n_results * 4 * dimension))
        return max(most, 1)

    def request(
        self, query: npt.NDArray[np.float32] | list[str]
    ) -> record_service_pb2.QueryRequest:
        """Make the request that asks it of some queries.

        Args:
            query: Vectors, shape ``(n, d)``, or IDs of records.
        """
        request = record_service_pb2.QueryRequest.FromString(self.parameters)
        if isinstance(query, list):
            request.query_ids.CopyFrom(value_pb2.IdList(values=query))
        else:
            put_vectors(request.query_vectors, query)
        return request
