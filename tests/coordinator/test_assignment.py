"""Buckets to shards, shards to workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import UnavailableError
from shoal_coordinator.assignment import BUCKET_COUNT, bucket_runs, place


@given(st.integers(1, 256))
def test_the_runs_cover_every_bucket_exactly_once(shard_count: int) -> None:
    runs = bucket_runs(shard_count)

    covered = [bucket for first, last in runs for bucket in range(first, last + 1)]
    assert covered == list(range(BUCKET_COUNT))
    lengths = [last - first + 1 for first, last in runs]
    assert len(runs) == shard_count
    assert max(lengths) - min(lengths) <= 1


@given(
    st.integers(1, 256),
    st.dictionaries(st.uuids().map(str), st.integers(0, 50), min_size=1, max_size=20),
)
def test_shards_go_to_the_workers_that_hold_fewest(shard_count: int, held: dict[str, int]) -> None:
    chosen = place(shard_count, held)

    after = {worker: count + chosen.count(worker) for worker, count in held.items()}
    got_some = [count for worker, count in after.items() if count > held[worker]]
    assert sum(after.values()) == sum(held.values()) + shard_count
    # Whoever got a shard is at most one above the least loaded.
    assert max(got_some) - min(after.values()) <= 1


@given(st.integers(1, 64), st.permutations([("a", 1), ("b", 0), ("c", 1)]))
def test_the_same_state_gives_the_same_answer(
    shard_count: int, items: list[tuple[str, int]]
) -> None:
    assert place(shard_count, dict(items)) == place(shard_count, {"a": 1, "b": 0, "c": 1})


def test_without_workers_nothing_can_be_placed() -> None:
    with pytest.raises(UnavailableError, match="no worker"):
        place(1, {})
