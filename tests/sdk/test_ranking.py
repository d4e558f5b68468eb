"""Searches by rankings, by every way in and on one shard and several."""

from __future__ import annotations

import math
from typing import Any

import bm25s
import numpy as np
import pytest

import shoal
from shoal import K, Knn, Rrf, Search, Text, Val
from shoal_worker.text import analyzer

IDS = ["a", "b", "c", "d", "e"]
VECTORS = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
DOCUMENTS = ["the white whale swims", "Whales and boats", "a boat on the sea", None, "white, white"]
YEARS = [1851, 1860, 1870, 1880, None]


def distance(query: list[float], vector: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(query, vector, strict=True))


def near(query: list[float]) -> dict[str, float]:
    return {i: distance(query, vector) for i, vector in zip(IDS, VECTORS, strict=True)}


@pytest.fixture
def filled(books: Any) -> Any:
    metadatas = [None if year is None else {"year": year, "x": "y"} for year in YEARS]
    books.add(IDS, VECTORS, metadatas, DOCUMENTS)
    return books


def scores_of(result: Any, search: int = 0) -> dict[str, float]:
    return dict(zip(result["ids"][search], result["scores"][search], strict=True))


# Texts.

WORDS = ["whale", "sea", "ship", "harpoon", "captain", "ocean", "storm", "sailor", "white", "mast"]


def corpus(count: int) -> list[str]:
    random = np.random.default_rng(7)
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return [
        " ".join(random.choice(WORDS, random.integers(1, 12), p=weights / weights.sum()).tolist())
        for _ in range(count)
    ]


def test_texts_are_scored_as_another_implementation_does(books: Any) -> None:
    documents = corpus(80)
    ids = [f"r{i:02}" for i in range(len(documents))]
    books.add(ids, [[float(i), 1.0] for i in range(len(ids))], documents=documents)
    other = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    terms = analyzer("english").terms
    other.index([terms(document) for document in documents], show_progress=False)
    for text in ("captain", "harpoon storms", "the white sailors", "whales"):
        expected = other.get_scores(terms(text))
        result = books.search(Search().rank(Text(text, limit=100)).select(K.SCORE))
        found = scores_of(result)
        assert set(found) == {ids[i] for i in np.flatnonzero(expected)}
        assert [-found[i] for i in found] == pytest.approx(
            [expected[ids.index(i)] for i in found], rel=1e-5
        )
        # Best first; equal ones in order of insertion.
        order = [(score, ids.index(record_id)) for record_id, score in found.items()]
        assert order == sorted(order)


def test_filters_do_not_change_the_scores_of_texts(filled: Any) -> None:
    every = scores_of(filled.search(Search().rank(Text("white whale")).select(K.SCORE)))
    some = filled.search(
        Search().where(K("year") <= 1860).rank(Text("white whale")).select(K.SCORE)
    )
    assert set(every) == {"a", "b", "e"}
    assert scores_of(some) == {"a": every["a"], "b": every["b"]}


def test_scores_follow_writes(filled: Any) -> None:
    search = Search().rank(Text("harpoons")).select(K.SCORE)
    assert filled.search(search)["ids"] == [[]]
    filled.update(["d"], documents=["a harpoon"], embeddings=[[-1.0, 0.0]])
    assert filled.search(search)["ids"] == [["d"]]
    filled.delete(["d"])
    assert filled.search(search)["ids"] == [[]]


def test_a_text_without_a_term_finds_nothing(filled: Any) -> None:
    assert filled.search(Search().rank(Text("the, of!")))["ids"] == [[]]


def test_texts_are_stemmed_by_their_language(books: Any) -> None:
    books.add(["a", "b"], VECTORS[:2], documents=["viele Häuser", "ein Boot"])
    assert books.search(Search().rank(Text("Haus", language="german")))["ids"] == [["a"]]
    assert books.search(Search().rank(Text("Haus")))["ids"] == [[]]
    with pytest.raises(shoal.InvalidArgumentError, match="language 'klingon' is not known"):
        books.search(Search().rank(Text("Haus", language="klingon")))


