"""What a gateway does when shards, workers or the coordinator do not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from shoal.errors import (
    CollectionNotFoundError,
    DataLossError,
    DeadlineExceededError,
    OverloadedError,
    PartialWriteError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_pb2, routing_service_pb2
from shoal.v1 import collection_service_pb2, record_service_pb2, value_pb2
from shoal.wire.filters import where_from_dict
from shoal.wire.limits import Limits
from shoal_gateway import fanout
from shoal_gateway.table import CollectionRoute
from tests.gateway.cluster import Cluster, add, books, vector
from tests.gateway.memory_worker import MemoryWorker

IDS = [f"r{n}" for n in range(40)]
WRITE_ID = b"0123456789abcdef"


def get(**options: Any) -> record_service_pb2.GetRequest:
    return record_service_pb2.GetRequest(collection=books(), **options)


def query(**options: Any) -> record_service_pb2.QueryRequest:
    return record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(0, 0, 0, 0), n_results=40, **options
    )


def route(cluster: Cluster) -> CollectionRoute:
    found = cluster.gateway.table.collection_named("default_tenant", "default_database", "books")
    assert found is not None
    return found


def move(cluster: Cluster, shard_id: str, to: MemoryWorker) -> catalog_pb2.CollectionEntry:
    """Move a shard behind the gateway's back; give the entry as the catalog would have it then."""
    entry = catalog_pb2.CollectionEntry()
    entry.CopyFrom(route(cluster).entry)
    for shard in entry.shards:
        if shard.shard_id == shard_id:
            moved = cluster.worker_of(shard_id).shards.pop(shard_id)
            shard.worker_id = to.worker_id
            shard.epoch += 1
            moved.epoch = shard.epoch
            to.shards[shard_id] = moved
    entry.table_version += 1_000_000_000
    return entry


@pytest.fixture
async def filled(cluster: Cluster) -> Cluster:
    """Four shards on two workers, and forty records."""
    await cluster.create(shards=4)
    await cluster.records.Add(add(IDS))
    return cluster


def catalog_says(cluster: Cluster, entry: catalog_pb2.CollectionEntry) -> None:
    cluster.coordinator.table.state.collections[entry.collection.id] = entry


async def test_a_stale_route_is_followed_to_the_new_holder(filled: Cluster) -> None:
    shard_id = route(filled).shards[0].shard_id
    target = next(w for w in filled.workers if shard_id not in w.shards)
    catalog_says(filled, move(filled, shard_id, target))

    read = await filled.records.Get(get())
    written = await filled.records.Add(add([f"new{n}" for n in range(20)]))

    assert list(read.records.ids) == IDS
    assert written.added == 20


async def test_a_shard_that_its_holder_disowns_is_lost(filled: Cluster) -> None:
    shard = route(filled).shards[0]
    worker = filled.worker_of(shard.shard_id)
    del worker.shards[shard.shard_id]

    with pytest.raises(DataLossError) as reading:
        await filled.records.Get(get())
    with pytest.raises(PartialWriteError) as writing:
        await filled.records.Add(add([f"new{n}" for n in range(20)]))

    for word in (shard.shard_id, "books", worker.worker_id):
        assert word in reading.value.message
    refused = [s for s in writing.value.shards if s.outcome == "refused"]
    assert [(s.shard_id, s.reason) for s in refused] == [(shard.shard_id, "DATA_LOSS")]


async def test_a_worker_whose_directory_was_replaced_is_data_loss(filled: Cluster) -> None:
    worker = filled.workers[0]
    table = filled.gateway.table
    table.apply(
        [
            routing_service_pb2.WatchTableResponse(
                version=table.version,
                cluster_id=table.cluster_id,
                workers=[
                    catalog_pb2.WorkerEntry(
                        worker_id=worker.worker_id, address=worker.address, replaced_by="another"
                    )
                ],
            )
        ]
    )

    with pytest.raises(DataLossError, match="its data directory is gone or was replaced"):
        await filled.records.Count(record_service_pb2.CountRequest(collection=books()))


async def test_a_worker_that_cannot_be_reached_is_named(
    filled: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "PATIENCE_S", 0.3)
    worker = filled.workers[0]
    worker.down = True

    with pytest.raises(UnavailableError) as failure:
        await filled.records.Query(query(), timeout=60)

    assert worker.worker_id in failure.value.message
    assert "'books'" in failure.value.message
    assert failure.value.metadata["shard_id"] in failure.value.message
    assert failure.value.metadata["shard_id"] in worker.shards


async def test_a_worker_that_comes_back_in_time_is_waited_for(filled: Cluster) -> None:
    worker = filled.workers[0]
    worker.down = True
    asyncio.get_running_loop().call_later(0.3, setattr, worker, "down", False)

    answer = await filled.records.Get(get(), timeout=60)

    assert list(answer.records.ids) == IDS


