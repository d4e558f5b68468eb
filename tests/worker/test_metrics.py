"""What a worker tells of its shards."""

from __future__ import annotations

import pytest

from shoal.errors import OverloadedError
from shoal.server.metrics import REGISTRY
from shoal_worker import shard as shard_module
from shoal_worker.indexing import advance
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


async def test_what_indexes_have_not_taken_in_is_a_backlog(
    shard: SingleShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.worker.indexing.pause()
    monkeypatch.setattr(shard_module, "MAX_BACKLOG_CHANGES", 4)
    await shard.add(["a", "b", "c"], [[1, 2], [3, 4], [5, 6]], [None] * 3)
    assert _value("shoal_unindexed_changes") == 3
    await shard.add(["d"], [[7, 8]], [None])
    assert _value("shoal_fullest_backlog_ratio") == 1
    with pytest.raises(OverloadedError, match="4 changes that its indexes have not"):
        await shard.add(["e"], [[7, 8]], [None])

    while advance(shard.open):
        pass

    assert _value("shoal_unindexed_changes") == 0
    await shard.add(["e"], [[7, 8]], [None])


async def test_searches_are_counted_by_their_plan(shard: SingleShard) -> None:
    def counts() -> list[float]:
        return [
            REGISTRY.get_sample_value("shoal_search_seconds_count", {"method": method}) or 0.0
            for method in ("nothing", "exact")
        ]

    await shard.add(["a", "b"], [[1, 2], [3, 4]], [{"k": 1}, {"k": 2}])
    before = counts()
    await shard.search([[1, 2]], 1, where={"k": 3})
    await shard.search([[1, 2]], 1, where={"k": 2})
    await shard.search([[1, 2]], 1)

    assert [after - was for after, was in zip(counts(), before, strict=True)] == [1, 2]


async def test_a_closed_worker_has_no_open_shards(shard: SingleShard) -> None:
    await shard.add(["a"], [[1, 2]], [None])

    await shard.worker.close()

    assert _value("shoal_shard_records") == 0
    assert _value("shoal_fullest_backlog_ratio") == 0