# Expressions.


def test_a_search_ranks_filters_and_selects(filled: Any) -> None:
    result = filled.search(
        Search()
        .where((K("year") >= 1850) & K.DOCUMENT.contains("a"))
        .rank(Knn([1.0, 0.0], limit=3))
        .limit(1, offset=1)
        .select(K.DOCUMENT, K.SCORE, "year")
    )
    assert result["ids"] == [["b"]]
    assert result["documents"] == [["Whales and boats"]]
    assert result["metadatas"] == [[{"year": 1860}]]
    assert result["scores"] == [[pytest.approx(0.8)]]
    assert result["embeddings"] == [None]
    assert result["uris"] == [None]
    assert sorted(result["select"][0]) == ["#document", "#score", "year"]
    assert result["score_order"] == "ascending"
    assert result.rows() == [
        [
            {
                "id": "b",
                "document": "Whales and boats",
                "metadata": {"year": 1860},
                "score": result["scores"][0][0],
            }
        ]
    ]


def test_all_that_can_be_selected_comes_back(filled: Any) -> None:
    result = filled.search(Search().rank(Knn(np.array([0.0, 1.0]))).limit(2).select_all())
    assert result["ids"] == [["c", "b"]]
    np.testing.assert_array_equal(
        result["embeddings"][0], np.array([VECTORS[2], VECTORS[1]], np.float32)
    )
    assert result["metadatas"] == [[{"year": 1870, "x": "y"}, {"year": 1860, "x": "y"}]]


def test_a_record_must_be_found_by_all_that_have_no_default(filled: Any) -> None:
    both = Knn([1.0, 0.0], limit=3) + Knn([0.0, 1.0], limit=3)
    x, y = near([1.0, 0.0]), near([0.0, 1.0])
    result = filled.search(Search().rank(both).select(K.SCORE))
    assert scores_of(result) == pytest.approx({i: x[i] + y[i] for i in ("a", "b", "c")})
    one = Knn([1.0, 0.0], limit=2) * 0.5 - Text("boats", default=-1.0)
    result = filled.search(Search().rank(one).select(K.SCORE))
    assert set(scores_of(result)) == {"a", "b"}
    assert scores_of(result)["a"] == pytest.approx(0.0 * 0.5 + 1.0)


def test_fusion_is_that_of_its_definition(filled: Any) -> None:
    rank = Rrf(
        [
            Knn([1.0, 0.0], limit=3, return_rank=True, default=100),
            Text("boats", return_rank=True, default=100),
        ],
        k=10,
        weights=[3.0, 1.0],
        normalize=True,
    )
    nearest, fitting = ["a", "b", "c"], ["b", "c"]

    def part(ranking: list[str], record_id: str) -> float:
        return 1 / (10 + (ranking.index(record_id) if record_id in ranking else 100))

    expected = {i: -(0.75 * part(nearest, i) + 0.25 * part(fitting, i)) for i in ("a", "b", "c")}
    # The third by distance is a tie, which goes by the order of insertion.
    result = filled.search(Search().rank(rank).select(K.SCORE))
    assert scores_of(result) == pytest.approx(expected)
    assert result["ids"][0] == sorted(expected, key=lambda i: expected[i])


def test_many_searches_are_answered_each_by_itself(filled: Any) -> None:
    result = filled.search([Search().limit(2), Search().rank(Text("boat")).select(K.SCORE)])
    assert result["ids"][0] == ["a", "b"]
    assert set(result["ids"][1]) == {"b", "c"}
    assert result["scores"][0] is None


