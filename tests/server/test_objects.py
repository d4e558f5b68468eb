"""The snapshot store: the same promises in a directory and in an object store."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import DataLossError, FailedPreconditionError, UnavailableError
from shoal.server.objects import ObjectStore, open_store, store_url
from tests.server import s3


@pytest.fixture(scope="module")
def moto() -> Iterator[s3.Server]:
    with s3.running("moto") as server:
        yield server


@pytest.fixture(scope="module")
def versitygw() -> Iterator[s3.Server]:
    with s3.running("versitygw") as server:
        yield server


@pytest.fixture(params=["directory", *s3.SERVERS])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    if request.param == "directory":
        return open_store(str(tmp_path / "deep" / "store"))
    bucket = s3.let_in(request.getfixturevalue(request.param), monkeypatch)
    return open_store(f"{bucket}/some/prefix")


def made(path: Path, size: int) -> tuple[bytes, bytes]:
    content = os.urandom(size)
    path.write_bytes(content)
    return content, hashlib.sha256(content).digest()


@pytest.mark.parametrize("size", [0, 10, 40 * 1024 * 1024 + 1])
def test_a_file_comes_back_as_it_was_put(store: ObjectStore, tmp_path: Path, size: int) -> None:
    content, sha256 = made(tmp_path / "given", size)
    passed: list[int] = []

    store.put_file("a/b/object", tmp_path / "given", sha256, passed.append)
    store.get_to_file("a/b/object", tmp_path / "got", size, sha256, passed.append)

    assert (tmp_path / "got").read_bytes() == content
    assert sum(passed) == 2 * size
    assert store.size("a/b/object") == size


def test_small_objects(store: ObjectStore) -> None:
    store.put_bytes("x/manifest", b"one")
    store.put_bytes("x/manifest", b"another")

    assert store.get_bytes("x/manifest") == b"another"
    assert store.exists("x/manifest")
    assert not store.exists("x/other")
    assert store.size("x") is None


def test_objects_are_listed_and_removed(store: ObjectStore) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        store.put_bytes(key, key.encode())

    assert {i.key: i.size_bytes for i in store.list("a/")} == {"a/1": 3, "a/b/2": 5}
    assert {i.key for i in store.list("")} == {"a/1", "a/b/2", "ab/3"}
    assert all(abs(i.modified_at_ms / 1000 - time.time()) < 600 for i in store.list(""))
    store.delete("a/b/2")
    store.delete("a/b/2")
    assert {i.key for i in store.list("a/")} == {"a/1"}
    assert list(store.list("nothing/")) == []


def test_what_is_missing_or_damaged_is_data_loss_and_named(
    store: ObjectStore, tmp_path: Path
) -> None:
    _, sha256 = made(tmp_path / "given", 1000)
    store.put_file("object", tmp_path / "given", sha256)
    store.put_bytes("other", os.urandom(1000))

    for key, size in (("none", 1000), ("object", 999), ("other", 1000)):
        with pytest.raises(DataLossError, match=f"object {key} ") as caught:
            store.get_to_file(key, tmp_path / "got", size, sha256)
        assert caught.value.metadata["object"] == key
    with pytest.raises(DataLossError, match="object none is missing"):
        store.get_bytes("none")


def test_a_file_from_elsewhere_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_file_system(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    content, sha256 = made(tmp_path / "given", 3_000_000)
    store = open_store(str(tmp_path / "store"))
    store.put_file("one", tmp_path / "given", sha256)
    assert (tmp_path / "store" / "one").samefile(tmp_path / "given")
    monkeypatch.setattr("shoal.server.directory_objects.os.link", another_file_system)
    store.put_file("two", tmp_path / "given", sha256)

    assert (tmp_path / "store" / "two").read_bytes() == content
    assert not (tmp_path / "store" / "two").samefile(tmp_path / "given")


@pytest.mark.parametrize("size", [100, 20 * 1024 * 1024])
def test_a_file_that_was_damaged_before_is_not_put(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    _, sha256 = made(tmp_path / "given", size)
    content = bytearray((tmp_path / "given").read_bytes())
    content[-1] ^= 1
    (tmp_path / "given").write_bytes(content)

    with pytest.raises(DataLossError, match="not have its SHA-256 any more"):
        store.put_file("a/object", tmp_path / "given", sha256)
    assert not store.exists("a/object")
    assert list(store.list("")) == []


def test_a_transfer_ends_when_its_progress_says_so(store: ObjectStore, tmp_path: Path) -> None:
    _, sha256 = made(tmp_path / "given", 30 * 1024 * 1024)

    class EnoughError(Exception):
        pass

    def stop(_: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        store.put_file("object", tmp_path / "given", sha256, stop)
    assert not store.exists("object")


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", "a//b", ".a", "a b", "a\n"])
def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(FailedPreconditionError, match="no key"):
        store.put_bytes(key, b"")


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_url("a b") == f"{tmp_path.as_uri()}/a%20b"
    assert store_url(f"file://{tmp_path}/x/") == f"{tmp_path.as_uri()}/x"
    assert store_url("s3://bucket/prefix/") == "s3://bucket/prefix"
    for wrong in ("", "http://host/x", "file://host/x", "ftp://x"):
        with pytest.raises(FailedPreconditionError, match="snapshot store"):
            store_url(wrong)
    open_store(store_url("a b")).put_bytes("x", b"1")
    assert (tmp_path / "a b" / "x").read_bytes() == b"1"


def test_a_store_that_cannot_be_reached_or_entered_says_so(
    moto: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3.let_in(moto, monkeypatch)
    with pytest.raises(FailedPreconditionError, match="no-such-bucket does not exist"):
        open_store("s3://no-such-bucket").put_bytes("x", b"")
    monkeypatch.setattr("shoal.server.remote_objects._RETRY_TIMEOUT_S", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="s3://bucket fails"):
        open_store("s3://bucket").put_bytes("x", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FailedPreconditionError, match="cannot be used"):
        open_store(str(tmp_path / "file")).put_bytes("x", b"")


def test_objects_put_and_removed_at_once_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    failures: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for turn in range(100):
                store.put_bytes(f"shared/{own}", bytes([turn]))
                assert store.get_bytes(f"shared/{own}") == bytes([turn])
                store.delete(f"shared/{own}")
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert list(store.list("")) == []


@pytest.mark.parametrize("point", ["object_written_aside", "object_renamed"])
def test_killed_while_putting_there_is_all_or_nothing(tmp_path: Path, point: str) -> None:
    (tmp_path / "given").write_bytes(b"content" * 1000)
    program = (
        "import sys; from pathlib import Path; from shoal.server.objects import *; "
        "given = Path(sys.argv[2]); "
        "open_store(sys.argv[1]).put_file('a/b', given, file_sha256(given))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store"), str(tmp_path / "given")],
        env=dict(os.environ, SHOAL_CRASH_POINT=point),
        check=False,
    )
    assert done.returncode == -9

    store = open_store(str(tmp_path / "store"))
    assert store.exists("a/b") is (point == "object_renamed")
    # What was left aside goes when it is old.
    for left in (tmp_path / "store" / ".incoming").iterdir():
        os.utime(left, (1, 1))
    assert [i.key for i in store.list("")] == (["a/b"] if point == "object_renamed" else [])
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []
