"""Roles killed at named points while snapshots are taken, restored and deleted.

Whatever is killed: what is left is a snapshot that can be restored, or one that says Failed; no
writer fails or hangs; nothing stays in the store that no snapshot names.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import shoal
from shoal import errors
from tests.cluster.running import RunningCluster
from tests.snapshots.test_consistency import Writers
from tests.snapshots.waiting import ended, files, files_become

pytestmark = [pytest.mark.cluster]

Start = Callable[..., RunningCluster]

COUNT = 400
DIMENSION = 8

TAKING = [
    *("snapshot_recorded", "all_shards_held", "all_shards_cut", "snapshot_cut", "cut_stored"),
    *("manifest_written", "snapshot_ready"),
    *("shards_held", "shards_cut", "shard_copying", "shard_copied", "shard_stored"),
]
"""Of the coordinator, and of workers."""

RESTORING = [
    *("restore_reserved", "restore_shards_created", "restore_filled", "restore_activated"),
    *("copies_fetched", "draft_growing", "draft_written", "shard_filled"),
]

FAST = ("snapshot_cut", "shards_cut", "restore_filled", "draft_written")
"""One of each role and work; the others are long together."""


def _points(points: list[str]) -> list[object]:
    return [
        point if point in FAST else pytest.param(point, marks=pytest.mark.long) for point in points
    ]


def _filled(client: shoal.Client) -> shoal.Collection:
    collection = client.create_collection(
        "books",
        configuration={"hnsw": {"shards": 4, "dimension": DIMENSION}},
        embedding_function=None,
    )
    vectors = np.random.default_rng(3).standard_normal((COUNT, DIMENSION), np.float32)
    collection.add([f"r{n}" for n in range(COUNT)], vectors)
    return collection


def _killed(cluster: RunningCluster) -> bool:
    return any(role["restarts"] for role in cluster.state()["roles"])


@pytest.mark.parametrize("point", _points(TAKING))
def test_a_snapshot_whose_taking_was_killed_is_ready_or_failed(start: Start, point: str) -> None:
    cluster = start(workers=2)
    with shoal.Client(port=cluster.port) as client:
        collection = _filled(client)
        client.create_snapshot("before", "books")
        assert ended(client, "before").status == "Ready"
    cluster.stop()
    kept = files(cluster.data)

    cluster = start(workers=2, environment={"SHOAL_CRASH_POINT": point})
    with shoal.Client(port=cluster.port, timeout=240) as client:
        collection = client.get_collection("books")
        collection.add(["one more"], np.ones((1, DIMENSION), np.float32))
        with Writers(
            client.create_collection(
                "beside", configuration={"hnsw": {"shards": 4}}, embedding_function=None
            ),
            2,
        ) as writers:
            with contextlib.suppress(errors.UnavailableError):
                client.create_snapshot("killed", "books")
            give_up_at = time.monotonic() + 240
            while not _killed(cluster) and time.monotonic() < give_up_at:
                time.sleep(0.05)
            assert _killed(cluster), f"nothing was killed at {point}"
            time.sleep(0.5)
        assert not writers.failures
    cluster.stop()

    cluster = start(workers=2)
    with shoal.Client(port=cluster.port) as client:
        names = [snapshot.name for snapshot in client.list_snapshots()]
        assert names in (["before"], ["before", "killed"])
        for name in names:
            found = ended(client, name)
            assert found.status in ("Ready", "Failed")
            assert (found.failure is None) == (found.status == "Ready")
            if found.status == "Ready":
                count = client.restore_snapshot(name, f"again-{name}").count()
                assert count == found.vector_count >= COUNT
        if "killed" in names:
            client.delete_snapshot("killed")
        files_become(cluster.data, kept)
        assert client.get_collection("books").count() == COUNT + 1
        # And another one can be taken.
        client.create_snapshot("after", "books")
        assert ended(client, "after").status == "Ready"
        for name in ("before", "after"):
            client.delete_snapshot(name)
        files_become(cluster.data, [])


@pytest.mark.parametrize("point", _points(RESTORING))
def test_a_restoration_that_was_killed_is_undone_or_whole(start: Start, point: str) -> None:
    cluster = start(workers=2)
    with shoal.Client(port=cluster.port) as client:
        before = _filled(client).get(include=["embeddings"])
        client.create_snapshot("nightly", "books")
        assert ended(client, "nightly").status == "Ready"
    cluster.stop()
    kept = files(cluster.data)

    cluster = start(workers=2, environment={"SHOAL_CRASH_POINT": point})
    with shoal.Client(port=cluster.port, timeout=60) as client:

        def restore() -> None:
            with contextlib.suppress(errors.ShoalError):
                client.restore_snapshot("nightly", "again", {"hnsw": {"shards": 2}})

        # A client waits for a cluster that comes back. This one is killed at the same point again
        # and again, and is stopped when that has been seen.
        waiting = threading.Thread(target=restore)
        waiting.start()
        give_up_at = time.monotonic() + 240
        while not _killed(cluster) and time.monotonic() < give_up_at:
            time.sleep(0.05)
        was_killed = _killed(cluster)
        cluster.stop()
        waiting.join()
    assert was_killed, f"nothing was killed at {point}"

    cluster = start(workers=2)
    with shoal.Client(port=cluster.port) as client:
        if client.has_collection("again"):
            found = client.get_collection("again").get(include=["embeddings"])
            assert found["ids"] == before["ids"]
        else:
            client.restore_snapshot("nightly", "again")
        assert client.get_collection("again").count() == COUNT
        shards = {shard.shard_id for shard in cluster.status().shards}
        give_up_at = time.monotonic() + 240
        while True:
            lie = {
                path.name
                for path in cluster.data.glob("worker-*/shards/*")
                if path.is_dir() and "." not in path.name
            }
            if lie == shards or time.monotonic() > give_up_at:
                break
            time.sleep(0.1)
        assert lie == shards
        assert files(cluster.data) == kept


@pytest.mark.parametrize("point", ["snapshot_terminating", "snapshot_files_removed"])
@pytest.mark.long
def test_a_deletion_that_was_killed_goes_on(start: Start, point: str) -> None:
    cluster = start(workers=1, environment={"SHOAL_CRASH_POINT": point})
    with shoal.Client(port=cluster.port, timeout=60) as client:
        _filled(client)
        client.create_snapshot("nightly", "books")
        assert ended(client, "nightly").status == "Ready"
        with contextlib.suppress(errors.ShoalError):
            client.delete_snapshot("nightly")
        give_up_at = time.monotonic() + 240
        while not _killed(cluster) and time.monotonic() < give_up_at:
            time.sleep(0.05)
        assert _killed(cluster)
    cluster.stop()
    cluster = start(workers=1)
    with shoal.Client(port=cluster.port) as client:
        files_become(cluster.data, [])
        give_up_at = time.monotonic() + 240
        while client.list_snapshots() and time.monotonic() < give_up_at:
            time.sleep(0.05)
        assert client.list_snapshots() == []
