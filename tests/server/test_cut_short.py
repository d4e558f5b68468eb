"""Files of LMDB that are shorter than their pages: rightly, and because they were cut."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from shoal.server.cut_short import cut_short


def _check(path: Path) -> str | None:
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment:
        return cut_short(path, environment.info()["last_pgno"], environment.stat()["psize"])


def _write(path: Path) -> None:
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.put(b"kept", b"k" * 100_000)


def test_a_whole_file_is_whole(tmp_path: Path) -> None:
    _write(tmp_path / "a.mdb")
    assert _check(tmp_path / "a.mdb") is None


def test_pages_given_back_are_missed_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.mdb"
    _write(path)
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment:
        for value in (b"g" * 1_000_000, b"small", b"smaller", b"tiny", b""):
            with environment.begin(write=True) as txn:
                txn.put(b"given back", value)
    os.truncate(path, 900_000)
    assert _check(path) is None
    assert path.stat().st_size > 1_000_000  # and so it is not read through again
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as txn,
    ):
        assert txn.get(b"kept") == b"k" * 100_000


def test_a_cut_file_is_told_without_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.mdb"
    _write(path)
    os.truncate(path, 50_000)
    wrong = _check(path)
    assert wrong is not None
    assert "cut short: 50000 bytes of" in wrong
    assert path.stat().st_size == 50_000
