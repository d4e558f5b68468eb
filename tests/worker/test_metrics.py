"""What a worker tells of its shards."""

from __future__ import annotations

import pytest

from shoal.server.metrics import REGISTRY
from shoal_worker import shard as shard_module
from tests.worker.single import SingleShard


def _value(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


async def test_records_and_backlog_are_those_of_open_shards(
    shard: SingleShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "MAX_BACKLOG_VECTORS", 12)

    await shard.add(["a", "b", "c"], [[1, 2], [3, 4], [5, 6]], [None] * 3)

    assert _value("shoal_shard_records") == 3
    assert _value("shoal_fresh_vectors") == 3
    assert _value("shoal_fullest_backlog_ratio") == 3 / 12
    assert _value("shoal_open_shards") == 1


async def test_a_closed_worker_has_no_open_shards(shard: SingleShard) -> None:
    await shard.add(["a"], [[1, 2]], [None])

    await shard.worker.close()

    assert _value("shoal_shard_records") == 0
    assert _value("shoal_fullest_backlog_ratio") == 0