@pytest.mark.parametrize("trouble", ["down", "hang"])
async def test_what_was_not_searched_is_listed(
    filled: Cluster, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    # Much for the workers, and far more for the answer, whatever the machine does meanwhile.
    monkeypatch.setattr(fanout, "PARTIAL_SHARE", 0.03)
    worker = filled.workers[0]
    worker.down, worker.hang_s = trouble == "down", 600.0 if trouble == "hang" else 0.0

    found = await filled.records.Query(query(allow_partial=True), timeout=60)
    got = await filled.records.Get(get(allow_partial=True), timeout=60)
    placed = await filled.records.Get(get(allow_partial=True, offset=3), timeout=60)

    rest = [r for r in IDS if r in _held_by(filled.workers[1])]
    assert sorted(found.records.ids) == sorted(rest)
    assert list(got.records.ids) == rest
    assert list(placed.records.ids) == rest[3:]
    for answer in (found, got, placed):
        assert {s.shard_id for s in answer.unsearched_shards} == set(worker.shards)
        reason = "UNAVAILABLE" if trouble == "down" else "DEADLINE_EXCEEDED"
        assert {s.reason for s in answer.unsearched_shards} == {reason}


def _held_by(worker: MemoryWorker) -> set[str]:
    return {record_id for shard in worker.shards.values() for record_id in shard.records}


async def test_a_hanging_worker_ends_in_a_deadline_that_names_it(
    filled: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the gateway has time to say it, also where all stands still for a moment.
    monkeypatch.setattr(fanout, "within", lambda time_remaining_s: 0.3)
    filled.workers[0].hang_s = 600

    with pytest.raises(DeadlineExceededError) as failure:
        await filled.records.Get(get(), timeout=60)

    assert filled.workers[0].worker_id in failure.value.message


async def test_each_call_downstream_carries_what_is_left(filled: Cluster) -> None:
    left: list[float] = []
    worker = filled.workers[0]
    answer = worker.count_shards

    async def count_shards(request: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        return await answer(request, context)

    worker.count_shards = count_shards  # type: ignore[method-assign,assignment]
    # Stubs bind the methods when they are made.
    await filled.gateway._stubs.keep_only([])
    await filled.records.Count(record_service_pb2.CountRequest(collection=books()), timeout=700)

    assert 400 < left[0] < 700


async def test_a_write_that_some_shards_refuse_lists_each(filled: Cluster) -> None:
    refusing, willing = filled.workers
    refusing.refuse = OverloadedError("the disk is full")
    ids = [f"new{n}" for n in range(30)]

    with pytest.raises(PartialWriteError) as failure:
        await filled.records.Add(add(ids))

    outcomes = {s.shard_id: s for s in failure.value.shards}
    assert {i for i, s in outcomes.items() if s.outcome == "refused"} == set(refusing.shards)
    assert {i for i, s in outcomes.items() if s.outcome == "applied"} == set(willing.shards)
    positions = sorted(p for s in outcomes.values() for p in s.positions)
    assert positions == list(range(30))
    applied = {ids[p] for s in outcomes.values() if s.outcome == "applied" for p in s.positions}
    assert applied == {i for i in _held_by(willing) if i.startswith("new")}
    assert failure.value.written_count == len(applied)


async def test_a_write_that_all_shards_refuse_alike_is_that_error(filled: Cluster) -> None:
    for worker in filled.workers:
        worker.refuse = OverloadedError("the disk is full")

    with pytest.raises(OverloadedError, match="the disk is full"):
        await filled.records.Add(add([f"new{n}" for n in range(30)]))


async def test_a_write_with_a_write_id_is_repeated_and_without_is_not(filled: Cluster) -> None:
    for worker in filled.workers:
        worker.lose_answers = True
    named = add(["named"])
    named.write_id = WRITE_ID

    asyncio.get_running_loop().call_later(0.2, _answer_again, filled)
    answer = await filled.records.Add(named, timeout=60)
    for worker in filled.workers:
        worker.lose_answers = True
        worker.calls.clear()
    with pytest.raises(UnavailableError):
        await filled.records.Add(add(["nameless"]), timeout=60)

    assert answer.added == 1
    assert [c for w in filled.workers for c in w.calls] == ["WriteShardRequest"]


def _answer_again(cluster: Cluster) -> None:
    for worker in cluster.workers:
        worker.lose_answers = False


async def test_a_repeated_batch_is_answered_as_the_first_time(filled: Cluster) -> None:
    request = add([f"new{n}" for n in range(30)])
    request.write_id = WRITE_ID
    filled.workers[0].refuse = OverloadedError("the disk is full")
    with pytest.raises(PartialWriteError):
        await filled.records.Add(request)
    filled.workers[0].refuse = None

    again = await filled.records.Add(request)

    assert (again.added, again.ignored) == (30, 0)


async def test_a_limited_deletion_that_broke_off_deletes_no_more_when_repeated(
    filled: Cluster,
) -> None:
    everything = where_from_dict({"nothing": {"$exists": False}})
    request = record_service_pb2.DeleteRequest(
        collection=books(), where=everything, limit=15, write_id=WRITE_ID
    )
    last = filled.worker_of(route(filled).shards[-1].shard_id)
    last.refuse = OverloadedError("the disk is full")
    with pytest.raises(PartialWriteError):
        await filled.records.Delete(request)
    last.refuse = None

    again = await filled.records.Delete(request)
    left = await filled.records.Get(get())

    assert again.deleted == 15
    assert list(left.records.ids) == IDS[15:]


async def test_serving_goes_on_without_the_coordinator(filled: Cluster) -> None:
    filled.coordinator_is_down = True

    await filled.records.Add(add(["new"]))
    answer = await filled.records.Get(get())
    with pytest.raises(UnavailableError, match="coordinator"):
        await filled.records.Count(record_service_pb2.CountRequest(collection=books("films")))

    assert list(answer.records.ids) == [*IDS, "new"]


async def test_another_gateway_follows_at_once(cluster: Cluster) -> None:
    other = await cluster.add_gateway()
    collection_id = await cluster.create(shards=2)

    assert other.table.collection(collection_id) is not None
    await cluster.collections.DeleteCollection(
        collection_service_pb2.DeleteCollectionRequest(collection=books())
    )
    assert other.table.collection(collection_id) is None
    with pytest.raises(CollectionNotFoundError):
        await cluster.records.Get(get())


async def test_a_name_used_again_is_followed_by_a_gateway_that_lags(filled: Cluster) -> None:
    lagging = await filled.add_gateway()
    for task in lagging._tasks:
        task.cancel()
    await asyncio.gather(*lagging._tasks, return_exceptions=True)
    await filled.collections.DeleteCollection(
        collection_service_pb2.DeleteCollectionRequest(collection=books())
    )
    await filled.create(shards=2)
    await filled.records.Add(add(["new"]))
    filled.gateways.insert(0, lagging)

    got = await filled.records.Get(get())
    written = await filled.records.Add(add(["newer"]))

    assert list(got.records.ids) == ["new"]
    assert written.added == 1


async def test_two_first_vectors_of_different_dimension_cannot_both_win(cluster: Cluster) -> None:
    await cluster.create(shards=4)
    results = await asyncio.gather(
        cluster.records.Add(add(["a", "b", "c"], np.ones((3, 3), np.float32))),
        cluster.records.Add(add(["d", "e", "f"], np.ones((3, 5), np.float32))),
        return_exceptions=True,
    )

    assert sorted(type(r).__name__ for r in results) == ["AddResponse", "DimensionMismatchError"]


async def test_a_page_is_of_one_sequence_although_it_is_read_in_rounds(cluster: Cluster) -> None:
    """All matches lie in one shard, which is written to between the rounds."""
    await cluster.create(shards=4)
    ids = [f"r{n}" for n in range(240)]
    owners = route(cluster).owners_of(ids).tolist()
    await cluster.records.Add(add(ids, metadatas=[{"owner": owner} for owner in owners]))
    before = [i for i, owner in zip(ids, owners, strict=True) if owner == 0]
    after = [i for i in before if i not in (before[0], before[30])]
    shard_id = route(cluster).shards[0].shard_id
    worker = cluster.worker_of(shard_id)
    unchanged = worker.get_from_shards
    rounds = 0

    async def get_from_shards(request: Any, context: Any) -> Any:
        nonlocal rounds
        rounds += 1
        answer = await unchanged(request, context)
        if rounds == 1:
            del worker.shards[shard_id].records[before[0]]
            del worker.shards[shard_id].records[before[30]]
            worker.shards[shard_id].sequence += 1
        return answer

    worker.get_from_shards = get_from_shards  # type: ignore[method-assign,assignment]
    await cluster.gateway._stubs.keep_only([])

    answer = await cluster.records.Get(get(limit=40, where=where_from_dict({"owner": 0})))

    assert rounds > 1
    assert list(answer.records.ids) == after[:40]


async def test_a_large_answer_ends_a_page_early(cluster: Cluster) -> None:
    await cluster.create(shards=4)
    documents = ["x" * 20_000] * 40
    await cluster.records.Add(add(IDS, documents=documents))
    small = await cluster.add_gateway(Limits(max_answer_bytes=400_000))
    cluster.gateways[0], cluster.gateways[1] = small, cluster.gateways[0]

    found: list[str] = []
    token = ""
    pages = 0
    while True:
        page = await cluster.records.Get(
            get(include=[value_pb2.INCLUDE_DOCUMENTS], page_token=token)
        )
        assert page.ByteSize() <= 400_000
        found += page.records.ids
        pages += 1
        token = page.next_page_token
        if not token:
            break

    assert found == IDS
    assert 2 < pages < 8
    with pytest.raises(OverloadedError, match="documents"):
        await cluster.records.Query(query(include=[value_pb2.INCLUDE_DOCUMENTS]))
