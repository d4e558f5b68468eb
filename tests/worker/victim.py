"""A worker that writes without end and says what was acknowledged, to be killed.

``python -m tests.worker.victim DIR SEED`` prints a line of JSON before each write (what it is about
to do) and one after its acknowledgement. Both reach the pipe before the next step: they are the
history that what is found afterwards is compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.compaction import CompactionError
from shoal_worker.environment import EnvironmentClosedError
from tests.worker.single import SingleShard, started

WRITERS = 4
IDS = 60
DIMENSION = 8
BULK = 2200


# The history has the standard output for itself: what is logged would get between its lines.
_history = os.dup(1)
os.dup2(2, 1)


def say(**facts: Any) -> None:
    os.write(_history, json.dumps(facts).encode() + b"\n")


def vector_of(value: int) -> list[float]:
    numbers = np.random.default_rng(value).normal(size=DIMENSION).astype(np.float32)
    return [float(n) for n in numbers]


async def write(shard: SingleShard, writer: int, seed: int) -> None:
    """Each writer has IDs of its own, so that their order among each other does not matter."""
    choose = random.Random(seed * 100 + writer)
    own = [f"w{writer}-{i}" for i in range(IDS)]
    for turn in range(10_000):
        kind = choose.choice(["add", "upsert", "upsert", "update", "delete"])
        ids = choose.sample(own, choose.randint(1, 12))
        value = (writer * 10_000 + turn) * 1000 + seed
        fact = {"writer": writer, "turn": turn, "kind": kind, "ids": ids, "value": value}
        say(about=fact)
        if kind == "delete":
            await shard.delete(ids)
        else:
            columns = (
                [vector_of(value)] * len(ids),
                [{"value": value}] * len(ids),
                [str(value)] * len(ids),
            )
            await getattr(shard, kind)(ids, *columns)
        say(done=fact)


async def come_and_go(shard: SingleShard) -> None:
    """Create and delete other shards."""
    while True:
        other = await SingleShard.create(shard.worker)
        say(created=[other.reference.shard_id, other.reference.collection_id])
        await other.add(["only"], [[1.0]])
        say(filled=other.reference.shard_id)
        deletion = catalog_pb2.ShardDeletion(
            shard_id=other.reference.shard_id, worker_id=str(shard.worker.worker_id), epoch=1
        )
        request = pb.DeleteShardRequest(
            cluster_id=str(shard.worker.cluster_id),
            worker_id=str(shard.worker.worker_id),
            deletion=deletion,
        )
        say(deleting=other.reference.shard_id)
        await shard.worker.control_service.delete_shard(request, context_for(240))
        say(deleted=other.reference.shard_id)
        await asyncio.sleep(0.01)


async def compact(shard: SingleShard) -> None:
    """Compact the shard without end, for room and to erase in turn."""
    reference = shard.reference
    holding = shard.worker.held.find(reference.collection_id, reference.shard_id, reference.epoch)
    for turn in range(10_000):
        await asyncio.sleep(0.05)
        # Given up while an index lags, for one: then it is tried again, as the worker does.
        with contextlib.suppress(CompactionError, EnvironmentClosedError):
            await asyncio.to_thread(shard.worker.compacting.compact, holding, erase=turn % 2 == 1)


async def main(data_dir: Path, seed: int, shard_id: str, collection_id: str) -> None:
    worker = await started(data_dir)
    if shard_id:
        reference = pb.ShardReference(shard_id=shard_id, collection_id=collection_id, epoch=1)
        shard = SingleShard(worker, reference)
    else:
        shard = await SingleShard.create(worker)
        vectors = np.random.default_rng(seed).normal(size=(BULK, DIMENSION))
        await shard.add([f"bulk-{i}" for i in range(BULK)], vectors)
        say(shard=[shard.reference.shard_id, shard.reference.collection_id])
    writers = [write(shard, writer, seed) for writer in range(WRITERS)]
    await asyncio.gather(come_and_go(shard), compact(shard), *writers)


if __name__ == "__main__":
    given = [*sys.argv[3:], "", ""][:2]
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), *given))
