"""Shards are held, cut at one point in time, copied and stored, while they serve."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import DataLossError, FailedPreconditionError, NotFoundError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.internal.v1.storage_pb2 import LogEntry
from shoal_worker.copies import CopyReader
from shoal_worker.worker import Worker
from tests.worker.cuts import cut, hold, release, snapshot, store
from tests.worker.single import SingleShard, started


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    one = await started(tmp_path / "worker")
    yield one
    await one.close()


def vectors(count: int, seed: int = 0) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return made


async def filled(worker: Worker, count: int = 10) -> SingleShard:
    shard = await SingleShard.create(worker)
    await shard.add([f"r{i}" for i in range(count)], vectors(count))
    return shard


def entries(url: Path, stored: StoredShard) -> list[LogEntry]:
    with CopyReader(url / stored.records.key) as reader:
        return list(reader.entries())


def ids_in(url: Path, stored: StoredShard) -> list[str]:
    return [i for entry in entries(url, stored) for i in entry.puts.ids]


def part(shard: SingleShard, batch: bytes, of: list[SingleShard], ids: list[str]) -> object:
    """A shard's part of a batch over several shards, sent and not waited for."""
    request = shard.put_request(pb.WRITE_KIND_UPSERT, ids, vectors(len(ids)))
    request.batch_id = batch
    request.batch_shard_ids.extend(s.reference.shard_id for s in of)
    return asyncio.ensure_future(shard.send(request))


# Holding.


async def test_writes_wait_while_a_shard_is_held_and_none_fails(worker: Worker) -> None:
    shard = await filled(worker)
    cut_id, _ = await hold([shard])

    writes = [asyncio.ensure_future(shard.add([f"w{i}"], vectors(1))) for i in range(20)]
    await asyncio.sleep(0.1)
    assert not any(write.done() for write in writes)
    assert await shard.count() == 10

    await release(worker, cut_id)
    assert [answer.added for answer in await asyncio.gather(*writes)] == [1] * 20


async def test_a_hold_lets_go_by_itself_and_says_so(worker: Worker) -> None:
    shard = await filled(worker)
    begin = time.monotonic()
    cut_id, _ = await hold([shard], hold_ms=100)

    await shard.add(["late"], vectors(1))

    assert time.monotonic() - begin > 0.09
    with pytest.raises(FailedPreconditionError, match="not held any more"):
        await cut([shard], cut_id)


async def test_a_shard_is_held_by_one_attempt_at_a_time(worker: Worker) -> None:
    first, second = await filled(worker), await filled(worker)
    cut_id, _ = await hold([first])

    with pytest.raises(FailedPreconditionError, match="is held for cut"):
        await hold([second, first])
    # What the refused attempt held is let go.
    await asyncio.wait_for(second.add(["w"], vectors(1)), 60)

    await release(worker, cut_id)
    await hold([second, first])


async def test_a_closed_shard_ends_its_hold_and_answers_its_writers(worker: Worker) -> None:
    shard = await filled(worker)
    cut_id, _ = await hold([shard])
    write = asyncio.ensure_future(shard.add(["w"], vectors(1)))
    await asyncio.sleep(0.05)

    await asyncio.to_thread(shard.open.close)

    assert (await asyncio.wait_for(write, 60)).added == 1
    with pytest.raises(FailedPreconditionError, match="not held any more"):
        await cut([shard], cut_id)


# Cutting.


async def test_a_cut_has_what_was_acknowledged_before_and_nothing_after(
    worker: Worker, tmp_path: Path
) -> None:
    shard = await filled(worker)
    cut_id, _ = await hold([shard])
    waiting = asyncio.ensure_future(shard.add(["waiting"], vectors(1)))
    await asyncio.sleep(0.05)
    (state,) = (await cut([shard], cut_id)).shards
    await shard.upsert(["after"], vectors(1))
    await waiting

    (stored,) = (await store(worker, cut_id, tmp_path / "store")).shards

    assert (state.record_count, state.sequence) == (10, 1)
    assert ids_in(tmp_path / "store", stored) == [f"r{i}" for i in range(10)]
    assert await shard.count() == 12


async def test_a_batch_that_has_ended_in_one_shard_is_let_into_the_other(
    worker: Worker, tmp_path: Path
) -> None:
    shards = [await filled(worker), await filled(worker)]
    batch = os.urandom(16)
    await part(shards[0], batch, shards, ["both"])  # type: ignore[misc]
    cut_id, held = await hold(shards)
    assert list(held.shards[0].ended_batch_ids) == [batch]
    assert set(held.shards[0].batch_shards[0].shard_ids) == {s.reference.shard_id for s in shards}
    assert not held.shards[1].ended_batch_ids

    others = part(shards[1], os.urandom(16), shards, ["other"])
    late = part(shards[1], batch, shards, ["both"])
    cutting = asyncio.ensure_future(cut(shards, cut_id, {shards[1].reference.shard_id: [batch]}))
    await asyncio.gather(cutting, late, others)  # type: ignore[call-overload]
    stored = (await store(worker, cut_id, tmp_path / "store")).shards

    for one in stored:
        found = ids_in(tmp_path / "store", one)
        assert "both" in found
        assert "other" not in found


async def test_an_admitted_batch_that_does_not_come_voids_the_attempt(worker: Worker) -> None:
    shards = [await filled(worker), await filled(worker)]
    cut_id, _ = await hold(shards, hold_ms=1500)

    with pytest.raises(FailedPreconditionError, match="have run out"):
        await cut(shards, cut_id, {shards[1].reference.shard_id: [os.urandom(16)]})

    for shard in shards:
        await asyncio.wait_for(shard.add(["on"], vectors(1)), 60)
        assert not shard.open.is_being_cut


