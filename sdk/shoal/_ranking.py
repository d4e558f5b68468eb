"""Searches as messages: what their dicts say, checked and translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import _requests, errors
from shoal._vectors import to_vectors
from shoal.v1 import ranking_pb2, value_pb2
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal.wire.limits import Limits
from shoal.wire.sparse import SparseVector, sparse_of, sparse_to_message
from shoal.wire.validation import invalid
from shoal.wire.vectors import encode_vectors

_PARTS: Final = ("filter", "rank", "group_by", "limit", "select")

_LISTS: Final = {"$sum": "sum", "$mul": "product", "$max": "maximum", "$min": "minimum"}
_PAIRS: Final = {"$sub": "difference", "$div": "quotient"}
_FUNCTIONS: Final = {"$abs": "absolute", "$exp": "exponential", "$log": "logarithm"}

_AGGREGATES: Final = ("$min_k", "$max_k")

_MAX_DEPTH: Final = 32
"""As the server's, so that a hostile nesting ends here and not in the interpreter's stack."""

_FIELDS: Final = {
    "#document": "documents",
    "#embedding": "embeddings",
    "#metadata": "metadatas",
    "#uri": "uris",
}
"""What a search selects -> what it includes."""

_CANDIDATES: Final = 16

QueryVectors = Mapping[str, npt.NDArray[np.float32]]
"""Vectors of texts that were embedded."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What one search returns.

    Attributes:
        select: As it was said.
        include: Columns, as a result names them.
        metadata_keys: Of the metadata only these; empty: all.
        scores: Whether scores come back.
    """

    select: list[str]
    include: list[str]
    metadata_keys: list[str]
    scores: bool


def search_dicts(searches: Any) -> list[Mapping[str, Any]]:
    """Give one search or several as dicts.

    Raises:
        InvalidArgumentError: One is no search.
    """
    many = searches if isinstance(searches, list | tuple) else [searches]
    if not many:
        raise invalid("searches", "searches is empty; at least one is needed")
    dicts = [search.to_dict() if hasattr(search, "to_dict") else search for search in many]
    for position, search in enumerate(dicts):
        field = f"searches[{position}]"
        if not isinstance(search, Mapping):
            raise invalid(field, f"{field} must be a Search or a dict, got {type(search).__name__}")
        unknown = [key for key in search if key not in _PARTS]
        if unknown:
            raise invalid(
                field, f"{field} has the key {unknown[0]!r}; it may have {', '.join(_PARTS)}"
            )
    return dicts


def texts_to_embed(tree: Any) -> Iterator[str]:
    """Give the texts of an expression that are searched for as vectors."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from texts_to_embed(item)
    elif isinstance(tree, Mapping):
        for operator, operand in tree.items():
            if operator == "$knn" and isinstance(operand, Mapping):
                query = operand.get("query")
                if isinstance(query, str) and operand.get("key", "#embedding") == "#embedding":
                    yield query
            elif operator != "$text":
                yield from texts_to_embed(operand)


def ranked_query(
    search: Mapping[str, Any], vectors: QueryVectors, limits: Limits, field: str
) -> tuple[ranking_pb2.RankedQuery, Selected]:
    """Translate a search.

    Args:
        search: One of `search_dicts`.
        vectors: Of its `texts_to_embed`.
        limits: Of the server.
        field: Its name in messages.

    Raises:
        InvalidArgumentError: A part of it is not allowed.
    """
    selected = _selected(search.get("select"), f"{field}.select")
    include = _requests.include_numbers(selected.include)
    if selected.scores:
        include.append(value_pb2.INCLUDE_DISTANCES)
    message = ranking_pb2.RankedQuery(
        include=include,
        metadata_keys=selected.metadata_keys,
        score_order=ranking_pb2.SCORE_ORDER_ASCENDING,
    )
    _set_limit(message, search.get("limit"), f"{field}.limit", limits)
    if search.get("filter") is not None:
        parts = split_filter(search["filter"], f"{field}.filter")
        if parts.where is not None:
            message.where.CopyFrom(where_from_dict(parts.where, limits))
        if parts.where_document is not None:
            document = where_document_from_dict(parts.where_document, limits)
            message.where_document.CopyFrom(document)
        if parts.ids is not None:
            message.ids.values.extend(_requests.id_set(parts.ids, limits) or [])
    if search.get("rank") is not None:
        message.rank.CopyFrom(rank_message(search["rank"], vectors, limits, f"{field}.rank"))
    if search.get("group_by"):
        group_by = _group_by(search["group_by"], f"{field}.group_by", limits)
        message.group_by.CopyFrom(group_by)
    return message, selected


