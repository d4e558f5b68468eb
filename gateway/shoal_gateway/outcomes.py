"""From what became of each shard's part of a write to what the caller is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import PartialWriteError, ShardOutcome, ShoalError
from shoal.internal.v1 import worker_service_pb2
from shoal_gateway.fanout import WriteFailure

__all__ = ["Part", "Written", "summed"]


@dataclass(frozen=True, slots=True)
class Part:
    """One shard's part of a write, and what became of it.

    Attributes:
        shard_id: The shard's UUID.
        positions: Positions in the caller's batch, ascending; empty for a write by filter.
        outcome: The shard's answer, or why there is none.
    """

    shard_id: str
    positions: Sequence[int]
    outcome: worker_service_pb2.WriteShardResponse | WriteFailure


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did, over all shards."""

    added: int = 0
    updated: int = 0
    ignored: int = 0
    deleted: int = 0
    matched: int = 0


def summed(parts: Sequence[Part]) -> Written:
    """Sum the answers of all shards.

    Raises:
        ShoalError: No part has changed anything, and all that failed failed alike: as it would have
            been on one shard.
        PartialWriteError: Some parts have changed something and others were not applied, or they
            failed for different reasons.
    """
    failures = [part.outcome for part in parts if isinstance(part.outcome, WriteFailure)]
    if failures:
        raise _failure(parts, failures)
    answers = [part.outcome for part in parts if not isinstance(part.outcome, WriteFailure)]
    return Written(
        added=sum(answer.added for answer in answers),
        updated=sum(answer.updated for answer in answers),
        ignored=sum(answer.ignored for answer in answers),
        deleted=sum(answer.deleted for answer in answers),
        matched=sum(answer.matched for answer in answers),
    )


def _failure(parts: Sequence[Part], failures: Sequence[WriteFailure]) -> ShoalError:
    first = failures[0]
    alike = all(
        type(failure.error) is type(first.error) and failure.unknown == first.unknown
        for failure in failures
    )
    if alike and not any(_has_changed(part.outcome) for part in parts):
        return first.error
    unknown = sum(failure.unknown for failure in failures)
    return PartialWriteError(
        f"of {len(parts)} shards {len(parts) - len(failures)} applied their part of the write, "
        f"{len(failures) - unknown} refused it and {unknown} did not say; first: "
        f"{first.error.message}",
        shards=[_told(part) for part in parts],
        retry_after_s=max(
            (f.error.retry_after_s for f in failures if f.error.retry_after_s is not None),
            default=None,
        ),
    )


def _has_changed(outcome: worker_service_pb2.WriteShardResponse | WriteFailure) -> bool:
    """Whether a part was applied, and there was something that it concerned."""
    if isinstance(outcome, WriteFailure):
        return False
    return bool(outcome.added or outcome.updated or outcome.deleted)


def _told(part: Part) -> ShardOutcome:
    failure = part.outcome
    if not isinstance(failure, WriteFailure):
        return ShardOutcome(part.shard_id, "applied", tuple(part.positions))
    return ShardOutcome(
        part.shard_id,
        "unknown" if failure.unknown else "refused",
        tuple(part.positions),
        failure.error.reason,
        failure.error.message,
    )
