"""OpenAI's embeddings API, against a local server that answers in its format."""

from __future__ import annotations

import base64
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from shoal import errors
from shoal.embedding_functions import OpenAIEmbeddingFunction
from shoal.embedding_functions._http import ATTEMPTS, MAX_WAIT_S, JsonService
from tests.embedding_functions.servers import Answer, Asked, serving


def vector_of(text: str) -> list[float]:
    return [float(len(text)), 0.5, -1.25]


def openai_answer(request: Asked) -> Answer:
    """Embed as `vector_of`; the rows backwards, since only their index says whose they are."""
    asked = request.json
    rows: list[dict[str, Any]] = []
    for index, text in enumerate(asked["input"]):
        embedding: Any = vector_of(text)
        if asked.get("encoding_format") == "base64":
            embedding = base64.b64encode(np.array(embedding, "<f4").tobytes()).decode()
        rows.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    body = {"object": "list", "data": rows[::-1], "model": asked["model"], "usage": usage}
    return Answer(json.dumps(body).encode())


def refusing(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}})
    return Answer(body.encode(), status, {k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize("encoding_format", [None, "float", "base64"])
def test_vectors_come_in_the_order_of_their_texts(encoding_format: Any) -> None:
    with serving(openai_answer) as server:
        function = OpenAIEmbeddingFunction(
            "m", api_base=server.url, encoding_format=encoding_format
        )

        vectors = function(["a", "bb", "ccc"])

    assert vectors.dtype == np.float32
    assert vectors.tolist() == [vector_of("a"), vector_of("bb"), vector_of("ccc")]
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/embeddings")
    assert asked.json.get("encoding_format") == encoding_format
    assert asked.headers["user-agent"].startswith("shoal/")


def test_texts_are_split_by_count() -> None:
    with serving(openai_answer) as server:
        function = OpenAIEmbeddingFunction("m", api_base=f"{server.url}/v1/", batch_size=2)

        vectors = function(["a", "bb", "ccc", "dddd", "eeeee"])

    assert vectors[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert [asked.json["input"] for asked in server.asked] == [
        ["a", "bb"],
        ["ccc", "dddd"],
        ["eeeee"],
    ]
    assert server.asked[0].path == "/v1/embeddings"


def test_texts_are_split_by_bytes() -> None:
    with serving(openai_answer) as server:
        OpenAIEmbeddingFunction("m", api_base=server.url)(["ж" * 200_000, "b" * 300_000, "c"])

    assert [len(asked.json["input"]) for asked in server.asked] == [1, 2]


def test_documents_and_queries_can_be_told_apart() -> None:
    with serving(openai_answer) as server:
        function = OpenAIEmbeddingFunction(
            "m",
            api_base=server.url,
            dimensions=3,
            document_prefix="passage: ",
            query_prefix="query: ",
            document_options={"task": "retrieval.passage"},
            query_options={"task": "retrieval.query"},
        )

        function(["x"])
        function.embed_query(["y"])

    assert [asked.json for asked in server.asked] == [
        {"model": "m", "dimensions": 3, "task": "retrieval.passage", "input": ["passage: x"]},
        {"model": "m", "dimensions": 3, "task": "retrieval.query", "input": ["query: y"]},
    ]


def test_a_key_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(openai_answer) as server:
        function = OpenAIEmbeddingFunction(
            "m", api_base=server.url, api_key_env_var="SOME_SERVICES_KEY"
        )
        monkeypatch.setenv("SOME_SERVICES_KEY", "the-key")

        function(["x"])

    assert server.asked[0].headers["authorization"] == "Bearer the-key"
    assert "the-key" not in json.dumps(function.get_config())


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openai's")
    with serving(openai_answer) as server:
        OpenAIEmbeddingFunction("m", api_base=server.url)(["x"])

    assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize("options", [{}, {"api_base": "http://x.test", "api_key_env_var": "A_KEY"}])
def test_a_key_that_is_not_set_is_named(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(errors.UnauthenticatedError, match=r"A_KEY|OPENAI_API_KEY"):
        OpenAIEmbeddingFunction("m", **options)(["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_repeated(status: int) -> None:
    def answer(request: Asked) -> Answer:
        return (
            openai_answer(request) if len(server.asked) > 2 else refusing(status, Retry_After="0")
        )

    with serving(answer) as server:
        assert OpenAIEmbeddingFunction("m", api_base=server.url)(["x"]).shape == (1, 3)

    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("given", "expected", "asked_count"),
    [
        (refusing(400, "input too long"), errors.InvalidArgumentError, 1),
        (refusing(401, "bad key"), errors.UnauthenticatedError, 1),
        (refusing(403, "not yours"), errors.PermissionDeniedError, 1),
        (refusing(404, "no such model"), errors.InvalidArgumentError, 1),
        (refusing(429, "pay first", "insufficient_quota"), errors.QuotaExceededError, 1),
        (refusing(429, "slow down", Retry_After="0"), errors.OverloadedError, ATTEMPTS),
        (refusing(429, "tomorrow", Retry_After="86400"), errors.OverloadedError, 1),
        (refusing(501, "not here"), errors.InternalError, 1),
        (refusing(503, "down", Retry_After="0"), errors.UnavailableError, ATTEMPTS),
        (Answer(b"plain words", 400), errors.InvalidArgumentError, 1),
    ],
)
def test_a_refusal_says_what_the_service_said(
    given: Answer, expected: type[errors.ShoalError], asked_count: int
) -> None:
    with serving(lambda _: given) as server:
        function = OpenAIEmbeddingFunction("m", api_base=server.url)
        with pytest.raises(expected) as caught:
            function(["x"])

    said = json.loads(given.body)["error"]["message"] if given.body[0] == 123 else "plain words"
    assert said in str(caught.value)
    assert server.url in str(caught.value)
    assert type(caught.value) is expected
    assert caught.value.metadata["http_status"] == str(given.status)
    assert len(server.asked) == asked_count


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key would go with it, to whatever host it names."""
    monkeypatch.setenv("A_KEY", "k")
    with serving(openai_answer) as elsewhere:
        moved = refusing(302, "moved", Location=f"{elsewhere.url}/embeddings")
        with serving(lambda _: moved) as server:
            function = OpenAIEmbeddingFunction("m", api_base=server.url, api_key_env_var="A_KEY")
            with pytest.raises(errors.InvalidArgumentError, match="refused with 302"):
                function(["x"])

    assert elsewhere.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"data": []}',
        b'{"data": [{"index": 1, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": "!!"}]}',
        b'{"data": [{"index": 0, "embedding": ["a"]}]}',
        b'{"data": [{"index": 0}]}',
    ],
)
def test_an_answer_in_another_format_is_an_error(body: bytes) -> None:
    with serving(lambda _: Answer(body)) as server:
        function = OpenAIEmbeddingFunction("m", api_base=server.url)
        with pytest.raises(errors.InternalError, match="embedding service"):
            function(["x"])


def test_a_service_that_is_not_there_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        waits: list[float] = []

        with pytest.raises(errors.UnavailableError, match=url):
            JsonService(url, 1.0, sleep=waits.append).post({}, {})

    assert len(waits) == ATTEMPTS - 1
    assert waits == sorted(waits)
    assert sum(waits) <= 7.5


def test_a_service_that_does_not_answer_is_given_up() -> None:
    done = threading.Event()

    def answer(_: Asked) -> Answer:
        done.wait(10)
        return Answer(b"{}")

    with serving(answer) as server:
        function = OpenAIEmbeddingFunction("m", api_base=server.url, timeout_s=0.1)
        with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.1 s"):
            function(["x"])
        done.set()

    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("2", 2, 2),
        ("in 25 seconds", 15, 25),
        ("soon", 0.2, 0.5),
        ("-1", 0, 0),
        (None, 0.2, 0.5),
    ],
)
def test_a_service_is_left_alone_as_long_as_it_asks(
    header: str | None, least: float, most: float
) -> None:
    waits: list[float] = []
    if header == "in 25 seconds":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=25), usegmt=True)

    def answer(_: Asked) -> Answer:
        if waits:
            return Answer(b'{"fine": 1}')
        return Answer(b"", 503, {"Retry-After": header} if header else {})

    with serving(answer) as server:
        assert JsonService(server.url, 60.0, sleep=waits.append).post({}, {}) == {"fine": 1}

    assert least <= waits[0] <= most <= MAX_WAIT_S


def test_it_is_built_again_from_its_configuration() -> None:
    function = OpenAIEmbeddingFunction(
        "m",
        api_base="http://localhost:11434/v1",
        api_key_env_var="K",
        dimensions=256,
        batch_size=7,
        query_options={"task": "q"},
    )

    again = OpenAIEmbeddingFunction.build_from_config(function.get_config())

    assert again.get_config() == function.get_config()
    assert again.dimension() == 256


@pytest.mark.parametrize(
    ("model", "dimension"), [("text-embedding-3-small", 1536), ("nomic-embed-text", None)]
)
def test_it_knows_the_dimension_of_known_models(model: str, dimension: int | None) -> None:
    assert OpenAIEmbeddingFunction(model).dimension() == dimension


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"model_name": "other"}, False),
        ({"dimensions": 3}, False),
        ({"query_prefix": "query: "}, False),
        ({"document_options": {"task": "t"}}, False),
        ({"api_base": "http://elsewhere.test"}, True),
        ({"api_key_env_var": "OTHER_KEY"}, True),
        ({"batch_size": 1, "timeout_s": 1}, True),
    ],
)
def test_what_vectors_depend_on_cannot_change(change: dict[str, Any], allowed: bool) -> None:
    function = OpenAIEmbeddingFunction("m", api_base="http://localhost:8000")
    old = function.get_config()

    if allowed:
        function.validate_config_update(old, {**old, **change})
    else:
        with pytest.raises(errors.InvalidArgumentError, match=next(iter(change))):
            function.validate_config_update(old, {**old, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_base": "localhost:8000"}, "HTTP URL"),
        ({"api_base": "ftp://x.test"}, "HTTP URL"),
        ({"api_base": "https://me:hunter2@x.test/v1"}, "stored in the open"),
        ({"api_base": "https://x.test/v1?key=hunter2"}, "stored in the open"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"timeout_s": 0}, "timeout_s must be above 0"),
        ({"model_name": ""}, "model_name"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message) as caught:
        OpenAIEmbeddingFunction(**options)

    assert "hunter2" not in str(caught.value)
