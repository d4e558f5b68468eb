"""Sparse vectors, by every way in and on one shard and several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import K, Knn, Rrf, Search, SparseVector, Text
from shoal.v1 import (
    collection_pb2,
    collection_service_pb2,
    ranking_pb2,
    record_service_pb2,
    value_pb2,
)
from tests.sdk.ways import Ways

CONFIGURATION = {"sparse_vectors": {"words": {}, "rare": {"idf": True}}}


@pytest.fixture
def papers(client: Any, shards: int) -> Any:
    """An empty collection that declares sparse vectors."""
    return client.create_collection(
        "papers", configuration={"hnsw": {"shards": shards}, **CONFIGURATION},
        embedding_function=None,
    )  # fmt: skip


def some_vectors(count: int, seed: int = 1) -> list[SparseVector]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = int(random.integers(1, 6))
        indices = random.choice(12, size, replace=False)
        found.append(SparseVector(indices.tolist(), random.normal(size=size).tolist()))
    return found


def products(
    query: SparseVector, vectors: dict[str, SparseVector], *, idf: bool = False
) -> dict[str, float]:
    """1 - the inner product with each vector that has one of the dimensions, by its definition."""
    weight = dict(zip(query.indices, query.values, strict=True))
    if idf:
        for index in weight:
            having = sum(index in vector.indices for vector in vectors.values())
            weight[index] *= math.log1p((len(vectors) - having + 0.5) / (having + 0.5))
    return {
        record_id: 1.0 - sum(weight.get(i, 0.0) * v
                             for i, v in zip(vector.indices, vector.values, strict=True))
        for record_id, vector in vectors.items()
        if weight.keys() & set(vector.indices)
    }  # fmt: skip


def scores_of(result: Any, search: int = 0) -> dict[str, float]:
    return dict(zip(result["ids"][search], result["scores"][search], strict=True))


def found(collection: Any, query: SparseVector, key: str, limit: int = 100) -> dict[str, float]:
    return scores_of(
        collection.search(Search().rank(Knn(query, key=key, limit=limit)).select(K.SCORE))
    )


def filled(collection: Any, count: int = 40) -> dict[str, SparseVector]:
    vectors = {f"r{i:02}": vector for i, vector in enumerate(some_vectors(count))}
    collection.add(
        list(vectors),
        [[float(i), 1.0] for i in range(count)],
        [{"words": vector, "rare": vector, "number": i}
         for i, vector in enumerate(vectors.values())],
    )  # fmt: skip
    return vectors


@pytest.mark.parametrize(("key", "idf"), [("words", False), ("rare", True)])
def test_the_nearest_are_those_of_brute_force(papers: Any, key: str, idf: bool) -> None:
    vectors = filled(papers)
    for query in some_vectors(8, seed=2):
        expected = products(query, vectors, idf=idf)
        answer = found(papers, query, key)
        assert answer == pytest.approx(expected, abs=1e-12)
        assert list(answer.values()) == sorted(answer.values())
        assert list(found(papers, query, key, limit=3)) == list(answer)[:3]


def test_scores_follow_writes(papers: Any) -> None:
    vectors = filled(papers)
    query = SparseVector([1, 2, 3], [1.0, 0.5, -1.0])
    papers.delete(["r00", "r01"])
    vectors["r02"] = SparseVector([2, 11], [7.0, 1.0])
    papers.update(["r02", "r03"], metadatas=[{"rare": vectors["r02"]}, {"rare": None}])
    vectors["new"] = SparseVector([1], [9.0])
    papers.upsert(["new"], [[0.0, 0.0]], [{"rare": vectors["new"]}])
    papers.update(["r04"], metadatas=[{"number": -1}])
    for gone in ("r00", "r01", "r03"):
        del vectors[gone]
    assert found(papers, query, "rare") == pytest.approx(products(query, vectors, idf=True))
    assert "r03" in found(papers, query, "words") or 1 not in some_vectors(4)[3].indices


def test_filters_do_not_change_inverse_frequencies(papers: Any) -> None:
    vectors = filled(papers)
    query = some_vectors(1, seed=3)[0]
    result = papers.search(
        Search().where(K("number") < 10).rank(Knn(query, key="rare", limit=50)).select(K.SCORE)
    )
    every = products(query, vectors, idf=True)
    wanted = {record_id: every[record_id] for record_id in every if record_id < "r10"}
    assert scores_of(result) == pytest.approx(wanted)


def test_vectors_come_back_bit_for_bit(papers: Any) -> None:
    values = np.array([0.1, -0.0, 3.4e38, 1e-45], np.float32).tolist()
    vector = SparseVector([0, 7, 8, 2**32 - 1], values)
    papers.add(["a"], [[1.0]], [{"words": vector, "x": 1}])
    [metadata] = papers.get()["metadatas"]
    assert metadata == {"words": vector, "x": 1}
    assert np.array(metadata["words"].values, np.float32).tobytes() == (
        np.array(values, np.float32).tobytes()
    )
    papers.update_where({"x": 1}, {"x": 2})
    assert papers.get()["metadatas"] == [{"words": vector, "x": 2}]
    other = SparseVector([5], [1.0])
    papers.update_where({"x": 2}, {"rare": other, "words": None})
    assert papers.get()["metadatas"] == [{"rare": other, "x": 2}]


def test_chromas_vectors_and_dicts_are_taken(papers: Any) -> None:
    plain = {"indices": [3, 1], "values": [2.0, 1.0]}
    papers.add(["a"], [[1.0]], [{"words": plain, "rare": {"#type": "sparse_vector", **plain}}])
    vector = SparseVector([1, 3], [1.0, 2.0])
    assert papers.get()["metadatas"] == [{"words": vector, "rare": vector}]
    search = {"rank": {"$knn": {"query": vector.to_dict(), "key": "words"}}}
    assert papers.search(search)["ids"] == [["a"]]


def test_they_rank_beside_texts_and_vectors(papers: Any) -> None:
    papers.add(
        ["a", "b", "c"],
        [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]],
        [{"words": SparseVector([1], [1.0])}, None, {"words": SparseVector([1, 2], [2.0, 1.0])}],
        ["a white whale", "a boat", "whales"],
    )
    query = SparseVector([1], [1.0])
    ranking = Knn(query, key="words", default=5.0) + Text("boat", default=0.0)
    assert papers.search(Search().rank(ranking))["ids"] == [["c", "a", "b"]]
    fused = Rrf(
        [
            Knn(query, key="words", return_rank=True, default=100),
            Knn([0.0, 1.0], return_rank=True, default=100),
        ]
    )
    assert papers.search(Search().rank(fused))["ids"][0][0] == "c"
    answer = papers.hybrid_search(
        query={"where_document": {"$contains": "whale"}},
        knn={"query_embeddings": query, "key": "words", "n_results": 5},
        n_results=3,
    )
    assert answer["ids"] == [["c", "a"]]


def test_filters_ask_whether_there_is_one_and_nothing_else(papers: Any) -> None:
    papers.add(["a", "b"], [[1.0], [2.0]], [{"words": SparseVector([1], [1.0])}, {"number": 1}])
    assert papers.get(where={"words": {"$exists": True}})["ids"] == ["a"]
    assert papers.get(where={"words": {"$exists": False}})["ids"] == ["b"]
    where: Any = {"$and": [{"number": 1}, {"words": {"$ne": 3}}]}
    calls: list[Callable[[], Any]] = [
        lambda: papers.get(where=where),
        lambda: papers.count(where=where),
        lambda: papers.delete(where=where),
        lambda: papers.update_where(where, {"x": 1}),
        lambda: papers.query([[1.0]], where=where),
        lambda: papers.search(Search().where(where).rank(Text("x"))),
        lambda: papers.search(Search().where(where).limit(1)),
    ]
    for call in calls:
        with pytest.raises(shoal.InvalidArgumentError, match=r"where.words: \$ne cannot be asked"):
            call()


WRONG = [
    ({"number": SparseVector([1], [1.0])}, "does not declare the key"),
    ({"words": "text"}, "must be a sparse vector"),
    ({"words": [1.0]}, "must be a sparse vector"),
    ({"words": {"indices": [1], "values": []}}, "1 indices and values"),
    ({"words": {"indices": [], "values": []}}, "is empty"),
    ({"words": {"indices": [1, 1], "values": [1.0, 2.0]}}, "index 1 twice"),
    ({"words": {"indices": [-1], "values": [1.0]}}, "must be 0 to"),
    ({"words": {"indices": [2**32], "values": [1.0]}}, "must be 0 to"),
    ({"words": {"indices": [1.5], "values": [1.0]}}, "no integer"),
    ({"words": {"indices": [1], "values": [math.nan]}}, "must be finite"),
    ({"words": {"indices": [1], "values": [1e39]}}, "within float32"),
    ({"words": {"indices": [1], "weights": [1.0]}}, "no sparse vector"),
    ({"words": SparseVector(list(range(2**31, 2**31 + 9000)), [1.0] * 9000)}, "at most 65536"),
]


@pytest.mark.parametrize(("metadata", "message"), WRONG)
def test_what_is_no_vector_is_refused_before_anything_is_written(
    papers: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match=message):
        papers.add(["a", "b"], [[1.0], [2.0]], [None, metadata])
    assert papers.count() == 0


@pytest.mark.parametrize(
    ("query", "key", "message"),
    [
        (SparseVector([1], [1.0]), "other", "declares no sparse vectors under 'other'"),
        ([1.0], "words", "a SparseVector is sought"),
        (SparseVector([1], [1.0]), "#embedding", "under the key of the metadata"),
        (SparseVector(list(range(9000)), [1.0] * 9000), "words", "9000 weights; at most 8192"),
    ],
)
def test_searches_of_what_is_not_there_are_refused(
    papers: Any, query: Any, key: str, message: str
) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match=message):
        papers.search(Search().rank(Knn(query, key=key)))


def test_the_configuration_is_kept_and_agreed_about(client: Any) -> None:
    german = {**CONFIGURATION, "documents": {"language": "german"}}
    client.create_collection("papers", configuration=german, embedding_function=None)
    papers = client.get_collection("papers")
    assert papers.configuration["sparse_vectors"] == {
        "rare": {"idf": True}, "words": {"idf": False}
    }  # fmt: skip
    assert papers.configuration["documents"] == {"language": "german"}
    again = client.get_or_create_collection(
        "papers", configuration=papers.configuration, embedding_function=None
    )
    assert again.configuration == papers.configuration
    contradictions: list[Any] = [
        {"sparse_vectors": {"words": {}}},
        {"sparse_vectors": {"words": {"idf": True}, "rare": {"idf": True}}},
        {"documents": {"language": "french"}},
    ]
    for contradiction in contradictions:
        with pytest.raises(shoal.InvalidArgumentError, match=r"sparse vectors|language"):
            client.get_or_create_collection(
                "papers", configuration=contradiction, embedding_function=None
            )
        with pytest.raises(shoal.InvalidArgumentError, match="cannot change"):
            papers.modify(configuration=contradiction)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"sparse_vectors": {"$x": {}}}, "reserved"),
        ({"sparse_vectors": {"x": {"dim": 3}}}, "no key 'dim'"),
        ({"sparse_vectors": {"x": {"idf": 1}}}, "idf must be true or false"),
        ({"sparse_vectors": ["x"]}, "must be a dict"),
        ({"sparse_vectors": {f"k{i}": {} for i in range(17)}}, "at most 16"),
        ({"documents": {"language": "klingon"}}, "'klingon' is not known"),
        ({"documents": {"stemmer": "x"}}, "no key 'stemmer'"),
    ],
)
def test_wrong_declarations_are_refused(client: Any, configuration: Any, message: str) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match=message):
        client.create_collection("papers", configuration=configuration, embedding_function=None)


def test_texts_are_ranked_in_the_collections_language(client: Any, shards: int) -> None:
    books = client.create_collection(
        "books",
        configuration={"hnsw": {"shards": shards}, "documents": {"language": "german"}},
        embedding_function=None,
    )
    books.add(["a", "b"], [[1.0], [2.0]], documents=["viele Häuser", "the houses"])
    assert books.search(Search().rank(Text("Haus")))["ids"] == [["a"]]
    assert books.search(Search().rank(Text("house", language="english")))["ids"] == [["b"]]
    assert books.search(Search().rank(Text("the")))["ids"] == [["b"]]
    assert books.search(Search().rank(Text("the", language="english")))["ids"] == [[]]


def test_vectors_are_copied_with_their_collection(client: Any, papers: Any) -> None:
    vectors = filled(papers)
    copy = papers.copy_to(client, "copy")
    query = some_vectors(1, seed=5)[0]
    assert copy.configuration == papers.configuration
    assert found(copy, query, "rare") == pytest.approx(products(query, vectors, idf=True))


def test_clones_keep_the_keys_and_may_weigh_otherwise(papers: Any) -> None:
    vectors = filled(papers)
    clone = papers.clone(
        "clone",
        configuration={
            "hnsw": {"shards": 2},
            "sparse_vectors": {"words": {"idf": True}, "rare": {}},
        },
    )
    query = some_vectors(1, seed=5)[0]
    assert found(clone, query, "words") == pytest.approx(products(query, vectors, idf=True))
    assert found(clone, query, "rare") == pytest.approx(products(query, vectors))
    with pytest.raises(shoal.InvalidArgumentError, match="those of the source"):
        papers.clone("another", configuration={"sparse_vectors": {"other": {}}})


def test_tables_hold_them_as_structs(client: Any, papers: Any) -> None:
    vectors = filled(papers, 3)
    table = papers.get(include=["embeddings", "metadatas"]).to_arrow()
    other = client.create_collection("other", configuration=CONFIGURATION, embedding_function=None)
    other.add_arrow(table)
    assert other.get()["metadatas"] == papers.get()["metadatas"]
    assert [m["words"] for m in other.get()["metadatas"]] == list(vectors.values())


def test_nothing_is_grouped_by_them(papers: Any) -> None:
    papers.add(["a"], [[1.0]], [{"words": SparseVector([1], [1.0])}])
    groups = {"keys": ["words"], "aggregate": {"$min_k": {"keys": ["#score"], "k": 1}}}
    search = {"rank": {"$knn": {"query": [1.0]}}, "group_by": groups}
    with pytest.raises(shoal.InvalidArgumentError, match="'words' holds sparse vectors"):
        papers.search(search)


# By bare stubs.


def raw_papers(ways: Ways) -> tuple[Any, Any]:
    raw = ways.client("raw", database="default_database")
    configuration = collection_pb2.CollectionConfiguration()
    configuration.sparse_vectors["words"].idf = True
    configuration.hnsw.shards = 3
    created = raw.call(
        "CreateCollection",
        collection_service_pb2.CreateCollectionRequest(
            name="raw-papers", configuration=configuration
        ),
    )
    return raw, collection_pb2.CollectionReference(id=created.collection.id)


def raw_add(raw: Any, papers: Any, sparse: value_pb2.SparseVector, key: str = "words") -> Any:
    metadata = value_pb2.Metadata(fields={key: value_pb2.Value(sparse_vector=sparse)})
    records = value_pb2.RecordBatch(
        ids=["a"],
        vectors=value_pb2.VectorBlock(dimension=1, values=np.ones(1, "<f4").tobytes()),
        metadatas=[metadata],
    )
    return raw.call("Add", record_service_pb2.AddRequest(collection=papers, records=records))


def raw_search(raw: Any, papers: Any, knn: ranking_pb2.KnnRank) -> Any:
    query = ranking_pb2.RankedQuery(
        rank=ranking_pb2.Rank(knn=knn), include=[value_pb2.INCLUDE_DISTANCES]
    )
    request = record_service_pb2.SearchRequest(collection=papers, searches=[query])
    return raw.call("Search", request).results[0]


def test_the_server_itself_keeps_the_rules(ways: Ways) -> None:
    raw, papers = raw_papers(ways)
    try:
        wrong = [
            (value_pb2.SparseVector(), "words", "empty"),
            (value_pb2.SparseVector(indices=[1], values=[]), "words", "1 indices and 0 values"),
            (value_pb2.SparseVector(indices=[2, 1], values=[1, 1]), "words", "do not ascend"),
            (value_pb2.SparseVector(indices=[1, 1], values=[1, 1]), "words", "do not ascend"),
            (value_pb2.SparseVector(indices=[1], values=[math.inf]), "words", "not finite"),
            (value_pb2.SparseVector(indices=[1], values=[1]), "other", "does not declare"),
        ]
        for sparse, key, message in wrong:
            with pytest.raises(shoal.InvalidArgumentError, match=message) as refused:
                raw_add(raw, papers, sparse, key)
            assert "other" in str(refused.value) or "words" in str(refused.value)
        good = value_pb2.SparseVector(indices=[1, 4], values=[0.5, 2.0])
        assert raw_add(raw, papers, good).added == 1
        weight = math.log1p(0.5 / 1.5)
        answer = raw_search(
            raw, papers, ranking_pb2.KnnRank(sparse_vector=good, key="words", limit=5)
        )
        assert list(answer.records.ids) == ["a"]
        assert list(answer.scores) == pytest.approx([1 - weight * (0.25 + 4.0)])
        by_id = raw_search(raw, papers, ranking_pb2.KnnRank(id="a", key="words", limit=5))
        assert by_id == answer
        for knn, message in (
            (ranking_pb2.KnnRank(sparse_vector=good, limit=5), "needs a key"),
            (ranking_pb2.KnnRank(sparse_vector=good, key="x", limit=5), "declares no sparse"),
            (ranking_pb2.KnnRank(id="a", key="x", limit=5), "declares no sparse"),
            (
                ranking_pb2.KnnRank(sparse_vector=value_pb2.SparseVector(), key="words", limit=5),
                "empty",
            ),
        ):
            with pytest.raises(shoal.InvalidArgumentError, match=message):
                raw_search(raw, papers, knn)
        with pytest.raises(shoal.NotFoundError, match="no record 'b'"):
            raw_search(raw, papers, ranking_pb2.KnnRank(id="b", key="words", limit=5))
    finally:
        raw.delete_collection("raw-papers")
        raw.close()
