"""Answers as results: columns of messages into lists and arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.results import (
    GetResult,
    QueryPlan,
    QueryResult,
    ShardPlan,
    StoredMetadata,
    UnsearchedShard,
)
from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire.metadata import metadatas_from_messages
from shoal.wire.vectors import vectors_of

_METHOD_NAMES: Final = {
    record_service_pb2.SEARCH_METHOD_NOTHING: "nothing",
    record_service_pb2.SEARCH_METHOD_EXACT: "exact",
    record_service_pb2.SEARCH_METHOD_GRAPH: "graph",
}

_NO_RESULT: Final[dict[str, Any]] = dict.fromkeys(
    ("ids", "embeddings", "documents", "uris", "data", "metadatas", "distances", "included")
)

_NESTED: Final = ("ids", "embeddings", "documents", "uris", "metadatas", "distances")


def _texts(column: value_pb2.StringColumn) -> list[str | None]:
    texts: list[str | None] = list(column.values)
    for position in column.absent:
        texts[position] = None
    return texts


class Columns:
    """Records of several answers, one after the other.

    Args:
        include: What was asked for.

    Attributes:
        ids: Always there.
        vectors: Arrays of shape ``(n, d)``, one an answer.
    """

    __slots__ = ("documents", "ids", "include", "metadatas", "uris", "vectors")

    def __init__(self, include: Sequence[str]) -> None:
        self.include = include
        self.ids: list[str] = []
        self.vectors: list[npt.NDArray[np.float32]] = []
        self.documents: list[str | None] = []
        self.uris: list[str | None] = []
        self.metadatas: list[StoredMetadata | None] = []

    def extend(self, records: value_pb2.RecordColumns) -> None:
        """Append the records of an answer."""
        self.ids.extend(records.ids)
        if "embeddings" in self.include and records.ids:
            self.vectors.append(vectors_of(records.vectors))
        if "documents" in self.include:
            self.documents.extend(_texts(records.documents))
        if "uris" in self.include:
            self.uris.extend(_texts(records.uris))
        if "metadatas" in self.include:
            self.metadatas += metadatas_from_messages(records.metadatas)

    def all_vectors(self, dimension: int | None) -> npt.NDArray[np.float32]:
        """All vectors, shape ``(n, d)``, writable."""
        if not self.vectors:
            return np.empty((0, dimension or 0), np.float32)
        # A view of an answer's bytes would be read-only, and keep the whole answer alive.
        return np.concatenate(self.vectors).astype(np.float32, copy=False)


def get_result(columns: Columns, dimension: int | None) -> GetResult:
    """Make the result of a get."""
    include = columns.include
    return GetResult(
        ids=columns.ids,
        embeddings=columns.all_vectors(dimension) if "embeddings" in include else None,
        documents=columns.documents if "documents" in include else None,
        uris=columns.uris if "uris" in include else None,
        data=None,
        metadatas=columns.metadatas if "metadatas" in include else None,
        included=list(include),
    )


def query_result(
    answers: Sequence[record_service_pb2.QueryResponse],
    include: Sequence[str],
    dimension: int | None,
    *,
    explain: bool,
    allow_partial: bool,
) -> QueryResult:
    """Make the result of a query that was sent in one or several calls."""
    columns = Columns(include)
    counts: list[int] = []
    distances: list[float] = []
    for answer in answers:
        columns.extend(answer.records)
        counts.extend(answer.match_counts)
        distances.extend(answer.distances)
    bounds = list(itertools.pairwise(itertools.accumulate(counts, initial=0)))
    found: dict[str, Any] = {
        "ids": columns.ids,
        "documents": columns.documents,
        "uris": columns.uris,
        "metadatas": columns.metadatas,
        "distances": distances,
    }
    if "embeddings" in include:
        found["embeddings"] = columns.all_vectors(dimension)
    result = QueryResult(_NO_RESULT)
    for name in ("ids", *include):
        column = found[name]
        result[name] = [column] if len(bounds) == 1 else [column[a:b] for a, b in bounds]
    result["included"] = list(include)
    if explain:
        result["plan"] = _plan(answers, bounds)
    if allow_partial:
        result["unsearched_shards"] = _unsearched(answers)
    return result


def part(result: QueryResult, first: int, count: int) -> QueryResult:
    """Give the results of some queries of several, which follow one another."""
    end = first + count
    own = QueryResult(result)
    for name in _NESTED:
        column = result[name]
        if column is not None:
            own[name] = column[first:end]
    if own["embeddings"] is not None:
        # Of one array, which would else stay as long as one of its parts.
        own["embeddings"] = [vectors.copy() for vectors in own["embeddings"]]
    own["included"] = list(result["included"])
    return own


def _unsearched(answers: Sequence[record_service_pb2.QueryResponse]) -> list[UnsearchedShard]:
    found: dict[str, UnsearchedShard] = {}
    for answer in answers:
        for shard in answer.unsearched_shards:
            found[shard.shard_id] = {
                "shard_id": shard.shard_id,
                "reason": shard.reason,
                "message": shard.message,
            }
    return list(found.values())


def _plan(
    answers: Sequence[record_service_pb2.QueryResponse], bounds: Sequence[tuple[int, int]]
) -> QueryPlan:
    """Add up what the calls of one query tell."""
    shards: dict[str, ShardPlan] = {}
    match_shards: list[str] = []
    for answer in answers:
        plans = answer.plan.shards
        match_shards.extend(plans[position].shard_id for position in answer.plan.match_shards)
        for plan in plans:
            before = shards.get(plan.shard_id)
            shards[plan.shard_id] = {
                "shard_id": plan.shard_id,
                "worker_id": plan.worker_id,
                "method": _METHOD_NAMES.get(plan.method, "unknown"),
                "record_count": plan.record_count,
                "matching_count": plan.matching_count,
                "fresh_count": plan.fresh_count,
                "candidate_count": plan.candidate_count
                + (before["candidate_count"] if before else 0),
                "examined_count": plan.examined_count + (before["examined_count"] if before else 0),
                "seconds": plan.seconds + (before["seconds"] if before else 0.0),
                "filter_seconds": plan.filter_seconds
                + (before["filter_seconds"] if before else 0.0),
                "sequence": plan.sequence,
            }
    return {
        "shards": list(shards.values()),
        "match_shards": [match_shards[a:b] for a, b in bounds],
        "gateway_seconds": sum(answer.plan.gateway_seconds for answer in answers),
    }
