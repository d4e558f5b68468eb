"""The journal is cleaned up in steps that hold no writer up."""

from __future__ import annotations

import numpy as np
import pytest

from shoal_worker import journal
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard
from tests.worker.test_search import names


async def test_a_step_removes_few_replaced_rows_however_many_an_entry_has(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_TRIM_ROWS", 100)
    single = await SingleShard.create(worker)
    worker.indexing.pause()
    count, batch = 300, 50
    await single.add(names(range(count)), np.ones((count, 1)), [{"n": i} for i in range(count)])
    for first in range(0, count, batch):
        await single.delete(names(range(first, first + batch)))
    shard = single.open
    last = shard.newest.meta.sequence
    removed = []

    def trim(txn: object) -> None:
        removed.append(shard.indexes.journal.trim(txn, last))  # type: ignore[arg-type]

    while not removed or removed[-1]:
        shard.write_derived(trim).result(30)

    # What added them replaced nothing.
    assert removed == [3, 2, 2, 0]
    with shard.pin() as pinned:
        for name in ("changes", "before"):
            assert pinned.txn.stat(shard.environment.databases[name])["entries"] == 0
