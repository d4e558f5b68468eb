"""The routing table as gateways follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from shoal.errors import FailedPreconditionError
from shoal.internal.v1.routing_service_pb2 import WatchTableRequest
from shoal.server.rpc import context_for
from shoal_coordinator import lifecycle
from shoal_coordinator import table as table_module
from shoal_coordinator.state import CatalogState
from shoal_coordinator.table import MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, RoutingTable
from tests.coordinator.cluster import Cluster, FakeGateway, eventually
from tests.coordinator.test_catalog import entry


async def test_a_change_is_answered_when_a_gateway_routes_by_it(two_workers: Cluster) -> None:
    gateway = FakeGateway(two_workers.coordinator)
    await gateway.follow()
    await two_workers.create("first")

    books = await two_workers.create("books", shards=2)

    assert gateway.collections[books.collection.id] == books
    renamed = await two_workers.update(books, new_name="novels")
    assert gateway.collections[books.collection.id] == renamed
    await two_workers.delete(books)
    assert books.collection.id not in gateway.collections
    assert gateway.snapshots == 1
    await gateway.close()


async def test_a_gateway_that_does_not_confirm_delays_by_two_seconds(
    two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = FakeGateway(two_workers.coordinator, confirms=False)
    await gateway.follow()
    await gateway.reached(1)

    monkeypatch.undo()
    begin = time.monotonic()
    await two_workers.create("books")
    assert time.monotonic() - begin > 1.9
    await gateway.close()

    # One that is gone delays nobody: else this would time out.
    monkeypatch.setattr(lifecycle, "CONFIRM_S", 10_000.0)
    await two_workers.create("novels")


async def test_collections_being_created_are_not_published(two_workers: Cluster) -> None:
    gateway = FakeGateway(two_workers.coordinator)
    await gateway.follow()
    two_workers.hold_up("create")
    creation = asyncio.create_task(two_workers.create("books"))
    await two_workers.called("create")
    await gateway.reached(two_workers.coordinator.table.state.version)

    assert not gateway.collections
    late = FakeGateway(two_workers.coordinator)
    await late.follow()
    await late.reached(1)
    assert not late.collections
    two_workers.go_on()
    await creation
    assert len(gateway.collections) == 1
    await gateway.close()
    await late.close()


async def test_a_gateway_comes_back_and_gets_what_it_missed(two_workers: Cluster) -> None:
    gateway = FakeGateway(two_workers.coordinator)
    await gateway.follow()
    await two_workers.create("first")
    await gateway.close()
    books = await two_workers.create("books")
    pages_before = len(gateway.pages)

    again = FakeGateway(two_workers.coordinator)
    again.version, again.cluster_id = gateway.version, gateway.cluster_id
    again.collections = gateway.collections
    await again.follow()
    await again.reached(two_workers.coordinator.table.state.version)

    assert again.snapshots == 0
    assert books.collection.id in again.collections
    assert len(gateway.pages) == pages_before
    await again.close()


async def test_a_watch_that_missed_nothing_gets_a_page_at_once(two_workers: Cluster) -> None:
    state = two_workers.coordinator.table.state
    gateway = FakeGateway(two_workers.coordinator)
    gateway.version, gateway.cluster_id = state.version, state.cluster_id
    await gateway.follow()
    await eventually(lambda: bool(gateway.pages))

    assert [page.version for page in gateway.pages] == [state.version]
    assert gateway.snapshots == 0
    await gateway.close()


async def test_a_version_from_before_the_history_gets_everything(
    two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "MAX_HISTORY_CHANGES", 3)
    gateway = FakeGateway(two_workers.coordinator)
    gateway.version = two_workers.coordinator.table.state.version
    gateway.cluster_id = two_workers.coordinator.table.state.cluster_id
    for number in range(5):
        await two_workers.create(f"books{number}")

    await gateway.follow()
    await gateway.reached(two_workers.coordinator.table.state.version)

    assert gateway.snapshots == 1
    assert len(gateway.collections) == 5
    await gateway.close()


async def test_a_higher_version_raises_the_table_above(two_workers: Cluster) -> None:
    state = two_workers.coordinator.table.state
    gateway = FakeGateway(two_workers.coordinator)
    ahead = state.version + 10**6
    gateway.version, gateway.cluster_id = ahead, state.cluster_id
    await gateway.follow()
    await gateway.reached(ahead + 1)

    assert gateway.version > ahead
    assert gateway.snapshots == 1
    await gateway.close()
    # Durably.
    await two_workers.restart()
    assert two_workers.coordinator.table.state.version > ahead


async def test_a_restart_never_gives_a_version_twice(two_workers: Cluster) -> None:
    await two_workers.create("books")
    before = two_workers.coordinator.table.state.version

    await two_workers.restart()

    assert two_workers.coordinator.table.state.version > before


async def test_another_cluster_is_refused(two_workers: Cluster) -> None:
    async def requests() -> AsyncIterator[WatchTableRequest]:
        yield WatchTableRequest(gateway_id="g", cluster_id="another", version=1)

    with pytest.raises(FailedPreconditionError, match="follows cluster another"):
        async for _ in two_workers.coordinator.routing_service.watch_table(
            requests(), context_for(240)
        ):
            pass


def test_pages_are_bounded_and_complete() -> None:
    state = CatalogState()
    entries = [entry(f"c{n}", n, padding=3_000 if n % 2 else 0) for n in range(2_500)]
    state.collections = {e.collection.id: e for e in entries}
    pages = list(RoutingTable(state, expected_workers=1).snapshot()[1])

    assert [page.snapshot_start for page in pages] == [True] + [False] * (len(pages) - 1)
    assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
    assert [e for page in pages for e in page.collections] == entries
    assert max(len(page.collections) for page in pages) <= MAX_PAGE_ENTRIES
    assert max(page.ByteSize() for page in pages) < MAX_PAGE_BYTES + 10_000
    assert len(pages) >= 4


async def test_a_slow_watch_costs_no_memory_and_gets_everything(
    two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "MAX_HISTORY_CHANGES", 5)
    table = two_workers.coordinator.table
    watch = table.watch("slow", 0)
    updates = watch.updates()
    first = await anext(updates)
    watch.confirm(2**63)  # so that nobody waits for it
    for _ in range(20):
        await two_workers.delete(await two_workers.create("books"))
    await two_workers.create("novels")

    second = await anext(updates)
    assert first.snapshot_start
    assert second.snapshot_start
    assert [e.collection.name for e in second.collections] == ["novels"]
