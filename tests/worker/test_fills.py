"""New shards are filled from stored copies: all of it, in order, verified, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import DataLossError, FailedPreconditionError, InvalidArgumentError
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.server.buckets import buckets_of
from shoal.server.objects import open_store
from shoal.v1.collection_pb2 import Quantization, Space
from shoal_worker.worker import Worker
from tests.server import s3
from tests.worker.cuts import snapshot
from tests.worker.fills import create, fill
from tests.worker.single import SingleShard, answer_of, plain, started

HALVES = ((0, 2047), (2048, 4095))
THIRDS = ((0, 999), (1000, 2999), (3000, 4095))


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    one = await started(tmp_path / "worker")
    yield one
    await one.close()


def vectors(count: int) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(3).normal(size=(count, 4)).astype(np.float32)
    return made


async def write(shards: list[SingleShard], runs: Any, count: int = 600) -> None:
    """Write records as a gateway would: each to the owner of its bucket, ordinals by batch."""
    ids = [f"r{i}" for i in range(count)]
    buckets, given = buckets_of(ids), vectors(count)
    clock = shards[0].worker.clock
    for begin in range(0, count, 100):
        ordinal = clock.reserve(100)
        for shard, (first, last) in zip(shards, runs, strict=True):
            own = [i for i in range(begin, begin + 100) if first <= buckets[i] <= last]
            request = shard.put_request(
                1,  # type: ignore[arg-type]
                [ids[i] for i in own],
                given[own],
                [{"n": i, "even": i % 2 == 0} if i % 7 else None for i in own],
                [f"text {i}" if i % 3 else None for i in own],
                [f"uri {i}" if i % 5 else None for i in own],
                first_ordinal=ordinal,
            )
            request.put.positions.extend(i - begin for i in own)
            await shard.send(request)


async def contents(shards: list[SingleShard]) -> tuple[list[tuple[int, str]], dict[str, Any]]:
    """All records of a collection: their order, and what they hold."""
    order: list[tuple[int, str]] = []
    held: dict[str, Any] = {}
    for shard in shards:
        answer = await shard.get()
        ordinals = np.frombuffer(answer.ordinals, "<u8").tolist()
        own = list(zip(ordinals, answer.records.ids, strict=True))
        assert own == sorted(own)
        order += own
        held |= plain(answer)
    return sorted(order), held


@pytest.mark.parametrize(
    ("before", "after"), [(HALVES, THIRDS), (THIRDS, ((0, 4095),)), (((0, 4095),), HALVES)]
)
async def test_any_number_of_shards_is_filled_from_any_other(
    worker: Worker, tmp_path: Path, before: Any, after: Any
) -> None:
    source = await create(worker, before)
    await write(source, before)
    await source[0].delete(where={"n": {"$lt": 50}})
    stored = await snapshot(source, tmp_path / "store")

    target = await create(worker, after)
    answers = [await fill(shard, tmp_path / "store", stored) for shard in target]

    assert await contents(target) == await contents(source)
    assert sum(a.filled_count for a in answers) == sum(s.record_count for s in stored)
    for shard, (first, last) in zip(target, after, strict=True):
        owned = buckets_of((await shard.get()).records.ids)
        assert ((owned >= first) & (owned <= last)).all()


async def test_a_filled_shard_searches_filters_and_takes_writes(
    worker: Worker, tmp_path: Path
) -> None:
    source = await create(worker)
    await write(source, ((0, 4095),))
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(
        worker, space=Space.SPACE_COSINE, quantization=Quantization.QUANTIZATION_I8
    )
    await fill(target, tmp_path / "store", stored)

    given = vectors(600)
    cosines = given @ given[5] / np.linalg.norm(given, axis=1) / np.linalg.norm(given[5])
    nearest = np.argsort(1 - cosines)[:5]
    found = answer_of(await target.search(given[5], 5))
    assert found.ids == [[f"r{i}" for i in nearest]]
    assert await target.count(where={"even": True}) == await source[0].count(where={"even": True})
    await target.upsert(["r3", "new"], vectors(2))
    await target.delete(["r4"])
    assert list((await target.get()).records.ids)[-1] == "new"
    assert await target.count() == 600


async def test_a_filled_shard_is_as_it_was_after_a_restart(tmp_path: Path) -> None:
    worker = await started(tmp_path / "worker")
    source = await create(worker)
    await write(source, ((0, 4095),))
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(worker)
    first = await fill(target, tmp_path / "store", stored)
    await worker.close()

    worker = await started(tmp_path / "worker")
    again = await fill(target.on(worker), tmp_path / "store", stored)

    assert (again.seen_count, again.filled_count) == (first.seen_count, first.filled_count)
    assert await contents([target.on(worker)]) == await contents([source[0].on(worker)])
    await worker.close()


async def test_filters_choose_what_is_taken(worker: Worker, tmp_path: Path) -> None:
    source = await create(worker, HALVES)
    await write(source, HALVES)
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(worker)

    answer = await fill(target, tmp_path / "store", stored, {"even": True}, {"$contains": "text 1"})

    wanted = {
        f"r{i}" for i in range(600) if i % 2 == 0 and i % 7 and i % 3 and str(i).startswith("1")
    }
    assert set((await target.get()).records.ids) == wanted
    assert (answer.seen_count, answer.filled_count) == (600, len(wanted))


@pytest.mark.parametrize("name", s3.SERVERS)
async def test_copies_go_through_an_object_store(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with s3.running(name) as server:
        url = s3.let_in(server, monkeypatch) + "/shoal"
        source = await create(worker, HALVES)
        await write(source, HALVES)
        stored = await snapshot(source, url)
        target = await create(worker, THIRDS)
        for shard in target:
            await fill(shard, url, stored)
        assert await contents(target) == await contents(source)
        assert await snapshot(source, url, known=stored) == stored

        open_store(url).put_bytes(stored[0].records.key, b"something else")
        (damaged,) = await create(worker)
        with pytest.raises(DataLossError, match=stored[0].records.key):
            await fill(damaged, url, stored)
    assert await damaged.count() == 0
    assert not list((tmp_path / "worker" / "fills").glob("*"))


async def test_an_empty_source_fills_an_empty_shard(worker: Worker, tmp_path: Path) -> None:
    source = await create(worker)
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(worker)

    assert (await fill(target, tmp_path / "store", stored)).filled_count == 0
    await target.add(["r"], vectors(1))
    assert await target.count() == 1


async def test_a_shard_that_holds_something_is_not_filled(worker: Worker, tmp_path: Path) -> None:
    source = await create(worker)
    await write(source, ((0, 4095),))
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(worker)
    await target.add(["mine"], vectors(1))

    with pytest.raises(FailedPreconditionError, match="not empty"):
        await fill(target, tmp_path / "store", stored)
    assert list((await target.get()).records.ids) == ["mine"]


def spoil(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "flipped":
        content[len(content) // 2] ^= 4
    else:
        del content[-100:]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "cut short", "missing"])
async def test_what_is_damaged_is_refused_by_name_and_nothing_is_filled(
    worker: Worker, tmp_path: Path, how: str
) -> None:
    source = await create(worker, HALVES)
    await write(source, HALVES)
    stored = await snapshot(source, tmp_path / "store")
    (target,) = await create(worker)
    path = tmp_path / "store" / stored[1].records.key
    whole = path.read_bytes()
    spoil(path, how)

    with pytest.raises(DataLossError, match=stored[1].records.key):
        await fill(target, tmp_path / "store", stored)
    assert await target.count() == 0
    assert not list((tmp_path / "worker" / "fills").glob("*"))

    # Brought back, it can be filled from.
    path.write_bytes(whole)
    await fill(target, tmp_path / "store", stored)
    assert await target.count() == 600


async def test_a_newer_format_is_refused(worker: Worker, tmp_path: Path) -> None:
    source = await create(worker)
    stored = await snapshot(source, tmp_path / "store")
    newer = StoredShard()
    newer.CopyFrom(stored[0])
    newer.format = 2
    (target,) = await create(worker)

    with pytest.raises(FailedPreconditionError, match="has format 2, this release reads 1"):
        await fill(target, tmp_path / "store", [newer])


async def test_copies_of_another_dimension_are_refused(worker: Worker, tmp_path: Path) -> None:
    first, second = (await create(worker))[0], (await create(worker))[0]
    await first.add(["a"], [[1.0, 2]])
    await second.add(["b"], [[1.0, 2, 3]])
    stored = [*await snapshot([first], tmp_path / "store")]
    stored += await snapshot([second], tmp_path / "store")
    (target,) = await create(worker)

    with pytest.raises(InvalidArgumentError, match=r"dimension \[2, 3\]"):
        await fill(target, tmp_path / "store", stored)
