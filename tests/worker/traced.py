"""A worker that does one thing after the other, recorded: ``python -m tests.worker.traced ROOT``.

After each acknowledgement it appends a byte to ``ROOT/.acknowledged``, which is an event of the
recording like any other. What it does is decided here alone (`STEPS`), so that whoever replays it
knows what must be there after so many acknowledgements.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.worker import Worker
from tests.worker.single import CLUSTER, TIMEOUT_S, SingleShard, collection_entry, started
from tests.worker.test_compaction import compacted

BULK = 2100
SHARDS_FILE = ".shards"
ACKNOWLEDGED_FILE = ".acknowledged"

MAIN = "main"


@dataclass(frozen=True)
class State:
    """What is there.

    Attributes:
        documents: Of the main shard, beside the bulk: by ID.
        has_bulk: Whether the bulk is in it, too.
        others: Of each other shard that was created: "empty", "filled", "moved" to another epoch,
            or "deleted".
    """

    documents: dict[str, str] = field(default_factory=dict)
    has_bulk: bool = False
    others: dict[str, str] = field(default_factory=dict)


def _document(turn: int) -> str:
    return f"document {turn} " * (40 * turn)


STEPS: list[tuple[str, str | int]] = [
    ("create", MAIN),
    ("put", 0),
    ("create", "short-lived"),
    ("put", 1),
    ("fill", "short-lived"),
    ("create", "moving"),
    ("put", 2),
    ("remove", 1),
    ("fill", "moving"),
    ("delete", "short-lived"),
    ("put", 4),
    ("bulk", 0),
    ("create", "empty"),
    ("move", "moving"),
    ("put", 5),
    ("compact", "erasing"),
    ("put", 6),
    ("remove", 5),
    ("put", 7),
    ("compact", "for room"),
    ("put", 8),
    ("delete", "empty"),
    ("put", 9),
    ("delete", "moving"),
    ("put", 10),
]
"""What is done, each acknowledged when it is. A compaction changes nothing that is there."""


def after(kind: str, given: str | int) -> int:
    """Give how many acknowledgements there are after a step."""
    return STEPS.index((kind, given)) + 1


def states() -> list[State]:
    """Give what is there after each acknowledgement, from none on."""
    found = [State()]
    for kind, given in STEPS:
        found.append(_next(found[-1], kind, given))
    return found


def _next(state: State, kind: str, given: str | int) -> State:
    documents = dict(state.documents)
    match kind, given:
        case "put", int(turn):
            documents |= {f"r{turn}": _document(turn), "same": _document(turn)}
        case "remove", int(turn):
            del documents[f"r{turn}"]
        case "bulk", _:
            return replace(state, has_bulk=True)
        case ("create" | "fill" | "move" | "delete") as fate, str(name) if name != MAIN:
            fates = {"create": "empty", "fill": "filled", "move": "moved", "delete": "deleted"}
            return replace(state, others=state.others | {name: fates[fate]})
    return replace(state, documents=documents)


class _Steps:
    """Does them."""

    def __init__(self, worker: Worker, root: Path) -> None:
        self._worker = worker
        self._root = root
        self._shards: dict[str, SingleShard] = {}

    async def do(self, kind: str, given: str | int) -> None:
        main = self._shards.get(MAIN)
        match kind, given:
            case "create", str(name):
                await self._create(name)
            case "fill", str(name):
                await self._shards[name].add(["only"], [[1.0]])
            case "move", str(name):
                await self._move(self._shards[name])
            case "delete", str(name):
                await self._delete(self._shards[name], 2 if name == "moving" else 1)
            case "put", int(turn) if main:
                text = _document(turn)
                await main.upsert([f"r{turn}", "same"], np.ones((2, 4)), None, [text, text])
            case "remove", int(turn) if main:
                await main.delete([f"r{turn}"])
            case "bulk", _ if main:
                vectors = np.random.default_rng(1).normal(size=(BULK, 4))
                await main.add([f"bulk-{i}" for i in range(BULK)], vectors)
            case "compact", str(purpose) if main:
                await compacted(main, erase=purpose == "erasing")
            case _:
                raise AssertionError((kind, given))

    async def _create(self, name: str) -> None:
        shard = self._shards[name] = await SingleShard.create(self._worker)
        with (self._root / SHARDS_FILE).open("a") as file:
            file.write(f"{name} {shard.reference.shard_id} {shard.reference.collection_id}\n")

    async def _move(self, shard: SingleShard) -> None:
        """Give the shard another epoch."""
        reference = shard.reference
        entry = collection_entry(self._worker, reference.shard_id, reference.collection_id)
        entry.table_version, entry.shards[0].epoch = 2, 2
        request = pb.UpdateShardRequest(
            cluster_id=str(self._worker.cluster_id),
            worker_id=str(self._worker.worker_id),
            shard_id=reference.shard_id,
            entry=entry,
        )
        await self._worker.control_service.update_shard(request, context_for(TIMEOUT_S))

    async def _delete(self, shard: SingleShard, epoch: int) -> None:
        deletion = catalog_pb2.ShardDeletion(
            shard_id=shard.reference.shard_id, worker_id=str(self._worker.worker_id), epoch=epoch
        )
        request = pb.DeleteShardRequest(
            cluster_id=str(self._worker.cluster_id),
            worker_id=str(self._worker.worker_id),
            deletion=deletion,
        )
        await self._worker.control_service.delete_shard(request, context_for(TIMEOUT_S))


async def main(root: Path) -> None:
    acknowledged = os.open(root / ACKNOWLEDGED_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    worker = await started(root / "worker", cluster=CLUSTER)
    steps = _Steps(worker, root)
    for kind, given in STEPS:
        await steps.do(kind, given)
        os.write(acknowledged, b".")
    await worker.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
