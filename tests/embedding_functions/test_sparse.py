"""Texts as sparse vectors."""

from __future__ import annotations

import sys
import types
from typing import Any

import bm25s
import numpy as np
import pytest

import shoal
from shoal import K, Knn, Search, SparseVector
from shoal.embedding_functions import Bm25EmbeddingFunction, SparseEncoderEmbeddingFunction

WORDS = ["whale", "sea", "ship", "harpoon", "captain", "ocean", "storm", "sailor", "white", "mast"]


def _corpus(count: int) -> list[str]:
    random = np.random.default_rng(7)
    return [" ".join(random.choice(WORDS, random.integers(1, 12)).tolist()) for _ in range(count)]


def test_with_idf_of_the_collection_it_is_bm25() -> None:
    documents = _corpus(120)
    average = sum(len(text.split()) for text in documents) / len(documents)
    embed = Bm25EmbeddingFunction(None, average_length=average)
    other = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    other.index([text.split() for text in documents], show_progress=False)
    with shoal.EphemeralClient() as client:
        texts = client.create_collection(
            "texts",
            configuration={"hnsw": {"shards": 2}, "sparse_vectors": {"terms": {"idf": True}}},
            embedding_function=None,
        )
        ids = [str(i) for i in range(len(documents))]
        texts.add(ids, np.ones((len(ids), 2)), [{"terms": vector} for vector in embed(documents)])
        for query in ("harpoon", "white whale", "the stormy captain"):
            expected = other.get_scores(query.split())
            (vector,) = embed.embed_query([query])
            found = texts.search(Search().rank(Knn(vector, key="terms", limit=200)).select(K.SCORE))
            rows = found.rows()[0]
            scores = {row["id"]: 1 - row["score"] for row in rows}
            assert set(scores) == {str(i) for i in np.flatnonzero(expected)}
            # The one leaves out a factor that is the same everywhere, k1 + 1.
            assert list(scores.values()) == pytest.approx(
                [2.2 * expected[int(record_id)] for record_id in scores], rel=1e-5
            )


def test_terms_are_the_same_on_every_machine() -> None:
    (vector,) = Bm25EmbeddingFunction().embed_query(["Whales and WHALE, whaling"])
    assert vector is not None
    # Three forms of one word, and another one.
    assert vector.indices == [752895899, 1182241282]
    assert vector.values == [1.0, 1.0]


def test_languages_and_texts_without_words() -> None:
    german = Bm25EmbeddingFunction("german")
    one, other = german(["Häuser", "Haus"])
    assert one == other
    assert german(["", "…"]) == [None, None]
    long = "x" * 100_000
    (vector,) = german([long])
    assert vector is not None
    assert len(vector.indices) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"language": "klingon"}, {"k1": -1}, {"b": 2}, {"average_length": 0}, {"k1": float("nan")}],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(shoal.InvalidArgumentError):
        Bm25EmbeddingFunction(**arguments)
    with pytest.raises(shoal.InvalidArgumentError):
        Bm25EmbeddingFunction()([7])  # type: ignore[list-item]


class _Row:
    """What the library gives: a sparse tensor, as far as it is asked."""

    def __init__(self, weights: dict[int, float]) -> None:
        self._weights = weights

    def coalesce(self) -> _Row:
        return self

    def indices(self) -> Any:
        return np.array([list(self._weights)])

    def values(self) -> Any:
        return np.array(list(self._weights.values()))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for sentence-transformers, with the calls that came."""
    calls: list[Any] = []

    class SparseEncoder:
        def __init__(self, model_name: str, device: str | None = None) -> None:
            calls.append((model_name, device))

        def _encode(self, texts: list[str], way: str, **options: Any) -> list[_Row]:
            calls.append((way, options))
            return [_Row({len(text): 0.5, 3: 0.0} if text else {}) for text in texts]

        def encode_query(self, texts: list[str], **options: Any) -> list[_Row]:
            return self._encode(texts, "query", **options)

        def encode_document(self, texts: list[str], **options: Any) -> list[_Row]:
            return self._encode(texts, "document", **options)

    stand_in: Any = types.ModuleType("sentence_transformers")
    stand_in.SparseEncoder = SparseEncoder
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    return calls


def test_a_model_is_loaded_by_the_first_text(library: list[Any]) -> None:
    embed = SparseEncoderEmbeddingFunction("some/model", device="cpu", max_weights=64)
    assert library == []
    assert embed(["four", ""]) == [SparseVector([4], [0.5]), None]
    assert embed.embed_query(["seven77"]) == [SparseVector([7], [0.5])]
    options = {"convert_to_tensor": False, "max_active_dims": 64, "show_progress_bar": False}
    assert library == [("some/model", "cpu"), ("document", options), ("query", options)]
    with pytest.raises(shoal.InvalidArgumentError):
        SparseEncoderEmbeddingFunction(max_weights=0)
