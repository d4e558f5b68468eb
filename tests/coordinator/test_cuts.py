"""The barrier: one point in time over all shards, whatever writers and workers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import FailedPreconditionError, UnavailableError
from shoal.internal.v1.worker_service_pb2 import BatchShards, HeldBatches
from shoal.v1.snapshot_service_pb2 import SNAPSHOT_STATUS_FAILED, SNAPSHOT_STATUS_READY
from shoal_coordinator import cuts
from shoal_coordinator.cuts import admitted_batches
from tests.coordinator.cluster import eventually
from tests.coordinator.copying import CopyingWorker, SnapshotCluster, refuse_once


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[SnapshotCluster]:
    """A coordinator, a store, and three workers."""
    cluster = SnapshotCluster(tmp_path)
    await cluster.start()
    for name in "abc":
        await cluster.add_worker(name)
    yield cluster
    await cluster.stop()


def held(**batches: list[str]) -> HeldBatches:
    return HeldBatches(
        ended_batch_ids=[name.encode() for name in batches],
        batch_shards=[BatchShards(shard_ids=shards) for shards in batches.values()],
    )


def test_a_batch_is_let_in_where_it_has_not_ended_while_it_has_elsewhere() -> None:
    admitted = admitted_batches(
        {
            "s1": held(everywhere=["s1", "s2"], under_way=["s1", "s2", "s3"]),
            "s2": held(everywhere=["s1", "s2"]),
            "s3": held(elsewhere=["s3", "another collection's"]),
        }
    )
    assert admitted == {"s2": [b"under_way"], "s3": [b"under_way"]}


async def test_whole_batches_and_all_that_was_acknowledged_are_in_a_snapshot(
    cluster: SnapshotCluster,
) -> None:
    entry = await cluster.create("books", shards=6)
    chance = random.Random(7)
    acknowledged: list[list[int]] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            batch = await cluster.write(entry, count=12, pause_s=chance.random() * 0.004)
            acknowledged.append(batch)

    writers = [asyncio.create_task(write()) for _ in range(8)]
    for number in range(6):
        await asyncio.sleep(0.03)
        before = list(acknowledged)
        await cluster.snapshot(entry, f"nightly-{number}")
        after = await cluster.write(entry)
        ready = await cluster.ended(f"nightly-{number}")
        assert ready.status == SNAPSHOT_STATUS_READY, ready.failure
        restored = await cluster.restore(f"restored-{number}", f"nightly-{number}")
        found = set(cluster.records(restored))
        assert len(found) == ready.vector_count
        assert all(record in found for batch in before for record in batch)
        assert found.isdisjoint(after)
        for batch in acknowledged:
            assert found.issuperset(batch) or found.isdisjoint(batch)
    stop.set()
    await asyncio.gather(*writers)
    admitted = sum(
        w.admitted_count for w in cluster.workers.values() if isinstance(w, CopyingWorker)
    )
    assert admitted > 0, "no batch was ever under way: the test proves nothing"


async def test_an_attempt_that_a_worker_voids_is_repeated(cluster: SnapshotCluster) -> None:
    entry = await cluster.create("books", shards=3)
    await cluster.write(entry)
    refuse_once(
        cluster.workers["b:1"], "cut", FailedPreconditionError("the hold has ended"), times=2
    )

    await cluster.snapshot(entry)

    assert (await cluster.ended()).status == SNAPSHOT_STATUS_READY
    for worker in cluster.workers.values():
        # At least: on a machine that stands still for longer than a hold, an attempt is void, too.
        attempts = worker.calls.count("hold")
        assert attempts >= 3
        # The void attempts, and the copies at the end.
        await eventually(
            lambda worker=worker, attempts=attempts: worker.calls.count("release") == attempts  # type: ignore[misc]
        )


async def test_a_slow_worker_holds_up_nobody(cluster: SnapshotCluster) -> None:
    entry = await cluster.create("books", shards=3)
    slow = cluster.workers["c:1"]
    # It does not answer at all: what the others hold they let go by themselves.
    slow.held_up = ("hold",)
    taking = asyncio.create_task(cluster.snapshot(entry))
    await cluster.called("hold")
    for _ in range(5):
        async with asyncio.timeout(60):
            await cluster.write(entry)
    slow.may_go_on.set()
    await taking
    assert (await cluster.ended()).status == SNAPSHOT_STATUS_READY


async def test_a_lost_worker_fails_the_snapshot_and_says_so(
    cluster: SnapshotCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "ATTEMPTS_S", 0.5)
    cluster.coordinator._snapshots._taker._cuts._attempts_s = 0.5
    entry = await cluster.create("books", shards=3)
    cluster.workers["b:1"].reachable = False

    await cluster.snapshot(entry)
    failed = await cluster.ended()

    assert failed.status == SNAPSHOT_STATUS_FAILED
    assert "b:1 cannot be reached" in failed.failure
    async with asyncio.timeout(60):
        await cluster.write(entry)


async def test_a_worker_that_was_started_anew_has_lost_its_cut(cluster: SnapshotCluster) -> None:
    entry = await cluster.create("books", shards=3)
    await cluster.write(entry)
    worker = cluster.workers["b:1"]
    assert isinstance(worker, CopyingWorker)

    def forget(method: str) -> None:
        if method == "store":
            worker.cuts.clear()

    worker.refuse = forget
    await cluster.snapshot(entry)
    failed = await cluster.ended()

    assert failed.status == SNAPSHOT_STATUS_FAILED
    assert "started anew" in failed.failure
    under_way = cluster.coordinator._snapshots._under_way
    await eventually(lambda: not (under_way._taking or under_way._clearing))
    assert cluster.files() == []


async def test_a_worker_that_does_not_answer_for_a_moment_is_asked_again(
    cluster: SnapshotCluster,
) -> None:
    entry = await cluster.create("books", shards=3)
    await cluster.write(entry)
    refuse_once(cluster.workers["b:1"], "store", UnavailableError("busy"))

    await cluster.snapshot(entry)

    assert (await cluster.ended()).status == SNAPSHOT_STATUS_READY
