"""Between messages and our own types: holding, cutting, storing and filling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shoal.errors import InvalidArgumentError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import CallContext
from shoal_worker.store import Meta
from shoal_worker.writes import Batch

__all__ = ["decode_hold", "encode_cut", "encode_held", "waiting_time"]

MAX_HOLD_MS: Final = 10_000

_LONGEST_WAIT_S: Final = 5.0
"""A call that waits for something long answers after this time that it is not done."""

_LEFT_FOR_ANSWER_S: Final = 0.5


def waiting_time(context: CallContext) -> float:
    """Give how long a call may wait for something long before it answers, in seconds."""
    return max(0.0, min(_LONGEST_WAIT_S, context.time_remaining() - _LEFT_FOR_ANSWER_S))


def decode_hold(request: pb.HoldShardsRequest) -> float:
    """Decode how long shards are held at most, in seconds."""
    if not 1 <= request.hold_milliseconds <= MAX_HOLD_MS:
        raise InvalidArgumentError(
            f"hold_milliseconds is {request.hold_milliseconds}: it must be 1 to {MAX_HOLD_MS}"
        )
    if len({shard.shard_id for shard in request.shards}) != len(request.shards):
        raise InvalidArgumentError("a shard is named twice in one hold")
    return request.hold_milliseconds / 1000


def encode_held(batches: Sequence[Batch]) -> pb.HeldBatches:
    """Encode the batches that have ended in a shard."""
    return pb.HeldBatches(
        ended_batch_ids=[batch.id for batch in batches],
        batch_shards=[pb.BatchShards(shard_ids=batch.shard_ids) for batch in batches],
    )


def encode_cut(meta: Meta) -> pb.CutState:
    """Encode a shard's state at the point in time."""
    return pb.CutState(
        sequence=meta.sequence, record_count=meta.record_count, last_ordinal=meta.last_ordinal
    )
