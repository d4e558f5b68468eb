"""Hybrid searches as pyseekdb's users write them, as one ranked query.

Each route (a text in `query`, a vector in `knn`) is a ranking of its own, with its own filters.
More than one are fused by reciprocal rank fusion, in which a record that one route has not found is
not left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import _requests
from shoal._ranking import Selected
from shoal.v1 import ranking_pb2, value_pb2
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal.wire.limits import Limits
from shoal.wire.sparse import SparseVector, sparse_of, sparse_to_message
from shoal.wire.validation import invalid
from shoal.wire.vectors import encode_vectors

_WINDOW: Final = 60
"""Candidates of each route, unless it or `rank` says another number or more results are wanted."""

_QUERY_KEYS: Final = ("where_document", "where", "n_results", "boost")
_KNN_KEYS: Final = (
    "query_texts",
    "query_embeddings",
    "key",
    "where",
    "where_document",
    "n_results",
    "boost",
)
_INCLUDES: Final = ("documents", "metadatas", "embeddings", "uris", "scores")


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes of a hybrid search, in a list each.

    Attributes:
        queries: Texts to fit.
        knns: Vectors to be near to, or texts to be embedded.
    """

    queries: list[Mapping[str, Any]] = field(default_factory=list)
    knns: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, query: Any, knn: Any) -> Routes:
        """Check what the arguments hold.

        Raises:
            InvalidArgumentError: One is no dict, or has a key that is not known.
        """
        routes = cls(_dicts(query, "query", _QUERY_KEYS), _dicts(knn, "knn", _KNN_KEYS))
        if not routes.queries and not routes.knns:
            raise invalid("query", "hybrid_search needs query, knn or both")
        return routes

    def texts(self) -> list[list[str]]:
        """Give the texts that each knn is to embed; none where it has vectors."""
        found = []
        for place, knn in enumerate(self.knns):
            texts, vectors = knn.get("query_texts"), knn.get("query_embeddings")
            if (texts is None) == (vectors is None):
                raise invalid(
                    f"knn[{place}]", "knn needs exactly one of query_embeddings and query_texts"
                )
            name = f"knn[{place}].query_texts"
            if texts is not None and knn.get("key") is not None:
                raise invalid(
                    name, f"{name} are texts: under a key, query_embeddings are sparse vectors"
                )
            found.append([] if texts is None else _requests.check_texts(name, texts))
        return found


def sparse_queries(knn: Mapping[str, Any]) -> list[SparseVector]:
    """Give the sparse vectors that a knn with a key is to be near to.

    Raises:
        InvalidArgumentError: They are none.
    """
    given = knn["query_embeddings"]
    many = given if isinstance(given, list | tuple) else [given]
    found = []
    for place, one in enumerate(many):
        vector = sparse_of(one, f"knn.query_embeddings[{place}]")
        if vector is None:
            raise invalid(
                "knn.query_embeddings",
                f"knn.query_embeddings is of type {type(one).__name__}; under the key "
                f"{knn['key']!r} a SparseVector is sought",
            )
        found.append(vector)
    return found


def _dicts(value: Any, name: str, known: Sequence[str]) -> list[Mapping[str, Any]]:
    many = [] if value is None else value if isinstance(value, list | tuple) else [value]
    for route in many:
        if not isinstance(route, Mapping):
            raise invalid(name, f"{name} must be a dict, got {type(route).__name__}")
        for key in route:
            if key not in known:
                raise invalid(name, f"{name} has the key {key!r}; it may have {', '.join(known)}")
    return list(many)


def hybrid_query(
    routes: Routes,
    vectors: Sequence[npt.NDArray[np.float32] | list[SparseVector]],
    rank: Any,
    n_results: Any,
    include: Any,
    limits: Limits,
) -> tuple[ranking_pb2.RankedQuery, Selected]:
    """Translate a hybrid search.

    Args:
        routes: What is searched.
        vectors: Of each knn, shape ``(n, d)``, or sparse ones.
        rank: ``{"rrf": {"rank_window_size": …, "rank_constant": …}}``, or None.
        n_results: How many records are wanted.
        include: Columns.
        limits: Of the server.

    Raises:
        InvalidArgumentError: Something is not allowed.
    """
    wanted = _requests.check_count("n_results", n_results, 1, limits.max_n_results)
    window, constant = _fusion(rank, limits)
    selected = _selected(include)
    message = ranking_pb2.RankedQuery(
        limit=wanted,
        score_order=ranking_pb2.SCORE_ORDER_DESCENDING,
        include=[
            *_requests.include_numbers(selected.include),
            *([value_pb2.INCLUDE_DISTANCES] if selected.scores else []),
        ],
    )
    if _is_filter_alone(routes):
        [only] = routes.queries
        where = _requests.check_where(only.get("where"), limits)
        if where is not None:
            message.where.CopyFrom(where)
        return message, selected
    ranks: list[ranking_pb2.Rank] = []
    weights: list[float] = []
    for query in routes.queries:
        ranks.append(ranking_pb2.Rank(text=_text_rank(query, wanted, window, limits)))
        weights.append(_weight(query))
    for knn, block in zip(routes.knns, vectors, strict=True):
        for vector in block:
            ranks.append(ranking_pb2.Rank(knn=_knn_rank(knn, vector, wanted, window, limits)))
            weights.append(_weight(knn))
    if len(ranks) == 1 and rank is None:
        # The route's own numbers; they are lower where it is better.
        message.rank.product.ranks.extend([ranking_pb2.Rank(constant=-weights[0]), ranks[0]])
    else:
        message.rank.rrf.CopyFrom(ranking_pb2.RrfRank(ranks=ranks, weights=weights))
        if constant is not None:
            message.rank.rrf.constant = constant
    return message, selected


