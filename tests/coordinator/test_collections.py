"""Creation, change and deletion of collections."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    UnavailableError,
)
from tests.coordinator.cluster import Cluster


async def test_a_collection_is_created_with_its_shards(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    held = [set(worker.shards) for worker in two_workers.workers.values()]
    assert [len(shards) for shards in held] == [2, 2]
    assert set.union(*held) == {shard.shard_id for shard in entry.shards}
    assert (await two_workers.get("books")) == entry


async def test_a_taken_name_is_refused(two_workers: Cluster) -> None:
    await two_workers.create("books")

    with pytest.raises(CollectionExistsError, match="'books' exists already"):
        await two_workers.create("books")


async def test_of_concurrent_creations_one_wins(two_workers: Cluster) -> None:
    answers = await asyncio.gather(
        *(two_workers.create("books") for _ in range(5)), return_exceptions=True
    )

    assert sum(isinstance(answer, CollectionExistsError) for answer in answers) == 4
    assert sum(len(worker.shards) for worker in two_workers.workers.values()) == 1


async def test_concurrent_get_or_create_gives_all_the_same(two_workers: Cluster) -> None:
    entries = await asyncio.gather(
        *(two_workers.create("books", get_or_create=True) for _ in range(5))
    )

    assert len({entry.collection.id for entry in entries}) == 1


async def test_no_worker_no_collection(cluster: Cluster) -> None:
    with pytest.raises(UnavailableError, match="no worker is registered"):
        await cluster.create("books")


async def test_a_failed_creation_leaves_nothing(two_workers: Cluster) -> None:
    two_workers.workers["b:1"].refuse = lambda method: (
        UnavailableError("the disk is gone") if method == "create" else None
    )
    with pytest.raises(UnavailableError, match="'books' was not created: the disk is gone"):
        await two_workers.create("books", shards=4)

    two_workers.workers["b:1"].refuse = lambda method: None
    entry = await two_workers.create("books", shards=4)
    await two_workers.settled()
    shards = {s for worker in two_workers.workers.values() for s in worker.shards}
    assert shards == {shard.shard_id for shard in entry.shards}


async def test_a_deleted_collection_is_gone(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    await two_workers.delete(entry)

    assert not any(worker.shards for worker in two_workers.workers.values())
    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("books")
    with pytest.raises(CollectionNotFoundError):
        await two_workers.delete(entry)
    assert not two_workers.coordinator.table.state.deletions


async def test_everything_survives_a_restart(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    await two_workers.restart()

    assert (await two_workers.get("books")) == entry
