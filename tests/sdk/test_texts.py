"""Rankings of texts: beside an independent implementation in several languages, and alike for any
number of shards, before and after their documents are indexed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import bm25s
import numpy as np
import pytest

import shoal
from shoal import K, Knn, Search, SparseVector, Text
from shoal_worker.indexing import Indexing
from shoal_worker.shard import Shard
from shoal_worker.text import analyzer

WORDS = {
    "english": ["whale", "whales", "the", "hunting", "hunted", "sea", "seas", "captain", "mast"],
    "german": ["Haus", "Häuser", "das", "Meer", "Meere", "Schiff", "schiffe", "fährt", "fahren"],
    "french": ["maison", "maisons", "la", "mer", "mers", "navire", "naviguer", "été", "étés"],
}


@pytest.fixture
def client() -> Iterator[shoal.Client]:
    with shoal.EphemeralClient() as client:
        yield client


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> set[Shard]:
    """The shards that are written to."""
    written: set[Shard] = set()
    consider = Indexing.consider

    def watched(self: Indexing, shard: Shard) -> None:
        written.add(shard)
        consider(self, shard)

    monkeypatch.setattr(Indexing, "consider", watched)
    return written


def wait_until_indexed(shards: set[Shard]) -> None:
    deadline = time.monotonic() + 240
    while any(shard.indexes.lag for shard in shards):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def corpus(words: list[str], count: int, seed: int = 7) -> list[str]:
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(words) + 1)
    return [
        " ".join(random.choice(words, random.integers(0, 15), p=weights / weights.sum()).tolist())
        for _ in range(count)
    ]


def found(collection: Any, rank: Any) -> tuple[list[str], list[float]]:
    result = collection.search(Search().rank(rank).select(K.SCORE))
    return result["ids"][0], result["scores"][0]


@pytest.mark.parametrize("language", list(WORDS))
def test_scores_are_those_of_another_implementation(
    client: Any, shards: set[Shard], language: str
) -> None:
    documents = corpus(WORDS[language], 300)
    books = client.create_collection(
        "books", configuration={"documents": {"language": language}}, embedding_function=None
    )
    ids = [f"r{i:03}" for i in range(len(documents))]
    books.add(ids, [[float(i)] for i in range(len(ids))], documents=documents)
    wait_until_indexed(shards)
    terms = analyzer(language).terms
    other = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    other.index([terms(document) for document in documents], show_progress=False)
    for text in (*WORDS[language], " ".join(WORDS[language][::2])):
        expected = other.get_scores(terms(text)) if terms(text) else np.zeros(len(ids))
        best, scores = found(books, Text(text, limit=300))
        assert set(best) == {ids[i] for i in np.flatnonzero(expected)}
        own = [expected[ids.index(i)] for i in best]
        assert [-score for score in scores] == pytest.approx(own, rel=1e-5)


def test_one_shard_and_eight_rank_alike_before_and_after_indexing(
    client: Any, shards: set[Shard]
) -> None:
    random = np.random.default_rng(3)
    collections = [
        client.create_collection(
            f"of-{count}",
            configuration={"hnsw": {"shards": count}, "sparse_vectors": {"terms": {"idf": True}}},
            embedding_function=None,
        )
        for count in (1, 8)
    ]
    words = WORDS["english"]
    queries = [
        *(Text(text, limit=50) for text in (*words, "whale hunting captain", "the seas")),
        *(
            Knn(SparseVector(list(map(int, dimensions)), [1.0, -0.5, 2.0]), key="terms", limit=50)
            for dimensions in (random.choice(9, 3, replace=False) for _ in range(5))
        ),
    ]

    def compare() -> None:
        for query in queries:
            one, eight = (found(collection, query) for collection in collections)
            assert one == eight

    for turn in range(6):
        ids = [f"r{i}" for i in random.choice(400, 120, replace=False)]
        documents = corpus(words, len(ids), seed=turn)
        metadatas = []
        for _ in ids:
            size = int(random.integers(1, 5))
            dimensions = random.choice(9, size, replace=False).tolist()
            metadatas.append({"terms": SparseVector(dimensions, random.normal(size=size).tolist())})
        gone = [f"r{i}" for i in random.choice(400, 40, replace=False)]
        for collection in collections:
            collection.upsert(ids, [[float(len(i))] for i in ids], metadatas, documents)
            collection.delete(gone)
        compare()
        before = [found(collections[0], query) for query in queries]
        wait_until_indexed(shards)
        compare()
        assert [found(collections[0], query) for query in queries] == before


def test_a_word_of_any_length_costs_no_more_than_others(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    books.add(["a"], [[1.0]], documents=["y" * 1_000_000])
    began = time.process_time()
    assert found(books, Text("y" * 60_000)) == ([], [])
    assert time.process_time() - began < 5
