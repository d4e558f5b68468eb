"""Finding a model, and downloading it from a local server."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.embedding_functions._model_files import ModelFile, ModelSource, find_model
from shoal.errors import DataLossError, FailedPreconditionError, ShoalError, UnavailableError
from tests.embedding_functions.servers import Answer, Asked, Server, serving

CONTENT = {"model.safetensors": b"weights" * 400_000, "tokenizer.json": b"{}"}


def source(url: str) -> ModelSource:
    files = tuple(
        ModelFile(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in CONTENT.items()
    )
    return ModelSource("a-model", url, "https://models.test/a-model", files)


def right(asked: Asked) -> Answer:
    return Answer(CONTENT[asked.path.rpartition("/")[2]])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_model_is_downloaded_once(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    with serving(right) as server:
        directory = find_model(source(f"{server.url}/at/revision"), environ)

        assert find_model(source(server.url), environ) == directory

    assert directory == tmp_path / "shoal" / "models" / "a-model"
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == CONTENT
    assert [asked.path for asked in server.asked] == [
        "/at/revision/model.safetensors",
        "/at/revision/tokenizer.json",
    ]


def test_a_damaged_cache_is_filled_again(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    with serving(right) as server:
        directory = find_model(source(server.url), environ)
        damaged = bytearray(CONTENT["model.safetensors"])
        damaged[1000] ^= 1
        (directory / "model.safetensors").write_bytes(damaged)

        find_model(source(server.url), environ)

    assert (directory / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert len(server.asked) == 3


def test_a_mirror_can_be_named(tmp_path: Path) -> None:
    with serving(right) as server:
        environ = {"XDG_CACHE_HOME": str(tmp_path), "SHOAL_MODEL_URL": f"{server.url}/mirror/"}
        find_model(source("http://nowhere.test"), environ)

    assert server.asked[0].path == "/mirror/model.safetensors"


def cut_off(asked: Asked) -> Answer:
    content = CONTENT["model.safetensors"]
    # It promises all and sends less, as a server that dies does; the connection ends.
    headers = {"Content-Length": str(len(content))}
    return Answer(content[:-1], headers=headers)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda _: Answer(b"other!!" * 400_000), DataLossError, "SHA-256"),
        (lambda _: Answer(b"short"), DataLossError, "5 bytes, expected 2800000"),
        (lambda _: Answer(b"long" * 800_000), DataLossError, "more than 2800000"),
        (lambda _: Answer(b"", 404), UnavailableError, "404"),
        (lambda _: Answer(b"", 503), UnavailableError, "503"),
        (cut_off, ShoalError, r"2799999 bytes|IncompleteRead"),
    ],
)
def test_a_wrong_download_is_not_used(
    answer: Callable[[Asked], Answer], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with serving(answer) as server, pytest.raises(error, match=message):
        find_model(source(server.url), {"XDG_CACHE_HOME": str(tmp_path)})

    assert names(tmp_path / "shoal" / "models" / "a-model") == []


def test_offline_it_says_how_to_get_the_model(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(UnavailableError) as caught:
            find_model(source(url), {"XDG_CACHE_HOME": str(tmp_path)})

    for fact in (url, "https://models.test/a-model", "SHOAL_MODEL_DIR", "tokenizer.json"):
        assert fact in str(caught.value)


def test_a_directory_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"a graph")

    assert find_model(source("http://nowhere.test"), {"SHOAL_MODEL_DIR": str(tmp_path)}) == tmp_path


def test_a_directory_that_is_named_and_wrong_is_no_reason_to_download(tmp_path: Path) -> None:
    server: Server
    with serving(right) as server:
        environ = {"SHOAL_MODEL_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        with pytest.raises(FailedPreconditionError, match=r"SHOAL_MODEL_DIR: .*tokenizer\.json"):
            find_model(source(server.url), environ)

    assert server.asked == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "shoal").write_text("a file where a directory should be")

    with pytest.raises(FailedPreconditionError, match="XDG_CACHE_HOME"):
        find_model(source("http://nowhere.test"), {"XDG_CACHE_HOME": str(tmp_path)})
