"""Rank expressions: their rules, and what they make of the candidates that were found.

An expression gives numbers to some records and a default, which may be none, to all others. Numbers
lie in arrays over all candidates of the search, in order of insertion, so that equal numbers keep
that order. The semantics of arithmetic are those of Chroma's search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.v1 import ranking_pb2
from shoal.wire.filters import check_where, check_where_document
from shoal.wire.languages import check_language
from shoal.wire.limits import Limits
from shoal.wire.validation import (
    check_metadata_key,
    check_record_ids,
    check_sparse_vector,
    invalid,
)
from shoal.wire.vectors import decode_vectors

__all__ = ["Leaf", "Scores", "check_rank", "evaluate", "leaves_of"]

MAX_EXPRESSIONS: Final = 256
MAX_DEPTH: Final = 32
"""Far above what anybody writes by hand, and a bound for what a hostile request may cost."""

MAX_CANDIDATES: Final = 32
"""Each is a search of its own, over all shards."""

MAX_TEXT_BYTES: Final = 65_536

_SPARSE_WEIGHT_BYTES: Final = 8

_RRF_CONSTANT: Final = 60.0

Leaf: TypeAlias = ranking_pb2.KnnRank | ranking_pb2.TextRank
"""Where candidates come from."""

Floats: TypeAlias = npt.NDArray[np.float64]

_LISTS: Final[dict[str, Callable[[Floats, Floats], Floats]]] = {
    "sum": np.add,
    "product": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
_PAIRS: Final[dict[str, Callable[[Floats, Floats], Floats]]] = {
    "difference": np.subtract,
    "quotient": np.divide,
}
_FUNCTIONS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "absolute": np.abs,
    "exponential": np.exp,
    "logarithm": np.log,
}


# Rules.


def check_rank(rank: ranking_pb2.Rank, limits: Limits, field: str) -> None:
    """Check an expression.

    Raises:
        InvalidArgumentError: It breaks a rule; the field at fault is named.
    """
    _Checker(limits, field).check(rank)


class _Checker:
    def __init__(self, limits: Limits, field: str) -> None:
        self._limits = limits
        self._root = field
        self._expressions = 0
        self._leaves = 0

    def check(self, rank: ranking_pb2.Rank) -> None:
        self._check(rank, self._root, 1)
        if not self._leaves:
            raise invalid(self._root, f"{self._root} has neither a knn nor a text to rank by")

    def _check(self, rank: ranking_pb2.Rank, field: str, depth: int) -> None:
        self._expressions += 1
        if depth > MAX_DEPTH:
            raise invalid(self._root, f"{self._root} is more than {MAX_DEPTH} deep")
        if self._expressions > MAX_EXPRESSIONS:
            raise invalid(self._root, f"{self._root} has more than {MAX_EXPRESSIONS} expressions")
        kind = rank.WhichOneof("expression")
        if kind is None:
            raise invalid(field, f"{field} has no expression")
        if kind == "knn":
            self._check_knn(rank.knn, f"{field}.knn")
        elif kind == "text":
            self._check_text(rank.text, f"{field}.text")
        elif kind == "constant":
            if not math.isfinite(rank.constant):
                raise invalid(field, f"{field}.constant is {rank.constant}; it must be finite")
        elif kind == "rrf":
            self._check_rrf(rank.rrf, f"{field}.rrf")
            self._check_all(rank.rrf.ranks, f"{field}.rrf", depth)
        elif kind in _LISTS:
            self._check_all(getattr(rank, kind).ranks, f"{field}.{kind}", depth)
        elif kind in _PAIRS:
            pair = getattr(rank, kind)
            self._check(pair.left, f"{field}.{kind}.left", depth + 1)
            self._check(pair.right, f"{field}.{kind}.right", depth + 1)
        else:
            self._check(getattr(rank, kind), f"{field}.{kind}", depth + 1)

    def _check_all(self, ranks: Sequence[ranking_pb2.Rank], field: str, depth: int) -> None:
        if not ranks:
            raise invalid(field, f"{field} has no ranks; at least one is needed")
        for position, rank in enumerate(ranks):
            self._check(rank, f"{field}.ranks[{position}]", depth + 1)

    def _check_leaf(self, leaf: Leaf, field: str) -> None:
        self._leaves += 1
        if self._leaves > MAX_CANDIDATES:
            raise invalid(
                self._root, f"{self._root} has more than {MAX_CANDIDATES} searches (knn or text)"
            )
        maximum = self._limits.max_n_results
        if not 1 <= leaf.limit <= maximum:
            raise invalid(f"{field}.limit", f"{field}.limit is {leaf.limit}; it is 1 to {maximum}")
        if leaf.HasField("default_value") and not math.isfinite(leaf.default_value):
            raise invalid(field, f"{field}.default_value is {leaf.default_value}; it is finite")
        if leaf.HasField("where"):
            check_where(leaf.where, self._limits)
        if leaf.HasField("where_document"):
            check_where_document(leaf.where_document, self._limits)

    def _check_knn(self, knn: ranking_pb2.KnnRank, field: str) -> None:
        self._check_leaf(knn, field)
        query = knn.WhichOneof("query")
        if query is None:
            raise invalid(field, f"{field} has no query: a vector or the ID of a record")
        if knn.key:
            check_metadata_key(knn.key, self._limits, f"{field}.key")
        if (query == "sparse_vector") != bool(knn.key) and query != "id":
            what = "needs a key" if query == "sparse_vector" else "is not searched under a key"
            raise invalid(f"{field}.key", f"{field}.{query} {what}")
        if query == "sparse_vector":
            check_sparse_vector(knn.sparse_vector, f"{field}.sparse_vector")
            self._check_sparse_size(len(knn.sparse_vector.indices), f"{field}.sparse_vector")
        elif query == "id":
            check_record_ids([knn.id], self._limits, f"{field}.id")
        else:
            decode_vectors(knn.vector, 1, self._limits, f"{field}.vector")

    def _check_sparse_size(self, count: int, field: str) -> None:
        """A query has no more weights than a record's metadata can hold."""
        maximum = self._limits.max_metadata_bytes // _SPARSE_WEIGHT_BYTES
        if count > maximum:
            raise invalid(field, f"{field} has {count} weights; at most {maximum} are allowed")

    def _check_text(self, text: ranking_pb2.TextRank, field: str) -> None:
        self._check_leaf(text, field)
        size = len(text.query.encode())
        if not 1 <= size <= MAX_TEXT_BYTES:
            raise invalid(
                f"{field}.query", f"{field}.query has {size} bytes; it has 1 to {MAX_TEXT_BYTES}"
            )
        if text.language:
            check_language(text.language, f"{field}.language")

    def _check_rrf(self, rrf: ranking_pb2.RrfRank, field: str) -> None:
        if rrf.weights and len(rrf.weights) != len(rrf.ranks):
            raise invalid(
                f"{field}.weights",
                f"{field} has {len(rrf.weights)} weights for {len(rrf.ranks)} ranks",
            )
        for weight in rrf.weights:
            if not (math.isfinite(weight) and weight >= 0):
                raise invalid(
                    f"{field}.weights", f"{field} has weight {weight}; it must be at least 0"
                )
        if rrf.HasField("constant") and not (math.isfinite(rrf.constant) and rrf.constant > 0):
            raise invalid(
                f"{field}.constant", f"{field}.constant is {rrf.constant}; it must be above 0"
            )


