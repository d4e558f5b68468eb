"""Functions by LiteLLM and sentence-transformers, which tests do not install.

What they are asked is recorded by stand-ins with their signatures; where LiteLLM is installed, it
is asked itself.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from shoal import errors
from shoal.embedding_functions import (
    EmbeddingFunction,
    LiteLLMEmbeddingFunction,
    SentenceTransformerEmbeddingFunction,
)
from tests.embedding_functions.servers import serving
from tests.embedding_functions.test_openai import openai_answer


class OpenAIError(Exception):
    """As the library of that name has it: with a status if it came from a server."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        if status_code:
            self.status_code = status_code


@pytest.fixture
def litellm_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def embedding(*, model: str, input: list[str], **options: Any) -> dict[str, Any]:
        calls.append({"model": model, "input": input, **options})
        if model == "refused":
            raise OpenAIError("bad key", 401)
        if model == "lost":
            raise OpenAIError("connection error")
        rows = [
            {"index": index, "embedding": [float(len(text)), 1.0]}
            for index, text in enumerate(input)
        ]
        return {"data": rows[::-1]}

    library, client = types.ModuleType("litellm"), types.ModuleType("openai")
    library.embedding = embedding  # type: ignore[attr-defined]
    client.OpenAIError = OpenAIError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", library)
    monkeypatch.setitem(sys.modules, "openai", client)
    return calls


def test_litellm_is_asked_in_batches(
    litellm_calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHERE_KEY", "k")
    function = LiteLLMEmbeddingFunction(
        "cohere/embed",
        api_key_env_var="COHERE_KEY",
        document_input_type="search_document",
        query_input_type="search_query",
        batch_size=2,
    )

    vectors = function(["a", "bb", "ccc"])
    function.embed_query(["q"])

    assert vectors.tolist() == [[1, 1], [2, 1], [3, 1]]
    assert vectors.dtype == np.float32
    assert [(call["input"], call["input_type"]) for call in litellm_calls] == [
        (["a", "bb"], "search_document"),
        (["ccc"], "search_document"),
        (["q"], "search_query"),
    ]
    assert litellm_calls[0]["api_key"] == "k"
    assert "api_base" not in litellm_calls[0]
    assert "k" not in function.get_config().values()


@pytest.mark.usefixtures("litellm_calls")
@pytest.mark.parametrize(
    ("model", "expected"),
    [("refused", errors.UnauthenticatedError), ("lost", errors.UnavailableError)],
)
def test_litellms_errors_become_shoals(model: str, expected: type[errors.ShoalError]) -> None:
    with pytest.raises(expected, match=f"LiteLLM for {model}"):
        LiteLLMEmbeddingFunction(model)(["a"])


@pytest.mark.usefixtures("litellm_calls")
def test_litellms_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHERE_KEY", raising=False)

    with pytest.raises(errors.UnauthenticatedError, match="COHERE_KEY"):
        LiteLLMEmbeddingFunction("m", api_key_env_var="COHERE_KEY")(["a"])


def test_litellm_itself_speaks_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm")
    monkeypatch.setenv("A_KEY", "k")
    with serving(openai_answer) as server:
        function = LiteLLMEmbeddingFunction(
            "openai/m", api_base=server.url, api_key_env_var="A_KEY", batch_size=2
        )

        assert function(["a", "bb", "ccc"])[:, 0].tolist() == [1, 2, 3]

    assert server.asked[0].headers["authorization"] == "Bearer k"


class FakeTransformer:
    """Has what is used of `sentence_transformers.SentenceTransformer`."""

    made: list[FakeTransformer]

    def __init__(self, name: str, *, device: str | None) -> None:
        self.name, self.device = name, device
        self.asked: list[dict[str, Any]] = []
        type(self).made.append(self)

    def encode(
        self,
        sentences: list[str],
        *,
        prompt_name: str | None,
        convert_to_numpy: bool,
        normalize_embeddings: bool,
        show_progress_bar: bool,
    ) -> Any:
        self.asked.append({"prompt_name": prompt_name, "normalize": normalize_embeddings})
        return np.ones((len(sentences), 3), np.float16)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTransformer]:
    FakeTransformer.made = []
    library = types.ModuleType("sentence_transformers")
    library.SentenceTransformer = FakeTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    return FakeTransformer.made


def test_a_sentence_transformer_is_loaded_once_at_the_first_text(
    transformers: list[FakeTransformer],
) -> None:
    function = SentenceTransformerEmbeddingFunction(
        "a-model", device="cpu", query_prompt_name="query", normalize_embeddings=False
    )
    assert transformers == []

    vectors = function(["a", "b"])
    function.embed_query(["q"])

    (model,) = transformers
    assert vectors.shape == (2, 3)
    assert vectors.dtype == np.float32
    assert (model.name, model.device) == ("a-model", "cpu")
    assert model.asked == [
        {"prompt_name": None, "normalize": False},
        {"prompt_name": "query", "normalize": False},
    ]


FUNCTIONS = [
    LiteLLMEmbeddingFunction("m", api_key_env_var="K", api_base="http://x.test", dimensions=8),
    SentenceTransformerEmbeddingFunction("m", device="cpu"),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name())
def test_it_is_built_again_from_its_configuration(function: EmbeddingFunction) -> None:
    again = type(function).build_from_config(function.get_config())

    assert again.get_config() == function.get_config()
    assert again.default_space() == "cosine"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name())
def test_its_model_cannot_change_and_where_it_runs_can(function: EmbeddingFunction) -> None:
    old = function.get_config()

    function.validate_config_update(old, {**old, "device": "cuda"})
    with pytest.raises(errors.InvalidArgumentError, match="model_name 'm'; it cannot become"):
        function.validate_config_update(old, {**old, "model_name": "other"})


@pytest.mark.parametrize(
    ("module", "function"),
    [("litellm", FUNCTIONS[0]), ("sentence_transformers", FUNCTIONS[1])],
    ids=["litellm", "sentence_transformers"],
)
def test_a_library_that_is_missing_is_named(
    module: str, function: EmbeddingFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=f"pip install {module.replace('_', '-')}"):
        function(["a"])
