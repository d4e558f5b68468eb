"""Expressions of a search: what is scored how, which records match, what comes back.

```python
from shoal import K, Knn, Rrf, Search, Text

search = (
    Search()
    .where((K("year") >= 1900) & K.DOCUMENT.contains("whale"))
    .rank(Rrf([Knn([0.1, 0.2], return_rank=True), Text("white whale", return_rank=True)]))
    .limit(10)
    .select(K.DOCUMENT, K.SCORE, "year")
)
```

They are Chroma's, with `Text` beside them. Each is a dict in the end, the same that Chroma's own
classes give, so that either may be passed to ``collection.search``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import numpy as np

from shoal.wire.sparse import SparseVector
from shoal.wire.validation import invalid

__all__ = [
    "Aggregate",
    "Condition",
    "GroupBy",
    "K",
    "Key",
    "Knn",
    "MaxK",
    "MinK",
    "Rank",
    "Rrf",
    "Search",
    "SupportsToDict",
    "Text",
    "Val",
]

_CANDIDATES: Final = 16
"""How many candidates a ranking considers unless it is told, as Chroma's does."""

_RRF_CONSTANT: Final = 60


class SupportsToDict(Protocol):
    """Whatever can say itself as a dict."""

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""


class Condition:
    """A filter; ``&`` and ``|`` combine several.

    Args:
        tree: As a dict.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = dict(tree)

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""
        return self._tree

    def __and__(self, other: Condition) -> Condition:
        return self._joined("$and", other)

    def __or__(self, other: Condition) -> Condition:
        return self._joined("$or", other)

    def _joined(self, operator: str, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        clauses: list[Any] = []
        for tree in (self._tree, other._tree):
            clauses += tree.get(operator, [tree])
        return Condition({operator: clauses})

    def __repr__(self) -> str:
        return f"Condition({self._tree!r})"


class Key:
    """A field: compared, it is a condition; and it names what is searched or returned.

    Args:
        name: A key of the metadata, or one of the fields that begin with ``#``.
    """

    ID: ClassVar[Key]
    DOCUMENT: ClassVar[Key]
    EMBEDDING: ClassVar[Key]
    METADATA: ClassVar[Key]
    SCORE: ClassVar[Key]
    URI: ClassVar[Key]

    def __init__(self, name: str) -> None:
        self.name = name

    def _is(self, operator: str, operand: Any) -> Condition:
        return Condition({self.name: {operator: operand}})

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._is("$eq", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._is("$ne", other)

    def __gt__(self, other: Any) -> Condition:
        return self._is("$gt", other)

    def __ge__(self, other: Any) -> Condition:
        return self._is("$gte", other)

    def __lt__(self, other: Any) -> Condition:
        return self._is("$lt", other)

    def __le__(self, other: Any) -> Condition:
        return self._is("$lte", other)

    def __hash__(self) -> int:
        return hash(self.name)

    def is_in(self, values: Sequence[Any]) -> Condition:
        """One of these."""
        return self._is("$in", list(values))

    def not_in(self, values: Sequence[Any]) -> Condition:
        """None of these."""
        return self._is("$nin", list(values))

    def contains(self, value: Any) -> Condition:
        """The document has this substring; or the list has this element."""
        return self._is("$contains", value)

    def not_contains(self, value: Any) -> Condition:
        """What `contains` does not match."""
        return self._is("$not_contains", value)

    def regex(self, pattern: str) -> Condition:
        """The document matches this regular expression."""
        return self._is("$regex", pattern)

    def not_regex(self, pattern: str) -> Condition:
        """What `regex` does not match."""
        return self._is("$not_regex", pattern)

    def exists(self, exists: bool = True) -> Condition:
        """The record has the key, or lacks it."""
        return self._is("$exists", exists)

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


Key.ID = Key("#id")
Key.DOCUMENT = Key("#document")
Key.EMBEDDING = Key("#embedding")
Key.METADATA = Key("#metadata")
Key.SCORE = Key("#score")
Key.URI = Key("#uri")

K = Key


class Rank:
    """How records are scored: a tree of rankings, numbers and arithmetic on them.

    Args:
        tree: As a dict.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = dict(tree)

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""
        return self._tree

    def __add__(self, other: Operand) -> Rank:
        return self._joined("$sum", other)

    def __radd__(self, other: Operand) -> Rank:
        return _rank_of(other) + self

    def __mul__(self, other: Operand) -> Rank:
        return self._joined("$mul", other)

    def __rmul__(self, other: Operand) -> Rank:
        return _rank_of(other) * self

    def __sub__(self, other: Operand) -> Rank:
        return self._paired("$sub", other)

    def __rsub__(self, other: Operand) -> Rank:
        return _rank_of(other) - self

    def __truediv__(self, other: Operand) -> Rank:
        return self._paired("$div", other)

    def __rtruediv__(self, other: Operand) -> Rank:
        return _rank_of(other) / self

    def __neg__(self) -> Rank:
        return Val(-1) * self

    def __abs__(self) -> Rank:
        return self.abs()

    def abs(self) -> Rank:
        """The absolute value."""
        return Rank({"$abs": self._tree})

    def exp(self) -> Rank:
        """e to its power."""
        return Rank({"$exp": self._tree})

    def log(self) -> Rank:
        """The natural logarithm."""
        return Rank({"$log": self._tree})

    def max(self, other: Operand) -> Rank:
        """The greater of both."""
        return self._joined("$max", other)

    def min(self, other: Operand) -> Rank:
        """The lesser of both."""
        return self._joined("$min", other)

    def _joined(self, operator: str, other: Operand) -> Rank:
        ranks: list[Any] = []
        for tree in (self._tree, _rank_of(other)._tree):
            ranks += tree.get(operator, [tree])
        return Rank({operator: ranks})

    def _paired(self, operator: str, other: Operand) -> Rank:
        return Rank({operator: {"left": self._tree, "right": _rank_of(other)._tree}})

    def __repr__(self) -> str:
        return f"Rank({self._tree!r})"


