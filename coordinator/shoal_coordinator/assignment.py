"""Which worker gets which shard, and which shard which buckets.

Pure. There is no hash ring: the catalog lists for each shard the runs of buckets that it owns, so
that later exactly the chosen buckets can move. The runs of a collection's shards cover every bucket
exactly once.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from typing import Final

from shoal.errors import UnavailableError

BUCKET_COUNT: Final = 4096
"""Fixed for ever: a record's bucket is the first 12 bits of its ID's hash."""


def bucket_runs(shard_count: int) -> list[tuple[int, int]]:
    """Split the buckets into `shard_count` runs (first, last), inclusive, ascending.

    Their lengths differ by at most one.

    Args:
        shard_count: In ``[1, 4096]``.
    """
    bounds = [shard * BUCKET_COUNT // shard_count for shard in range(shard_count + 1)]
    return [(first, after - 1) for first, after in itertools.pairwise(bounds)]


def place(shard_count: int, shards_held: Mapping[str, int]) -> list[str]:
    """Choose a worker for each of `shard_count` new shards: each time the one that holds fewest.

    Ties go to the smallest worker ID, so that the same state gives the same answer.

    Args:
        shards_held: Of each worker that can take a shard now, how many it holds.

    Raises:
        UnavailableError: There is no worker.
    """
    if not shards_held:
        raise UnavailableError("no worker is registered that could hold a shard; start one")
    loads = [(count, worker_id) for worker_id, count in shards_held.items()]
    heapq.heapify(loads)
    chosen: list[str] = []
    for _ in range(shard_count):
        count, worker_id = loads[0]
        chosen.append(worker_id)
        heapq.heapreplace(loads, (count + 1, worker_id))
    return chosen
