"""Where the candidates of a ranking come from: one search of the whole collection for each knn and
text of an expression.

Only IDs, ordinals and numbers travel. What numbers depend on the whole collection (how rare a term
or dimension is) is counted in all shards first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.errors import NotFoundError
from shoal.internal.v1 import worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import filter_pb2, ranking_pb2, value_pb2
from shoal.wire.validation import invalid, shown
from shoal_gateway.fanout import FanOut
from shoal_gateway.filters import Filters, Wanted
from shoal_gateway.merge import Matches, merge_matches
from shoal_gateway.ranking import Leaf
from shoal_gateway.reads import Reader
from shoal_gateway.table import CollectionRoute
from shoal_gateway.writes import check_dimension

__all__ = ["Candidates", "Found", "check_sparse_key", "check_ungrouped"]

_SATURATION: Final = 1.2
_LENGTH_SHARE: Final = 0.75
"""BM25's k1 and b, as Lucene has them."""

_Ask: TypeAlias = Callable[..., tuple[Any, Any]]
"""Gives a method of a worker's stub and the request for it, into which what it is called with goes
besides: what the requests to all workers have in common."""


@dataclass(frozen=True, slots=True)
class Found:
    """The candidates of one knn or text, best first.

    Attributes:
        ids: Their IDs.
        ordinals: Their ordinals, shape ``(n,)``.
        numbers: Distances, or negative scores, ascending, shape ``(n,)``.
    """

    ids: Sequence[str]
    ordinals: npt.NDArray[np.uint64]
    numbers: npt.NDArray[np.float64]

    @classmethod
    def none(cls) -> Found:
        return cls([], np.empty(0, np.uint64), np.empty(0))


def check_sparse_key(route: CollectionRoute, leaf: Leaf) -> None:
    """Check that the collection has what a leaf searches.

    Raises:
        InvalidArgumentError: It declares no sparse vectors under the leaf's key.
    """
    key = leaf.key if isinstance(leaf, ranking_pb2.KnnRank) else ""
    if key and key not in route.sparse_vectors:
        declared = ", ".join(map(shown, sorted(route.sparse_vectors))) or "none"
        raise invalid(
            "knn.key",
            f"knn.key: collection {route.name!r} declares no sparse vectors under {shown(key)}; "
            f"it declares {declared}",
        )


def check_ungrouped(route: CollectionRoute, group_by: ranking_pb2.GroupBy) -> None:
    """Check that nothing is grouped or ordered by sparse vectors.

    Raises:
        InvalidArgumentError: It is.
    """
    for key in (*group_by.keys, *(order.metadata_key for order in group_by.order)):
        if key in route.sparse_vectors:
            raise invalid(
                "group_by", f"group_by: {shown(key)} holds sparse vectors, which are no groups"
            )