def test_without_a_rank_records_come_in_order_of_insertion(filled: Any) -> None:
    result = filled.search(Search().where(K("year").exists(False)).select(K.SCORE))
    assert scores_of(result) == {"e": 0.0}
    assert filled.search(Search().limit(2, offset=3))["ids"] == [["d", "e"]]
    assert filled.search(Search().where(K.ID.is_in(["e", "b"])))["ids"] == [["b", "e"]]


def test_an_empty_collection_gives_nothing(books: Any) -> None:
    searches = [Search(), Search().rank(Knn([1.0, 0.0])), Search().rank(Text("whale"))]
    assert books.search(searches)["ids"] == [[], [], []]
    assert books.hybrid_search(
        query={"where_document": {"$contains": "whale"}}, knn={"query_embeddings": [1.0, 0.0]}
    )["ids"] == [[]]


# What Chroma's own classes say (chromadb 1.5.9, `Search(...).to_dict()`).

KNN = {"$knn": {"query": [1.0, 0.0], "key": "#embedding", "limit": 16}}
OTHER = {"$knn": {"query": [0.0, 1.0], "key": "#embedding", "limit": 16, "default": 2.0}}


def rank_of(query: list[float]) -> dict[str, Any]:
    knn = {"query": query, "key": "#embedding", "limit": 16, "default": 10, "return_rank": True}
    return {"$sum": [{"$val": 10}, {"$knn": knn}]}


WIRE: list[tuple[dict[str, Any], dict[str, float] | None]] = [
    ({"filter": None, "rank": None, "limit": {"offset": 0}, "select": {"keys": []}}, None),
    (
        {
            "filter": {"#id": {"$in": ["a", "c"]}},
            "rank": {"$sum": [{"$mul": [KNN, {"$val": 0.5}]}, {"$val": 1}]},
            "limit": {"offset": 0},
            "select": {"keys": ["#score"]},
        },
        {"a": 1.0, "c": 2.0},
    ),
    (
        {
            "filter": {"$or": [{"year": {"$lt": 1860}}, {"year": {"$gt": 1870}}]},
            "rank": {"$mul": [{"$val": -1}, KNN]},
            "limit": {"offset": 0},
            "select": {"keys": ["#score"]},
        },
        {"d": -4.0, "a": 0.0},
    ),
    (
        {
            "filter": {"$and": [{"year": {"$gte": 1850}}, {"#document": {"$contains": "whale"}}]},
            "rank": {
                "$mul": [
                    {"$val": -1},
                    {
                        "$sum": [
                            {"$div": {"left": {"$val": 2.0}, "right": rank_of([1.0, 0.0])}},
                            {"$div": {"left": {"$val": 1.0}, "right": rank_of([0.0, 1.0])}},
                        ]
                    },
                ]
            },
            "limit": {"offset": 0},
            "select": {"keys": ["#score"]},
        },
        {"a": -(2 / 10 + 1 / 10)},
    ),
    (
        {
            "filter": {"#id": {"$in": ["b"]}},
            "rank": {
                "$abs": {
                    "$log": {
                        "$min": [
                            {
                                "$max": [
                                    {
                                        "$div": {
                                            "left": {
                                                "$sub": {
                                                    "left": {"$exp": KNN},
                                                    "right": {"$val": 0.5},
                                                }
                                            },
                                            "right": {"$val": 2},
                                        }
                                    },
                                    {"$val": 0.1},
                                ]
                            },
                            OTHER,
                        ]
                    }
                }
            },
            "limit": {"offset": 0},
            "select": {"keys": ["#document", "#score", "#embedding", "#metadata"]},
        },
        {"b": abs(math.log(min(max((math.exp(0.8) - 0.5) / 2, 0.1), 0.4)))},
    ),
]


@pytest.mark.parametrize(("wire", "expected"), WIRE)
def test_searches_of_chroma_are_answered(
    filled: Any, wire: dict[str, Any], expected: dict[str, float] | None
) -> None:
    class Said:
        def to_dict(self) -> dict[str, Any]:
            return {**wire, "group_by": {}}

    result = filled.search(Said())
    if expected is None:
        assert result["ids"] == [IDS]
    else:
        assert list(scores_of(result)) == list(expected)
        assert scores_of(result) == pytest.approx(expected, rel=1e-6)
    assert filled.search([wire])["ids"] == result["ids"]


