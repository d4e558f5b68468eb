"""A worker that writes one batch after the other, recorded: ``python -m tests.worker.traced ROOT``.

After each acknowledgement it appends a byte to ``ROOT/.acknowledged``, which is an event of the
recording like any other. What it does is decided here alone (`steps`), so that whoever replays it
knows what must be there after so many acknowledgements.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np

from tests.worker.single import CLUSTER, SingleShard, started
from tests.worker.test_compaction import compacted

BULK = 2100
SHARD_FILE = ".shard"
ACKNOWLEDGED_FILE = ".acknowledged"

State = dict[str, str]


def states() -> list[State]:
    """What is there after each acknowledgement, beside the bulk: documents by ID."""
    found: list[State] = [{}]
    for turn in range(TURNS):
        state = dict(found[-1])
        if turn == BULK_TURN:
            pass
        elif turn % 4 == 3:
            state.pop(f"r{turn - 2}")
        else:
            state |= {f"r{turn}": document(turn), "same": document(turn)}
        found.append(state)
    return found


TURNS = 16
BULK_TURN = 6
COMPACTED_AFTER = (9, 12)


def document(turn: int) -> str:
    return f"document {turn} " * (40 * turn)


async def main(root: Path) -> None:
    acknowledged = os.open(root / ACKNOWLEDGED_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    worker = await started(root / "worker", cluster=CLUSTER)
    shard = await SingleShard.create(worker)
    reference = shard.reference
    (root / SHARD_FILE).write_text(f"{reference.shard_id} {reference.collection_id}")
    os.write(acknowledged, b".")
    for turn in range(TURNS):
        if turn == BULK_TURN:
            vectors = np.random.default_rng(1).normal(size=(BULK, 4))
            await shard.add([f"bulk-{i}" for i in range(BULK)], vectors)
        elif turn % 4 == 3:
            await shard.delete([f"r{turn - 2}"])
        else:
            text = document(turn)
            await shard.upsert([f"r{turn}", "same"], np.ones((2, 4)), None, [text, text])
        os.write(acknowledged, b".")
        if turn in COMPACTED_AFTER:
            await compacted(shard, erase=turn == COMPACTED_AFTER[0])
    await worker.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
