"""Killed while it cuts, copies, stores or fills, a worker leaves nothing half done and no garbage.

What was stored is whole, what was being filled is empty or filled, and what was acknowledged to
writers is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.server.objects import open_store
from shoal_worker.copies import CopyReader
from tests.worker.cut_victim import RECORDS
from tests.worker.cuts import snapshot
from tests.worker.fills import fill
from tests.worker.single import SingleShard, started

POINTS = [
    "shards_held:2",
    "shards_cut:2",
    "shard_copying:5",
    "shard_copied:3",
    "object_written_aside:3",
    "object_renamed:3",
    "shard_stored:3",
    "copies_fetched:2",
    "draft_growing:2",
    "draft_written:2",
    "draft_renamed:2",
    "shard_filled:2",
]


def killed(data_dir: Path, store: Path, point: str) -> list[dict[str, Any]]:
    """Run the victim until it is killed at a point, and give what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker.cut_victim", str(data_dir), str(store)],
        env=dict(os.environ, SHOAL_CRASH_POINT=point),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda pipe: lines.extend(pipe), args=(process.stdout,))
    reader.start()
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
    assert process.returncode == -9, lines[-3:]
    # The last line may be cut off.
    return [json.loads(line) for line in lines if line.endswith("}\n")]


@pytest.mark.cluster
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    # No gateway is there that could go on with what it sent to the worker that was killed.
    monkeypatch.setattr("shoal_worker.cutting._SETTLING_S", 0)
    data_dir, place = tmp_path / "worker", tmp_path / "store"
    said = killed(data_dir, place, point)

    # The store: what is there is whole, by its name and inside.
    store = open_store(str(place))
    for item in store.list(""):
        content = (place / item.key).read_bytes()
        assert item.key.endswith(hashlib.sha256(content).hexdigest())
        with CopyReader(place / item.key) as reader:
            count = sum(len(entry.puts.ids) for entry in reader.entries())
            assert count == reader.header.record_count
    stored = [
        [StoredShard.FromString(bytes.fromhex(s)) for s in f["stored"]]
        for f in said
        if "stored" in f
    ]
    for one in (shard for shards in stored for shard in shards):
        assert store.size(one.records.key) == one.records.size_bytes

    worker = await started(data_dir)
    # No garbage.
    assert not (data_dir / "cuts").exists()
    assert not (data_dir / "fills").exists()

    # The sources.
    begun = next(f for f in said if "shards" in f)
    shards = [
        SingleShard(
            worker, pb.ShardReference(collection_id=begun["collection"], shard_id=i, epoch=1)
        )
        for i in begun["shards"]
    ]
    found = {i for shard in shards for i in (await shard.get()).records.ids}
    assert {i for f in said for i in f.get("written", ())} <= found
    assert {str(i) for i in range(RECORDS)} <= found

    # The shards that were being filled, which are filled when that is asked for again.
    filled = {f["filled"] for f in said if "filled" in f}
    targets = [f["target"] for f in said if "target" in f]
    for (collection_id, shard_id), sources in zip(targets, stored, strict=False):
        target = SingleShard(
            worker, pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
        )
        whole = sum(source.record_count for source in sources)
        assert await target.count() in ({whole} if shard_id in filled else {0, whole})
        await fill(target, place, sources)
        assert await target.count() == whole

    # And it goes on.
    again = await snapshot(shards, place)
    assert sum(shard.record_count for shard in again) == len(found)
    await worker.close()