def test_expressions_say_what_those_of_chroma_say() -> None:
    rank = Rrf(
        [
            Knn([1.0, 0.0], return_rank=True, default=10),
            Knn([0.0, 1.0], return_rank=True, default=10),
        ],
        k=10,
        weights=[2.0, 1.0],
    )
    assert rank.to_dict() == WIRE[3][0]["rank"]
    other = ((Knn([1.0, 0.0]).exp() - 0.5) / 2).max(0.1).min(Knn([0.0, 1.0], default=2.0))
    assert other.log().abs().to_dict() == WIRE[4][0]["rank"]
    assert (Knn([1.0, 0.0]) * 0.5 + Val(1)).to_dict() == WIRE[1][0]["rank"]
    where = (K("year") < 1860) | (K("year") > 1870)
    search = Search().where(where).rank(-Knn([1.0, 0.0])).select(K.SCORE)
    assert search.to_dict() == {**WIRE[2][0], "group_by": {}}


def test_a_text_is_embedded_by_the_collection(client: Any) -> None:
    from tests.sdk.functions import Vowels

    collection = client.create_collection("texts", embedding_function=Vowels())
    collection.add(["a", "b"], documents=["aaaa", "bcd"])
    result = collection.search(Search().rank(Knn("eeee")).select(K.SCORE))
    assert result["ids"] == [["a", "b"]]
    hybrid = collection.hybrid_search(knn={"query_texts": "eeee"}, n_results=1)
    assert hybrid["ids"] == [["a"]]


WRONG_SEARCHES: list[tuple[Any, str]] = [
    (7, "must be a Search or a dict"),
    ([], "searches is empty"),
    ([{}] * 65, "searches holds 65"),
    ([{"rank": {"$text": {"query": "x", "limit": 16_384}}}] * 62, "1015808 candidates"),
    ({"where": {"a": 1}}, "has the key 'where'"),
    ({"rank": 0.5}, "exactly one operator"),
    ({"rank": {"$knn": {"query": [1.0, 0.0], "k": 3}}}, "has the key 'k'"),
    ({"rank": {"$nearest": {}}}, "unknown operator"),
    ({"rank": {"$val": 1}}, "neither a knn nor a text"),
    ({"rank": {"$knn": {"query": [1.0]}}}, "dimension 2, got 1"),
    ({"rank": {"$knn": {"query": [1.0, 0.0], "limit": 0}}}, "limit must be 1 to 16384"),
    ({"rank": {"$text": {"query": ""}}}, "0 bytes"),
    ({"rank": {"$sum": [KNN]}}, "at least 2"),
    ({"limit": {"limit": 0}}, "must be 1 to"),
    ({"limit": {"first": 3}}, "has the key 'first'"),
    ({"select": {"keys": ["#nothing"]}}, "#nothing"),
    (
        {"filter": {"$or": [{"year": 1}, {"#document": {"$contains": "x"}}]}},
        "mixes #document, metadata",
    ),
]


def test_a_wrong_search_is_refused(filled: Any) -> None:
    # One collection for all of them: each would cost more to make than to ask.
    for search, message in WRONG_SEARCHES:
        with pytest.raises(shoal.InvalidArgumentError, match=message):
            filled.search(search)


def test_what_is_not_there_yet_is_said(filled: Any) -> None:
    with pytest.raises(shoal.UnimplementedError, match="texts are not made into sparse"):
        filled.search(Search().rank(Knn("a text", key="sparse")))


# Hybrid search, as pyseekdb has it.


