"""The catalog's promises, through two gateways of one cluster of real processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal._sync.transport import ChannelTransport
from tests.cluster.running import RunningCluster, clusters, wait_for

pytestmark = pytest.mark.cluster

Pair = tuple[shoal.Client, shoal.Client]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with clusters(tmp_path_factory.mktemp("two")) as start:
        yield start(environment={"SHOAL_ALLOW_RESET": "true"})


@pytest.fixture(scope="module")
def other_port() -> int:
    """The port of a second gateway."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def other_process(cluster: RunningCluster, other_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The second gateway."""
    flags = {
        "host": "127.0.0.1",
        "port": other_port,
        "health-port": 0,
        "metrics-port": 0,
        "coordinator": f"127.0.0.1:{cluster.role('coordinator')['port']}",
    }
    with cluster.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shoal_gateway", *(f"--{k}={v}" for k, v in flags.items())],
            stdin=subprocess.DEVNULL,
            stderr=log,
            stdout=log,
        )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def pair(
    cluster: RunningCluster, other_port: int, other_process: subprocess.Popen[bytes]
) -> Iterator[Pair]:
    """A client of each gateway; nothing is in the cluster."""
    with (
        shoal.Client("127.0.0.1", cluster.port) as one,
        shoal.Client("127.0.0.1", other_port) as other,
    ):
        wait_for(lambda: _is_answered(other) and _is_answered(one))
        one.reset()
        yield one, other


def _is_answered(client: shoal.Client) -> bool:
    try:
        return client.heartbeat() > 0
    except shoal.UnavailableError:
        return False  # still starting


