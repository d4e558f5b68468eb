"""Rank expressions: the evaluation over arrays equals the definition over dicts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgumentError
from shoal.v1 import ranking_pb2, value_pb2
from shoal.wire.limits import DEFAULT_LIMITS
from shoal_gateway.ranking import Scores, check_rank, evaluate, leaves_of

COUNT = 5
Domain = tuple[dict[int, float], float | None]
"""Numbers of some records, and the default of all others."""


def leaf(default: float | None = None, limit: int = 16) -> ranking_pb2.Rank:
    vector = value_pb2.VectorBlock(dimension=1, values=b"\0\0\x80\x3f")
    return ranking_pb2.Rank(
        knn=ranking_pb2.KnnRank(vector=vector, limit=limit, default_value=default)
    )


def pair(kind: str, left: ranking_pb2.Rank, right: ranking_pb2.Rank) -> ranking_pb2.Rank:
    rank = ranking_pb2.Rank()
    getattr(rank, kind).CopyFrom(ranking_pb2.RankPair(left=left, right=right))
    return rank


def several(kind: str, *ranks: ranking_pb2.Rank) -> ranking_pb2.Rank:
    rank = ranking_pb2.Rank()
    getattr(rank, kind).CopyFrom(ranking_pb2.RankList(ranks=ranks))
    return rank


BINARY: dict[str, Callable[[float, float], float]] = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
    "difference": lambda a, b: a - b,
}
UNARY: dict[str, Callable[[float], float]] = {"absolute": abs}


def by_definition(rank: ranking_pb2.Rank, domains: list[Domain]) -> Domain:
    """As Chroma defines it, one record at a time."""
    kind = str(rank.WhichOneof("expression"))
    if kind == "knn":
        return domains.pop(0)
    if kind == "constant":
        return {}, rank.constant
    if kind in UNARY:
        own, default = by_definition(getattr(rank, kind), domains)
        function = UNARY[kind]
        return (
            {key: function(value) for key, value in own.items()},
            None if default is None else function(default),
        )
    node: Any = getattr(rank, kind)
    children = [node.left, node.right] if kind == "difference" else list(node.ranks)
    result = by_definition(children[0], domains)
    for child in children[1:]:
        (left, left_default), (right, right_default) = result, by_definition(child, domains)
        keys = left.keys() | right.keys()
        if left_default is None:
            keys &= left.keys()
        if right_default is None:
            keys &= right.keys()
        merged: dict[int, float] = {}
        for key in keys:
            a, b = left.get(key, left_default), right.get(key, right_default)
            assert a is not None
            assert b is not None
            merged[key] = BINARY[kind](a, b)
        default = None
        if left_default is not None and right_default is not None:
            default = BINARY[kind](left_default, right_default)
        result = merged, default
    return result


values = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])
leaves = st.builds(leaf, st.none() | values)
constants = st.builds(lambda value: ranking_pb2.Rank(constant=value), values)
expressions = st.recursive(
    leaves | constants,
    lambda inner: st.one_of(
        st.builds(lambda r: ranking_pb2.Rank(absolute=r), inner),
        st.builds(lambda a, b: pair("difference", a, b), inner, inner),
        *(
            st.builds(lambda a, b, c, k=kind: several(k, a, b, c), inner, inner, inner)
            for kind in ("sum", "product", "maximum", "minimum")
        ),
    ),
    max_leaves=8,
)


@given(expressions, st.data())
def test_arithmetic_is_that_of_the_definition(rank: ranking_pb2.Rank, data: st.DataObject) -> None:
    found: list[Scores] = []
    domains: list[Domain] = []
    for own in leaves_of(rank):
        numbers = data.draw(st.dictionaries(st.integers(0, COUNT - 1), values))
        default = own.default_value if own.HasField("default_value") else None
        scores = Scores.none(COUNT)
        for place, number in numbers.items():
            scores.values[place], scores.held[place] = number, True
        found.append(Scores(scores.values, scores.held, default))
        domains.append((numbers, default))
    expected, default = by_definition(rank, domains)
    got = evaluate(rank, found, COUNT)
    assert {int(i): float(got.values[i]) for i in np.flatnonzero(got.held)} == expected
    assert got.default == default


def ranking(*order: int) -> Scores:
    """A ranking of some records, the first first."""
    scores = Scores.none(COUNT)
    for position, place in enumerate(order):
        scores.values[place], scores.held[place] = float(position), True
    return scores


def test_fusion_sums_weights_over_positions_and_leaves_out_nobody() -> None:
    rank = ranking_pb2.Rank(
        rrf=ranking_pb2.RrfRank(ranks=[leaf(), leaf()], weights=[1.0, 2.0], constant=10.0)
    )
    got = evaluate(rank, [ranking(3, 1), ranking(1, 0, 3)], COUNT)
    assert got.order(descending=True).tolist() == [1, 3, 0]
    assert got.values[[1, 3, 0]] == pytest.approx([1 / 12 + 2 / 11, 1 / 11 + 2 / 13, 2 / 12])


def test_equal_scores_keep_the_order_of_insertion_either_way() -> None:
    scores = Scores(np.array([1.0, 0.0, 1.0, 0.0, 7.0]), np.array([1, 1, 1, 1, 0], np.bool_), None)
    assert scores.order().tolist() == [1, 3, 0, 2]
    assert scores.order(descending=True).tolist() == [0, 2, 1, 3]


def test_what_is_no_number_comes_last_either_way() -> None:
    rank = ranking_pb2.Rank(logarithm=leaf())
    found = Scores(np.array([-1.0, 2.0, 1.0, 0.0, 9.0]), np.array([1, 1, 1, 1, 0], np.bool_), None)
    got = evaluate(rank, [found], COUNT)
    assert got.order().tolist() == [3, 2, 1, 0]
    assert got.order(descending=True).tolist() == [1, 2, 3, 0]
    assert math.isinf(got.values[3])


def deep(levels: int) -> ranking_pb2.Rank:
    rank = leaf()
    for _ in range(levels):
        rank = ranking_pb2.Rank(absolute=rank)
    return rank


TEXT = ranking_pb2.TextRank(query="x", limit=1)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (ranking_pb2.Rank(), "has no expression"),
        (ranking_pb2.Rank(constant=1.0), "neither a knn nor a text"),
        (several("sum", ranking_pb2.Rank(constant=math.nan), leaf()), "must be finite"),
        (several("sum"), "no ranks"),
        (leaf(limit=0), "limit is 0"),
        (leaf(limit=16_385), "limit is 16385"),
        (leaf(default=math.inf), "finite"),
        (ranking_pb2.Rank(knn=ranking_pb2.KnnRank(limit=1)), "no query"),
        (ranking_pb2.Rank(text=ranking_pb2.TextRank(limit=1)), "0 bytes"),
        (several("sum", *[ranking_pb2.Rank(text=TEXT)] * 33), "more than 32 searches"),
        (several("sum", leaf(), *[ranking_pb2.Rank(constant=1.0)] * 255), "more than 256"),
        (deep(32), "more than 32 deep"),
        (
            ranking_pb2.Rank(rrf=ranking_pb2.RrfRank(ranks=[leaf()], weights=[1.0, 2.0])),
            "2 weights for 1 ranks",
        ),
        (ranking_pb2.Rank(rrf=ranking_pb2.RrfRank(ranks=[leaf()], weights=[-1.0])), "weight -1"),
        (ranking_pb2.Rank(rrf=ranking_pb2.RrfRank(ranks=[leaf()], constant=0.0)), "above 0"),
    ],
)
def test_a_wrong_expression_is_refused(rank: ranking_pb2.Rank, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_rank(rank, DEFAULT_LIMITS, "rank")


def test_an_expression_at_its_bounds_is_taken() -> None:
    check_rank(deep(31), DEFAULT_LIMITS, "rank")
    check_rank(
        several("sum", leaf(), *[ranking_pb2.Rank(constant=1.0)] * 254), DEFAULT_LIMITS, "rank"
    )