def test_routes_are_fused_and_none_is_left_out(filled: Any) -> None:
    result = filled.hybrid_search(
        query={"where_document": {"$contains": "boats"}, "n_results": 5},
        knn={"query_embeddings": [1.0, 0.0], "where": {"year": {"$lte": 1860}}, "n_results": 5},
        rank={"rrf": {"rank_window_size": 60, "rank_constant": 20}},
        n_results=3,
        include=["documents"],
    )
    # Texts: b, c (equal, by insertion: b is as long as c). Vectors: a, b.
    assert result["score_order"] == "descending"
    assert scores_of(result) == pytest.approx({"b": 1 / 21 + 1 / 22, "a": 1 / 21, "c": 1 / 22})
    assert result["ids"] == [["b", "a", "c"]]
    assert result["documents"] == [["Whales and boats", DOCUMENTS[0], DOCUMENTS[2]]]
    assert result["metadatas"] == [None]


def test_a_window_bounds_what_a_route_contributes(filled: Any) -> None:
    result = filled.hybrid_search(
        knn=[{"query_embeddings": [1.0, 0.0]}, {"query_embeddings": [0.0, 1.0], "boost": 0.5}],
        rank={"rrf": {"rank_window_size": 1}},
    )
    assert scores_of(result) == pytest.approx({"a": 1 / 61, "c": 0.5 / 61})


def test_a_single_route_gives_its_own_scores_higher_is_better(filled: Any) -> None:
    text = filled.hybrid_search(query={"where_document": {"$contains": "white whale"}})
    lower = filled.search(Search().rank(Text("white whale")).select(K.SCORE))
    assert text["ids"] == lower["ids"]
    assert text["scores"] == [[-score for score in lower["scores"][0]]]
    vector = filled.hybrid_search(knn={"query_embeddings": [1.0, 0.0]}, n_results=2)
    assert scores_of(vector) == pytest.approx({"a": 0.0, "b": -0.8})
    assert vector["metadatas"] is not None


def test_conditions_beside_a_text_filter(filled: Any) -> None:
    result = filled.hybrid_search(
        query={
            "where_document": {"$and": [{"$contains": "whales"}, {"$not_contains": "white"}]},
            "where": {"year": {"$gt": 1800}},
        }
    )
    assert result["ids"] == [["b"]]
    either = filled.hybrid_search(
        query={"where_document": {"$or": [{"$contains": "sea"}, {"$contains": "boat"}]}}
    )
    assert either["ids"] == [["c", "b"]]
    assert filled.hybrid_search(query={"where": {"year": 1880}})["ids"] == [["d"]]


WRONG_HYBRID_SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({}, "query, knn or both"),
    ({"query": {"text": "x"}}, "has the key 'text'"),
    ({"query": {"where_document": {"$regex": "x"}}}, "no \\$contains"),
    (
        {"query": {"where_document": {"$and": [{"$contains": "x"}, {"$contains": "y"}]}}},
        "texts rank, they do not filter",
    ),
    ({"query": {"where": {"a": 1}}, "knn": {"query_embeddings": [1.0, 0.0]}}, "ranks nothing"),
    ({"knn": {}}, "exactly one of query_embeddings and query_texts"),
    ({"knn": {"query_embeddings": [1.0]}}, "dimension"),
    ({"knn": {"query_embeddings": [1.0, 0.0], "boost": -1}}, "boost must be"),
    ({"knn": {"query_embeddings": [1.0, 0.0]}, "rank": {"linear": {}}}, "rank must be"),
    ({"knn": {"query_embeddings": [1.0, 0.0]}, "include": ["distances"]}, "'distances'"),
    ({"knn": {"query_embeddings": [1.0, 0.0]}, "n_results": 0}, "n_results"),
]


def test_a_wrong_hybrid_search_is_refused(filled: Any) -> None:
    for arguments, message in WRONG_HYBRID_SEARCHES:
        with pytest.raises(shoal.InvalidArgumentError, match=message):
            filled.hybrid_search(**arguments)
