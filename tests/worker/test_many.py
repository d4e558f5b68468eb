"""Many small shards on one worker: few are open at a time, all of them answer."""

from __future__ import annotations

import asyncio
import gc
import platform
import resource
from pathlib import Path

import numpy as np
import pytest

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.allocation import give_back
from shoal_worker.environment import Environment
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


async def test_a_small_shard_that_nobody_uses_is_closed_and_opened_again(tmp_path: Path) -> None:
    before = live_shards()
    worker = await started(tmp_path, settings=WorkerSettings(close_after_s=1))
    shards = [await SingleShard.create(worker) for _ in range(5)]
    for shard in shards:
        await shard.add(["a", "b"], [[1.0], [2.0]])

    await until(lambda: not worker.held.open)

    # The thread that was busy with one at last may hold it until it is busy again.
    await until(lambda: live_shards() - before <= 1)
    assert await shard.count() == 2
    assert [held.shard_id for held in worker.held.open] == [shard.reference.shard_id]
    await worker.close()


async def test_what_is_used_stays_open(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    used, unused = await SingleShard.create(worker), await SingleShard.create(worker)
    for shard in (used, unused):
        await shard.add(["a"], [[1.0]])
        await until(lambda shard=shard: not shard.open.indexes.lag)  # type: ignore[misc]
    (holding,) = (h for h in worker.held.all() if h.name == used.reference.shard_id)

    with worker.held.using(holding):
        closed_count = worker.held.close_unused(0.0)

    assert closed_count == 1
    assert [held.shard_id for held in worker.held.open] == [used.reference.shard_id]
    assert worker.held.close_unused(3600.0) == 0
    await worker.close()


async def test_a_shard_that_takes_long_to_open_stays_open(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    vectors = np.random.default_rng(1).normal(size=(1200, 1000))
    await shard.add([f"r{i}" for i in range(1200)], vectors)
    await until(lambda: not shard.open.indexes.lag)

    assert worker.held.close_unused(0.0) == 0

    await shard.delete([f"r{i}" for i in range(1100)])
    await worker.close()
    worker = await started(tmp_path)
    shard = shard.on(worker)
    assert await shard.count() == 100
    await until(lambda: not shard.open.indexes.lag)
    assert worker.held.close_unused(0.0) == 1
    await worker.close()


def anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not say")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no such rule")
def test_what_lmdb_reserves_for_each_environment_is_not_touched(tmp_path: Path) -> None:
    def reopened(number: int) -> Environment:
        # What closing one frees, opening the next may be given.
        path = tmp_path / str(number)
        Environment(path, ("records",), create=True).close()
        return Environment(path, ("records",), create=False)

    environments = [reopened(0)]
    before = anonymous_bytes()

    environments += [reopened(number) for number in range(1, 40)]

    # It would be 2 MB.
    assert anonymous_bytes() - before < 39 * 200 * 1024
    for environment in environments:
        environment.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep less")
async def test_what_closed_shards_held_is_given_back(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shards = [await SingleShard.create(worker) for _ in range(40)]
    vectors = np.random.default_rng(1).normal(size=(200, 500))
    give_back()
    before = anonymous_bytes()
    for shard in shards:
        await shard.add([f"r{i}" for i in range(200)], vectors)
        await until(lambda shard=shard: not shard.open.indexes.lag)  # type: ignore[misc]
    # 400 KB of vectors each, and as much that LMDB keeps for the next transaction.
    assert anonymous_bytes() - before > 40 * 600 * 1024

    assert worker.held.close_unused(0.0) == 40
    give_back()

    assert anonymous_bytes() - before < 40 * 200 * 1024
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
