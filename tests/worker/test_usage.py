"""What a worker's shards hold is reported, and no shard keeps the worker from being heard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_worker import usage
from shoal_worker.shard import Shard
from shoal_worker.usage import UsageReports
from tests.worker.single import SingleShard, started, until


async def test_a_shard_that_takes_long_to_open_is_reported_later_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = await started(tmp_path)
    slow, quick = await SingleShard.create(own), await SingleShard.create(own)
    await slow.add(["a", "b"], np.ones((2, 3)))
    await quick.add(["a"], np.ones((1, 3)))
    await own.close()
    own = await started(tmp_path)
    may_open, asked = threading.Event(), threading.Semaphore(0)

    def opened(path: Path, *given: Any, **rest: Any) -> Any:
        if path.name == slow.reference.shard_id:
            asked.release()
            assert may_open.wait(240)
        return Shard(path, *given, **rest)

    monkeypatch.setattr("shoal_worker.worker.Shard", opened)
    monkeypatch.setattr(usage, "_OPENING_S", 0.2)
    reports = UsageReports(own)

    try:
        counts: dict[str, int] = {}
        heartbeats = 0
        while quick.reference.shard_id not in counts or heartbeats < 4:
            found = await reports.changed()
            counts |= {one.shard_id: one.record_count for one in found}
            reports.answered(found)
            heartbeats += 1
        assert counts == {quick.reference.shard_id: 1}
        # One thread waits for it, however often it was asked for.
        assert asked.acquire(blocking=False)
        assert not asked.acquire(blocking=False)
        assert len(reports._opening) == 1
    finally:
        may_open.set()

    await until(lambda: all(task.done() for task in reports._opening.values()))
    (late,) = await reports.changed()
    assert (late.shard_id, late.record_count) == (slow.reference.shard_id, 2)
    assert not reports._opening
    await own.close()
