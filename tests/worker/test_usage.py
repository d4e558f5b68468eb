"""What a worker's shards hold is reported, and no shard keeps the worker from being heard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_worker import holding, usage
from shoal_worker.loading import peek
from shoal_worker.open_shards import Holding, Summary
from shoal_worker.settings import WorkerSettings
from shoal_worker.usage import UsageReports
from tests.worker.single import SingleShard, started, until


async def reported(reports: UsageReports) -> dict[str, int]:
    """Records by shard, as one heartbeat brings them, and is answered."""
    found = await reports.changed()
    reports.answered(found)
    return {one.shard_id: one.record_count for one in found}


async def test_a_closed_shard_is_reported_without_being_opened(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a", "b"], np.ones((2, 3)))
    await worker.close()
    worker = await started(tmp_path)
    reports = UsageReports(worker)

    assert await reported(reports) == {shard.reference.shard_id: 2}

    assert worker.held.open == []
    assert await reported(reports) == {}
    await worker.close()


async def test_what_was_not_answered_is_reported_again(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a"], np.ones((1, 3)))
    reports = UsageReports(worker)

    assert await reports.changed()
    assert await reported(reports) == {shard.reference.shard_id: 1}
    reports.forget()
    assert await reported(reports) == {shard.reference.shard_id: 1}
    await worker.close()


async def test_a_shard_that_was_written_to_and_closed_between_two_heartbeats_is_reported(
    tmp_path: Path,
) -> None:
    worker = await started(tmp_path, settings=WorkerSettings(max_open_shards=1))
    first, second = await SingleShard.create(worker), await SingleShard.create(worker)
    await first.add(["a"], np.ones((1, 3)))
    reports = UsageReports(worker)
    await reported(reports)

    await first.add(["b"], np.ones((1, 3)))
    await second.add(["a"], np.ones((1, 3)))

    assert [shard.shard_id for shard in worker.held.open] == [second.reference.shard_id]
    counts = await reported(reports)
    assert counts[first.reference.shard_id] == 2
    await worker.close()


async def test_a_shard_that_does_not_change_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a"], np.ones((1, 3)))
    await until(lambda: not shard.open.indexes.lag)
    reports = UsageReports(worker)
    await reported(reports)
    looks: list[Holding] = []
    summary = worker.held.summary_at_once

    def counted(held: Holding) -> Summary | None:
        looks.append(held)
        return summary(held)

    monkeypatch.setattr(worker.held, "summary_at_once", counted)

    for _ in range(3):
        assert await reported(reports) == {}
    assert looks == []
    await shard.add(["b"], np.ones((1, 3)))
    assert await reported(reports) == {shard.reference.shard_id: 2}

    assert looks
    await worker.close()


async def test_a_shard_that_takes_long_to_look_at_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a", "b"], np.ones((2, 3)))
    await worker.close()
    worker = await started(tmp_path)
    may_look, asked = threading.Event(), threading.Semaphore(0)

    def slow(*given: Any) -> Any:
        asked.release()
        assert may_look.wait(240)
        return peek(*given)

    monkeypatch.setattr(holding, "peek", slow)
    monkeypatch.setattr(usage, "_WAIT_S", 0.05)
    reports = UsageReports(worker)

    try:
        for _ in range(3):
            assert await reported(reports) == {}
        # One thread waits for it, however often it was asked for.
        assert asked.acquire(blocking=False)
        assert not asked.acquire(blocking=False)
    finally:
        may_look.set()

    counts: dict[str, int] = {}
    while not counts:
        counts = await reported(reports)
    assert counts == {shard.reference.shard_id: 2}
    await worker.close()


async def test_a_shard_that_is_being_opened_is_reported_later(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard, other = await SingleShard.create(worker), await SingleShard.create(worker)
    await shard.add(["a"], np.ones((1, 3)))
    await other.add(["a", "b"], np.ones((2, 3)))
    await worker.close()
    worker = await started(tmp_path)
    reports = UsageReports(worker)
    (held,) = (h for h in worker.held.all() if h.name == shard.reference.shard_id)

    with held.lock:
        assert await reported(reports) == {other.reference.shard_id: 2}

    assert await reported(reports) == {shard.reference.shard_id: 1}
    await worker.close()
