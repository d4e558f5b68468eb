"""The worker's service for shards as a whole: decode, call, encode."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from shoal.errors import ShoalError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import CallContext
from shoal_worker.messages import encode_error
from shoal_worker.snapshot_messages import (
    decode_hold,
    encode_cut,
    encode_held,
    waiting_time,
)

if TYPE_CHECKING:
    from shoal_worker.holding import Holding
    from shoal_worker.worker import Worker

__all__ = ["ShardControlService"]


class ShardControlService:
    """``shoal.internal.v1.ShardControlService``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def create_shard(
        self, request: pb.CreateShardRequest, context: CallContext
    ) -> pb.CreateShardResponse:
        """Create an empty shard."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        shard_id = UUID(request.shard_id)
        await self._worker.off_loop(lambda: self._worker.held.create(shard_id, request.entry))
        return pb.CreateShardResponse()

    async def update_shard(
        self, request: pb.UpdateShardRequest, context: CallContext
    ) -> pb.UpdateShardResponse:
        """Store a newer copy of the catalog entry."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        shard_id = UUID(request.shard_id)
        await self._worker.off_loop(lambda: self._worker.held.update(shard_id, request.entry))
        return pb.UpdateShardResponse()

    async def delete_shard(
        self, request: pb.DeleteShardRequest, context: CallContext
    ) -> pb.DeleteShardResponse:
        """Delete a shard and its directory."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        await self._worker.off_loop(lambda: self._worker.held.delete(request.deletion))
        return pb.DeleteShardResponse()

    async def hold_shards(
        self, request: pb.HoldShardsRequest, context: CallContext
    ) -> pb.HoldShardsResponse:
        """Hold commits of shards, so that they can be cut at one point in time."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        ended = await self._worker.cutting.hold(
            request.cut_id, request.shards, decode_hold(request)
        )
        return pb.HoldShardsResponse(shards=[encode_held(batches) for batches in ended])

    async def cut_shards(
        self, request: pb.CutShardsRequest, context: CallContext
    ) -> pb.CutShardsResponse:
        """Cut shards that are held."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        admitted = {cut.shard_id: list(cut.admitted_batch_ids) for cut in request.shards}
        cut = await self._worker.cutting.cut(request.cut_id, admitted)
        return pb.CutShardsResponse(shards=[encode_cut(meta) for meta in cut])

    async def release_cut(
        self, request: pb.ReleaseCutRequest, context: CallContext
    ) -> pb.ReleaseCutResponse:
        """Give up a cut, and remove its copies."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        await self._worker.cutting.release(request.cut_id)
        return pb.ReleaseCutResponse()

    async def store_cut(
        self, request: pb.StoreCutRequest, context: CallContext
    ) -> pb.StoreCutResponse:
        """Put the copies of a cut into the snapshot store."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        storing = await self._worker.cutting.store(
            request.cut_id, request.store, request.known, waiting_time(context)
        )
        return pb.StoreCutResponse(
            done=storing.is_done, shards=storing.shards(), stored_bytes=storing.stored_bytes
        )

    async def fill_shard(
        self, request: pb.FillShardRequest, context: CallContext
    ) -> pb.FillShardResponse:
        """Fill an empty shard from copies in the snapshot store."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        done, fill = await self._worker.filling.fill(request, waiting_time(context))
        return pb.FillShardResponse(
            done=done, seen_count=fill.seen_count, filled_count=fill.filled_count
        )

    async def describe_worker(
        self, request: pb.DescribeWorkerRequest, context: CallContext
    ) -> pb.DescribeWorkerResponse:
        """Say who answers here, and what it holds."""
        response = pb.DescribeWorkerResponse(
            worker_id=str(self._worker.worker_id),
            process_id=str(self._worker.process_id),
            cluster_id=str(self._worker.cluster_id or ""),
        )
        if request.with_shards:
            for holding in self._worker.held.all():
                context.check()
                response.shards.append(await self._describe(holding))
        return response

    async def _describe(self, holding: Holding) -> pb.ShardDescription:
        identity, loss = holding.identity, holding.loss
        if identity is None:
            assert loss is not None
            return pb.ShardDescription(
                shard_id=loss.metadata.get("shard_id", ""), error=encode_error(loss)
            )
        description = pb.ShardDescription(
            shard_id=identity.shard_id,
            collection_id=identity.entry.collection.id,
            epoch=identity.epoch,
        )

        try:
            summary = await self._worker.off_loop(lambda: self._worker.held.summary(holding))
            description.record_count = summary.record_count
            description.fresh_count = summary.fresh_count
            description.sequence = summary.sequence
            description.disk_bytes = summary.disk_bytes
            return description
        except ShoalError as error:
            description.error.CopyFrom(encode_error(error))
            return description
