"""Many collections."""

from __future__ import annotations

import asyncio

from shoal_coordinator.table import MAX_PAGE_BYTES, MAX_PAGE_ENTRIES
from tests.coordinator.cluster import Cluster, FakeGateway


async def test_two_thousand_collections(two_workers: Cluster) -> None:
    gateway = FakeGateway(two_workers.coordinator)
    await gateway.follow()

    entries = await asyncio.gather(*(two_workers.create(f"c{n}") for n in range(2_000)))

    held = [len(worker.shards) for worker in two_workers.workers.values()]
    assert held == [1_000, 1_000]
    assert len(gateway.collections) == 2_000
    await two_workers.restart()
    fresh = FakeGateway(two_workers.coordinator)
    await fresh.follow()
    await fresh.reached(two_workers.coordinator.table.state.version)
    assert list(fresh.collections.values()) == sorted(entries, key=lambda e: e.creation_number)
    assert max(page.ByteSize() for page in fresh.pages) < MAX_PAGE_BYTES + 10_000
    assert max(len(page.collections) for page in fresh.pages) <= MAX_PAGE_ENTRIES
    await gateway.close()
    await fresh.close()
