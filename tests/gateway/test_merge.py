"""The merge of the shards' answers is the answer of the union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal_gateway.merge import Matches, Picks, Run, merge_matches, merge_one, merge_runs


@dataclass(frozen=True)
class Item:
    id: str
    ordinal: int
    distance: float


# Few distinct values, so that ties of all kinds occur.
ordinals = st.integers(0, 6) | st.integers(0, 2**64 - 1)
distances = st.sampled_from([-1.0, 0.0, 0.5, 0.5000000001, float("inf")])


@st.composite
def shards(draw: st.DrawFn) -> list[list[Item]]:
    """Disjoint shards, each with unique ordinals."""
    count = draw(st.integers(1, 5))
    found: list[list[Item]] = []
    for shard in range(count):
        taken = draw(st.lists(ordinals, max_size=8, unique=True))
        names = draw(st.permutations([f"{n}-{shard}" for n in range(len(taken))]))
        found.append(
            [
                Item(name, ordinal, draw(distances))
                for name, ordinal in zip(names, taken, strict=True)
            ]
        )
    return found


def nearest(items: Sequence[Item], limit: int) -> list[Item]:
    return sorted(items, key=lambda i: (i.distance, i.ordinal, i.id))[:limit]


def in_order(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda i: (i.ordinal, i.id))


def picked(picks: Picks, answers: Sequence[Sequence[Item]]) -> list[Item]:
    places = zip(picks.sources.tolist(), picks.items.tolist(), strict=True)
    return [answers[source][item] for source, item in places]


def matches(queries: Sequence[Sequence[Item]]) -> Matches:
    items = [item for query in queries for item in query]
    return Matches(
        np.array([len(query) for query in queries], np.int64),
        np.array([item.distance for item in items], np.float64),
        np.array([item.ordinal for item in items], np.uint64),
        [item.id for item in items],
    )


def run(items: Sequence[Item], *, more: bool) -> Run:
    return Run(
        np.array([item.ordinal for item in items], np.uint64),
        [item.id for item in items],
        more,
    )


@given(st.lists(shards(), min_size=1, max_size=3), st.integers(1, 10))
def test_the_merge_of_the_shards_is_the_search_of_the_union(
    queries: list[list[list[Item]]], limit: int
) -> None:
    shard_count = max(len(query) for query in queries)
    answers = [
        [nearest(query[shard] if shard < len(query) else [], limit) for query in queries]
        for shard in range(shard_count)
    ]

    picks = merge_matches([matches(answer) for answer in answers], limit)

    expected = [nearest([item for shard in query for item in shard], limit) for query in queries]
    flat = [[item for query in answer for item in query] for answer in answers]
    assert picks.counts.tolist() == [len(query) for query in expected]
    assert picked(picks, flat) == [item for query in expected for item in query]


@given(shards(), st.integers(0, 30), st.data())
def test_merged_runs_are_the_beginning_of_the_union(
    found: list[list[Item]], limit: int, data: st.DataObject
) -> None:
    whole = [in_order(shard) for shard in found]
    shown = [shard[: data.draw(st.integers(1, len(shard)))] if shard else [] for shard in whole]
    runs = [
        run(part, more=len(part) < len(shard)) for part, shard in zip(shown, whole, strict=True)
    ]

    picks = merge_runs(runs, limit)

    union = in_order([item for shard in whole for item in shard])
    merged = picked(picks, shown)
    assert merged == union[: len(merged)]
    assert picks.counts.tolist() == [len(merged)]
    if len(merged) < min(limit, len(union)):
        # Short only where a shard's page has been used up and there is more of it.
        assert any(
            r.more and part[-1] == merged[-1] for r, part in zip(runs, shown, strict=True) if part
        )


def test_a_run_of_nothing_that_has_more_holds_everything_back() -> None:
    picks = merge_runs([run([], more=True), run([Item("a", 1, 0.0)], more=False)], 10)

    assert len(picks.items) == 0


@given(shards(), st.integers(1, 8))
def test_one_query_merges_alike_in_plain_python(found: list[list[Item]], limit: int) -> None:
    answers = [matches([nearest(shard, limit)]) for shard in found]

    assert merge_one(answers, limit) == merge_matches(answers, limit).places()
