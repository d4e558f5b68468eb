"""Copying a collection between any two clients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shoal
from tests.sdk.functions import Lengths, Vowels
from tests.sdk.ways import Ways

EVERYTHING = ["embeddings", "metadatas", "documents", "uris"]
SETTINGS = {"space": "cosine", "ef_search": 33, "shards": 2}


def _source(client: Any, **arguments: Any) -> Any:
    books = client.create_collection("books", {"hnsw": SETTINGS}, {"a": 1}, **arguments)
    books.add(
        [f"id{i}" for i in range(30)],
        np.random.default_rng(1).normal(size=(30, 2)),
        [{"n": i} if i % 3 else None for i in range(30)],
        [f"text {i}" for i in range(30)],
        [f"u:{i}" if i % 2 else None for i in range(30)],
    )
    return books


def _same(one: Any, other: Any) -> bool:
    a, b = one.get(include=EVERYTHING), other.get(include=EVERYTHING)
    vectors: bool = a.pop("embeddings").tobytes() == b.pop("embeddings").tobytes()
    return vectors and bool(a == b)


# A blocking client copies to a blocking one, an asyncio one to its like.
@pytest.mark.parametrize("is_embedded", [True, False], ids=["to embedded", "to a server"])
def test_a_copy_is_the_same_anywhere(ways: Ways, way: str, client: Any, is_embedded: bool) -> None:
    blocking, asynchronous = ("embedded", "async-embedded") if is_embedded else ("grpc", "async")
    target_way = asynchronous if "async" in way else blocking
    admin = ways.admin(target_way)
    admin.create_database("target")
    target = ways.client(target_way, database="target")
    try:
        books = _source(client, embedding_function=None)
        copy = books.copy_to(target, "copy")
        assert _same(copy, books)
        assert copy.metadata == {"a": 1}
        assert copy.configuration == books.configuration
        assert target.get_collection("copy").count() == 30
        assert books.copy_to(target).name == "books"
        with pytest.raises(shoal.CollectionExistsError):
            books.copy_to(target, "copy")
    finally:
        target.close()
        admin.delete_database("target")
        admin.close()


def test_a_subset_by_both_filters(client: Any) -> None:
    books = _source(client, embedding_function=None)
    copy = books.copy_to(
        client, "some", where={"n": {"$gte": 10}}, where_document={"$contains": "2"}
    )
    assert copy.get()["ids"] == books.get(
        where={"n": {"$gte": 10}}, where_document={"$contains": "2"}
    )["ids"]  # fmt: skip
    assert copy.count() < 30


def test_an_empty_collection_can_be_copied(client: Any) -> None:
    books = client.create_collection("books")
    copy = books.copy_to(client, "copy")
    assert (copy.count(), copy.dimension) == (0, None)


def test_a_changed_configuration_is_copied(client: Any) -> None:
    books = client.create_collection("books", metadata={"hnsw:search_ef": 50})
    books.modify(configuration={"hnsw": {"ef_search": 60}})
    copy = books.copy_to(client, "copy")
    assert copy.configuration["hnsw"]["ef_search"] == 60


def test_the_stored_function_goes_along_and_vectors_stay(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Lengths())
    books.add(["a", "b"], [[7.0, 7.0], [8.0, 8.0]], documents=["one", "three"])
    copy = books.copy_to(client, "copy")
    assert copy.configuration["embedding_function"] == {"name": "lengths", "config": {"scale": 1}}
    assert _same(copy, books)
    assert copy.query(query_texts="x", n_results=1)["ids"] == [["a"]]


def test_another_function_embeds_again(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Lengths())
    books.add(["a", "b"], documents=["one", "three"])
    copy = books.copy_to(client, "copy", embedding_function=Vowels())
    assert copy.configuration["embedding_function"]["name"] == "vowels"
    assert copy.peek()["embeddings"].tolist() == [[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]
    # Which does not support this one's.
    assert copy.configuration["hnsw"]["space"] == "cosine"
    plain = books.copy_to(client, "plain", embedding_function=None)
    assert plain.configuration["embedding_function"] is None
    assert plain.peek()["embeddings"].tolist() == books.peek()["embeddings"].tolist()


def test_what_has_no_document_cannot_be_embedded_again(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    books.add(["a", "b"], [[1, 2], [3, 4]], documents=["one", None])
    with pytest.raises(shoal.InvalidArgumentError, match="'b' at position 1 has neither"):
        books.copy_to(client, "copy", embedding_function=Vowels())


def test_progress_is_shown(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    books = _source(client, embedding_function=None)
    books.copy_to(client, "copy", progress=True)
    assert "copying books" in capfd.readouterr().err
    books.upsert("x", [1, 2], progress=True)
    assert "upsert to books" in capfd.readouterr().err
