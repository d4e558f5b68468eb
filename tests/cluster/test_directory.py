"""The directory of a cluster on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import FailedPreconditionError
from shoal_local.directory import DataDirectory


@pytest.mark.parametrize("content", [b"99\n", b"\xff\xfe", b""])
def test_a_format_that_is_not_ours_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    DataDirectory(tmp_path).close()
    (tmp_path / "format").write_bytes(content)
    with pytest.raises(FailedPreconditionError, match="has format"):
        DataDirectory(tmp_path)
    assert (tmp_path / "format").read_bytes() == content


def test_a_format_cut_off_while_it_was_written_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "format.tmp").write_bytes(b"")
    DataDirectory(tmp_path).close()
    assert (tmp_path / "format").read_bytes() == b"1\n"