class Candidates:
    """Finds candidates.

    Args:
        fan_out: Calls workers.
        reader: Reads stored vectors.
        clock: Sent along.
    """

    def __init__(self, fan_out: FanOut, reader: Reader, clock: HybridClock) -> None:
        self._fan_out = fan_out
        self._reader = reader
        self._clock = clock

    async def of(
        self,
        route: CollectionRoute,
        filters: Filters,
        ids: Sequence[str] | None,
        leaf: Leaf,
        context: CallContext,
    ) -> Found:
        """Find the candidates of one knn or text.

        Args:
            route: The collection.
            filters: Of the search; those of the leaf itself come beside them.
            ids: Only these; None: any.
            leaf: Checked.
            context: The call.

        Raises:
            ShoalError: A filter does not fit the collection, or a shard cannot answer.
        """
        wanted = Wanted.of(route, _both(filters, leaf), ids)
        if isinstance(leaf, ranking_pb2.KnnRank):
            return await self._nearest(route, wanted, leaf, context)
        return await self._fitting(route, wanted, leaf, context)

    async def _nearest(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        knn: ranking_pb2.KnnRank,
        context: CallContext,
    ) -> Found:
        if knn.key:
            return await self._products(route, wanted, knn, context)
        vector = knn.vector
        if knn.WhichOneof("query") == "id":
            vector = await self._stored_vector(route, knn.id, context)
        elif route.dimension:
            check_dimension(route, vector.dimension, "knn.vector")

        def search(stub: Any, **common: Any) -> tuple[Any, Any]:
            return stub.SearchShards, worker_service_pb2.SearchShardsRequest(
                queries=vector, **common
            )

        return await self._best(route, wanted, knn.limit, search, context)

    async def _stored_vector(
        self, route: CollectionRoute, record_id: str, context: CallContext
    ) -> value_pb2.VectorBlock:
        wanted = Wanted.of(route, Filters(), [record_id])
        page = await self._reader.page(
            route, wanted, context, limit=1, include=[value_pb2.INCLUDE_VECTORS]
        )
        if not page.columns.ids:
            raise _unknown(route, record_id)
        return page.columns.vectors

    async def _products(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        knn: ranking_pb2.KnnRank,
        context: CallContext,
    ) -> Found:
        """Find the nearest among sparse vectors."""
        vector = knn.sparse_vector
        if knn.WhichOneof("query") == "id":
            vector = await self._stored_sparse_vector(route, knn, context)
        indices = vector.indices
        weights = list(vector.values)
        if route.sparse_vectors[knn.key].idf:
            frequencies = await self._dimension_weights(route, knn.key, indices, context)
            weights = [w * f for w, f in zip(weights, frequencies, strict=True)]

        def rank(stub: Any, **common: Any) -> tuple[Any, Any]:
            return stub.RankSparse, worker_service_pb2.RankSparseRequest(
                key=knn.key, indices=indices, weights=weights, **common
            )

        return await self._best(route, wanted, knn.limit, rank, context)

    async def _stored_sparse_vector(
        self, route: CollectionRoute, knn: ranking_pb2.KnnRank, context: CallContext
    ) -> value_pb2.SparseVector:
        wanted = Wanted.of(route, Filters(), [knn.id])
        page = await self._reader.page(
            route, wanted, context, limit=1, include=[value_pb2.INCLUDE_METADATAS]
        )
        if not page.columns.ids:
            raise _unknown(route, knn.id)
        metadata = value_pb2.Metadata.FromString(page.columns.metadatas[0])
        if knn.key not in metadata.fields:
            raise NotFoundError(
                f"knn.id: record {shown(knn.id)} of collection {route.name!r} has no sparse vector "
                f"under {shown(knn.key)}",
                metadata={"id": knn.id[:100], "key": knn.key},
            )
        return metadata.fields[knn.key].sparse_vector

    async def _dimension_weights(
        self, route: CollectionRoute, key: str, indices: Sequence[int], context: CallContext
    ) -> list[float]:
        """Give the inverse document frequency of each dimension."""

        def measure(stub: Any, **common: Any) -> tuple[Any, Any]:
            return stub.MeasureSparse, worker_service_pb2.MeasureSparseRequest(
                key=key, indices=indices, **common
            )

        measured = await self._measured(route, measure, context)
        vectors = sum(shard.vector_count for shard in measured)
        counts = (sum(of_all) for of_all in zip(*(s.frequencies for s in measured), strict=True))
        return [_inverse_frequency(vectors, count) for count in counts]

    async def _fitting(
        self,
        route: CollectionRoute,
        wanted: Wanted,
        text: ranking_pb2.TextRank,
        context: CallContext,
    ) -> Found:
        language = text.language or route.language

        def measure(stub: Any, **common: Any) -> tuple[Any, Any]:
            return stub.MeasureText, worker_service_pb2.MeasureTextRequest(
                query=text.query, language=language, **common
            )

        measured = await self._measured(route, measure, context)
        documents = sum(shard.document_count for shard in measured)
        frequencies: dict[str, int] = {}
        for shard in measured:
            for term, count in zip(shard.terms, shard.document_frequencies, strict=True):
                frequencies[term] = frequencies.get(term, 0) + count
        if not any(frequencies.values()):
            return Found.none()
        weights = {
            term: _inverse_frequency(documents, count) for term, count in frequencies.items()
        }
        average = sum(shard.term_count for shard in measured) / documents

        def rank(stub: Any, **common: Any) -> tuple[Any, Any]:
            return stub.RankText, worker_service_pb2.RankTextRequest(
                query=text.query,
                language=language,
                terms=weights.keys(),
                weights=weights.values(),
                average_length=average,
                saturation=_SATURATION,
                length_share=_LENGTH_SHARE,
                **common,
            )

        return await self._best(route, wanted, text.limit, rank, context)

    async def _measured(
        self, route: CollectionRoute, ask: _Ask, context: CallContext
    ) -> Sequence[Any]:
        """Count something in every shard, also where only some of them can hold a match."""

        def measure(stub: Any, shards: Any) -> tuple[Any, Any]:
            return ask(stub, shards=[shard.reference for shard in shards], clock=self._clock.now())

        return (await self._fan_out.read(route, route.shards, measure, context)).answers

    async def _best(
        self, route: CollectionRoute, wanted: Wanted, limit: int, ask: _Ask, context: CallContext
    ) -> Found:
        """Let each shard concerned find its best, and merge them."""

        def find(stub: Any, shards: Any) -> tuple[Any, Any]:
            method, request = ask(
                stub,
                shards=[shard.reference for shard in shards],
                limit=limit,
                ids=wanted.ids(shards),
                clock=self._clock.now(),
            )
            wanted.filters.put_into(request)
            return method, request

        answers = (await self._fan_out.read(route, wanted.shards, find, context)).answers
        return _merged(answers, limit)


def _unknown(route: CollectionRoute, record_id: str) -> NotFoundError:
    return NotFoundError(
        f"knn.id: collection {route.name!r} has no record {shown(record_id)}",
        metadata={"id": record_id[:100]},
    )


def _inverse_frequency(count: int, having: int) -> float:
    return math.log1p((count - having + 0.5) / (having + 0.5))


def _both(filters: Filters, leaf: Leaf) -> Filters:
    """Give what matches a search's own filters and those of one of its candidates."""
    where, where_document = filters.where, filters.where_document
    if leaf.HasField("where"):
        own = leaf.where
        where = own if where is None else _all_of(where, own)
    if leaf.HasField("where_document"):
        own_document = leaf.where_document
        where_document = (
            own_document
            if where_document is None
            else filter_pb2.WhereDocument(
                all_of=filter_pb2.WhereDocumentList(clauses=[where_document, own_document])
            )
        )
    return Filters(where, where_document)


def _all_of(left: filter_pb2.Where, right: filter_pb2.Where) -> filter_pb2.Where:
    return filter_pb2.Where(all_of=filter_pb2.WhereList(clauses=[left, right]))


def _merged(answers: Sequence[worker_service_pb2.ShardMatches], limit: int) -> Found:
    """Merge what the shards found for one query."""
    matches = [
        Matches(
            np.array([len(answer.records.ids)], np.int64),
            np.frombuffer(answer.distances, "<f8"),
            np.frombuffer(answer.ordinals, "<u8"),
            answer.records.ids,
        )
        for answer in answers
    ]
    if not matches:
        return Found.none()
    places = merge_matches(matches, limit).places()
    return Found(
        [matches[source].ids[item] for source, item in places],
        np.array([matches[source].ordinals[item] for source, item in places], np.uint64),
        np.array([matches[source].distances[item] for source, item in places], np.float64),
    )
