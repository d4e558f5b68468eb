"""The fresh set: it answers as if it was looked through one by one, and each state as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_worker.distances import Queries, Space, exact
from shoal_worker.fresh import FreshSet, FreshWriter
from shoal_worker.store import VectorBatch

DIMENSION = 5

# What a commit adds, and which places of what is alive then die in it.
COMMITS = st.lists(
    st.tuples(st.integers(0, 300), st.lists(st.integers(0, 10_000), max_size=8)),
    min_size=1,
    max_size=6,
)


@dataclass(frozen=True)
class Seen:
    """What a state is to hold: keys and their vectors; rows are keys plus 7."""

    state: FreshSet
    alive: dict[int, np.ndarray]


def written(commits: list[tuple[int, list[int]]], seed: int) -> list[Seen]:
    """Apply commits, and give the state after each."""
    random = np.random.default_rng(seed)
    writer, next_key = FreshWriter(), 1
    alive: dict[int, np.ndarray] = {}
    seen: list[Seen] = []
    for sequence, (count, dying) in enumerate(commits, 1):
        writer.begin()
        for place in dying:
            if alive:
                key = list(alive)[place % len(alive)]
                del alive[key]
                assert writer.remove(key, sequence)
        # Few different numbers, so that distances are equal, too.
        vectors = random.integers(-2, 3, (count, DIMENSION)).astype(np.float32)
        keys = np.arange(next_key, next_key + count).astype(np.uint64)
        if count:
            writer.add(VectorBatch(keys, (keys + 7).astype(np.uint32), vectors), [])
        next_key += count
        alive = {**alive, **dict(zip(keys.tolist(), vectors, strict=True))}
        seen.append(Seen(writer.snapshot(sequence), dict(alive)))
    return seen


def nearest_of(
    seen: Seen, space: Space, query: np.ndarray, limit: int, rows: np.ndarray | None
) -> list[tuple[float, int]]:
    among = None if rows is None else set(rows.tolist())
    keys = [k for k in seen.alive if among is None or k + 7 in among]
    if not keys:
        return []
    distances = exact(space, query.astype(np.float64), np.stack([seen.alive[k] for k in keys]))
    return sorted(zip(distances.tolist(), (k + 7 for k in keys), strict=True))[:limit]


@pytest.mark.parametrize("space", list(Space))
@given(commits=COMMITS, seed=st.integers(0, 1000), limit=st.integers(1, 20))
@settings(deadline=None, max_examples=10)
def test_every_state_answers_as_if_it_was_looked_through(
    space: Space, commits: list[tuple[int, list[int]]], seed: int, limit: int
) -> None:
    queries = np.random.default_rng(seed).standard_normal((2, DIMENSION)).astype(np.float32)
    # All are asked when the last has been written: later deaths are none of an earlier state's.
    for seen in written(commits, seed):
        some = np.array(sorted(k + 7 for k in seen.alive if k % 3), np.uint32)
        for rows in (None, some):
            together = seen.state.search(space, Queries.of(queries), limit, rows)
            alone = seen.state.search(space, Queries.of(queries[:1]), limit, rows)
            for query, candidates in zip((*queries, queries[0]), together + alone, strict=True):
                answer = zip(candidates.distances.tolist(), candidates.rows.tolist(), strict=True)
                assert list(answer) == nearest_of(seen, space, query, limit, rows)
                assert (candidates.keys + 7 == candidates.rows).all()


@pytest.mark.parametrize("space", list(Space))
def test_large_blocks_and_small_ones_are_one_set(space: Space) -> None:
    commits: list[tuple[int, list[int]]] = [(1, [])] * 150
    seen = written([*commits, (200, []), (5000, [3, 77]), (4000, [0, 5000])], 3)[-1]
    assert len(seen.state.blocks) > 6
    query = np.full((1, DIMENSION), 0.3, np.float32)
    (found,) = seen.state.search(space, Queries.of(query), 50)
    answer = list(zip(found.distances.tolist(), found.rows.tolist(), strict=True))
    assert answer == nearest_of(seen, space, query[0], 50, None)


def test_what_is_rolled_back_was_never_there() -> None:
    (before,) = written([(300, [])], 4)
    writer = FreshWriter()
    vectors = np.stack(list(before.alive.values()))
    keys = np.arange(1, 301).astype(np.uint64)
    writer.add(VectorBatch(keys, (keys + 7).astype(np.uint32), vectors), [])
    writer.begin()
    writer.remove(1, 2)
    writer.add(VectorBatch(np.array([301], np.uint64), np.array([308], np.uint32), vectors[:1]), [])
    offered = writer.snapshot(2)
    query = Queries.of(vectors[:1])
    assert 8 not in offered.search(Space.L2, query, 300)[0].rows
    writer.roll_back()
    (found,) = writer.snapshot(1).search(Space.L2, query, 400)
    assert sorted(found.rows.tolist()) == list(range(8, 308))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e17])
def test_vectors_of_any_size_are_ranked_by_their_directions(scale: float) -> None:
    vectors = np.random.default_rng(5).standard_normal((400, DIMENSION)).astype(np.float32)
    vectors[::3] *= np.float32(scale)
    vectors[7] = 0
    keys = np.arange(1, 401).astype(np.uint64)
    writer = FreshWriter()
    writer.add(VectorBatch(keys, (keys + 7).astype(np.uint32), vectors), [])
    seen = Seen(writer.snapshot(1), dict(zip(keys.tolist(), vectors, strict=True)))
    for query in (vectors[0], vectors[1], vectors[7], vectors[2] * np.float32(scale)):
        (found,) = seen.state.search(Space.COSINE, Queries.of(query[None]), 30)
        answer = list(zip(found.distances.tolist(), found.rows.tolist(), strict=True))
        assert answer == nearest_of(seen, Space.COSINE, query, 30, None)


@pytest.mark.parametrize("space", list(Space))
def test_what_is_nearer_in_a_later_block_comes_first(space: Space) -> None:
    vectors = np.random.default_rng(6).standard_normal((9000, DIMENSION)).astype(np.float32)
    keys = np.arange(1, 9001).astype(np.uint64)
    writer = FreshWriter()
    writer.add(VectorBatch(keys, (keys + 7).astype(np.uint32), vectors), [])
    seen = Seen(writer.snapshot(1), dict(zip(keys.tolist(), vectors, strict=True)))
    query = np.full(DIMENSION, 0.3, np.float32)
    (found,) = seen.state.search(space, Queries.of(query[None]), 50)
    answer = list(zip(found.distances.tolist(), found.rows.tolist(), strict=True))
    assert answer == nearest_of(seen, space, query, 50, None)
