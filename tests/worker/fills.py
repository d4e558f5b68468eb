"""Filling a worker's shards as a coordinator does, for tests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.server.rpc import context_for
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard

TIMEOUT_S = 60.0


async def create(
    worker: Worker, runs: Sequence[tuple[int, int]] = ((0, 4095),), **hnsw: Any
) -> list[SingleShard]:
    """Create the shards of a collection, each with one run of buckets."""
    collection_id = str(uuid.uuid4())
    entry = catalog_pb2.CollectionEntry(table_version=1)
    entry.collection.id = collection_id
    for name, value in hnsw.items():
        setattr(entry.collection.configuration.hnsw, name, value)
    shards = []
    for first, last in runs:
        shard_id = str(uuid.uuid4())
        entry.shards.add(
            shard_id=shard_id,
            worker_id=str(worker.worker_id),
            epoch=1,
            buckets=[catalog_pb2.BucketRun(first=first, last=last)],
        )
        reference = pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
        shards.append(SingleShard(worker, reference))
    for shard in shards:
        request = pb.CreateShardRequest(
            cluster_id=str(worker.cluster_id),
            worker_id=str(worker.worker_id),
            shard_id=shard.reference.shard_id,
            entry=entry,
        )
        await worker.control_service.create_shard(request, context_for(TIMEOUT_S))
    return shards


async def fill(
    shard: SingleShard,
    url: Path | str,
    sources: Sequence[StoredShard],
    where: Mapping[str, Any] | None = None,
    where_document: Mapping[str, Any] | None = None,
) -> pb.FillShardResponse:
    """Fill a shard, to its end."""
    request = pb.FillShardRequest(
        cluster_id=str(shard.worker.cluster_id),
        worker_id=str(shard.worker.worker_id),
        shard=shard.reference,
        store=str(url),
        sources=sources,
    )
    if where is not None:
        request.where.CopyFrom(where_from_dict(where))
    if where_document is not None:
        request.where_document.CopyFrom(where_document_from_dict(where_document))
    while True:
        answer = await shard.worker.control_service.fill_shard(request, context_for(TIMEOUT_S))
        if answer.done:
            return answer