Operand: TypeAlias = Rank | float | int


def _rank_of(operand: Operand) -> Rank:
    return operand if isinstance(operand, Rank) else Val(operand)


class Val(Rank):
    """The same number for every record.

    Args:
        value: Finite.
    """

    def __init__(self, value: float) -> None:
        super().__init__({"$val": value})


class Knn(Rank):
    """The records nearest to a vector, by distance.

    Args:
        query: A vector; or a text, which is embedded by the collection's function. With the key
            ``K.DOCUMENT``, a text that documents are to fit, as `Text`. With a key of the metadata
            that holds sparse vectors, a `SparseVector`.
        key: What is searched.
        limit: How many of the nearest are candidates.
        default: The number of all other records; None leaves them out.
        return_rank: Give positions, from 0, instead of distances.
    """

    def __init__(
        self,
        query: Any,
        key: Key | str = Key.EMBEDDING,
        limit: int = _CANDIDATES,
        default: float | None = None,
        return_rank: bool = False,
    ) -> None:
        if isinstance(query, np.ndarray):
            query = query.tolist()
        elif isinstance(query, SparseVector):
            query = query.to_dict()
        tree = {"query": query, "key": _name_of(key), "limit": limit}
        super().__init__({"$knn": tree | _options(default, return_rank)})


class Text(Rank):
    """The records whose documents a text fits best, by BM25; lower is better, as with distances.

    Args:
        query: The text. A document with at least one of its words is a candidate; words are
            stemmed, stop words say nothing.
        limit: How many of the best are candidates.
        default: The number of all other records; None leaves them out.
        return_rank: Give positions, from 0, instead of negative scores.
        language: Of text and documents; None: the collection's, by which documents are indexed.
    """

    def __init__(
        self,
        query: str,
        limit: int = _CANDIDATES,
        default: float | None = None,
        return_rank: bool = False,
        language: str | None = None,
    ) -> None:
        tree: dict[str, Any] = {"query": query, "limit": limit}
        if language is not None:
            tree["language"] = language
        super().__init__({"$text": tree | _options(default, return_rank)})


def _options(default: float | None, return_rank: bool) -> dict[str, Any]:
    options: dict[str, Any] = {} if default is None else {"default": default}
    return options | ({"return_rank": True} if return_rank else {})


class Rrf(Rank):
    """Reciprocal rank fusion: minus the sum of ``weight / (k + rank)``, so that lower is better.

    Args:
        ranks: Rankings that give positions (``return_rank=True``). One with a `default` position
            does not leave out the records that it has not found.
        k: Smooths the difference between the first positions.
        weights: One for each; None: 1 each.
        normalize: Whether to scale the weights so that they sum to 1.
    """

    def __init__(
        self,
        ranks: Sequence[Rank],
        k: float = _RRF_CONSTANT,
        weights: Sequence[float] | None = None,
        normalize: bool = False,
    ) -> None:
        if not ranks:
            raise invalid("ranks", "Rrf needs at least one rank")
        if not k > 0:
            raise invalid("k", f"k must be above 0, got {k}")
        own = [1.0] * len(ranks) if weights is None else list(weights)
        if len(own) != len(ranks):
            raise invalid("weights", f"Rrf has {len(own)} weights for {len(ranks)} ranks")
        if not all(math.isfinite(weight) and weight >= 0 for weight in own):
            raise invalid("weights", f"weights must be at least 0, got {own}")
        if normalize:
            total = sum(own)
            if not total:
                raise invalid("weights", "weights sum to 0, which nothing can scale to 1")
            own = [weight / total for weight in own]
        terms = [weight / (k + rank) for weight, rank in zip(own, ranks, strict=True)]
        super().__init__((-_sum_of(terms)).to_dict())