@pytest.fixture(autouse=True)
def time_to_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the other gateway a while after a change that did not wait for it.

    After two seconds a change is answered whoever has not confirmed it: on a machine that stands
    still for so long, that is nobody's fault.
    """
    call = ChannelTransport.call

    def timed(self: ChannelTransport, method: Any, request: bytes, timeout_s: float) -> bytes:
        began = time.monotonic()
        try:
            return call(self, method, request, timeout_s)
        finally:
            if time.monotonic() - began > 1.5:
                time.sleep(5)

    monkeypatch.setattr(ChannelTransport, "call", timed)


def _at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What calls give or raise that begin at the same time, each in a thread."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = calls[number]()
        except shoal.ShoalError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_what_one_gateway_answers_the_other_knows_at_once(pair: Pair) -> None:
    for turn in range(10):
        one, other = pair if turn % 2 else reversed(pair)
        books = one.create_collection(f"books-{turn}", metadata={"turn": turn})
        assert other.get_collection(books.name) == books
        assert other.list_collections() == [books]
        with pytest.raises(shoal.CollectionExistsError):
            other.create_collection(books.name)

        there = other.get_collection(books.name)
        there.add("a", [1, 2])
        assert one.get_collection(books.name).dimension == 2
        assert books.get()["ids"] == ["a"]

        there.modify(name="renamed", metadata={"b": 1})
        assert not one.has_collection(f"books-{turn}")
        assert one.get_collection("renamed").metadata == {"b": 1}
        assert books.get()["ids"] == ["a"]
        again = one.create_collection(f"books-{turn}")
        assert other.get_collection(f"books-{turn}") == again

        other.delete_collection("renamed")
        assert [c.id for c in one.list_collections()] == [again.id]
        with pytest.raises(shoal.CollectionNotFoundError):
            books.add("b", [1, 2])
        with pytest.raises(shoal.CollectionNotFoundError):
            books.count()
        one.delete_collection(again.name)


def test_a_change_is_answered_when_the_other_gateway_has_it(
    pair: Pair, other_process: subprocess.Popen[bytes]
) -> None:
    one, other = pair
    books = one.create_collection("books", embedding_function=None)
    other.get_collection("books").add("a", [1, 2])
    changes: list[Callable[[], Any]] = [
        lambda: books.modify(name="renamed"),
        lambda: one.create_collection("books"),
        lambda: one.delete_collection("renamed"),
    ]
    for change in changes:
        other_process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        changing = threading.Thread(target=change)
        try:
            changing.start()
            changing.join(0.6)
            # Unless this machine stood still: after two seconds it is answered.
            answered = not changing.is_alive() and time.monotonic() - started < 1.9
            assert not answered, "answered before the other gateway could know"
        finally:
            other_process.send_signal(signal.SIGCONT)
        changing.join()
    # Nor is it waited for without end.
    other_process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        one.delete_collection("books")
        assert time.monotonic() - started > 1.5
    finally:
        other_process.send_signal(signal.SIGCONT)
    assert not other.has_collection("books")


def test_databases_too(pair: Pair, cluster: RunningCluster, other_port: int) -> None:
    with (
        shoal.AdminClient("127.0.0.1", cluster.port) as one,
        shoal.AdminClient("127.0.0.1", other_port) as other,
        shoal.Client("127.0.0.1", other_port, database="library") as library,
    ):
        one.create_database("library")
        assert other.get_database("library")["name"] == "library"
        books = library.create_collection("books")
        one.delete_database("library")
        with pytest.raises(shoal.NotFoundError):
            books.count()
        with pytest.raises(shoal.DatabaseNotFoundError):
            library.create_collection("books")
        assert [d["name"] for d in other.list_databases()] == ["default_database"]


def test_of_two_first_vectors_one_wins_whole(pair: Pair) -> None:
    one, other = pair
    for turn in range(15):
        here = one.create_collection(f"books-{turn}", {"hnsw": {"shards": 4}})
        there = other.get_collection(here.name)
        ids = [str(n) for n in range(20)]
        threes, fives = np.ones((20, 3), np.float32), np.ones((20, 5), np.float32)
        first, second = _at_once(
            lambda: here.add(ids, threes),  # noqa: B023 (it is over before the next turn)
            lambda: there.upsert(ids, fives),  # noqa: B023
        )
        assert {type(first), type(second)} == {shoal.WriteResult, shoal.DimensionMismatchError}
        dimension = 3 if isinstance(first, shoal.WriteResult) else 5
        for client in pair:
            seen = client.get_collection(here.name)
            assert seen.dimension == dimension
            assert {len(row["embedding"]) for row in seen.get(include=["embeddings"]).rows()} == {
                dimension
            }
            assert seen.count() == 20


def test_of_creations_and_renamings_at_once_one_wins(pair: Pair) -> None:
    one, other = pair
    for turn in range(10):
        here = one.create_collection(f"here-{turn}")
        there = other.create_collection(f"there-{turn}")
        name = f"wanted-{turn}"
        results = _at_once(
            lambda: here.modify(name=name),  # noqa: B023 (it is over before the next turn)
            lambda: there.modify(name=name),  # noqa: B023
            lambda: one.create_collection(name),  # noqa: B023
            lambda: other.create_collection(name),  # noqa: B023
        )
        refused = [r for r in results if isinstance(r, shoal.CollectionExistsError)]
        assert len(refused) == 3
        assert one.get_collection(name) == other.get_collection(name)


def test_no_write_is_acknowledged_into_a_deleted_collection(pair: Pair) -> None:
    one, other = pair
    for turn in range(8):
        books = one.create_collection("books", {"hnsw": {"shards": 4, "dimension": 2}})
        handles = [books, other.get_collection("books")]
        stop = threading.Event()
        begun: list[float] = []  # when each acknowledged write began
        told: list[shoal.ShoalError] = []

        def write(
            handle: shoal.Collection, seed: int, begun: list[float], told: list[Any], stop: Any
        ) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                began = time.monotonic()
                try:
                    handle.upsert([f"{seed}-{number}-{n}" for n in range(8)], np.ones((8, 2)))
                    begun.append(began)
                except shoal.ShoalError as refusal:
                    told.append(refusal)

        threads = [
            threading.Thread(target=write, args=(handles[n % 2], n, begun, told, stop))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda begun=begun: len(begun) > 8)
        (one if turn % 2 else other).delete_collection("books")
        deleted = time.monotonic()
        again = one.create_collection("books", {"hnsw": {"shards": 4, "dimension": 2}})
        wait_for(lambda told=told: len(told) > 20)
        stop.set()
        for thread in threads:
            thread.join()

        assert [began for began in begun if began > deleted] == []
        # Cut in half by the deletion, a write is told as what it met first.
        kinds = {type(error) for error in told}
        assert kinds <= {shoal.CollectionNotFoundError, shoal.PartialWriteError}
        assert again.count() == 0
        one.delete_collection("books")


def test_a_reset_with_a_worker_away_holds_when_it_is_back(
    pair: Pair, cluster: RunningCluster
) -> None:
    one, other = pair
    books = one.create_collection("books", {"hnsw": {"shards": 4}})
    books.add([str(n) for n in range(40)], np.ones((40, 2)))
    away = cluster.role("worker-2")["process"]
    cluster.kill("worker-2", signal.SIGSTOP)
    try:
        one.reset()
        for client in pair:
            assert client.list_collections() == []
        with pytest.raises(shoal.CollectionNotFoundError):
            other.get_collection("books")
        with pytest.raises(shoal.CollectionNotFoundError):
            books.count()
    finally:
        cluster.kill("worker-2", signal.SIGCONT)
    assert cluster.role("worker-2")["process"] == away
    wait_for(lambda: all(worker.live for worker in cluster.status().workers))
    wait_for(lambda: not _shard_directories(cluster.data))
    again = other.create_collection("books", {"hnsw": {"shards": 4}})
    again.add([str(n) for n in range(8)], np.ones((8, 3)))
    assert one.get_collection("books").count() == 8


def _shard_directories(data: Path) -> list[Path]:
    return [path for path in data.glob("worker-*/shards/*") if path.is_dir()]
