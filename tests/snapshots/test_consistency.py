"""Snapshots taken from real processes while batches over several shards are written.

Each restored snapshot must hold every batch that was acknowledged before it was asked for, no batch
that was sent after it was answered, and every batch whole.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import shoal
from shoal import AdminClient, errors
from tests.cluster.running import RunningCluster
from tests.snapshots.waiting import backup_ended, ready

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]

DIMENSION = 8
BATCH = 24
SHARDS = 6


@dataclass
class Batch:
    """A batch of records, and when it was sent and acknowledged; monotonic, seconds."""

    name: str
    sent_at_s: float
    acknowledged_at_s: float | None = None


@dataclass
class Writers:
    """Threads that write batches over all shards, each as fast as it can."""

    collection: shoal.Collection
    count: int
    batches: list[Batch] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True)
            for number in range(self.count)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(240)
            assert not thread.is_alive(), "a writer hangs"

    def go_on(self) -> None:
        """Wait until more has been acknowledged than when this was called."""
        before = self._acknowledged_count()
        while self._acknowledged_count() == before and not self.failures:
            time.sleep(0.01)

    def _acknowledged_count(self) -> int:
        return sum(batch.acknowledged_at_s is not None for batch in list(self.batches))

    def _write(self, writer: int) -> None:
        vectors = np.random.default_rng(writer).standard_normal((BATCH, DIMENSION), np.float32)
        number = 0
        while not self._stop.is_set():
            name = f"{writer}-{number}"
            number += 1
            batch = Batch(name, time.monotonic())
            self.batches.append(batch)
            try:
                self.collection.add(
                    ids=[f"{name}-{i}" for i in range(BATCH)],
                    embeddings=vectors,
                    metadatas=[{"batch": name}] * BATCH,
                )
            except BaseException as error:  # noqa: BLE001 - told by the test
                self.failures.append(error)
                return
            batch.acknowledged_at_s = time.monotonic()


def check(
    restored: shoal.Collection, batches: list[Batch], asked_at_s: float, answered_at_s: float
) -> int:
    """Check a restored collection against what was written; give how many batches it holds."""
    counts: dict[str, int] = defaultdict(int)
    for page in restored.iterate(5_000, include=[]):
        for record_id in page["ids"]:
            counts[record_id.rpartition("-")[0]] += 1
    half = {name: count for name, count in counts.items() if count != BATCH}
    assert not half, f"batches by half: {half}"
    for batch in batches:
        if batch.acknowledged_at_s is not None and batch.acknowledged_at_s < asked_at_s:
            assert batch.name in counts, f"{batch.name} was acknowledged before, and is missing"
        if batch.sent_at_s > answered_at_s:
            assert batch.name not in counts, f"{batch.name} was sent after, and is in"
    return len(counts)


def take_and_check(port: int, rounds: int, pause_s: float, writer_count: int) -> None:
    with shoal.Client(port=port) as client:
        collection = client.create_collection(
            "books",
            configuration={"hnsw": {"shards": SHARDS, "dimension": DIMENSION}},
            embedding_function=None,
        )
        times: list[tuple[float, float]] = []
        with Writers(collection, writer_count) as writers:
            for number in range(rounds):
                time.sleep(pause_s)
                writers.go_on()
                asked_at_s = time.monotonic()
                client.create_snapshot(f"s{number}", "books")
                times.append((asked_at_s, time.monotonic()))
                ready(client, f"s{number}")
        assert not writers.failures
        held = []
        for number, (asked_at_s, answered_at_s) in enumerate(times):
            restored = client.restore_snapshot(
                f"s{number}", "restored", {"hnsw": {"shards": 1 + number % 3}}
            )
            held.append(check(restored, writers.batches, asked_at_s, answered_at_s))
            assert restored.count() == client.describe_snapshot(f"s{number}").vector_count
            client.delete_collection("restored")
        assert held == sorted(held)
        assert held[-1] > held[0] > 0, "nothing was written meanwhile: the test proves nothing"


def test_snapshots_under_writers_hold_whole_batches(start: Start) -> None:
    cluster = start(workers=3)
    take_and_check(cluster.port, rounds=4, pause_s=0.3, writer_count=4)


@pytest.mark.long
def test_many_snapshots_under_many_writers_hold_whole_batches(start: Start) -> None:
    cluster = start(workers=3, arguments=["--gateways", "2"])
    take_and_check(cluster.port, rounds=25, pause_s=0.2, writer_count=8)


def test_a_backup_under_writers_holds_whole_batches_of_all_collections(
    start: Start,
) -> None:
    """A batch that was acknowledged in one collection before one in another is in with it."""
    cluster = start(workers=2)
    with shoal.Client(port=cluster.port) as client, AdminClient(port=cluster.port) as admin:
        configuration = {"hnsw": {"shards": 3, "dimension": DIMENSION}}
        first, second = (
            client.create_collection(name, configuration=configuration, embedding_function=None)
            for name in ("first", "second")
        )
        stop = threading.Event()
        written: list[int] = []

        def write() -> None:
            vectors = np.ones((BATCH, DIMENSION), np.float32)
            number = 0
            while not stop.is_set():
                for collection in (first, second):
                    collection.add([f"{number}-{i}" for i in range(BATCH)], vectors)
                written.append(number)
                number += 1

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        while len(written) < 5:
            time.sleep(0.01)
        before = len(written)
        admin.create_backup("nightly")
        after = len(written)
        assert backup_ended(admin, "nightly").status == "Ready"
        stop.set()
        writer.join(240)
        for name in ("first", "second"):
            client.delete_collection(name)
        assert admin.restore_backup("nightly") == 2
        counts = [client.get_collection(name).count() for name in ("first", "second")]
    assert all(count % BATCH == 0 for count in counts)
    assert 0 <= counts[0] - counts[1] <= BATCH, "not of one moment"
    assert before * BATCH <= counts[1] <= (after + 1) * BATCH


def test_a_quota_of_snapshots_is_kept(start: Start) -> None:
    cluster = start(workers=1)
    with shoal.Client(port=cluster.port) as client:
        client.create_collection("books", embedding_function=None)
        arguments = ["quotas", "set", "--tenant", "default_tenant", "--max-snapshots", "1"]
        assert _shoal(cluster, *arguments) == 0
        client.create_snapshot("one", "books")
        with pytest.raises(errors.QuotaExceededError, match="1 snapshots"):
            client.create_snapshot("two", "books")


def test_the_commands_take_list_restore_and_delete(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = start(workers=1)
    with shoal.Client(port=cluster.port) as client:
        books = client.create_collection("books", embedding_function=None)
        books.add(["a", "b"], [[1.0], [2.0]])
        assert _shoal(cluster, "snapshots", "create", "nightly", "--source", "books") == 0
        assert "nightly: Ready, 2 records" in capsys.readouterr().out
        assert _shoal(cluster, "snapshots", "list") == 0
        assert "nightly" in capsys.readouterr().out
        again = ["snapshots", "restore", "nightly", "--into", "again", "--shards", "2"]
        assert _shoal(cluster, *again) == 0
        assert "restored nightly into again: 2 records" in capsys.readouterr().out
        assert client.get_collection("again").count() == 2
        assert _shoal(cluster, "snapshots", "delete", "nightly") == 0
        for _ in range(3):
            assert _shoal(cluster, "backup", "create", "--prefix", "daily", "--keep", "2") == 0
            time.sleep(1)
        assert "deleted daily-" in capsys.readouterr().out
        assert _shoal(cluster, "backup", "create", "weekly") == 0
        assert "weekly: Ready, 2 collections, 4 records" in capsys.readouterr().out
        assert _shoal(cluster, "backup", "restore", "weekly") == 1
        assert "has 2 collections" in capsys.readouterr().err
        client.delete_collection("books")
        client.delete_collection("again")
        assert _shoal(cluster, "backup", "restore", "weekly") == 0
        assert "restored weekly: 2 collections, 4 records" in capsys.readouterr().out
        assert client.get_collection("books").get()["ids"] == ["a", "b"]
        assert _shoal(cluster, "backup", "delete", "weekly") == 0
        assert _shoal(cluster, "backup", "create", "Weekly") == 2


def _shoal(cluster: RunningCluster, *arguments: str) -> int:
    from shoal_local.cli import main

    return main([*arguments, "--data", str(cluster.data)])
