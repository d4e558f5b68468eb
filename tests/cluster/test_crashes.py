"""Processes killed during writes and reads: nothing acknowledged is lost or half applied."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from shoal import errors
from shoal.server.buckets import BUCKET_COUNT, bucket_of
from tests.cluster.running import (
    Collection,
    RunningCluster,
    Writer,
    vectors_of,
    wait_for,
)

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]

_SHARDS = 4


def _part(record_id: str) -> str:
    """The quarter of the buckets in which an ID lies: four shards own one each."""
    return str(bucket_of(record_id) * _SHARDS // BUCKET_COUNT)


def _check(collection: Collection, writers: list[Writer]) -> None:
    found = collection.read()
    assert collection.count() == len(found)
    for writer in writers:
        ids = {i for batch in writer.allowed for i in writer.ids(batch)}
        writer.check(found, {i: _part(i) for i in ids})


class Reader:
    """Searches from a thread; each answer is complete or an error."""

    def __init__(self, collection: Collection, known: list[str]) -> None:
        self._collection = collection
        self._known = known
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.answer_count = 0
        self.error_count = 0
        self.crashed: BaseException | None = None

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(180)
        if self.crashed is not None:
            raise self.crashed

    def _read(self) -> None:
        vectors = vectors_of(self._known, 0)
        position = 0
        try:
            while not self._stop.is_set():
                position = (position + 1) % len(self._known)
                try:
                    found = self._collection.query(vectors[position], n_results=5, timeout_s=5)
                except (errors.UnavailableError, errors.DeadlineExceededError):
                    self.error_count += 1
                    time.sleep(0.02)
                    continue
                assert found.records.ids[0] == self._known[position]
                assert found.distances[0] == 0.0
                assert len(found.records.ids) == 5
                self.answer_count += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.crashed = error


@contextlib.contextmanager
def _load(collection: Collection, writer_count: int = 2) -> Iterator[tuple[list[Writer], Reader]]:
    known = [f"known-{n}" for n in range(40)]
    collection.upsert(known)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Writer(collection, seed)) for seed in range(writer_count)]
        reader = stack.enter_context(Reader(collection, known))
        yield writers, reader


def _progress(writers: list[Writer], reader: Reader, count: int = 10) -> None:
    """Let every thread get on, which also shows that it is served."""
    for writer in writers:
        writer.wait_for(count)
    wanted = reader.answer_count + count
    wait_for(lambda: reader.answer_count >= wanted or reader.crashed is not None)


@pytest.mark.parametrize(
    "role",
    [
        pytest.param("coordinator", marks=pytest.mark.long),
        "worker-1",
        pytest.param("gateway", marks=pytest.mark.long),
    ],
)
def test_a_role_is_killed_during_writes_and_reads(start: Start, role: str) -> None:
    cluster = start()
    collection = cluster.create("crash", shards=_SHARDS)
    with _load(collection) as (writers, reader):
        for _ in range(2):
            _progress(writers, reader)
            former = cluster.kill(role)
            cluster.wait_for_restart(role, former)
        _progress(writers, reader)
        if role == "coordinator":
            # It is not on the data path: nobody has noticed.
            assert not reader.error_count
            assert not [error for writer in writers for error in writer.errors]
    _check(collection, writers)
    assert cluster.role(role)["restarts"] == 2


@pytest.mark.long
def test_everything_is_killed_again_and_again(start: Start) -> None:
    chance = np.random.default_rng(7)
    cluster = start()
    collection = cluster.create("chaos", shards=_SHARDS)
    with _load(collection, writer_count=3) as (writers, reader):
        for _ in range(25):
            time.sleep(chance.uniform(0.05, 0.6))
            names = chance.permutation(["coordinator", "worker-1", "worker-2", "gateway"])
            for name in names[: chance.integers(1, 4)]:
                if cluster.role(name)["process"]:
                    cluster.kill(name)
        _progress(writers, reader)
    _check(collection, writers)
    # And over an end of everything at once.
    for process in cluster.processes():
        with contextlib.suppress(ProcessLookupError):  # its parent's end was its own
            os.kill(process, signal.SIGKILL)
    cluster.process.wait()
    again = start()
    _check(Collection(again, collection.id), writers)


def _repeated_until_answered(collection: Collection, ids: list[str], write_id: bytes) -> Any:
    give_up_at = time.monotonic() + 240
    while True:
        try:
            return collection.upsert(ids, version=2, write_id=write_id)
        except (errors.UnavailableError, errors.PartialWriteError):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)


@pytest.mark.long
def test_a_write_that_was_cut_off_can_be_repeated(start: Start) -> None:
    cluster = start()
    collection = cluster.create("repeat", shards=_SHARDS)
    ids = [f"r{n}" for n in range(100)]
    write_id = b"0123456789abcdef"
    collection.upsert(["r0"], version=1)
    cluster.kill("worker-1")
    with contextlib.suppress(errors.ShoalError):
        collection.upsert(ids, version=2, write_id=write_id, timeout_s=2)
    wait_for(lambda: cluster.role("worker-1")["process"])
    answer = _repeated_until_answered(collection, ids, write_id)
    # As it would have been answered the first time.
    assert (answer.added, answer.updated) == (99, 1)
    assert collection.upsert(ids, version=2, write_id=write_id).added == 99
    with pytest.raises(errors.InvalidArgumentError):
        collection.upsert(ids, version=3, write_id=write_id)
    assert collection.read() == dict.fromkeys(ids, 2)


def _can_create(cluster: RunningCluster, name: str) -> bool:
    try:
        cluster.create(name)
    except errors.UnavailableError:
        return False
    return True


@pytest.mark.parametrize("way", [pytest.param("hangs", marks=pytest.mark.long), "cannot start"])
def test_the_coordinator_is_down_and_a_worker_restarts(start: Start, way: str) -> None:
    cluster = start()
    collection = cluster.create("headless", shards=_SHARDS)
    aside = cluster.data / "coordinator-aside"
    with _load(collection) as (writers, reader):
        coordinator = cluster.role("coordinator")["process"]
        if way == "hangs":
            os.kill(coordinator, signal.SIGSTOP)
        else:
            (cluster.data / "coordinator").rename(aside)
            (cluster.data / "coordinator").write_text("in the way")
            cluster.kill("coordinator")
        try:
            _progress(writers, reader)
            former = cluster.kill("worker-2")
            cluster.wait_for_restart("worker-2", former)
            _progress(writers, reader)
            if way != "hangs":
                status = cluster.status()
                assert not status.coordinator_reachable
                assert all(shard.available for shard in status.shards)
        finally:
            if way == "hangs":
                os.kill(coordinator, signal.SIGCONT)
            else:
                (cluster.data / "coordinator").unlink()
                aside.rename(cluster.data / "coordinator")
        _progress(writers, reader)
        wait_for(lambda: cluster.status().coordinator_reachable)
    _check(collection, writers)
    # Workers come back to it by themselves; until then nobody can hold a new shard.
    wait_for(lambda: _can_create(cluster, "after"))
    assert cluster.create("after").upsert(["a"]).added == 1