def _group_by(tree: Any, field: str, limits: Limits) -> ranking_pb2.GroupBy:
    tree = tree.to_dict() if hasattr(tree, "to_dict") else tree
    if not isinstance(tree, Mapping) or set(tree) != {"keys", "aggregate"}:
        raise invalid(field, f"{field} must be a dict of keys and aggregate, got {tree!r}")
    aggregate = tree["aggregate"]
    aggregate = aggregate.to_dict() if hasattr(aggregate, "to_dict") else aggregate
    own = f"{field}.aggregate"
    if not isinstance(aggregate, Mapping) or len(aggregate) != 1:
        raise invalid(own, f"{own} must be a dict with exactly one operator, got {aggregate!r}")
    [(operator, operand)] = aggregate.items()
    if operator not in _AGGREGATES:
        raise invalid(own, f"{own}: unknown operator {operator!r}; {', '.join(_AGGREGATES)}")
    own = f"{own}.{operator}"
    if not isinstance(operand, Mapping) or set(operand) != {"keys", "k"}:
        raise invalid(own, f"{own} must be a dict of keys and k, got {operand!r}")
    return ranking_pb2.GroupBy(
        keys=_keys(tree["keys"], f"{field}.keys"),
        order=[
            ranking_pb2.GroupOrder(
                metadata_key="" if key == "#score" else key, descending=operator == "$max_k"
            )
            for key in _keys(operand["keys"], f"{own}.keys", "#score")
        ],
        limit=_requests.check_count(f"{own}.k", operand["k"], 1, limits.max_n_results),
    )


def _keys(keys: Any, field: str, *fields: str) -> list[str]:
    """Check keys of the metadata, and fields that may stand among them."""
    if isinstance(keys, str) or hasattr(keys, "name"):
        keys = [keys]
    if not isinstance(keys, list | tuple) or not keys:
        raise invalid(field, f"{field} must be a list of at least one key, got {keys!r}")
    names: list[Any] = [getattr(key, "name", key) for key in keys]
    for name in names:
        if not isinstance(name, str) or not name or (name.startswith("#") and name not in fields):
            known = "".join(f" or {known}" for known in fields)
            raise invalid(field, f"{field} holds {name!r}, which is no key of the metadata{known}")
    return names


def _set_limit(message: ranking_pb2.RankedQuery, limit: Any, field: str, limits: Limits) -> None:
    if limit is None:
        return
    if not isinstance(limit, Mapping):
        limit = {"limit": limit}
    _check_keys(limit, ("limit", "offset"), field)
    message.offset = _requests.check_offset(limit.get("offset"))
    if limit.get("limit") is not None:
        message.limit = _requests.check_count(field, limit["limit"], 1, limits.max_n_results)


def _selected(select: Any, field: str) -> Selected:
    if isinstance(select, Mapping):
        _check_keys(select, ("keys",), field)
        select = select.get("keys")
    if select is None:
        select = []
    if not isinstance(select, list | tuple | set | frozenset):
        raise invalid(field, f"{field} must be a list of keys, got {type(select).__name__}")
    keys: list[Any] = [getattr(key, "name", key) for key in select]
    for key in keys:
        if not isinstance(key, str):
            raise invalid(field, f"{field} holds {key!r}, which is no string")
        if key.startswith("#") and key not in (*_FIELDS, "#id", "#score"):
            raise invalid(field, f"{field} holds {key!r}; it may hold {', '.join(_FIELDS)}, …")
    include = [_FIELDS[key] for key in dict.fromkeys(keys) if key in _FIELDS]
    metadata_keys = sorted({key for key in keys if not key.startswith("#")})
    if "#metadata" in keys:
        metadata_keys = []
    elif metadata_keys:
        include.append("metadatas")
    return Selected(keys, include, metadata_keys, "#score" in keys)


def _check_keys(tree: Mapping[str, Any], known: Sequence[str], field: str) -> None:
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise invalid(field, f"{field} has the key {unknown[0]!r}; it may have {', '.join(known)}")


# Rank expressions.


def rank_message(tree: Any, vectors: QueryVectors, limits: Limits, field: str) -> ranking_pb2.Rank:
    """Translate a rank expression.

    Raises:
        InvalidArgumentError: It is none.
        UnimplementedError: It searches sparse vectors.
    """
    return _Translator(vectors, limits).rank(
        tree.to_dict() if hasattr(tree, "to_dict") else tree, field, _MAX_DEPTH
    )


class _Translator:
    def __init__(self, vectors: QueryVectors, limits: Limits) -> None:
        self._vectors = vectors
        self._limits = limits

    def rank(self, tree: Any, field: str, depth_left: int) -> ranking_pb2.Rank:
        if depth_left <= 0:
            raise invalid(field[:60], f"{field[:60]}… is more than {_MAX_DEPTH} deep")
        if not isinstance(tree, Mapping) or len(tree) != 1:
            raise invalid(field, f"{field} must be a dict with exactly one operator, got {tree!r}")
        [(operator, operand)] = tree.items()
        own = f"{field}.{operator}"
        if operator == "$val":
            return ranking_pb2.Rank(constant=_number(operand, own))
        if operator == "$knn":
            return self._knn(operand, own)
        if operator == "$text":
            return ranking_pb2.Rank(text=self._text(operand, own))
        message = ranking_pb2.Rank()
        if operator in _LISTS:
            if not isinstance(operand, list | tuple) or len(operand) < 2:
                raise invalid(own, f"{own} needs a list of at least 2 ranks")
            getattr(message, _LISTS[operator]).ranks.extend(
                self.rank(item, f"{own}[{position}]", depth_left - 1)
                for position, item in enumerate(operand)
            )
        elif operator in _PAIRS:
            if not isinstance(operand, Mapping) or set(operand) != {"left", "right"}:
                raise invalid(own, f"{own} needs a dict of left and right")
            pair = getattr(message, _PAIRS[operator])
            for side in ("left", "right"):
                translated = self.rank(operand[side], f"{own}.{side}", depth_left - 1)
                getattr(pair, side).CopyFrom(translated)
        elif operator in _FUNCTIONS:
            translated = self.rank(operand, own, depth_left - 1)
            getattr(message, _FUNCTIONS[operator]).CopyFrom(translated)
        else:
            known = ("$val", "$knn", "$text", *_LISTS, *_PAIRS, *_FUNCTIONS)
            raise invalid(field, f"{field}: unknown operator {operator!r}; {', '.join(known)}")
        return message

    def _knn(self, operand: Any, field: str) -> ranking_pb2.Rank:
        if not isinstance(operand, Mapping) or "query" not in operand:
            raise invalid(field, f"{field} needs a dict with a query")
        _check_keys(operand, ("query", "key", "limit", "default", "return_rank"), field)
        query, key = operand["query"], operand.get("key", "#embedding")
        if key == "#document":
            own = {name: value for name, value in operand.items() if name != "key"}
            return ranking_pb2.Rank(text=self._text(own, field))
        knn = ranking_pb2.KnnRank()
        sparse = sparse_of(query, f"{field}.query")
        if sparse is not None or key != "#embedding":
            self._set_sparse(knn, query, sparse, key, field)
            self._set_options(knn, operand, field)
            return ranking_pb2.Rank(knn=knn)
        if isinstance(query, str):
            vector = self._vectors[query][np.newaxis]
        else:
            vector = to_vectors(query, f"{field}.query", self._limits)
        if len(vector) != 1:
            raise invalid(f"{field}.query", f"{field}.query must be one vector, got {len(vector)}")
        knn.vector.CopyFrom(encode_vectors(vector))
        self._set_options(knn, operand, field)
        return ranking_pb2.Rank(knn=knn)

    def _set_sparse(
        self,
        knn: ranking_pb2.KnnRank,
        query: Any,
        sparse: SparseVector | None,
        key: Any,
        field: str,
    ) -> None:
        if not isinstance(key, str) or key.startswith("#"):
            raise invalid(
                f"{field}.key",
                f"{field}.key is {key!r}; a sparse vector is searched under the key of the "
                "metadata that holds them",
            )
        if isinstance(query, str):
            raise errors.UnimplementedError(
                f"{field}.query is a text, and {field}.key is {key!r}: texts are not made into "
                "sparse vectors here, give a SparseVector"
            )
        if sparse is None:
            raise invalid(
                f"{field}.query",
                f"{field}.query is of type {type(query).__name__}; under the key {key!r} a "
                "SparseVector is sought",
            )
        knn.key = key
        knn.sparse_vector.CopyFrom(sparse_to_message(sparse))

    def _text(self, operand: Any, field: str) -> ranking_pb2.TextRank:
        if not isinstance(operand, Mapping) or "query" not in operand:
            raise invalid(field, f"{field} needs a dict with a query")
        _check_keys(operand, ("query", "limit", "default", "return_rank", "language"), field)
        text = ranking_pb2.TextRank(
            query=_requests.check_text(f"{field}.query", operand["query"]),
            language=_requests.check_text(f"{field}.language", operand.get("language", "")),
        )
        self._set_options(text, operand, field)
        return text

    def _set_options(
        self,
        leaf: ranking_pb2.KnnRank | ranking_pb2.TextRank,
        operand: Mapping[str, Any],
        field: str,
    ) -> None:
        leaf.limit = _requests.check_count(
            f"{field}.limit", operand.get("limit", _CANDIDATES), 1, self._limits.max_n_results
        )
        if operand.get("default") is not None:
            leaf.default_value = _number(operand["default"], f"{field}.default")
        positions = operand.get("return_rank", False)
        if not isinstance(positions, bool):
            raise invalid(field, f"{field}.return_rank must be true or false, got {positions!r}")
        leaf.return_position = positions


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise invalid(field, f"{field} must be a number, got {value!r}")
    return float(value)


