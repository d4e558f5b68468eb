"""What the shards of a search did, in a few numbers: for the log of slow calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shoal.v1 import record_service_pb2

__all__ = ["plan_of"]

_MOST_SHARDS: Final = 8
"""The slowest ones that are told of: an event is a line."""


def plan_of(answers: Sequence[Any]) -> dict[str, object]:
    """Sum up the plans of shards, and tell of the slowest.

    Args:
        answers: `ShardMatches`, each with its plan.
    """
    plans = [answer.plan for answer in answers]
    slowest = sorted(plans, key=lambda plan: -plan.seconds)[:_MOST_SHARDS]
    return {
        "shards": len(plans),
        "plan": [
            {
                "shard_id": plan.shard_id,
                "worker_id": plan.worker_id,
                "method": record_service_pb2.SearchMethod.Name(plan.method)
                .removeprefix("SEARCH_METHOD_")
                .lower(),
                "records": plan.record_count,
                "matching": plan.matching_count,
                "fresh": plan.fresh_count,
                "candidates": plan.candidate_count,
                "examined": plan.examined_count,
                "filter_s": round(plan.filter_seconds, 4),
                "seconds": round(plan.seconds, 4),
            }
            for plan in slowest
        ],
    }