def _is_filter_alone(routes: Routes) -> bool:
    """Whether nothing is ranked: one query without a text."""
    bare = [query for query in routes.queries if query.get("where_document") is None]
    if not bare:
        return False
    if routes.knns or len(routes.queries) > 1:
        raise invalid(
            "query",
            "a query without where_document ranks nothing, so that it cannot be fused: put its "
            "where into knn",
        )
    if bare[0].get("where") is None:
        raise invalid("query", "query needs where_document or where")
    return True


def _selected(include: Any) -> Selected:
    names = ["documents", "metadatas"] if include is None else include
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in _INCLUDES:
            raise invalid("include", f"include holds {name!r}; it may hold {', '.join(_INCLUDES)}")
    columns = [name for name in dict.fromkeys(names) if name != "scores"]
    return Selected(names, columns, [], scores=True)


def _fusion(rank: Any, limits: Limits) -> tuple[int | None, float | None]:
    """Give the window and the constant that `rank` says."""
    if rank is None:
        return None, None
    if not isinstance(rank, Mapping) or set(rank) != {"rrf"}:
        raise invalid("rank", f'rank must be {{"rrf": {{…}}}}, got {rank!r}')
    rrf = rank["rrf"]
    known = ("rank_window_size", "rank_constant")
    if not isinstance(rrf, Mapping) or not set(rrf) <= set(known):
        raise invalid("rank", f"rank.rrf must be a dict with {' and '.join(known)}, got {rrf!r}")
    window, constant = rrf.get("rank_window_size"), rrf.get("rank_constant")
    if window is not None:
        window = _requests.check_count("rank.rrf.rank_window_size", window, 1, limits.max_n_results)
    if constant is not None:
        constant = _positive("rank.rrf.rank_constant", constant)
    return window, constant


def _positive(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if not is_number or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise invalid(name, f"{name} must be a number above 0, got {value!r}")
    return float(value)


def _weight(route: Mapping[str, Any]) -> float:
    boost = route.get("boost")
    return 1.0 if boost is None else _positive("boost", boost)


def _limit(route: Mapping[str, Any], wanted: int, window: int | None, limits: Limits) -> int:
    own = route.get("n_results")
    if own is None:
        return window or max(wanted, _WINDOW)
    checked = _requests.check_count("n_results", own, 1, limits.max_n_results)
    return checked if window is None else min(checked, window)


def _text_rank(
    query: Mapping[str, Any], wanted: int, window: int | None, limits: Limits
) -> ranking_pb2.TextRank:
    texts, conditions = _texts_and_conditions(query["where_document"])
    text = ranking_pb2.TextRank(query=" ".join(texts), limit=_limit(query, wanted, window, limits))
    if query.get("where") is not None:
        text.where.CopyFrom(where_from_dict(query["where"], limits))
    if conditions:
        tree = conditions[0] if len(conditions) == 1 else {"$and": conditions}
        text.where_document.CopyFrom(where_document_from_dict(tree, limits))
    return text


def _texts_and_conditions(tree: Any) -> tuple[list[str], list[Any]]:
    """Tell what a document is to fit from what it must match.

    ``$contains`` is a text to fit, alone, under ``$or``, or once under ``$and`` beside conditions.
    """
    if isinstance(tree, str):
        return [tree], []
    if not isinstance(tree, Mapping) or len(tree) != 1:
        raise invalid("where_document", f"where_document must have exactly one key, got {tree!r}")
    [(operator, operand)] = tree.items()
    if operator == "$contains":
        return [_requests.check_text("where_document.$contains", operand)], []
    if operator not in ("$and", "$or") or not isinstance(operand, list | tuple):
        raise invalid(
            "where_document",
            f"where_document has {operator!r} and no $contains, which is the text to rank by",
        )
    texts: list[str] = []
    conditions: list[Any] = []
    for clause in operand:
        if isinstance(clause, Mapping) and set(clause) == {"$contains"}:
            texts.append(_requests.check_text("where_document.$contains", clause["$contains"]))
        else:
            conditions.append(clause)
    if not texts:
        raise invalid("where_document", "where_document has no $contains, the text to rank by")
    if operator == "$or" and conditions:
        raise invalid("where_document", "where_document has an $or of $contains and something else")
    if operator == "$and" and len(texts) > 1:
        raise invalid(
            "where_document",
            "where_document has an $and of several $contains: texts rank, they do not filter; put "
            "the words into one $contains, or several under $or",
        )
    return texts, conditions


def _knn_rank(
    knn: Mapping[str, Any],
    vector: npt.NDArray[np.float32] | SparseVector,
    wanted: int,
    window: int | None,
    limits: Limits,
) -> ranking_pb2.KnnRank:
    message = ranking_pb2.KnnRank(limit=_limit(knn, wanted, window, limits))
    if isinstance(vector, SparseVector):
        message.key = _requests.check_text("knn.key", knn["key"])
        message.sparse_vector.CopyFrom(sparse_to_message(vector))
    else:
        message.vector.CopyFrom(encode_vectors(vector[np.newaxis]))
    if knn.get("where") is not None:
        message.where.CopyFrom(where_from_dict(knn["where"], limits))
    if knn.get("where_document") is not None:
        document = where_document_from_dict(knn["where_document"], limits)
        message.where_document.CopyFrom(document)
    return message
