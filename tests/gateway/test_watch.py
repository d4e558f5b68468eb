"""The watched table: versions are applied whole, and a gateway never changes its cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from shoal.errors import UnavailableError
from shoal.internal.v1 import catalog_pb2, routing_service_pb2
from shoal.server.buckets import buckets_of
from shoal.server.rpc import local_stub
from shoal.v1 import collection_pb2
from shoal_gateway.table import CollectionRoute, RoutingTable
from shoal_gateway.watch import TableWatch

Update = routing_service_pb2.WatchTableResponse


def entry(collection_id: str, name: str, version: int = 1) -> catalog_pb2.CollectionEntry:
    return catalog_pb2.CollectionEntry(
        collection=collection_pb2.Collection(id=collection_id, name=name, tenant="t", database="d"),
        table_version=version,
    )


class Coordinator:
    """Serves a scripted table; each watch gets what the script has left."""

    def __init__(self, *updates: Update | Exception) -> None:
        self.script = list(updates)
        self.opened: list[routing_service_pb2.WatchTableRequest] = []
        self.confirmed: list[int] = []
        self.used_up = asyncio.Event()

    async def watch_table(
        self, requests: AsyncIterator[routing_service_pb2.WatchTableRequest], _context: Any
    ) -> AsyncIterator[Update]:
        self.opened.append(await anext(requests))
        while self.script:
            update = self.script.pop(0)
            if isinstance(update, Exception):
                raise update
            yield update
            if not update.more:
                self.confirmed.append((await anext(requests)).version)
        self.used_up.set()
        await asyncio.Event().wait()


async def followed(coordinator: Coordinator, table: RoutingTable) -> None:
    """Follow the coordinator until its script is used up."""
    stub = local_stub("shoal.internal.v1.RoutingService", coordinator)
    watch = asyncio.create_task(TableWatch(table, stub, "gateway").run())
    async with asyncio.timeout(60):
        await coordinator.used_up.wait()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def test_pages_are_applied_with_the_last_and_confirmed() -> None:
    table = RoutingTable()
    seen: list[int] = []
    apply = table.apply

    def spy(pages: Any) -> None:
        seen.append(len(pages))
        apply(pages)

    table.apply = spy  # type: ignore[method-assign]
    coordinator = Coordinator(
        Update(version=5, snapshot_start=True, more=True, cluster_id="c",
               collections=[entry("1", "one")]),
        Update(version=5, cluster_id="c", collections=[entry("2", "two")]),
        Update(version=6, cluster_id="c", removed_collection_ids=["1"], ready=True),
    )  # fmt: skip

    await followed(coordinator, table)

    assert seen == [2, 1]
    assert coordinator.confirmed == [5, 6]
    assert table.collection("1") is None
    assert table.collection_named("t", "d", "two") is not None
    assert table.ready


async def test_a_broken_watch_goes_on_where_it_ended() -> None:
    table = RoutingTable()
    coordinator = Coordinator(
        Update(version=5, snapshot_start=True, cluster_id="c", collections=[entry("1", "one")]),
        UnavailableError("gone"),
        Update(version=6, cluster_id="c", collections=[entry("2", "two")]),
    )

    await followed(coordinator, table)

    assert [(o.cluster_id, o.version) for o in coordinator.opened] == [("", 0), ("c", 5)]
    assert table.collection("1") is not None
    assert table.collection("2") is not None


async def test_another_clusters_table_is_refused() -> None:
    table = RoutingTable()
    coordinator = Coordinator(
        Update(version=5, snapshot_start=True, cluster_id="c", collections=[entry("1", "one")]),
        UnavailableError("gone"),
        Update(version=900, snapshot_start=True, cluster_id="another"),
    )

    await followed(coordinator, table)

    assert (table.cluster_id, table.version) == ("c", 5)
    assert table.collection("1") is not None


async def test_a_snapshot_forgets_what_it_does_not_hold() -> None:
    table = RoutingTable()
    table.apply([Update(version=5, snapshot_start=True, collections=[entry("1", "one")])])
    table.apply([Update(version=9, snapshot_start=True, collections=[entry("2", "two")])])

    assert table.collection("1") is None
    assert table.collection_named("t", "d", "one") is None


async def test_what_the_coordinator_answered_is_known_ahead_of_the_table() -> None:
    table = RoutingTable()
    table.apply([Update(version=5, snapshot_start=True, collections=[entry("1", "one")])])

    table.learn(entry("1", "renamed", version=6))
    table.learn(entry("2", "removed meanwhile", version=4))

    assert table.collection_named("t", "d", "one") is None
    assert table.collection_named("t", "d", "renamed") is not None
    assert table.collection("2") is None


async def test_a_deleted_collection_stays_deleted_however_late_the_table() -> None:
    table = RoutingTable()
    table.apply([Update(version=5, snapshot_start=True, collections=[entry("1", "one")])])

    table.forget("1")
    table.apply([Update(version=6, collections=[entry("1", "one", version=6)])])

    assert table.collection("1") is None
    assert table.collections_in("t", "d") == []


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_every_id_has_the_owner_of_its_bucket(shards: int) -> None:
    made = entry("1", "one")
    owners = np.arange(4096) // 37 % shards  # many runs for each shard
    for owner in range(shards):
        shard = made.shards.add(shard_id=f"s{owner}", worker_id="w", epoch=1)
        for bucket in np.flatnonzero(owners == owner).tolist():
            shard.buckets.add(first=bucket, last=bucket)
    ids = [f"id-{n}" for n in range(500)]

    found = CollectionRoute.of(made).owners_of(ids)

    assert found.tolist() == owners[buckets_of(ids)].tolist()
