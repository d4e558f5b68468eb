"""Writes over several shards carry the name of the attempt, by which a cut knows their parts."""

from __future__ import annotations

from typing import Any

from shoal.internal.v1 import worker_service_pb2
from shoal.v1 import record_service_pb2
from shoal.wire.filters import where_from_dict
from tests.gateway.cluster import Cluster, add, books


def written(cluster: Cluster) -> list[worker_service_pb2.WriteShardRequest]:
    """What was asked of shards, and forget it."""
    requests: list[Any] = []
    for worker in cluster.workers:
        of_worker = worker.requests
        requests += [r for r in of_worker if isinstance(r, worker_service_pb2.WriteShardRequest)]
        of_worker.clear()
    return requests


async def test_all_parts_of_a_batch_name_it_and_its_shards(cluster: Cluster) -> None:
    await cluster.create(shards=3)
    names = set()
    for _ in range(2):
        await cluster.records.Upsert(upsert([f"r{i}" for i in range(50)]))
        parts = written(cluster)
        assert len(parts) == 3
        shards = {part.shard.shard_id for part in parts}
        assert all(set(part.batch_shard_ids) == shards for part in parts)
        (name,) = {part.batch_id for part in parts}
        assert len(name) == 16
        names.add(name)
    # Never used again.
    assert len(names) == 2


async def test_what_goes_to_one_shard_has_no_name(cluster: Cluster) -> None:
    await cluster.create(shards=3)

    await cluster.records.Add(add(["only"]))

    (part,) = written(cluster)
    assert (part.batch_id, list(part.batch_shard_ids)) == (b"", [])


async def test_a_deletion_of_the_first_names_the_shards_that_have_some(cluster: Cluster) -> None:
    await cluster.create(shards=3)
    ids = [f"r{i}" for i in range(50)]
    await cluster.records.Add(add(ids, metadatas=[{"n": i} for i in range(50)]))
    written(cluster)

    await cluster.records.Delete(
        record_service_pb2.DeleteRequest(
            collection=books(), where=where_from_dict({"n": {"$gte": 0}}), limit=20
        )
    )

    parts = written(cluster)
    assert len(parts) > 1
    assert all(set(part.batch_shard_ids) == {p.shard.shard_id for p in parts} for part in parts)
    assert len({part.batch_id for part in parts}) == 1


def upsert(ids: list[str]) -> record_service_pb2.UpsertRequest:
    request = add(ids)
    return record_service_pb2.UpsertRequest(collection=request.collection, records=request.records)
