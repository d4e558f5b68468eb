"""A shard's size is told while its files come and go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shoal_worker.file_sizes import size_of_files


def test_files_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"123")
    (tmp_path / "directory").mkdir()
    assert size_of_files(tmp_path) == 8
    assert size_of_files(tmp_path / "nowhere") == 0


def test_a_file_that_goes_meanwhile_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "going").write_bytes(b"123")
    scandir = os.scandir

    class Listed:
        """What is listed, and then gone."""

        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self._entries = list(entries)
            (path / "going").unlink()

        def __enter__(self) -> list[Any]:
            return self._entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Listed)
    assert size_of_files(tmp_path) == 5