async def test_a_batch_is_reported_while_its_caller_waits_and_not_longer(worker: Worker) -> None:
    from shoal.server.rpc import context_for

    shards = [await filled(worker), await filled(worker)]
    ids = []
    for name, waits_s in (("patient", 600.0), ("hasty", 2.0)):
        request = shards[0].put_request(pb.WRITE_KIND_ADD, [name], vectors(1))
        request.batch_id = os.urandom(16)
        request.batch_shard_ids.extend(s.reference.shard_id for s in shards)
        await worker.data_service.write_shard(request, context_for(waits_s))
        ids.append(request.batch_id)

    await asyncio.sleep(2.1)
    _, held = await hold(shards)
    assert list(held.shards[0].ended_batch_ids) == ids[:1]


# Copies.


async def test_a_copy_is_the_shard_in_order_with_all_its_values(
    worker: Worker, tmp_path: Path
) -> None:
    shard = await SingleShard.create(worker)
    given = vectors(700)
    await shard.add(
        [f"r{i}" for i in range(700)],
        given,
        [{"i": i} if i % 2 else None for i in range(700)],
        [f"text {i}" if i % 3 else None for i in range(700)],
        [f"uri {i}" if i % 5 == 0 else None for i in range(700)],
    )
    await shard.update(["r5"], [[9.0, 9, 9, 9]])
    await shard.delete(["r6"])

    (stored,) = await snapshot([shard], tmp_path / "store")

    found = entries(tmp_path / "store", stored)
    assert len(found) > 1
    expected = await shard.get()
    ids = [i for e in found for i in e.puts.ids]
    assert ids == list(expected.records.ids)
    ordinals = [o for e in found for o in e.puts.ordinals]
    assert ordinals == np.frombuffer(expected.ordinals, "<u8").tolist()
    assert b"".join(e.puts.vectors for e in found) == expected.records.vectors.values
    documents = [d for e in found for d in e.puts.documents]
    assert documents == [f"text {i}" for i in range(700) if i % 3 and i != 6]
    assert sum(len(e.puts.metadatas) for e in found) == 350
    assert [u for e in found for u in e.puts.uris] == [f"uri {i}" for i in range(0, 700, 5)]
    content = (tmp_path / "store" / stored.records.key).read_bytes()
    assert hashlib.sha256(content).digest() == stored.records.sha256
    assert (len(content), stored.record_count) == (stored.records.size_bytes, 699)


async def test_a_copy_holds_nothing_that_was_deleted_or_replaced(
    worker: Worker, tmp_path: Path
) -> None:
    shard = await SingleShard.create(worker)
    secrets = [f"secret number {i}" for i in range(50)]
    await shard.add(
        [f"r{i}" for i in range(50)], vectors(50), [{"s": s} for s in secrets], secrets, secrets
    )
    await shard.upsert(["r1"], vectors(1), [{"s": "new"}], ["new"], ["new"])
    await shard.delete([f"r{i}" for i in range(2, 50)])

    (stored,) = await snapshot([shard], tmp_path / "store")

    content = (tmp_path / "store" / stored.records.key).read_bytes()
    assert content.count(b"secret number 0") == 3
    assert content.count(b"secret number") == 3


async def test_what_has_not_changed_is_not_stored_again(worker: Worker, tmp_path: Path) -> None:
    shards = [await filled(worker), await filled(worker)]
    first = await snapshot(shards, tmp_path / "store")
    await shards[1].add(["new"], vectors(1))

    second = await snapshot(shards, tmp_path / "store", known=first)

    assert second[0] == first[0]
    assert second[1].records.key != first[1].records.key
    assert len(list((tmp_path / "store").rglob("records-*"))) == 3


async def test_a_known_object_that_is_gone_is_stored_again(worker: Worker, tmp_path: Path) -> None:
    shard = await filled(worker)
    first = await snapshot([shard], tmp_path / "store")
    (tmp_path / "store" / first[0].records.key).unlink()

    second = await snapshot([shard], tmp_path / "store", known=first)

    assert second == first
    assert (tmp_path / "store" / first[0].records.key).is_file()


async def test_a_released_cut_leaves_nothing(worker: Worker, tmp_path: Path) -> None:
    shard = await filled(worker)
    cut_id, _ = await hold([shard])
    await cut([shard], cut_id)
    await release(worker, cut_id)
    await release(worker, cut_id)

    worker.cutting.close()
    assert not any((tmp_path / "worker" / "cuts").glob("*"))
    assert not shard.open.is_being_cut
    with pytest.raises(NotFoundError, match="has no cut"):
        await store(worker, cut_id, tmp_path / "store")


async def test_copies_of_an_earlier_process_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "worker" / "cuts" / "x"
    (await started(tmp_path / "worker")).directory.close()
    left.mkdir(parents=True)
    (left / "y").write_bytes(b"half")

    worker = await started(tmp_path / "worker")
    await worker.close()

    assert not left.exists()


async def test_a_damaged_record_is_not_copied(worker: Worker, tmp_path: Path) -> None:
    shard = await filled(worker)
    environment, records = shard.open.environment, shard.open.store.records

    def damage(txn: object) -> None:
        key = (3).to_bytes(4, "big")
        value = bytearray(txn.get(key, db=records))  # type: ignore[attr-defined]
        value[12] ^= 1
        txn.put(key, bytes(value), db=records)  # type: ignore[attr-defined]

    environment.write(damage)

    with pytest.raises(DataLossError, match="row 3"):
        await snapshot([shard], tmp_path / "store")
