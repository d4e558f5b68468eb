"""Cuts beside everything else that happens to a shard: writers, growth, compaction, deletion."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import (
    FailedPreconditionError,
    NotFoundError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_coordinator.cuts import admitted_batches
from shoal_worker import copying
from shoal_worker.compaction import CompactionError
from shoal_worker.copies import CopyReader
from shoal_worker.settings import WorkerSettings
from shoal_worker.worker import Worker
from tests.worker.cuts import cut, hold, release, snapshot, store
from tests.worker.fills import create
from tests.worker.single import SingleShard, plain, started


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    one = await started(tmp_path / "worker")
    yield one
    await one.close()


def vectors(count: int, dimension: int = 8) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(count).normal(size=(count, dimension))
    return made.astype(np.float32)


async def filled(worker: Worker, count: int) -> SingleShard:
    shard = await SingleShard.create(worker)
    for begin in range(0, count, 1000):
        ids = [f"r{i}" for i in range(begin, min(begin + 1000, count))]
        await shard.add(ids, vectors(len(ids)), None, ["x" * 200] * len(ids))
    return shard


def slowly(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have copying wait after each step until told to go on."""
    go_on = asyncio.Event()

    def pause(_: object) -> None:
        for _turn in range(30_000):
            if go_on.is_set():
                return
            time.sleep(0.01)

    monkeypatch.setattr(copying.Throttle, "pause", pause)
    return go_on


class ManyShards:
    """Shards of two workers, and writers whose batches have parts in several of them."""

    def __init__(self, workers: list[Worker], shards: list[SingleShard], directory: Path) -> None:
        self._workers = workers
        self._shards = shards
        self._by_worker = [[s for s in shards if s.worker is worker] for worker in workers]
        self._directory = directory
        self._chance = random.Random(7)
        self.shards_of: dict[str, set[str]] = {}
        self.acknowledged: set[str] = set()
        self.is_over = False

    async def write(self, writer: int) -> None:
        """Write batches without end, each of one name, whose parts come at odd times."""
        turn = 0
        while not self.is_over:
            turn += 1
            name, batch = f"{writer}-{turn}", os.urandom(16)
            own = self._chance.sample(self._shards, self._chance.randint(2, 3))
            self.shards_of[name] = {s.reference.shard_id for s in own}
            await asyncio.gather(*(self._send(shard, name, batch) for shard in own))
            self.acknowledged.add(name)

    async def _send(self, shard: SingleShard, name: str, batch: bytes) -> None:
        request = shard.put_request(pb.WRITE_KIND_ADD, [name], vectors(1))
        request.batch_id = batch
        request.batch_shard_ids.extend(self.shards_of[name])
        await asyncio.sleep(self._chance.choice([0, 0, 0, 0.001, 0.02]))
        await shard.send(request)

    async def cut(self, hold_ms: int) -> dict[str, set[str]] | None:
        """Cut them; give the shards in which each name is, or None if the attempt was void."""
        cut_id = str(uuid.uuid4())
        try:
            holds = [hold(own, cut_id=cut_id, hold_ms=hold_ms) for own in self._by_worker]
            held: dict[str, pb.HeldBatches] = {}
            for own, (_, answer) in zip(self._by_worker, await asyncio.gather(*holds), strict=True):
                ids = [shard.reference.shard_id for shard in own]
                held |= dict(zip(ids, answer.shards, strict=True))
            admitted = admitted_batches(held)
            await asyncio.gather(*(cut(own, cut_id, admitted) for own in self._by_worker))
        except ShoalError:
            for worker in self._workers:
                await release(worker, cut_id)
            return None
        found: dict[str, set[str]] = {}
        for worker in self._workers:
            response = await store(worker, cut_id, self._directory)
            await release(worker, cut_id)
            for stored in response.shards:
                for name in names_in(self._directory / stored.records.key):
                    found.setdefault(name, set()).add(stored.shard_id)
        return found


def names_in(path: Path) -> list[str]:
    with CopyReader(path) as reader:
        return [name for entry in reader.entries() for name in entry.puts.ids]


