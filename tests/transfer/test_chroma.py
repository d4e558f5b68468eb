"""Reading Chroma's stores, with chromadb itself in an environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
import venv
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.long

FILL = """
import sys
import chromadb
client = chromadb.PersistentClient(sys.argv[1])
new = client.create_collection(
    "new", metadata={"owner": "me"}, embedding_function=None,
    configuration={"hnsw": {"space": "cosine", "ef_search": 55, "max_neighbors": 20}})
ids = [f"id{i}" for i in range(1_234)]
new.add(ids=ids, embeddings=[[i, 1.5, -0.25] for i in range(1_234)],
        documents=[f"text {i}" for i in range(1_234)],
        metadatas=[{"n": i, "half": i / 2, "even": i % 2 == 0, "tags": ["a", str(i)]}
                   for i in range(1_234)])
old = client.create_collection("old", metadata={"hnsw:space": "ip"}, embedding_function=None)
old.add(ids=["only"], embeddings=[[1.0, 2.0]])
client.create_collection("embedded")
client.create_collection("empty", embedding_function=None)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with chromadb and this checkout."""
    directory = tmp_path_factory.mktemp("chroma") / "venv"
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    install: list[Path | str] = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        f"{ROOT}[server,transfer,chroma]",
    ]
    subprocess.run(install, check=True)
    return python


@pytest.fixture(scope="module")
def chroma(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of Chroma's."""
    store = tmp_path_factory.mktemp("chroma-store")
    subprocess.run([python, "-c", FILL, store], check=True, stdout=subprocess.PIPE)
    return store


def _import(python: Path, location: str, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "shoal_local", "import", "--chroma", location, "--embedded", target],
        capture_output=True,
        text=True,
    )


def _check(target: Path) -> None:
    with shoal.PersistentClient(target) as client:
        new = client.get_collection("new")
        assert new.count() == 1_234
        assert new.metadata == {"owner": "me"}
        hnsw = new.configuration["hnsw"]
        assert (hnsw["space"], hnsw["ef_search"], hnsw["max_neighbors"]) == ("cosine", 55, 20)
        assert new.configuration["embedding_function"] is None
        found = new.get(["id7"], include=["embeddings", "metadatas", "documents"])
        assert found["documents"] == ["text 7"]
        assert found["metadatas"] == [{"n": 7, "half": 3.5, "even": False, "tags": ["a", "7"]}]
        embeddings = found["embeddings"]
        assert embeddings is not None
        assert embeddings[0] == pytest.approx([7, 1.5, -0.25], rel=1e-6)
        old = client.get_collection("old")
        assert old.configuration["hnsw"]["space"] == "ip"
        assert old.count() == 1
        function = client.get_collection("embedded").configuration["embedding_function"]
        assert function is not None
        assert function["name"] == "default"
        assert client.get_collection("empty").count() == 0


def test_a_directory(python: Path, chroma: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    done = _import(python, str(chroma), tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert "new: 1,234 records imported" in done.stderr
    _check(tmp_path / "store")
    again = _import(python, str(chroma), tmp_path / "store")
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_a_server(python: Path, chroma: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command: list[Path | str] = [
        python.parent / "chroma",
        "run",
        "--path",
        chroma,
        "--port",
        str(port),
    ]
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{url}/api/v2/heartbeat", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            (tmp_path / "store").mkdir()
            done = _import(python, url, tmp_path / "store")
            assert done.returncode == 0, done.stderr
            _check(tmp_path / "store")
        finally:
            server.terminate()


def test_what_is_no_store(python: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "none").mkdir()
    done = _import(python, str(tmp_path / "none"), tmp_path / "store")
    assert done.returncode == 2
    assert "there is no Chroma store" in done.stderr
    assert list((tmp_path / "none").iterdir()) == []
    done = _import(python, "http://127.0.0.1:9", tmp_path / "store")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:9" in done.stderr
