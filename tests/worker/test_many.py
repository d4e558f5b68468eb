"""Many small shards on one worker: few are open at a time, all of them answer."""

from __future__ import annotations

import asyncio
import gc
import resource
from pathlib import Path

import numpy as np
import pytest

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.settings import WorkerSettings
from shoal_worker.shard import Shard
from tests.worker.single import SingleShard, answer_of, plain, started, until


def file_count() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
async def test_many_shards_share_few_files(tmp_path: Path, count: int) -> None:
    worker = await started(tmp_path, settings=WorkerSettings(max_open_shards=8))
    before = file_count()
    shards = [await SingleShard.create(worker) for _ in range(count)]
    vectors = np.random.default_rng(1).normal(size=(100, 4))

    for first in range(0, count, 20):
        part = shards[first : first + 20]
        await asyncio.gather(*(s.add([f"r{i}" for i in range(100)], vectors) for s in part))

    for shard in shards:
        assert answer_of(await shard.search(vectors[7], 1)).ids == [["r7"]]
    assert sum(h.shard is not None for h in worker.held.all()) <= 8
    # LMDB keeps three files an environment, and as many may be closing.
    assert file_count() - before < 3 * 8 + 40
    await worker.close()


async def test_as_many_are_open_as_the_system_allows_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Beside what this process of tests has open already.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(160, file_count() + 64), hard))
    try:
        worker = await started(tmp_path)
        shards = [await SingleShard.create(worker) for _ in range(60)]
        for shard in shards:
            await shard.add(["a"], [[1.0]])
        assert [await shard.count() for shard in shards] == [1] * 60
        await worker.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_shards_beyond_the_memory_budget_are_closed(tmp_path: Path) -> None:
    worker = await started(tmp_path, settings=WorkerSettings(memory_bytes=1024 * 1024))
    shards = [await SingleShard.create(worker) for _ in range(6)]
    vectors = np.random.default_rng(1).normal(size=(1000, 100))

    for shard in shards:
        await shard.add([f"r{i}" for i in range(1000)], vectors)

    for shard in shards:
        assert len(plain(await shard.get(limit=3))) == 3
    assert sum(h.shard is not None for h in worker.held.all()) <= 3
    await worker.close()


def live_shards() -> int:
    gc.collect()
    return sum(isinstance(found, Shard) for found in gc.get_objects())


async def test_a_closed_shard_is_kept_by_nobody(tmp_path: Path) -> None:
    before = live_shards()
    worker = await started(tmp_path, settings=WorkerSettings(max_open_shards=8))
    shards = [await SingleShard.create(worker) for _ in range(60)]

    for shard in shards:
        await shard.add(["a", "b"], [[1.0], [2.0]])
        await shard.delete(["a"])

    # What is under way may hold one a moment longer.
    await until(lambda: live_shards() - before <= 8)
    await worker.close()
    assert live_shards() == before


async def test_calls_go_on_while_shards_are_closed_under_them(tmp_path: Path) -> None:
    worker = await started(tmp_path, settings=WorkerSettings(max_open_shards=2))
    shards = [await SingleShard.create(worker) for _ in range(4)]

    async def use(shard: SingleShard, turn: int) -> None:
        await shard.add([f"r{turn}"], [[float(turn)]])
        assert f"r{turn}" in plain(await shard.get())

    await asyncio.gather(*(use(shards[turn % 4], turn) for turn in range(100)))

    assert [await shard.count() for shard in shards] == [25] * 4
    await worker.close()


async def test_describing_a_worker_opens_no_shard(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    for count in (1, 2, 3):
        shard = await SingleShard.create(worker)
        await shard.add([f"r{i}" for i in range(count)], np.ones((count, 2)))
    request = pb.DescribeWorkerRequest(with_shards=True)
    open_answer = await worker.control_service.describe_worker(request, context_for(240))
    await worker.close()
    worker = await started(tmp_path)

    answer = await worker.control_service.describe_worker(request, context_for(240))

    assert sorted(s.record_count for s in answer.shards) == [1, 2, 3]
    assert sorted(s.record_count for s in open_answer.shards) == [1, 2, 3]
    assert all(s.sequence == 1 and s.disk_bytes > 4096 for s in answer.shards)
    assert worker.held.open == []
    await worker.close()