def _children(rank: ranking_pb2.Rank) -> Sequence[ranking_pb2.Rank]:
    kind = rank.WhichOneof("expression")
    if kind in _LISTS or kind == "rrf":
        children: Sequence[ranking_pb2.Rank] = getattr(rank, str(kind)).ranks
        return children
    if kind in _PAIRS:
        pair = getattr(rank, str(kind))
        return (pair.left, pair.right)
    return (getattr(rank, str(kind)),) if kind in _FUNCTIONS else ()


def leaves_of(rank: ranking_pb2.Rank) -> Iterator[Leaf]:
    """Give where an expression's candidates come from, left to right."""
    kind = rank.WhichOneof("expression")
    if kind == "knn":
        yield rank.knn
    elif kind == "text":
        yield rank.text
    for child in _children(rank):
        yield from leaves_of(child)


# Evaluation.


@dataclass(frozen=True, slots=True)
class Scores:
    """What an expression gives to the candidates of a search.

    Attributes:
        values: One for each candidate, shape ``(n,)``; meaningless where not `held`.
        held: Which candidates have a number of their own, shape ``(n,)``.
        default: The number of all others; None if they have none.
    """

    values: Floats
    held: npt.NDArray[np.bool_]
    default: float | None

    @classmethod
    def none(cls, count: int) -> Scores:
        """Give no candidate a number."""
        return cls(np.zeros(count), np.zeros(count, np.bool_), None)

    @property
    def filled(self) -> Floats:
        """The numbers, with the default where there is none."""
        return np.where(self.held, self.values, self.default or 0.0)

    def map(self, function: Callable[[Floats], Floats]) -> Scores:
        """Apply a function to every number."""
        default = self.default
        if default is not None:
            default = float(function(np.array([default]))[0])
        return Scores(function(self.filled), self.held, default)

    def merge(self, other: Scores, function: Callable[[Floats, Floats], Floats]) -> Scores:
        """Combine two expressions: where one has no number and no default, there is none."""
        held = self.held | other.held
        if self.default is None:
            held = held & self.held
        if other.default is None:
            held = held & other.held
        default = None
        if self.default is not None and other.default is not None:
            default = float(function(np.array([self.default]), np.array([other.default]))[0])
        return Scores(function(self.filled, other.filled), held, default)

    def order(self, *, descending: bool = False) -> npt.NDArray[np.intp]:
        """Give the candidates that have a number, best first, equal ones in order of insertion."""
        places = np.flatnonzero(self.held)
        values = self.values[places]
        # Numbers that are none come last in either order, as numpy sorts them.
        order: npt.NDArray[np.intp] = np.argsort(-values if descending else values, kind="stable")
        return places[order]


