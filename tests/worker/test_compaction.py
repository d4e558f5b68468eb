"""Disk of deleted records comes back, and what was deleted is in the end nowhere in the files."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Quantization, Space
from shoal_worker import compacting, compaction, metrics
from shoal_worker.compaction import Compacted, CompactionError
from shoal_worker.environment import Environment
from shoal_worker.erasure import erasable_since
from shoal_worker.holding import Holding
from shoal_worker.log import Log, LogBounds
from shoal_worker.metadata_index import string_term
from shoal_worker.record_files import copy_path
from shoal_worker.settings import WorkerSettings
from shoal_worker.text import number_of
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, indexed, plain, started, until
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]


def holding_of(single: SingleShard) -> Holding:
    reference = single.reference
    return single.worker.held.find(reference.collection_id, reference.shard_id, reference.epoch)


async def compacted(single: SingleShard, *, erase: bool) -> Compacted:
    await indexed(single)
    return await asyncio.to_thread(
        single.worker.compacting.compact, holding_of(single), erase=erase
    )


def found_in(directory: Path, needle: bytes) -> list[str]:
    """Files below a directory that hold some bytes."""
    found = []
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # renamed, just now
            if needle in path.read_bytes():
                found.append(path.name)
    return sorted(found)


def since(single: SingleShard) -> int | None:
    with single.open.pin() as pinned:
        return erasable_since(pinned.txn, single.open.store.meta_db)


async def filled(worker: Worker, count: int, vectors: Vectors, **hnsw: Any) -> SingleShard:
    single = await SingleShard.create(worker, **hnsw)
    for first in range(0, count, 500):
        part = range(first, min(count, first + 500))
        await single.add(
            names(part),
            vectors[part.start : part.stop],
            [{"n": i, "word": f"metadata-of-{i}-{'m' * 40}"} for i in part],
            [f"document-of-{i}-{'d' * 400}" for i in part],
        )
    return single


@pytest.mark.parametrize("has_graph", [True, False])
async def test_after_erasing_nothing_deleted_is_in_the_directory(
    worker: Worker, vectors: Vectors, has_graph: bool
) -> None:
    # Numbers of the vectors lie in an f32 graph of this space as they were given.
    count = 3000 if has_graph else 600
    single = await filled(
        worker, count, vectors, space=Space.SPACE_L2, quantization=Quantization.QUANTIZATION_F32
    )
    if has_graph:
        await graph_of(single, count)
    await indexed(single)
    gone = range(100, 130)
    needles = [vectors[i].tobytes() for i in gone]
    needles += [f"document-of-{i}-".encode() for i in gone]
    needles += [f"metadata-of-{i}-".encode() for i in gone]
    needles += [string_term(f"metadata-of-{i}-")[:-1] for i in gone]
    needles += [number_of(str(i)).to_bytes(8, "little") for i in gone]
    replaced = f"document-of-{7}-".encode()
    await single.delete(names(gone))
    await single.update(["r7"], vectors[-1:], [{"word": "another"}], ["another"])
    before = plain(await single.get())
    assert [needle for needle in needles if not found_in(single.directory, needle)] == []

    await compacted(single, erase=True)

    assert [needle for needle in needles if found_in(single.directory, needle)] == []
    assert found_in(single.directory, replaced) == []
    assert found_in(single.directory, vectors[7].tobytes()) == []
    assert found_in(single.directory, vectors[200].tobytes())
    assert since(single) is None
    assert plain(await single.get()) == before
    assert answer_of(await single.search(vectors[200], 1)).ids == [["r200"]]
    assert answer_of(await single.search(vectors[-1], 1)).ids == [["r7"]]
    if has_graph:
        graph = single.open.newest.graph
        assert graph is not None
        assert graph.vector_count >= count - len(gone) - 1
        keys, _ = graph.search(vectors[100:101], graph.vector_count, 1)
        assert not set(keys.ravel().tolist()) & set(range(101, 131))


async def test_disk_of_deleted_records_comes_back(worker: Worker, vectors: Vectors) -> None:
    single = await filled(worker, 4000, vectors)
    await single.delete(names(range(3900)))
    before = (single.directory / "records.mdb").stat().st_size

    told = await compacted(single, erase=True)

    after = (single.directory / "records.mdb").stat().st_size
    assert after < before / 5
    assert told.after_bytes == after
    assert list(plain(await single.get())) == names(range(3900, 4000))


async def test_a_shard_with_much_free_room_is_compacted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_LOOK_EVERY_S", 0.1)
    # One that came while the records were being added must not put the next one off.
    monkeypatch.setattr(compacting, "_PAUSE_S", 0.1)
    monkeypatch.setattr(compacting, "LEAST_FREE_BYTES", 1024 * 1024)
    # Nothing is kept for followers here, so that what is deleted is free at once.
    monkeypatch.setattr(Log.__init__, "__defaults__", (LogBounds(bytes=0),))
    before = metrics.COMPACTIONS.labels("room")._value.get()
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    for i in range(40):
        await single.add([f"x{i}"], [[i]], None, ["y" * 100_000])
    size = (single.directory / "records.mdb").stat().st_size

    await single.delete([f"x{i}" for i in range(38)])

    await until(lambda: (single.directory / "records.mdb").stat().st_size < size / 4)
    # Or two, if one came while the records were being added.
    await until(lambda: metrics.COMPACTIONS.labels("room")._value.get() > before)
    assert list(plain(await single.get())) == ["x38", "x39"]
    await worker.close()


async def test_no_key_of_a_deleted_record_stays_in_a_tree(worker: Worker) -> None:
    single = await SingleShard.create(worker)
    ids = [f"identity-of-{i:05}-{'i' * 60}" for i in range(3000)]
    await single.add(ids, np.ones((3000, 2)), [{"word": f"word-{i}"} for i in range(3000)])
    await single.delete(ids[::2])

    await compacted(single, erase=True)

    content = (single.directory / "records.mdb").read_bytes()
    assert [name for name in ids[::2] if name.encode() in content] == []
    assert [i for i in range(0, 3000, 2) if string_term(f"word-{i}") in content] == []
    assert list(plain(await single.get())) == ids[1::2]


async def test_what_was_deleted_goes_by_itself_after_a_time(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(compacting, "_PAUSE_S", 0.3)
    worker = await started(tmp_path, settings=WorkerSettings(erase_after_s=1))
    single = await filled(worker, 50, vectors)
    assert found_in(single.directory, b"document-of-3-")
    await single.delete(["r3"])

    await until(lambda: not found_in(single.directory, b"document-of-3-"))

    assert found_in(single.directory, vectors[3].tobytes()) == []
    assert await single.count() == 49
    await worker.close()


async def test_what_was_deleted_goes_from_shards_that_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "_LOOK_EVERY_S", 0.3)
    monkeypatch.setattr(compacting, "_PAUSE_S", 0.3)
    worker = await started(tmp_path, settings=WorkerSettings(erase_after_s=1, max_open_shards=1))
    shards = [await SingleShard.create(worker) for _ in range(5)]
    for shard in shards:
        await shard.add(["gone", "stays"], [[1], [2]], None, ["needle-in-file", "stays"])
        await shard.delete(["gone"])
    directories = [shard.directory for shard in shards]

    await until(lambda: not any(found_in(d, b"needle-in-file") for d in directories))

    for shard in shards:
        assert list(plain(await shard.get())) == ["stays"]
    await worker.close()


async def test_the_time_goes_on_while_the_worker_is_down(tmp_path: Path, vectors: Vectors) -> None:
    worker = await started(tmp_path)
    single = await filled(worker, 50, vectors)
    assert since(single) is None
    await single.delete(["r3"])
    marked = since(single)
    await single.delete(["r4"])
    await worker.close()

    worker = await started(tmp_path)
    single = single.on(worker)
    await single.count()

    assert marked is not None
    assert since(single) == marked
    await worker.close()


async def test_what_is_removed_later_keeps_the_mark(worker: Worker, vectors: Vectors) -> None:
    single = await filled(worker, 50, vectors)
    await single.delete(["r3"])
    await indexed(single)
    await asyncio.sleep(0.01)
    between = time.time_ns() // 1_000_000
    await asyncio.sleep(0.01)
    await single.delete(["r4"])
    await indexed(single)

    def erase() -> None:
        work = compaction.Compaction(
            single.open, erase_before_ms=between, graph_clean_since_ms=None
        )
        shard = single.open
        work.run(lambda inner: worker.held.reopen(holding_of(single), shard, inner))

    await asyncio.to_thread(erase)

    marked = since(single)
    assert marked is not None
    assert marked > between


async def test_writers_and_readers_go_on_during_compactions(
    tmp_path: Path, vectors: Vectors
) -> None:
    worker = await started(tmp_path)
    single = await filled(worker, 2500, vectors)
    await graph_of(single, 2000)
    stop = asyncio.Event()
    acknowledged: dict[str, float] = {}
    reads = 0

    async def write(writer: int) -> None:
        turn = 0
        while not stop.is_set():
            name = f"w{writer}-{turn % 40}"
            if turn % 7 == 6:
                await single.delete([name])
                acknowledged.pop(name, None)
            else:
                await single.upsert(
                    [name], vectors[turn : turn + 1], [{"turn": turn}], write_id=uuid.uuid4().bytes
                )
                acknowledged[name] = turn
            turn += 1

    async def read() -> None:
        nonlocal reads
        while not stop.is_set():
            assert answer_of(await single.search(vectors[11], 1)).ids[0]
            assert set(names(range(50))) <= set(plain(await single.get(ids=names(range(50)))))
            reads += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(write(i)) for i in range(3)] + [asyncio.create_task(read())]
    for _ in range(6):
        await asyncio.sleep(0.1)
        await asyncio.to_thread(worker.compacting.compact, holding_of(single), erase=False)
    await until(lambda: reads > 10)
    stop.set()
    await asyncio.gather(*tasks)

    expected = dict(acknowledged)
    for _ in range(2):
        found = {
            name: record["metadata"]["turn"]
            for name, record in plain(await single.get()).items()
            if name.startswith("w")
        }
        assert found == expected
        assert await single.count(where={"n": {"$gte": 0}}) == 2500
        await worker.close()
        worker = await started(tmp_path)
        single = single.on(worker)
    await worker.close()


async def test_a_copy_that_differs_is_thrown_away(
    worker: Worker, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = await filled(worker, 50, vectors)
    copy = Environment.copy_compacted

    def without_a_record(self: Environment, path: Path, txn: Any) -> None:
        copy(self, path, txn)
        damaged = Environment(path, tuple(self.databases), create=False)
        key = (7).to_bytes(4, "big")
        damaged.write(lambda txn: txn.delete(key, db=damaged.databases["documents"]))
        damaged.close()

    monkeypatch.setattr(Environment, "copy_compacted", without_a_record)

    with pytest.raises(CompactionError, match="differs"):
        await compacted(single, erase=False)

    assert not copy_path(single.directory).exists()
    assert len(plain(await single.get())) == 50
    await single.add(["later"], vectors[60:61])
    assert await single.count() == 51


async def test_what_a_crash_left_of_a_copy_is_removed(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(["a"], [[1.0]])
    directory = single.directory
    await worker.close()
    copy_path(directory).write_bytes(b"half a copy")

    worker = await started(tmp_path)

    assert list(plain(await single.on(worker).get())) == ["a"]
    assert not copy_path(directory).exists()
    await worker.close()
