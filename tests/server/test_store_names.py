"""What a caller may say where a store lies: an error of ours each time, or a store with nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import FailedPreconditionError
from shoal.server.objects import open_store


@pytest.mark.parametrize("name", ["a\0b", "file:///a%00b", "s3://[", "http://example.org/x", ""])
def test_what_names_no_store_is_refused(name: str) -> None:
    with pytest.raises(FailedPreconditionError, match="snapshot store"):
        open_store(name)


@pytest.mark.parametrize("name", ["x" * 2_000, "a/" * 3_000, "\u202e", "(?=x)"])
def test_a_directory_that_cannot_be_there_holds_nothing(tmp_path: Path, name: str) -> None:
    assert list(open_store(f"{tmp_path}/{name}").list("backups/")) == []


def test_a_file_is_no_directory_and_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert list(open_store(str(tmp_path / "file")).list("backups/")) == []
