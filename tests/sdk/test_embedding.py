"""Collections and their embedding functions, by every way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal.embedding_functions import registry
from tests.sdk.functions import Lengths, Vowels


def halves(texts: list[str]) -> list[list[float]]:
    return [[len(text) / 2] for text in texts]


def test_documents_are_embedded_and_queries_their_own_way(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Vowels())
    books.add(["a", "b"], documents=["sky", "banana"])
    assert books.peek()["embeddings"].tolist() == [[0.0, 0.0, 1.0], [3.0, 0.0, 1.0]]
    found = books.query(query_texts=["aaa", "x"], n_results=1)
    assert found["ids"] == [["b"], ["a"]]
    expected = 1 - 10 / (10**0.5 * 11**0.5)
    assert found["distances"][0] == pytest.approx([expected], abs=1e-6)


def test_the_function_says_space_and_dimension(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Vowels())
    assert (books.configuration["hnsw"]["space"], books.dimension) == ("cosine", 3)
    with pytest.raises(shoal.DimensionMismatchError):
        books.add("a", [1, 2])
    inner = {"hnsw": {"space": "ip"}}
    papers = client.create_collection("papers", inner, embedding_function=Vowels())
    assert papers.configuration["hnsw"]["space"] == "ip"
    with pytest.warns(UserWarning, match="not for l2"):
        client.create_collection("other", {"hnsw": {"space": "l2"}}, embedding_function=Vowels())


def test_a_contradicting_dimension_is_a_value_error(client: Any) -> None:
    with pytest.raises(ValueError, match=r"dimension 384.*'vowels' makes vectors of 3"):
        client.create_collection("books", shoal.HNSWConfiguration(), embedding_function=Vowels())
    assert not client.has_collection("books")


def test_the_stored_function_is_found_again(client: Any) -> None:
    client.create_collection("books", embedding_function=Lengths(scale=3))
    books = client.get_collection("books")
    assert books.configuration["embedding_function"] == {"name": "lengths", "config": {"scale": 3}}
    books.add("a", documents="four")
    assert books.peek()["embeddings"].tolist() == [[12.0, 1.0]]
    assert isinstance(books.embedding_function, Lengths)
    for same in (client.get_or_create_collection("books"), client.list_collections()[0]):
        same.upsert("a", documents="fives")
    assert books.peek()["embeddings"].tolist() == [[15.0, 1.0]]


def test_another_function_than_the_stored_one_is_refused(client: Any) -> None:
    client.create_collection("books", embedding_function=Lengths())
    for wrong in (Vowels(), Lengths(scale=2), halves):
        with pytest.raises(shoal.InvalidArgumentError):
            client.get_collection("books", embedding_function=wrong)
        with pytest.raises(shoal.InvalidArgumentError):
            client.get_or_create_collection("books", embedding_function=wrong)
    assert client.get_collection("books", embedding_function=Lengths()).name == "books"
    client.create_collection("plain", embedding_function=None)
    with pytest.raises(shoal.InvalidArgumentError, match="without an embedding function"):
        client.get_collection("plain", embedding_function=Lengths())


def test_a_callable_is_stored_by_name_alone_and_must_be_passed_again(client: Any) -> None:
    books = client.create_collection("books", embedding_function=halves)
    assert books.configuration["embedding_function"] == {"name": "halves", "config": {}}
    books.add("a", documents="four")
    again = client.get_collection("books")
    assert again.count() == 1
    again.add("b", [9.0])
    with pytest.raises(shoal.InvalidArgumentError, match=r"'halves' is not known here.*pass it"):
        again.add("c", documents="text")
    with pytest.raises(shoal.InvalidArgumentError, match="halves"):
        again.query(query_texts="text")
    passed = client.get_collection("books", embedding_function=halves)
    assert passed.query(query_texts="four", n_results=1)["ids"] == [["a"]]


def test_without_a_function_a_text_needs_a_vector(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    assert books.embedding_function is None
    assert books.configuration["embedding_function"] is None
    books.add("a", [1, 2], documents="text")
    calls: list[Callable[[], Any]] = [
        lambda: books.add("b", documents="text"),
        lambda: books.upsert("a", documents="text"),
        lambda: books.update("a", documents="text"),
        lambda: books.query(query_texts="text"),
    ]
    for call in calls:
        with pytest.raises(shoal.InvalidArgumentError, match="embedding_function=None"):
            call()
    assert books.get()["ids"] == ["a"]
    stored = client.create_collection("stored", embedding_function=Lengths())
    assert stored.name == "stored"
    with pytest.raises(shoal.InvalidArgumentError, match="embedding_function=None"):
        client.get_collection("stored", embedding_function=None).add("b", documents="text")


def test_embeddings_win_and_load_no_function(client: Any) -> None:
    def fails(texts: list[str]) -> Any:
        raise AssertionError("embedded")

    books = client.create_collection("books", embedding_function=fails)
    books.add("a", [1, 2], documents="text")
    books.update("a", metadatas={"x": 1})
    books.query([1, 2])
    assert books.get()["documents"] == ["text"]


def test_a_new_document_is_embedded_again(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Lengths())
    books.add(["a", "b", "c"], documents=["1", "22", "333"])
    books.update(["a", "b", "c"], documents=["4444", None, "55555"], metadatas=[{"x": 1}] * 3)
    found = books.peek()
    assert found["embeddings"][:, 0].tolist() == [4.0, 2.0, 5.0]
    assert found["documents"] == ["4444", "22", "55555"]
    assert found["metadatas"] == [{"x": 1}] * 3
    books.upsert("b", documents="666666")
    assert books.get("b", include=["embeddings"])["embeddings"].tolist() == [[6.0, 1.0]]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ([[1.0, 2.0]], "gave 1 vectors for 2 texts"),
        ([[1.0], [1.0, 2.0]], r"\[1\] has 2 numbers"),
        ([[1.0], [float("nan")]], "nan"),
        (None, "NoneType"),
    ],
)
def test_what_a_function_answers_is_checked(client: Any, answer: Any, match: str) -> None:
    books = client.create_collection("books", embedding_function=lambda texts: answer)
    with pytest.raises(shoal.InvalidArgumentError, match=match):
        books.add(["a", "b"], documents=["x", "y"])
    assert books.count() == 0


def test_a_function_that_fails_later_says_how_far_the_write_came(client: Any) -> None:
    def fails(texts: list[str]) -> Any:
        if "bad" in texts:
            raise RuntimeError("out of memory")
        return [[1.0]] * len(texts)

    books = client.create_collection("books", embedding_function=fails)
    with pytest.raises(shoal.PartialWriteError, match=r"10,000 of 10,001.*out of memory") as caught:
        books.add([str(i) for i in range(10_001)], documents=["good"] * 10_000 + ["bad"])
    assert caught.value.written_count == 10_000
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert books.count() == 10_000
    with pytest.raises(RuntimeError, match="out of memory"):
        books.add("x", documents="bad")


def test_a_function_can_be_configured_instead_of_passed(client: Any) -> None:
    described = {"embedding_function": {"name": "lengths", "config": {"scale": 2}}}
    books = client.create_collection("books", described)
    books.add("a", documents="four")
    assert books.peek()["embeddings"].tolist() == [[8.0, 1.0]]
    with pytest.raises(shoal.InvalidArgumentError, match="'vowels', but configuration says"):
        client.create_collection("other", described, embedding_function=Vowels())
    passed = {"embedding_function": Vowels()}
    assert client.create_collection("passed", passed).dimension == 3


def test_a_function_whose_vectors_would_not_fit_cannot_be_reconfigured(client: Any) -> None:
    books = client.create_collection("books", embedding_function=Lengths())
    with pytest.raises(shoal.InvalidArgumentError, match="scale"):
        books.modify(configuration={"embedding_function": Lengths(scale=2)})
    with pytest.raises(shoal.InvalidArgumentError, match="vowels"):
        books.modify(configuration={"embedding_function": Vowels()})
    books.modify(configuration={"embedding_function": Lengths()})


def test_the_default_never_fixes_the_dimension(client: Any) -> None:
    books = client.create_collection("books")
    assert books.dimension is None
    books.add("a", [1, 2])
    assert client.get_collection("books").dimension == 2


def test_tests_leave_no_function_behind() -> None:
    assert registry.find("halves") is None
