"""Killed at any moment, a worker comes back with exactly what it acknowledged.

What was under way when it was killed is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.layout import DataDirectory
from tests.worker.single import SingleShard, plain, started
from tests.worker.victim import BULK, vector_of

POINTS = [
    "before_commit:9",
    "after_commit:9",
    "shard_created_aside:2",
    "shard_renamed:2",
    "shard_recorded:2",
    "deletion_recorded",
    "deletion_renamed",
    "identity_written_aside:2",
    "graph_swapped",
    "compaction_copied",
    "compaction_copied:2",
    "compaction_caught_up",
    "compaction_caught_up:2",
    "compaction_renamed",
    "compaction_renamed:2",
]
BUILDER_POINTS = [
    "vectors_written",
    "checkpoint_half_written",
    "checkpoint_written_aside",
    "checkpoint_renamed",
]

State = dict[str, int]


def applied(state: State, fact: dict[str, Any]) -> State:
    """What a batch makes of the values of the writer's IDs."""
    after = dict(state)
    for record_id in fact["ids"]:
        exists = record_id in after
        if fact["kind"] == "delete":
            after.pop(record_id, None)
        elif fact["kind"] == "upsert" or exists is (fact["kind"] == "update"):
            after[record_id] = fact["value"]
    return after


@dataclass
class History:
    """What the victim said."""

    shard: list[str] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)
    under_way: dict[int, dict[str, Any]] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    collections: dict[str, str] = field(default_factory=dict)

    def take(self, lines: str) -> None:
        for line in lines.splitlines():
            if not line.endswith("}"):
                continue  # the last one, cut off
            for what, fact in json.loads(line).items():
                self._take(what, fact)

    def _take(self, what: str, fact: Any) -> None:
        match what:
            case "shard":
                self.shard = fact
            case "about":
                self.under_way[fact["writer"]] = fact
            case "done":
                before = self.states.get(fact["writer"], {})
                self.states[fact["writer"]] = applied(before, fact)
                del self.under_way[fact["writer"]]
            case "created":
                self.collections[fact[0]] = fact[1]
            case "filled":
                self.filled[fact] = self.collections[fact]
            case "deleting":
                self.deleting.add(fact)
            case "deleted":
                self.deleted.add(fact)
            case _:
                raise AssertionError(what)


def killed(
    data_dir: Path, seed: int, history: History, *, point: str = "", after_s: float = 20.0
) -> None:
    """Run the victim until it is killed: at a point, or after a time."""
    environment = dict(os.environ, SHOAL_CRASH_POINT=point, SHOAL_TEST_SEED=str(seed))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker.victim", str(data_dir), str(seed), *history.shard],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda pipe: lines.extend(pipe), args=(process.stdout,))
    reader.start()
    deadline = time.monotonic() + 240
    while not lines and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        # From its first words on, which come late on a busy machine.
        process.wait(after_s)
        assert process.returncode == -9, lines[-5:]
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join()
    process.stdout.close()
    history.take("".join(lines))


async def check(data_dir: Path, history: History) -> None:
    """Compare what is there with what was acknowledged, and go on from what is there."""
    worker = await started(data_dir)
    reference = pb.ShardReference(
        shard_id=history.shard[0], collection_id=history.shard[1], epoch=1
    )
    shard = SingleShard(worker, reference)
    found = plain(await shard.get())
    assert sum(name.startswith("bulk-") for name in found) == BULK
    for writer in range(4):
        values = {
            name: record["metadata"]["value"]
            for name, record in found.items()
            if name.startswith(f"w{writer}-")
        }
        for name, value in values.items():
            assert found[name]["vector"] == vector_of(value)
            assert found[name]["document"] == str(value)
        acknowledged = history.states.get(writer, {})
        possible = [acknowledged]
        if writer in history.under_way:
            possible.append(applied(acknowledged, history.under_way[writer]))
        assert values in possible
        history.states[writer] = values
    history.under_way.clear()
    matches = await shard.search([0.0] * 8, 5000)
    assert not matches.HasField("error")
    assert set(matches.records.ids) == set(found)
    await _check_texts(shard, found)
    for shard_id, collection_id in history.filled.items():
        other = SingleShard(
            worker, pb.ShardReference(shard_id=shard_id, collection_id=collection_id, epoch=1)
        )
        answer = await other.get()
        if shard_id in history.deleted:
            assert answer.error.reason == "STALE_ROUTE"
        elif shard_id not in history.deleting:
            assert list(answer.records.ids) == ["only"]
    await worker.close()
    leftovers = [p.name for p in (data_dir / "shards").iterdir() if p.name.startswith(".")]
    assert leftovers == []


async def _check_texts(shard: SingleShard, found: dict[str, dict[str, Any]]) -> None:
    """Rank by the words of documents: the index may have taken in any part of them."""
    documents = Counter(r["document"] for r in found.values() if r["document"] is not None)
    sought = " ".join(sorted(documents)[:50])
    measured = pb.MeasureTextRequest(shards=[shard.reference], query=sought)
    [counts] = (await shard.worker.data_service.measure_text(measured, context_for(240))).shards
    assert counts.document_count == counts.term_count == documents.total()
    assert dict(zip(counts.terms, counts.document_frequencies, strict=True)) == {
        document: documents[document] for document in sought.split()
    }
    ranked = pb.RankTextRequest(
        shards=[shard.reference],
        query=sought,
        terms=counts.terms,
        weights=[1.0] * len(counts.terms),
        average_length=1.0,
        limit=5000,
    )
    [matches] = (await shard.worker.data_service.rank_text(ranked, context_for(240))).shards
    wanted = set(sought.split())
    assert set(matches.records.ids) == {i for i, r in found.items() if r["document"] in wanted}


@pytest.mark.cluster
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_point(tmp_path: Path, point: str) -> None:
    history = History()
    killed(tmp_path, 1, history, point=point)

    if history.shard:
        await check(tmp_path, history)
    DataDirectory(tmp_path).close()


@pytest.mark.cluster
@pytest.mark.parametrize("point", BUILDER_POINTS)
async def test_a_builder_killed_at_a_point_harms_nobody(tmp_path: Path, point: str) -> None:
    history = History()
    # The point is in the builder, which dies of it; the victim lives on, and then dies, too.
    killed(tmp_path, 2, history, point=point, after_s=2.0)

    await check(tmp_path, history)


@pytest.mark.cluster
async def test_killed_again_and_again_at_random(tmp_path: Path) -> None:
    await _rounds(tmp_path, 3)


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first_seed", range(0, 240, 40))
async def test_killed_hundreds_of_times_at_random(tmp_path: Path, first_seed: int) -> None:
    await _rounds(tmp_path, 40, first_seed)


async def _rounds(tmp_path: Path, count: int, first_seed: int = 0) -> None:
    history = History()
    choose = random.Random(5 + first_seed)
    for seed in range(first_seed, first_seed + count):
        killed(tmp_path, seed, history, after_s=choose.uniform(0.2, 2.0))
        if not history.shard:
            continue
        await check(tmp_path, history)


@pytest.mark.cluster
async def test_the_builder_ends_with_its_worker(tmp_path: Path) -> None:
    history = History()
    killed(tmp_path, 3, history, after_s=2.0)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _builders(tmp_path):
        time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs on this loop
    assert _builders(tmp_path) == []


def _builders(tmp_path: Path) -> list[str]:
    """Builders whose parent is gone."""
    orphans = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"shoal_worker.builder" in command and b"SHOAL_TEST_SEED=3\0" in environment:
            orphans.append(entry.name)
    return orphans
