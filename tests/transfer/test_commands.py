"""`shoal export` and `shoal import`, as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import shoal
from shoal_local.cli import main


def _store(path: Path) -> None:
    with shoal.PersistentClient(path) as client:
        books = client.create_collection("books", embedding_function=None)
        books.add(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]], [{"n": 1}, {"n": 2}, None])


def test_out_of_one_store_into_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _store(tmp_path / "one")
    (tmp_path / "other").mkdir()
    file = str(tmp_path / "books.parquet")
    where = json.dumps({"n": {"$gte": 1}})
    from_one = ["--embedded", str(tmp_path / "one")]
    into_other = ["--embedded", str(tmp_path / "other")]
    assert main(["export", "books", file, *from_one, "--where", where]) == 0
    assert capsys.readouterr().err == "books: 2 records exported\n"
    assert main(["import", file, *into_other, "--collection", "novels"]) == 0
    assert capsys.readouterr().err == "novels: 2 records imported\n"
    with shoal.PersistentClient(tmp_path / "other") as client:
        assert client.get_collection("novels").get()["ids"] == ["a", "b"]
    assert main(["import", file, *into_other, "--collection", "novels"]) == 1
    assert "novels" in capsys.readouterr().err
    arguments = ["import", file, *into_other, "--collection", "novels", "--into-existing"]
    assert main(arguments) == 0
    assert capsys.readouterr().err == "novels: 2 records imported, 2 of them updated\n"


def test_a_pipe_from_store_to_store(tmp_path: Path) -> None:
    _store(tmp_path / "one")
    (tmp_path / "other").mkdir()
    shoal_command = [sys.executable, "-m", "shoal_local"]
    exported = subprocess.run(
        [*shoal_command, "export", "books", "-", "--embedded", tmp_path / "one"],
        capture_output=True,
        check=True,
    )
    subprocess.run(
        [*shoal_command, "import", "-", "--embedded", tmp_path / "other"],
        input=exported.stdout,
        check=True,
    )
    with shoal.PersistentClient(tmp_path / "other") as client:
        assert client.get_collection("books").count() == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "books", "books.csv"], 2, "must end in .parquet"),
        (["export", "missing", "books.jsonl"], 1, "missing"),
        (["import", "missing.jsonl"], 2, "missing.jsonl cannot be read"),
        (["import", "--chroma", "nowhere"], 1, ""),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _store(tmp_path / "one")
    found = main([*arguments, "--embedded", str(tmp_path / "one")])
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert found in (code, 2)


def test_one_source_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--embedded", "x"])
    assert "give either a file or --chroma" in capsys.readouterr().err