async def test_no_batch_over_several_shards_is_in_a_cut_by_half(tmp_path: Path) -> None:
    """Each is in whole or not at all, what was acknowledged before is in, and no write fails."""
    workers = [await started(tmp_path / name) for name in ("a", "b")]
    shards = [await SingleShard.create(workers[i % 2]) for i in range(3)]
    many = ManyShards(workers, shards, tmp_path / "store")
    writers = [asyncio.ensure_future(many.write(i)) for i in range(6)]
    taken = void = 0
    while taken < 12:
        await asyncio.sleep(0.05)
        before = set(many.acknowledged)
        # As a coordinator does: longer, after attempts that were void.
        found = await many.cut(250 << min(void, 5))
        if found is None:
            void += 1
            assert void < 60
            continue
        taken += 1
        assert before <= set(found)
        assert {name: many.shards_of[name] for name in found} == found
    many.is_over = True
    await asyncio.gather(*writers)
    for worker in workers:
        await worker.close()


async def test_the_map_grows_while_a_copy_is_read(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers do not wait for the copy, not even if the room that was reserved is used up."""
    monkeypatch.setattr("shoal_worker.cutting.STANDING_MAP_BYTES", 0)
    go_on = slowly(monkeypatch)
    shard = await filled(worker, 2000)
    environment = shard.open.environment
    cut_id, _ = await hold([shard])
    await cut([shard], cut_id)
    before = environment.map_bytes

    await asyncio.wait_for(asyncio.to_thread(environment._grow), 60)

    assert environment.map_bytes == 2 * before
    await asyncio.wait_for(shard.add(["new"], vectors(1)), 60)
    go_on.set()
    with pytest.raises(FailedPreconditionError, match="the map of the records had to grow"):
        await store(worker, cut_id, tmp_path / "store")
    assert await shard.count() == 2001
    # The next one is whole.
    (stored,) = await snapshot([shard], tmp_path / "store")
    assert stored.record_count == 2001


async def test_room_is_reserved_before_a_reader_stands(worker: Worker, tmp_path: Path) -> None:
    shard = await filled(worker, 10)
    before = shard.open.environment.map_bytes

    await snapshot([shard], tmp_path / "store")

    assert shard.open.environment.map_bytes >= before + 8 * 2**30


async def test_a_shard_that_is_copied_is_not_compacted_and_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await started(tmp_path / "worker", settings=WorkerSettings(max_open_shards=1))
    go_on = slowly(monkeypatch)
    shard = await filled(worker, 2000)
    cut_id, _ = await hold([shard])
    await cut([shard], cut_id)
    holding = worker.held.find(
        shard.reference.collection_id, shard.reference.shard_id, shard.reference.epoch
    )

    with pytest.raises((CompactionError, OverloadedError), match="being copied"):
        await asyncio.to_thread(worker.compacting.compact, holding, erase=False)
    with pytest.raises(OverloadedError, match="being copied"):
        await asyncio.to_thread(worker.held.reopen, holding, shard.open, lambda: None)
    # Another shard is used, for which there is no room.
    await (await filled(worker, 1)).count()
    await shard.add(["new"], vectors(1))
    go_on.set()
    (stored,) = (await store(worker, cut_id, tmp_path / "store")).shards

    assert stored.record_count == 2000
    await release(worker, cut_id)
    await asyncio.to_thread(worker.compacting.compact, holding, erase=False)
    assert len(plain(await shard.get())) == 2001
    await worker.close()


async def test_more_writes_wait_while_a_shard_is_held(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_worker.write_queue.MAX_QUEUED_WRITES", 5)
    shard = await filled(worker, 1)
    cut_id, _ = await hold([shard])
    writes = [asyncio.ensure_future(shard.add([f"w{i}"], vectors(1))) for i in range(50)]
    await asyncio.sleep(0.05)
    await release(worker, cut_id)

    assert [answer.added for answer in await asyncio.gather(*writes)] == [1] * 50


async def test_a_shard_is_deleted_while_it_is_copied(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = slowly(monkeypatch)
    shard, other = await filled(worker, 2000), await filled(worker, 10)
    cut_id, _ = await hold([shard, other])
    await cut([shard, other], cut_id)
    deletion = catalog_pb2.ShardDeletion(
        shard_id=shard.reference.shard_id, worker_id=str(worker.worker_id), epoch=1
    )
    request = pb.DeleteShardRequest(
        cluster_id=str(worker.cluster_id), worker_id=str(worker.worker_id), deletion=deletion
    )

    await asyncio.wait_for(worker.control_service.delete_shard(request, context_for(240)), 60)

    assert not shard.directory.exists()
    go_on.set()
    with pytest.raises(FailedPreconditionError, match="the shard was closed"):
        await store(worker, cut_id, tmp_path / "store")
    await release(worker, cut_id)
    await snapshot([other], tmp_path / "store")


async def test_a_full_disk_fails_the_copy_and_nothing_else(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await filled(worker, 2000)
    real = os.statvfs

    def nearly_full(path: Any) -> Any:
        found = real(path)
        if "cuts" not in str(path):
            return found
        return os.statvfs_result((*found[:4], 10, *found[5:]))

    monkeypatch.setattr("shoal_worker.copying.os.statvfs", nearly_full)
    cut_id, _ = await hold([shard])
    await cut([shard], cut_id)
    with pytest.raises(OverloadedError, match="no room for copies"):
        await store(worker, cut_id, tmp_path / "store")
    await shard.add(["on"], vectors(1))
    await release(worker, cut_id)

    monkeypatch.undo()
    (stored,) = await snapshot([shard], tmp_path / "store")
    assert stored.record_count == 2001


async def test_a_cut_that_nobody_asks_for_is_given_up(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal_worker.cutting.IDLE_S", 0.5)
    shard = await filled(worker, 10)
    cut_id, _ = await hold([shard])
    await cut([shard], cut_id)

    deadline = time.monotonic() + 60
    while cut_id in worker.cutting._cuts and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)

    with pytest.raises(NotFoundError, match="has no cut"):
        await store(worker, cut_id, tmp_path / "store")


async def test_a_store_that_fails_once_is_tried_again(worker: Worker, tmp_path: Path) -> None:
    shards = [await filled(worker, 10), await filled(worker, 2000)]
    cut_id, _ = await hold(shards)
    await cut(shards, cut_id)
    (tmp_path / "store").write_bytes(b"in the way")
    with pytest.raises(FailedPreconditionError, match="cannot be used"):
        await store(worker, cut_id, tmp_path / "store")

    (tmp_path / "store").unlink()
    answer = await store(worker, cut_id, tmp_path / "store")

    assert [s.record_count for s in answer.shards] == [10, 2000]


async def test_searches_and_writes_go_on_beside_snapshots_and_compactions(
    worker: Worker, tmp_path: Path
) -> None:
    shard = await filled(worker, 3000)
    holding = worker.held.find(
        shard.reference.collection_id, shard.reference.shard_id, shard.reference.epoch
    )
    is_over = False
    counts = [0, 0]

    async def write() -> None:
        while not is_over:
            counts[0] += 1
            await shard.upsert([f"w{counts[0] % 50}"], vectors(1))

    async def search() -> None:
        while not is_over:
            counts[1] += 1
            matches = await shard.search(vectors(1), 10)
            assert not matches.HasField("error"), matches.error
            await asyncio.sleep(0.001)

    async def compact() -> None:
        while not is_over:
            try:
                await asyncio.to_thread(worker.compacting.compact, holding, erase=False)
            except (CompactionError, OverloadedError):
                await asyncio.sleep(0.02)

    others = [asyncio.ensure_future(work()) for work in (write, search, compact)]
    taken = 0
    async with asyncio.timeout(240):
        while taken < 8:
            try:
                (stored,) = await snapshot([shard], tmp_path / "store")
            except ShoalError:
                # A compaction came between: the attempt is repeated.
                await asyncio.sleep(0.01)
                continue
            taken += 1
            assert stored.record_count >= 3000
    is_over = True
    await asyncio.gather(*others)
    assert min(counts) > 8


async def test_a_restarted_worker_first_lets_gateways_end_what_they_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know any more which batches had ended in its shards."""
    monkeypatch.setattr("shoal_worker.cutting._SETTLING_S", 600.0)
    worker = await started(tmp_path / "worker")
    several, alone = await create(worker, ((0, 2047), (2048, 4095))), await filled(worker, 1)
    await worker.close()

    worker = await started(tmp_path / "worker")
    with pytest.raises(UnavailableError, match="was started just now"):
        await hold([shard.on(worker) for shard in several])
    await snapshot([alone.on(worker)], tmp_path / "store")
    await worker.close()