# Filters.


@dataclass(frozen=True, slots=True)
class FilterParts:
    """A filter in the parts that a request has; all of them intersect.

    Attributes:
        where: On metadata.
        where_document: On documents.
        ids: Only these.
    """

    where: Any
    where_document: Any
    ids: list[Any] | None


def split_filter(tree: Any, field: str) -> FilterParts:
    """Split a filter over metadata, documents and IDs together.

    Raises:
        InvalidArgumentError: Its parts cannot be told apart: an ``$or`` mixes them.
    """
    tree = tree.to_dict() if hasattr(tree, "to_dict") else tree
    wheres: list[Any] = []
    documents: list[Any] = []
    ids: list[Any] | None = None
    for clause in _conjuncts(tree):
        kinds = set(_kinds(clause))
        if kinds <= {"metadata"}:
            wheres.append(clause)
        elif kinds == {"#document"}:
            documents.append(_document_clause(clause))
        elif kinds == {"#id"}:
            own = _ids_of(clause, field)
            ids = own if ids is None else [one for one in ids if one in own]
        else:
            raise invalid(
                field,
                f"{field} mixes {', '.join(sorted(kinds))} under one $or or $not; only $and may "
                "combine them",
            )
    if ids is not None and not ids:
        raise invalid(field, f"{field}: no ID is in all of its conditions on #id")
    return FilterParts(_conjunction(wheres), _conjunction(documents), ids)


def _conjuncts(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping) and set(tree) == {"$and"} and isinstance(tree["$and"], list):
        for clause in tree["$and"]:
            yield from _conjuncts(clause)
    else:
        yield tree


def _conjunction(clauses: Sequence[Any]) -> Any:
    if not clauses:
        return None
    return clauses[0] if len(clauses) == 1 else {"$and": list(clauses)}


def _kinds(clause: Any) -> Iterator[str]:
    """What a clause is about; one that is malformed is left for the rules of metadata filters."""
    if not isinstance(clause, Mapping):
        yield "metadata"
        return
    for key, operand in clause.items():
        if key in ("$and", "$or") and isinstance(operand, list):
            for item in operand:
                yield from _kinds(item)
        elif key == "$not":
            yield from _kinds(operand)
        else:
            yield key if key in ("#document", "#id") else "metadata"


def _document_clause(clause: Mapping[str, Any]) -> Any:
    [(key, operand)] = clause.items()
    if key == "#document":
        return operand
    if key == "$not":
        return {key: _document_clause(operand)}
    return {key: [_document_clause(item) for item in operand]}


def _ids_of(clause: Mapping[str, Any], field: str) -> list[Any]:
    [(key, operand)] = clause.items()
    if key == "#id":
        if isinstance(operand, str):
            return [operand]
        if isinstance(operand, Mapping) and set(operand) == {"$eq"}:
            return [operand["$eq"]]
        if isinstance(operand, Mapping) and set(operand) == {"$in"}:
            return list(operand["$in"])
    raise invalid(field, f"{field}: a condition on #id is $eq or $in, combined by $and")
