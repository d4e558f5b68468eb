"""Filters, by every way in: each operator against every kind of value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.sdk.ways import EVERY_WAY

RECORDS: list[tuple[str, dict[str, Any] | None, str | None]] = [
    ("int", {"v": 1}, "a whale"),
    ("float", {"v": 1.0}, "A Whale"),
    ("half", {"v": 1.5}, "two\nlines"),
    ("true", {"v": True}, "naïve"),
    ("string", {"v": "1"}, ""),
    ("later", {"v": "b"}, None),
    ("list", {"v": [1, 2]}, "a"),
    ("strings", {"v": ["1", "b"]}, "100%"),
    ("large", {"v": 2**63 - 1}, "x" * 300 + "needle"),
    ("without", {"w": 1}, None),
    ("none", None, "whales and more whales"),
]
IDS = [record_id for record_id, _, _ in RECORDS]


@pytest.fixture(params=EVERY_WAY)
def way(request: pytest.FixtureRequest) -> str:
    """Bare stubs are a way in, too."""
    name: str = request.param
    return name


def _but(*ids: str) -> list[str]:
    return [record_id for record_id in IDS if record_id not in ids]


WHERE: list[tuple[dict[str, Any], list[str]]] = [
    ({"v": 1}, ["int", "float"]),
    ({"v": 1.0}, ["int", "float"]),
    ({"v": {"$eq": True}}, ["true"]),
    ({"v": False}, []),
    ({"v": "1"}, ["string"]),
    ({"v": {"$ne": 1}}, _but("int", "float")),
    ({"v": {"$ne": "1"}}, _but("string")),
    ({"v": {"$gt": 1}}, ["half", "large"]),
    ({"v": {"$gte": 1}}, ["int", "float", "half", "large"]),
    ({"v": {"$lt": 1.5}}, ["int", "float"]),
    ({"v": {"$lte": 1.5}}, ["int", "float", "half"]),
    ({"v": {"$gt": "1"}}, ["later"]),
    ({"v": {"$lte": "b"}}, ["string", "later"]),
    ({"v": {"$gte": 2**63 - 1}}, ["large"]),
    ({"v": {"$lt": float(2**63)}}, ["int", "float", "half", "large"]),
    ({"v": 2**63 - 2}, []),
    ({"v": {"$in": [1, 7]}}, ["int", "float"]),
    ({"v": {"$in": ["1", "b"]}}, ["string", "later"]),
    ({"v": {"$in": [True]}}, ["true"]),
    ({"v": {"$nin": [1.0]}}, _but("int", "float")),
    ({"v": {"$contains": 1}}, ["list"]),
    ({"v": {"$contains": 1.0}}, []),
    ({"v": {"$contains": "b"}}, ["strings"]),
    ({"v": {"$not_contains": "b"}}, _but("strings")),
    ({"v": {"$exists": True}}, _but("without", "none")),
    ({"v": {"$exists": False}}, ["without", "none"]),
    ({"$and": [{"v": {"$gte": 1}}, {"v": {"$lt": 2}}]}, ["int", "float", "half"]),
    ({"$or": [{"v": "b"}, {"w": 1}, {"v": 99}]}, ["later", "without"]),
    ({"$not": {"v": {"$exists": True}}}, ["without", "none"]),
    ({"$not": {"$or": [{"v": {"$gte": 0}}, {"v": {"$gte": ""}}]}},
     ["true", "list", "strings", "without", "none"]),
    ({"$and": [{"$or": [{"v": 1}, {"v": "1"}]}, {"$not": {"v": "1"}}]}, ["int", "float"]),
]  # fmt: skip

WHERE_DOCUMENT: list[tuple[dict[str, Any], list[str]]] = [
    ({"$contains": "whale"}, ["int", "none"]),
    ({"$contains": "Whale"}, ["float"]),
    ({"$contains": "a"}, ["int", "float", "true", "list", "none"]),
    ({"$contains": "%"}, ["strings"]),
    ({"$contains": "ï"}, ["true"]),
    ({"$contains": "needle"}, ["large"]),
    ({"$not_contains": "a"}, _but("int", "float", "true", "list", "none")),
    ({"$regex": "^a"}, ["int", "list"]),
    ({"$regex": "o.l"}, []),
    ({"$regex": "(?s)o.l"}, ["half"]),
    ({"$regex": r"\d+%$"}, ["strings"]),
    ({"$regex": "(?i)whale"}, ["int", "float", "none"]),
    ({"$not_regex": "e"}, ["string", "later", "list", "strings", "without"]),
    ({"$and": [{"$contains": "whale"}, {"$contains": "more"}]}, ["none"]),
    ({"$or": [{"$contains": "Whale"}, {"$regex": "^$"}]}, ["float", "string"]),
    ({"$not": {"$contains": "a"}}, _but("int", "float", "true", "list", "none")),
]


@pytest.fixture
def filled(books: Any) -> Any:
    books.add(
        IDS,
        np.ones((len(IDS), 2)),
        [metadata for _, metadata, _ in RECORDS],
        [document for _, _, document in RECORDS],
    )
    return books


def test_every_operator_matches_what_it_should(filled: Any) -> None:
    for where, expected in WHERE:
        assert filled.get(where=where, include=[])["ids"] == expected, where
        assert filled.count(where=where) == len(expected), where
        found = filled.query([0, 0], n_results=20, where=where, include=[])
        assert found["ids"] == [expected], where
    for where_document, expected in WHERE_DOCUMENT:
        assert filled.get(where_document=where_document)["ids"] == expected, where_document
        found = filled.query([0, 0], n_results=20, where_document=where_document, include=[])
        assert found["ids"] == [expected], where_document


def test_filters_and_ids_intersect(filled: Any) -> None:
    found = filled.get(
        ["none", "int", "float"], where={"v": 1}, where_document={"$contains": "whale"}
    )
    assert found["ids"] == ["int"]


def test_deep_and_wide_filters_keep_to_the_limits(filled: Any) -> None:
    deep: dict[str, Any] = {"v": 1}
    for _ in range(31):
        deep = {"$not": deep}
    assert filled.count(where=deep) == len(_but("int", "float"))
    wide = {"$or": [{"v": i} for i in range(1_023)]}
    assert filled.count(where=wide) == 2
    for too_much in ({"$not": deep}, {"$or": [{"v": i} for i in range(1_024)]}):
        with pytest.raises(ValueError, match=r"32|1024|1,024|limit"):
            filled.count(where=too_much)
