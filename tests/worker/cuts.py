"""Cutting a worker's shards as a coordinator does, for tests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.server.rpc import context_for
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard

TIMEOUT_S = 60.0


async def hold(
    shards: Sequence[SingleShard], *, cut_id: str = "", hold_ms: int = 10_000
) -> tuple[str, pb.HoldShardsResponse]:
    """Hold shards of one worker."""
    worker = shards[0].worker
    cut_id = cut_id or str(uuid.uuid4())
    request = pb.HoldShardsRequest(
        cluster_id=str(worker.cluster_id),
        worker_id=str(worker.worker_id),
        cut_id=cut_id,
        shards=[shard.reference for shard in shards],
        hold_milliseconds=hold_ms,
    )
    answer = await worker.control_service.hold_shards(request, context_for(TIMEOUT_S))
    return cut_id, answer


async def cut(
    shards: Sequence[SingleShard],
    cut_id: str,
    admitted: Mapping[str, Sequence[bytes]] | None = None,
) -> pb.CutShardsResponse:
    """Cut shards that are held."""
    worker = shards[0].worker
    request = pb.CutShardsRequest(
        cluster_id=str(worker.cluster_id),
        worker_id=str(worker.worker_id),
        cut_id=cut_id,
        shards=[
            pb.ShardCut(
                shard_id=shard.reference.shard_id,
                admitted_batch_ids=(admitted or {}).get(shard.reference.shard_id, ()),
            )
            for shard in shards
        ],
    )
    return await worker.control_service.cut_shards(request, context_for(TIMEOUT_S))


async def release(worker: Worker, cut_id: str) -> None:
    """Give up an attempt or a cut."""
    request = pb.ReleaseCutRequest(
        cluster_id=str(worker.cluster_id), worker_id=str(worker.worker_id), cut_id=cut_id
    )
    await worker.control_service.release_cut(request, context_for(TIMEOUT_S))


async def store(
    worker: Worker, cut_id: str, url: Path | str, known: Sequence[StoredShard] = ()
) -> pb.StoreCutResponse:
    """Store a cut, to its end."""
    request = pb.StoreCutRequest(
        cluster_id=str(worker.cluster_id),
        worker_id=str(worker.worker_id),
        cut_id=cut_id,
        store=str(url),
        known=known,
    )
    while True:
        answer = await worker.control_service.store_cut(request, context_for(TIMEOUT_S))
        if answer.done:
            return answer


async def snapshot(
    shards: Sequence[SingleShard], url: Path | str, known: Sequence[StoredShard] = ()
) -> list[StoredShard]:
    """Cut and store shards, and release the cut."""
    cut_id, _ = await hold(shards)
    await cut(shards, cut_id)
    answer = await store(shards[0].worker, cut_id, url, known)
    await release(shards[0].worker, cut_id)
    return list(answer.shards)
