"""Reopening after anything gives what was acknowledged, and damage is told, never served."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt
import pytest

from shoal.errors import OverloadedError, UnavailableError
from shoal.v1.collection_pb2 import Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker import metrics, shard
from shoal_worker.checkpoint_files import checkpoints_in
from shoal_worker.environment import Environment
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, plain, started
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(
        list("abc"), [[1, 2], [3, 4], [5, 6]], [{"n": 1}, None, {"n": 3}], ["x", None, ""]
    )
    await single.update(["b"], [[7, 8]])
    await single.delete(["a"])
    before = plain(await single.get())
    await worker.close()

    worker = await started(tmp_path)

    assert plain(await single.on(worker).get()) == before
    assert answer_of(await single.on(worker).search([7, 8], 5)).ids == [["b", "c"]]
    await worker.close()


# Checkpoints.


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped_in_graph(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    path.write_bytes(content)


def flipped_in_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[30] ^= 0x10
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


DAMAGES: list[tuple[Callable[[Path], None], str | None]] = [
    (truncated, "damaged"),
    (emptied, "damaged"),
    (flipped_in_graph, "damaged"),
    (flipped_in_header, "damaged"),
    (missing, None),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
async def test_a_damaged_checkpoint_is_never_searched_and_is_built_again(
    tmp_path: Path, vectors: Vectors, damage: Callable[[Path], None], reason: str | None
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(names(range(2500)), vectors[:2500])
    await graph_of(single, 2500)
    (path,) = checkpoints_in(single.directory)
    await worker.close()
    damage(path)
    refused = metrics.REFUSED_CHECKPOINTS.labels(reason or "missing")
    before = refused._value.get()

    worker = await started(tmp_path)
    single = single.on(worker)
    matches = await single.search(vectors[3000], 10)

    true = ((vectors[:2500].astype(float) - vectors[3000]) ** 2).sum(axis=1)
    assert matches.plan.method == SearchMethod.SEARCH_METHOD_EXACT
    assert answer_of(matches).ids == [[f"r{j}" for j in np.argsort(true)[:10]]]
    if reason:
        assert refused._value.get() == before + 1
    await graph_of(single, 2500)
    await worker.close()


async def copied_checkpoint(tmp_path: Path, vectors: Vectors) -> tuple[SingleShard, Path, bytes]:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(names(range(2500)), vectors[:2500])
    await graph_of(single, 2500)
    (path,) = checkpoints_in(single.directory)
    return single, path, path.read_bytes()


async def test_an_older_checkpoint_serves_with_what_came_after(
    tmp_path: Path, vectors: Vectors
) -> None:
    single, path, content = await copied_checkpoint(tmp_path, vectors)
    await single.add(names(range(2500, 5000)), vectors[2500:5000])
    await graph_of(single, 5000)
    await single.delete(names(range(10)))
    await single.worker.close()
    (newer,) = checkpoints_in(path.parent)
    newer.unlink()
    path.write_bytes(content)

    worker = await started(tmp_path)
    single = single.on(worker)

    answer = answer_of(await single.search(vectors[:20], 1))
    assert [ids[0] for ids in answer.ids[10:]] == names(range(10, 20))
    assert not {ids[0] for ids in answer.ids[:10]} & set(names(range(10)))
    assert answer_of(await single.search(vectors[4990], 1)).ids == [["r4990"]]
    await worker.close()


async def test_a_checkpoint_from_the_future_is_refused(tmp_path: Path, vectors: Vectors) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(["first"], vectors[:1])
    records = single.directory / "records.mdb"
    worker_dir = single.directory
    await worker.close()
    old = records.read_bytes()
    worker = await started(tmp_path)
    single = single.on(worker)
    await single.add(names(range(2500)), vectors[:2500])
    await graph_of(single, 2500)
    await worker.close()
    # The records of a backup beside a graph of today.
    records.write_bytes(old)

    worker = await started(tmp_path)

    assert answer_of(await single.on(worker).search(vectors[5], 10)).ids == [["first"]]
    assert checkpoints_in(worker_dir)
    await worker.close()


async def test_a_checkpoint_of_another_dimension_is_refused(
    tmp_path: Path, vectors: Vectors
) -> None:
    single, path, _ = await copied_checkpoint(tmp_path, vectors)
    other = await SingleShard.create(single.worker)
    await other.add(names(range(2500)), vectors[:2500, :32])
    await graph_of(other, 2500)
    (foreign,) = checkpoints_in(other.directory)
    content = foreign.read_bytes()
    await single.worker.close()
    path.write_bytes(content)

    worker = await started(tmp_path)

    assert answer_of(await single.on(worker).search(vectors[7], 1)).ids == [["r7"]]
    await worker.close()


# Damage in the records.


async def test_a_flipped_bit_in_a_record_is_data_loss_and_never_an_answer(
    tmp_path: Path,
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    vector = np.full((1, 64), 0.123456, np.float32)
    await single.add(["victim"], vector, [{"k": "needle-of-metadata"}], ["needle-of-document"])
    records = single.directory / "records.mdb"
    await worker.close()
    content = records.read_bytes()

    for needle, include in (
        (b"needle-of-metadata", 2),
        (b"needle-of-document", 1),
        (vector.tobytes(), 3),
    ):
        damaged = bytearray(content)
        place = damaged.find(needle)
        while place >= 0:
            damaged[place + 5] ^= 1
            place = damaged.find(needle, place)
        records.write_bytes(damaged)
        worker = await started(tmp_path)

        answer = await single.on(worker).get(include=[include])

        assert answer.error.reason == "DATA_LOSS"
        assert single.reference.shard_id in answer.error.message
        await worker.close()
        records.write_bytes(content)


# Growth, failure, full disks.


def test_a_map_grows_while_readers_are_alive(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "x.mdb", ("d",), create=True, initial_map_bytes=64 * 1024)
    database = environment.databases["d"]
    stop = threading.Event()
    turns = []

    def read() -> None:
        while not stop.is_set():
            with environment.read() as txn, txn.cursor(db=database) as cursor:
                assert all(bytes(value) == bytes(key) * 500 for key, value in cursor)
            turns.append(1)
            time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(300):
        key = i.to_bytes(4, "big")
        environment.write(lambda txn, key=key: txn.put(key, key * 500, db=database))  # type: ignore[misc]
    stop.set()
    for reader in readers:
        reader.join()

    assert environment.map_bytes >= 1024 * 1024
    with environment.read() as txn:
        assert txn.stat(database)["entries"] == 300
    assert turns
    environment.close()


async def test_a_shard_grows_beyond_its_first_map(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard.Shard.__init__, "__kwdefaults__", {"initial_map_bytes": 256 * 1024})
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)

    adding = [
        single.add(names(range(a, a + 100)), vectors[a : a + 100]) for a in range(0, 3000, 100)
    ]
    searching = [single.search(vectors[4000], 10) for _ in range(50)]
    answers, _ = await asyncio.gather(asyncio.gather(*adding), asyncio.gather(*searching))

    assert sum(a.added for a in answers) == 3000
    assert await single.count() == 3000
    assert answer_of(await single.search(vectors[2999], 1)).ids == [["r2999"]]
    await worker.close()


async def test_after_a_failed_commit_the_outcome_is_unknown_and_the_shard_opens_anew(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = await SingleShard.create(worker)
    await single.add(["a"], [[1]])
    write: Any = Environment.write

    def failing(self: Environment, work: Any, before_commit: Any = None) -> Any:
        monkeypatch.setattr(Environment, "write", write)

        def fail(result: Any) -> None:
            before_commit(result)
            raise lmdb.Error("mdb_txn_commit: Input/output error")

        return write(self, work, fail)

    monkeypatch.setattr(Environment, "write", failing)

    with pytest.raises(UnavailableError, match="unknown"):
        await single.add(["b"], [[2]])

    await single.add(["c"], [[3]])
    assert list(plain(await single.get())) == ["a", "c"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, where the machine allows to mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("is_foreseen", [True, False])
async def test_a_full_disk_refuses_writes_and_goes_on_reading(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, is_foreseen: bool
) -> None:
    monkeypatch.setattr(shard, "_MINIMUM_FREE_BYTES", 600_000)
    if not is_foreseen:
        # Then LMDB itself meets the end of the disk, in the middle of a commit.
        monkeypatch.setattr(shard.Shard, "_check_disk", lambda self, size_bytes: None)
    worker = await started(small_disk / "worker")
    single = await SingleShard.create(worker)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    stored: list[str] = []

    async def fill() -> None:
        for i in range(1000):
            await single.add([f"r{i}"], [[i]], None, ["x" * 20_000])
            stored.append(f"r{i}")

    with pytest.raises(OverloadedError, match="is full"):
        await fill()

    assert list(plain(await single.get())) == stored
    assert answer_of(await single.search([3], 1)).ids == [["r3"]]
    with pytest.raises(OverloadedError, match="is full"):
        await single.add(["late"], [[1]], None, ["x" * 300_000])
    filler.unlink()
    await single.add(["late"], [[1]], None, ["x" * 300_000])
    assert list(plain(await single.get())) == [*stored, "late"]
    await worker.close()


async def test_cosine_normalises_only_in_the_graph(tmp_path: Path, vectors: Vectors) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    scaled = vectors[:2500] * np.float32(37.5)
    await single.add(names(range(2500)), scaled)
    await graph_of(single, 2500)

    matches = await single.search(vectors[10], 1, include=[3])

    assert matches.records.vectors.values == scaled[10].tobytes()
    await worker.close()
