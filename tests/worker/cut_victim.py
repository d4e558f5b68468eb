"""A worker that writes, stores copies and fills shards without end, to be killed.

``python -m tests.worker.cut_victim DIR STORE`` says in lines of JSON what was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from shoal.server.buckets import bucket_of
from tests.worker.cuts import snapshot
from tests.worker.fills import create, fill
from tests.worker.single import SingleShard, started

HALVES = ((0, 2047), (2048, 4095))
RECORDS = 3000

# The history has the standard output for itself: what is logged would get between its lines.
_history = os.dup(1)
os.dup2(2, 1)


def say(**facts: Any) -> None:
    os.write(_history, json.dumps(facts).encode() + b"\n")


async def write(shards: list[SingleShard]) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 16))
    for turn in range(100_000):
        names = [f"w{turn}-{i}" for i in range(8)]
        for shard, (first, last) in zip(shards, HALVES, strict=True):
            own = [name for name in names if first <= bucket_of(name) <= last]
            if own:
                await shard.add(own, vectors[: len(own)])
                say(written=own)


async def main(data_dir: Path, store: Path) -> None:
    worker = await started(data_dir)
    shards = await create(worker, HALVES)
    for shard, (first, last) in zip(shards, HALVES, strict=True):
        ids = [i for i in map(str, range(RECORDS)) if first <= bucket_of(i) <= last]
        await shard.add(ids, np.random.default_rng(1).normal(size=(len(ids), 16)))
    say(shards=[s.reference.shard_id for s in shards], collection=shards[0].reference.collection_id)
    writing = asyncio.ensure_future(write(shards))
    while not writing.done():
        stored = await snapshot(shards, store)
        say(stored=[s.SerializeToString().hex() for s in stored])
        (target,) = await create(worker)
        say(target=[target.reference.collection_id, target.reference.shard_id])
        await fill(target, store, stored)
        say(filled=target.reference.shard_id)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
