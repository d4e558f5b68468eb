"""Ranges of numbers give what brute force gives, also where groups of blocks are remembered."""

from __future__ import annotations

import random

import pytest

from shoal_worker import runs
from shoal_worker.indexing import advance
from shoal_worker.rows import BitMap
from tests.worker.single import SingleShard

COUNT = 900


def finish(shard: SingleShard) -> None:
    while advance(shard.open):
        pass


async def test_ranges_in_one_state_and_after_changes(
    shard: SingleShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "CAPACITY", 4)
    monkeypatch.setattr(runs, "_FILL", 3)
    monkeypatch.setattr(runs, "_FEW", 2)
    pick = random.Random(3)
    shard.worker.indexing.pause()
    # Another field on either side, which no range may run into.
    numbers = {f"id {n}": pick.randrange(-300, 300) for n in range(COUNT)}
    await shard.add(
        list(numbers),
        [[float(n)] for n in range(COUNT)],
        [{"a": n, "k": number, "z": n} for n, number in enumerate(numbers.values())],
    )
    hits = 0
    found_group = runs._Groups.get

    def counted(self: runs._Groups, start: bytes) -> tuple[bytes, BitMap] | None:
        nonlocal hits
        found = found_group(self, start)
        hits += found is not None
        return found

    monkeypatch.setattr(runs._Groups, "get", counted)
    for turn in range(6):
        finish(shard)
        for _ in range(25):
            low, high = sorted(pick.sample(range(-310, 310), 2))
            where = {"$and": [{"k": {"$gte": low}}, {"k": {"$lte": high}}]}
            expected = sum(low <= number <= high for number in numbers.values())
            assert await shard.count(where=where) == expected, (turn, low, high)
        changed = pick.sample(list(numbers), 60)
        numbers.update((i, pick.randrange(-300, 300)) for i in changed)
        await shard.update(changed, None, [{"k": numbers[i]} for i in changed])
        if turn == 3:
            # Built again at the same coverage, blocks may begin elsewhere.
            shard.open.indexes.report_damage(shard.open.indexes.metadata)
    assert hits > 100


async def test_what_matches_a_filter_is_remembered_until_the_next_write(
    shard: SingleShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.worker.indexing.pause()
    where = {"k": {"$gte": 1}}
    await shard.add(["a", "b"], [[1.0], [2.0]], [{"k": 1}, {"k": 0}])
    finish(shard)
    assert await shard.count(where=where) == 1
    with monkeypatch.context() as patch:
        patch.setattr("shoal_worker.matching._candidates", None)
        assert await shard.count(where=where) == 1

    await shard.update(["b"], None, [{"k": 2}])
    # Not taken in yet: it is looked at each time.
    assert await shard.count(where=where) == 2
    finish(shard)
    assert await shard.count(where=where) == 2
    await shard.delete(["a"])
    assert await shard.count(where=where) == 1