def _sum_of(terms: Sequence[Rank]) -> Rank:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class Aggregate:
    """Which records of a group stay; see `MinK` and `MaxK`.

    Args:
        operator: By what name.
        keys: What orders a group: keys of the metadata, and ``K.SCORE``.
        k: How many stay.
    """

    def __init__(self, operator: str, keys: Keys, k: int) -> None:
        self._tree: dict[str, Any] = {operator: {"keys": _names_of(keys), "k": k}}

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""
        return self._tree

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tree!r})"


class MinK(Aggregate):
    """The records with the least values: those with the best scores, by ``K.SCORE``.

    Args:
        keys: What orders a group, one or several, the first before the next; a record that lacks a
            key comes last.
        k: How many stay.
    """

    def __init__(self, keys: Keys, k: int) -> None:
        super().__init__("$min_k", keys, k)


class MaxK(Aggregate):
    """The records with the greatest values; otherwise as `MinK`."""

    def __init__(self, keys: Keys, k: int) -> None:
        super().__init__("$max_k", keys, k)


class GroupBy:
    """Of each group of the ranked records only some stay.

    Args:
        keys: Keys of the metadata whose values, all together, tell groups apart; to lack a key is a
            value of its own.
        aggregate: Which stay.
    """

    def __init__(self, keys: Keys, aggregate: Aggregate) -> None:
        self._tree = {"keys": _names_of(keys), "aggregate": aggregate.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""
        return self._tree

    def __repr__(self) -> str:
        return f"GroupBy({self._tree!r})"


class Search:
    """One search. It is not changed: each method gives a new one.

    Args:
        where: Which records match.
        rank: How they are scored; None: not, they come in order of insertion.
        group_by: Which of the ranked ones stay; None: all.
        limit: How many, and with a dict ``{"limit": …, "offset": …}`` from which on.
        select: What comes back beside IDs.
    """

    def __init__(
        self,
        where: Condition | Mapping[str, Any] | None = None,
        rank: Rank | Mapping[str, Any] | None = None,
        group_by: GroupBy | Mapping[str, Any] | None = None,
        limit: int | Mapping[str, int] | None = None,
        select: Iterable[Key | str] = (),
    ) -> None:
        if isinstance(limit, int):
            limit = {"limit": limit}
        self._tree: dict[str, Any] = {
            "filter": _dict_of(where),
            "rank": _dict_of(rank),
            "group_by": _dict_of(group_by) or {},
            "limit": {"offset": 0} | dict(limit or {}),
            "select": {"keys": [_name_of(key) for key in select]},
        }

    def _with(self, **parts: Any) -> Search:
        search = Search()
        search._tree = self._tree | parts
        return search

    def where(self, where: Condition | Mapping[str, Any] | None) -> Search:
        """Only records that match."""
        return self._with(filter=_dict_of(where))

    def rank(self, rank: Rank | Mapping[str, Any] | None) -> Search:
        """Score them so."""
        return self._with(rank=_dict_of(rank))

    def group_by(self, group_by: GroupBy | Mapping[str, Any] | None) -> Search:
        """Of each group only some."""
        return self._with(group_by=_dict_of(group_by) or {})

    def limit(self, limit: int, offset: int = 0) -> Search:
        """At most so many, from an offset on."""
        return self._with(limit={"offset": offset, "limit": limit})

    def select(self, *keys: Key | str) -> Search:
        """Return these beside IDs: fields, or keys of the metadata."""
        return self._with(select={"keys": [_name_of(key) for key in keys]})

    def select_all(self) -> Search:
        """Return documents, embeddings, metadata and scores."""
        return self.select(Key.DOCUMENT, Key.EMBEDDING, Key.METADATA, Key.SCORE)

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict."""
        return self._tree

    def __repr__(self) -> str:
        return f"Search({self._tree!r})"


Keys: TypeAlias = Key | str | Sequence[Key | str]
"""One key or several."""


def _names_of(keys: Keys) -> list[Any]:
    many: Sequence[Any] = [keys] if isinstance(keys, str | Key) else keys
    return [_name_of(key) for key in many]


def _name_of(key: Any) -> Any:
    return getattr(key, "name", key)


def _dict_of(expression: Any) -> Any:
    return expression.to_dict() if hasattr(expression, "to_dict") else expression
