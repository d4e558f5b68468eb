"""The coordinator ends at any point of a change, and starts again on its directory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shoal.errors import CollectionNotFoundError
from tests.coordinator.cluster import Cluster, SimulatedCrashError


def crash_at(point: str, times: int = 1) -> Callable[[str], None]:
    remaining = times

    def crash(name: str) -> None:
        nonlocal remaining
        if name == point:
            remaining -= 1
            if remaining == 0:
                raise SimulatedCrashError(name)

    return crash


def shards_on_workers(cluster: Cluster) -> set[str]:
    return {shard for worker in cluster.workers.values() for shard in worker.shards}


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("collection_reserved", 1),
        ("shard_created", 1),
        ("shard_created", 3),
        ("shards_created", 1),
    ],
    ids=str,
)
async def test_a_creation_that_was_interrupted_leaves_nothing(
    two_workers: Cluster, point: str, times: int
) -> None:
    kept = await two_workers.create("kept", shards=2)
    await two_workers.restart(crash_point=crash_at(point, times))
    with pytest.raises(SimulatedCrashError):
        await two_workers.create("books", shards=4)

    await two_workers.restart()
    await two_workers.settled()

    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("books")
    assert shards_on_workers(two_workers) == {shard.shard_id for shard in kept.shards}
    again = await two_workers.create("books", shards=4)
    assert len(shards_on_workers(two_workers)) == 6
    assert (await two_workers.get("books")) == again


async def test_a_creation_that_was_committed_stands(two_workers: Cluster) -> None:
    await two_workers.restart(crash_point=crash_at("collection_activated"))
    with pytest.raises(SimulatedCrashError):
        await two_workers.create("books", shards=4)

    await two_workers.restart()

    entry = await two_workers.get("books")
    assert shards_on_workers(two_workers) == {shard.shard_id for shard in entry.shards}


async def test_a_deletion_that_was_recorded_is_carried_out(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)
    await two_workers.restart(crash_point=crash_at("deletion_recorded"))
    with pytest.raises(SimulatedCrashError):
        await two_workers.delete(entry)
    assert len(shards_on_workers(two_workers)) == 4

    await two_workers.restart()
    await two_workers.settled()

    assert not shards_on_workers(two_workers)
    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("books")


async def test_a_deletion_waits_for_a_worker_that_is_away(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)
    away = two_workers.workers["b:1"]
    away.reachable = False
    two_workers.clock.now_s += 100
    await two_workers.workers["a:1"].heartbeat(two_workers.coordinator)

    await two_workers.delete(entry)

    assert not two_workers.workers["a:1"].shards
    assert len(away.shards) == 2
    assert len(two_workers.coordinator.table.state.deletions) == 2
    # Neither a restart nor the same name used again makes anybody forget.
    again = await two_workers.create("books")
    await two_workers.restart()
    assert len(two_workers.coordinator.table.state.deletions) == 2
    back = away.restart()
    two_workers.workers["b:1"] = back
    await back.register(two_workers.coordinator)
    await two_workers.settled()
    assert shards_on_workers(two_workers) == {again.shards[0].shard_id}
