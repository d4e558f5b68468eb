"""A full disk stops what is behind the acknowledgement, too: nothing is lost, answers stay right,
and it goes on by itself when there is room again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import numpy.typing as npt
import pytest

from shoal_worker import building, compaction, indexing, metrics, shard
from shoal_worker.building import Need
from shoal_worker.checkpoint_files import checkpoints_in
from shoal_worker.compaction import Compaction, CompactionError
from shoal_worker.record_files import copy_path
from tests.worker.single import SingleShard, answer_of, graph_of, indexed, plain, started, until
from tests.worker.test_compaction import compacted
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB, where the machine allows to mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(params=[True, False], ids=["foreseen", "met by LMDB itself"])
def is_foreseen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the room is looked at before, or the end of the disk is met in the middle."""
    foreseen: bool = request.param
    monkeypatch.setattr(shard, "_MINIMUM_FREE_BYTES", 600_000)
    monkeypatch.setattr(compaction, "_FREE_BYTES_BESIDE", 600_000)
    monkeypatch.setattr(indexing, "_RETRY_S", 0.2)
    monkeypatch.setattr(building, "_RETRY_S", 0.2)
    if not foreseen:
        monkeypatch.setattr(shard.Shard, "_check_disk", lambda self, size_bytes: None)
        monkeypatch.setattr(Compaction, "_check_disk", lambda self, size_bytes: None)
    return foreseen


def fill(disk: Path, left_bytes: int) -> Path:
    """Fill a disk up to some bytes."""
    filler = disk / "filler"
    stat = os.statvfs(disk)
    with filler.open("wb") as file:
        file.write(b"x" * (stat.f_bavail * stat.f_frsize - left_bytes))
    return filler


async def test_indexes_wait_for_room(small_disk: Path, is_foreseen: bool) -> None:
    worker = await started(small_disk / "worker")
    single = await SingleShard.create(worker)
    worker.indexing.pause()
    count = 2000
    await single.add(
        names(range(count)),
        np.ones((count, 2)),
        [{"n": i, "word": f"word-{i}"} for i in range(count)],
        [f"document {i} {i * 7919}" for i in range(count)],
    )
    filler = fill(small_disk, 100_000)
    failed = metrics.FAILED_INDEX_STEPS._value.get()

    async def check() -> None:
        assert await single.count(where={"n": {"$lt": 30}}) == 30
        assert await single.count(where_document={"$contains": "document 19 "}) == 1
        assert len(plain(await single.get(limit=5000))) == count

    worker.indexing.resume()
    await until(lambda: metrics.FAILED_INDEX_STEPS._value.get() > failed)
    await check()
    filler.unlink()
    await check()
    await indexed(single)
    await check()
    await worker.close()


@pytest.mark.parametrize("erase", [True, False])
async def test_a_compaction_without_room_is_given_up(
    small_disk: Path, is_foreseen: bool, erase: bool
) -> None:
    worker = await started(small_disk / "worker")
    single = await SingleShard.create(worker)
    for first in range(0, 200, 20):
        texts = [f"document {i} " * 1000 for i in range(first, first + 20)]
        await single.add(names(range(first, first + 20)), np.ones((20, 2)), None, texts)
    await single.delete(names(range(0, 200, 2)))
    await indexed(single)
    filler = fill(small_disk, 700_000)

    with pytest.raises((CompactionError, OSError, lmdb.Error)):
        await compacted(single, erase=erase)

    assert not copy_path(single.directory).exists()
    assert list(plain(await single.get())) == names(range(1, 200, 2))
    filler.unlink()
    await compacted(single, erase=erase)
    assert list(plain(await single.get())) == names(range(1, 200, 2))
    await single.add(["later"], [[1, 1]])
    assert await single.count() == 101
    await worker.close()


async def test_a_graph_without_room_is_built_later(
    small_disk: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch, is_foreseen: bool
) -> None:
    need_of = building.need_of
    monkeypatch.setattr(building, "need_of", lambda *_: Need.NOTHING)
    worker = await started(small_disk / "worker")
    single = await SingleShard.create(worker)
    await single.add(names(range(2500)), vectors[:2500])
    await indexed(single)
    filler = fill(small_disk, 200_000)
    failed = metrics.FAILED_BUILDS._value.get()
    monkeypatch.setattr(building, "need_of", need_of)

    worker._building.consider(single.open)
    await until(lambda: metrics.FAILED_BUILDS._value.get() > failed + 1)

    assert checkpoints_in(single.directory) == []
    assert answer_of(await single.search(vectors[7], 1)).ids == [["r7"]]
    filler.unlink()
    await graph_of(single, 2500)
    assert [path.suffix for path in single.directory.glob("graph*")] == [".usearch"]
    assert answer_of(await single.search(vectors[7], 1)).ids == [["r7"]]
    await worker.close()
