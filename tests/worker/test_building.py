"""When a graph is extended: by a tenth while it is written to, by less when that has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal_worker import building
from tests.worker.single import SingleShard, answer_of, graph_of, started, until
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]


async def test_what_is_written_last_goes_into_the_graph_when_writing_has_ended(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "IDLE_S", 10_000.0)
    monkeypatch.setattr(building, "IDLE_FRESH_BYTES", 100 * 64 * 4)
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, sync_threshold=100, batch_size=100)
    await single.add(names(range(3000)), vectors[:3000])
    await graph_of(single, 3000)

    for i in range(3000, 3150, 10):
        await single.add(names(range(i, i + 10)), vectors[i : i + 10])
        await asyncio.sleep(0.1)
        assert single.open.newest.fresh.pending_count == i + 10 - 3000
    # What would be a while later.
    monkeypatch.setattr(building, "IDLE_S", 0.5)
    worker._building.consider(single.open)
    await until(lambda: single.open.newest.fresh.pending_count == 0)

    assert answer_of(await single.search(vectors[3149], 1)).ids == [["r3149"]]
    # Too little even then.
    await single.add(names(range(3150, 3200)), vectors[3150:3200])
    await asyncio.sleep(1.5)
    assert single.open.newest.fresh.pending_count == 50
    await worker.close()


def test_a_large_shard_scans_less_beside_its_graph() -> None:
    def share(count: int, dimension: int, *, is_idle: bool = False) -> float:
        return building._extended_from(count, 4 * dimension, is_idle) / count

    assert share(20_000, 384) == 0.1
    assert share(1_000_000, 384) == 0.05
    assert 0.05 < share(80_000, 384) < 0.1
    assert share(1_000_000, 128, is_idle=True) * 1_000_000 == 4096
    # What takes no time to scan, waits, however small the graph.
    assert share(3_000, 16, is_idle=True) == 0.1
