"""Of each group of ranked records only some, by every way in and on one shard and several."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

import shoal
from shoal import GroupBy, K, Knn, MaxK, MinK, Search

COUNT = 60
KINDS = ["a", "b", None, 1, 1.0, True, ["x", "y"], ["y", "x"]]


def _metadatas() -> list[dict[str, Any] | None]:
    chance = random.Random(3)
    metadatas: list[dict[str, Any] | None] = []
    for i in range(COUNT):
        own: dict[str, Any] = {"n": i, "kind": KINDS[i % len(KINDS)], "side": i % 2 == 0}
        own["mixed"] = chance.choice([1, 2.5, "1", "z", True, ["l"], None])
        metadatas.append({key: value for key, value in own.items() if value is not None})
    metadatas[5] = None
    return metadatas


METADATAS = _metadatas()


@pytest.fixture
def filled(books: Any) -> Any:
    ids = [f"r{i:02}" for i in range(COUNT)]
    # Each distance twice, so that there are equal scores.
    books.add(ids, [[float(i // 2), 1.0] for i in range(COUNT)], METADATAS)
    return books


def _score(place: int) -> float:
    return float((place // 2) ** 2)


def _name(place: int, keys: list[str]) -> Any:
    """The group of a record: numbers by value, all else by type and value."""
    found = [(METADATAS[place] or {}).get(key) for key in keys]
    return tuple(
        ("number", v) if isinstance(v, int | float) and not isinstance(v, bool) else repr(v)
        for v in found
    )


def _order(value: Any, *, descending: bool) -> tuple[Any, ...]:
    """A place in an ascending sort, whatever the direction."""
    if isinstance(value, bool):
        kind, number = 2, float(value)
    elif isinstance(value, int | float):
        kind, number = 0, float(value)
    elif isinstance(value, str):
        points = [ord(letter) for letter in value]
        return (0, -1, [-p for p in points]) if descending else (0, 1, points)
    else:
        return (1,)
    return (0, -kind, [-number]) if descending else (0, kind, [number])


def _expected(keys: list[str], by: list[str], k: int, *, descending: bool) -> list[str]:
    groups: dict[Any, list[int]] = {}
    for place in range(COUNT):
        groups.setdefault(_name(place, keys), []).append(place)

    def key(place: int) -> Any:
        own = METADATAS[place] or {}
        values = [_score(place) if name == "#score" else own.get(name) for name in by]
        return [_order(value, descending=descending) for value in values], place

    kept = [place for members in groups.values() for place in sorted(members, key=key)[:k]]
    return [f"r{place:02}" for place in sorted(kept)]


@pytest.mark.parametrize("descending", [False, True], ids=["min", "max"])
@pytest.mark.parametrize(
    ("keys", "by", "k"),
    [
        (["kind"], ["#score"], 1),
        (["kind"], ["#score"], 3),
        (["kind", "side"], ["#score"], 2),
        (["kind"], ["mixed"], 2),
        (["side"], ["mixed", "n"], 5),
        (["missing"], ["n"], 4),
        (["n"], ["#score"], 1),
        (["mixed"], ["side", "#score"], 2),
    ],
)
def test_groups_are_those_of_the_definition(
    filled: Any, keys: list[str], by: list[str], k: int, descending: bool
) -> None:
    aggregate = (MaxK if descending else MinK)(by, k)
    rank = Knn([0.0, 1.0], limit=COUNT)
    search = Search(rank=rank, group_by=GroupBy(keys, aggregate)).select(K.SCORE)
    found = filled.search(search)
    expected = _expected(keys, by, k, descending=descending)
    assert found["ids"] == [expected]
    assert found["scores"] == [[_score(int(record_id[1:])) for record_id in expected]]
    # As a dict, and a part of it.
    page = filled.search({**search.to_dict(), "limit": {"limit": 2, "offset": 1}})
    assert page["ids"] == [expected[1:3]]


def test_scores_that_are_no_numbers_stay_last(filled: Any) -> None:
    # 0 / 0 for the first two.
    rank = (Knn([0.0, 1.0], limit=6) / 0).min(1.0)
    for aggregate, first in ((MinK(K.SCORE, 4), "r02"), (MaxK([K.SCORE], 4), "r02")):
        search = Search().rank(rank).group_by(GroupBy("missing", aggregate)).select(K.SCORE)
        found = filled.search(search)
        assert found["ids"][0] == ["r02", "r03", "r04", "r05"]
        assert found["ids"][0][0] == first
        assert not any(math.isnan(score) for score in found["scores"][0])


def test_metadata_comes_as_it_was_selected(filled: Any) -> None:
    search = Search().rank(Knn([0.0, 1.0], limit=4)).group_by(GroupBy("side", MinK(K.SCORE, 1)))
    assert filled.search(search)["metadatas"] in (None, [None])
    found = filled.search(search.select("n"))
    assert found["metadatas"] == [[{"n": 0}, {"n": 1}]]


WRONG: list[tuple[Any, str]] = [
    ({"keys": ["a"]}, "must be a dict of keys and aggregate"),
    ({"keys": [], "aggregate": {"$min_k": {"keys": ["#score"], "k": 1}}}, "at least one key"),
    ({"keys": ["#score"], "aggregate": {"$min_k": {"keys": ["#score"], "k": 1}}}, "'#score'"),
    ({"keys": ["a"], "aggregate": {"$first": {"keys": ["#score"], "k": 1}}}, "unknown operator"),
    ({"keys": ["a"], "aggregate": {"$min_k": {"keys": ["#score"]}}}, "keys and k"),
    ({"keys": ["a"], "aggregate": {"$min_k": {"keys": ["#score"], "k": 0}}}, "must be 1 to"),
    ({"keys": ["a"], "aggregate": {"$min_k": {"keys": ["#id"], "k": 1}}}, "'#id'"),
    ({"keys": ["a", "a"], "aggregate": {"$min_k": {"keys": ["n"], "k": 1}}}, "a key twice"),
    ({"keys": ["a"] * 17, "aggregate": {"$min_k": {"keys": ["n"], "k": 1}}}, "holds 17"),
    ({"keys": ["a"], "aggregate": {"$min_k": {"keys": ["n"] * 17, "k": 1}}}, "holds 17"),
]


def test_wrong_groups_are_refused(filled: Any) -> None:
    rank = Knn([0.0, 1.0]).to_dict()
    for group_by, message in WRONG:
        with pytest.raises(shoal.InvalidArgumentError, match=message):
            filled.search({"rank": rank, "group_by": group_by})
    grouped = GroupBy("kind", MinK(K.SCORE, 1)).to_dict()
    with pytest.raises(shoal.InvalidArgumentError, match="without a rank"):
        filled.search({"group_by": grouped})