def evaluate(rank: ranking_pb2.Rank, found: Sequence[Scores], count: int) -> Scores:
    """Evaluate an expression.

    Args:
        rank: Checked.
        found: What each of `leaves_of` found, with its default.
        count: Candidates of the search.
    """
    # Division by zero and logarithms of what is not positive give infinity or no number.
    with np.errstate(all="ignore"):
        return _evaluate(rank, iter(found), count)


def _evaluate(rank: ranking_pb2.Rank, found: Iterator[Scores], count: int) -> Scores:
    kind = str(rank.WhichOneof("expression"))
    if kind in ("knn", "text"):
        return next(found)
    if kind == "constant":
        return Scores(np.zeros(count), np.zeros(count, np.bool_), rank.constant)
    children = [_evaluate(child, found, count) for child in _children(rank)]
    if kind == "rrf":
        return _fuse(rank.rrf, children, count)
    if kind in _LISTS:
        return reduce(lambda left, right: left.merge(right, _LISTS[kind]), children)
    if kind in _PAIRS:
        return children[0].merge(children[1], _PAIRS[kind])
    return children[0].map(_FUNCTIONS[kind])


def _fuse(rrf: ranking_pb2.RrfRank, rankings: Sequence[Scores], count: int) -> Scores:
    """Fuse rankings by position (Cormack, Clarke, Büttcher 2009)."""
    constant = rrf.constant if rrf.HasField("constant") else _RRF_CONSTANT
    weights = list(rrf.weights) or [1.0] * len(rankings)
    values, held = np.zeros(count), np.zeros(count, np.bool_)
    for ranking, weight in zip(rankings, weights, strict=True):
        order = ranking.order()
        values[order] += weight / (constant + np.arange(1, len(order) + 1))
        held |= ranking.held
    return Scores(values, held, None)
