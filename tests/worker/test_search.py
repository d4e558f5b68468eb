"""Answers are exact, complete and of one sequence, whatever the graph does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal.errors import DimensionMismatchError, OverloadedError
from shoal.v1.collection_pb2 import Quantization, Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker.distances import Queries, bounded, exact, norms
from shoal_worker.distances import Space as Distance
from shoal_worker.graph import Graph
from shoal_worker.settings import WorkerSettings
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, started

Vectors = npt.NDArray[np.float32]
SPACES = [Space.SPACE_L2, Space.SPACE_COSINE, Space.SPACE_IP]


def true_distances(space: Space.ValueType, query: Vectors, vectors: Vectors) -> npt.NDArray[Any]:
    """Brute force in double precision, written another way than the product's."""
    q, v = query.astype(np.float64), vectors.astype(np.float64)
    if space == Space.SPACE_L2:
        return np.array(((v - q) ** 2).sum(axis=1))
    dots = v @ q
    if space == Space.SPACE_IP:
        return np.array(1 - dots)
    lengths = np.linalg.norm(v, axis=1) * np.linalg.norm(q)
    return np.array([1 - d / n if n else 1.0 for d, n in zip(dots, lengths, strict=True)])


def names(rows: range) -> list[str]:
    return [f"r{i}" for i in rows]


# Distances.


@pytest.mark.parametrize("space", SPACES)
async def test_a_small_shard_answers_exactly(
    worker: Worker, vectors: Vectors, space: Space.ValueType
) -> None:
    shard = await SingleShard.create(worker, space=space)
    data = vectors[:300] * np.random.default_rng(1).uniform(0.1, 9, (300, 1)).astype(np.float32)
    data[17] = 0
    await shard.add(names(range(300)), data)

    matches = await shard.search(vectors[300:310], 20)

    answer = answer_of(matches)
    assert matches.plan.method == SearchMethod.SEARCH_METHOD_EXACT
    for i, query in enumerate(vectors[300:310]):
        true = true_distances(space, query, data)
        assert answer.ids[i] == [f"r{j}" for j in np.argsort(true, kind="stable")[:20]]
        np.testing.assert_allclose(answer.distances[i], np.sort(true)[:20], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("quantization", "ef_search", "count"),
    [
        (Quantization.QUANTIZATION_BF16, 100, 16),
        (Quantization.QUANTIZATION_BF16, 14, 14),
        (Quantization.QUANTIZATION_BF16, 5, 12),
        (Quantization.QUANTIZATION_I8, 5, 16),
    ],
)
async def test_what_is_ranked_beyond_the_limit_does_not_widen_a_short_walk(
    worker: Worker,
    vectors: Vectors,
    quantization: Quantization.ValueType,
    ef_search: int,
    count: int,
) -> None:
    shard = await SingleShard.create(
        worker, space=Space.SPACE_COSINE, quantization=quantization, ef_search=ef_search
    )
    await shard.add(names(range(4000)), vectors[:4000])
    await graph_of(shard, 4000)

    for queries in (vectors[4000:4001], vectors[4000:4008]):
        matches = await shard.search(queries, 10)
        assert matches.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
        assert matches.plan.candidate_count == count * len(queries)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("quantization", Quantization.values()[1:])
async def test_a_graph_finds_nearly_all_and_tells_exact_distances(
    worker: Worker,
    vectors: Vectors,
    space: Space.ValueType,
    quantization: Quantization.ValueType,
) -> None:
    if quantization == Quantization.QUANTIZATION_I8 and space != Space.SPACE_COSINE:
        pytest.skip("i8 only goes with cosine")
    shard = await SingleShard.create(worker, space=space, quantization=quantization)
    await shard.add(names(range(4000)), vectors[:4000])
    await graph_of(shard, 4000)

    matches = await shard.search(vectors[4000:4100], 10)

    assert matches.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
    answer = answer_of(matches)
    found = 0
    for i, query in enumerate(vectors[4000:4100]):
        true = true_distances(space, query, vectors[:4000])
        nearest = {f"r{j}" for j in np.argsort(true)[:10]}
        found += len(nearest & set(answer.ids[i]))
        told = [true[int(name[1:])] for name in answer.ids[i]]
        np.testing.assert_allclose(answer.distances[i], told, rtol=1e-6, atol=1e-6)
        assert (np.diff(answer.distances[i]) >= 0).all()
    assert found / 1000 > 0.95


async def test_equal_distances_come_in_order_of_insertion(shard: SingleShard) -> None:
    await shard.add(["d", "c", "b", "a"], [[1, 0], [0, 1], [-1, 0], [0, -1]])
    await shard.update(["c"], [[0, -1]])

    answer = answer_of(await shard.search([0, 0], 3))

    assert answer.ids == [["d", "c", "b"]]


async def test_stored_vectors_come_back_bit_for_bit(shard: SingleShard) -> None:
    stored = np.array([[1e-40, -0.0, np.float32(1) / 3], [1e18, 3e-5, -1]], np.float32)

    await shard.add(["a", "b"], stored)

    matches = await shard.search([0, 0, 0], 2, include=[3])
    assert matches.records.vectors.values == stored.tobytes()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_fast_distance_is_never_off_by_more_than_its_bound(data: st.DataObject) -> None:
    dimension = data.draw(st.integers(1, 40))
    size = st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e3, 1e17])
    numbers = st.floats(-1, 1, width=32)
    vectors = data.draw(hnp.arrays(np.float32, (8, dimension), elements=numbers))
    query = data.draw(hnp.arrays(np.float32, (1, dimension), elements=numbers))
    vectors = (vectors * data.draw(size)).astype(np.float32)
    query = (query * data.draw(size)).astype(np.float32)

    for space in Distance:
        fast = bounded(space, Queries.of(query), vectors, norms(vectors))
        true = exact(space, query[0].astype(np.float64), vectors)

        assert (np.abs(fast.distance[0] - true) <= fast.error[0] + 1e-300).all()


def test_a_cosine_distance_is_never_beyond_what_rounding_adds() -> None:
    vectors = np.random.default_rng(5).standard_normal((2_000, 7)).astype(np.float32)

    same = exact(Distance.COSINE, vectors.astype(np.float64), vectors)
    opposite = exact(Distance.COSINE, -2.0 * vectors.astype(np.float64), vectors)

    assert 0.0 <= same.min() <= same.max() < 1e-14
    assert 2.0 - 1e-14 < opposite.min() <= opposite.max() <= 2.0


# Beside the graph.


async def test_updates_and_deletions_beside_a_graph(worker: Worker, vectors: Vectors) -> None:
    shard = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    await shard.add(names(range(4000)), vectors[:4000])
    await graph_of(shard, 4000)
    current = {f"r{i}": vectors[i] for i in range(4000)}
    await shard.delete(names(range(600)))
    await shard.update(names(range(600, 900)), vectors[4000:4300])
    for i in range(600):
        del current[f"r{i}"]
    current |= {f"r{600 + i}": vectors[4000 + i] for i in range(300)}
    ids, stored = list(current), np.array(list(current.values()))

    answer = answer_of(await shard.search(vectors[5000:5050], 10))

    found = 0
    for i, query in enumerate(vectors[5000:5050]):
        true = true_distances(Space.SPACE_COSINE, query, stored)
        found += len({ids[j] for j in np.argsort(true)[:10]} & set(answer.ids[i]))
        told = [true[ids.index(name)] for name in answer.ids[i]]
        np.testing.assert_allclose(answer.distances[i], told, atol=1e-6)
    assert found / 500 > 0.95


async def test_deleting_everything_near_a_query_does_not_shorten_its_answer(
    worker: Worker, vectors: Vectors
) -> None:
    shard = await SingleShard.create(worker, space=Space.SPACE_COSINE, sync_threshold=100_000)
    await shard.add(names(range(3000)), vectors[:3000])
    shard.open.configure(_with_small_threshold(shard))
    shard.worker._building.consider(shard.open)
    await graph_of(shard, 3000)
    true = true_distances(Space.SPACE_COSINE, vectors[3500], vectors[:3000])
    order = np.argsort(true)

    await shard.delete([f"r{j}" for j in order[:700]])

    answer = answer_of(await shard.search(vectors[3500], 10))
    assert answer.ids[0] == [f"r{j}" for j in order[700:710]]


def _with_small_threshold(shard: SingleShard) -> Any:
    import dataclasses

    return dataclasses.replace(shard.open.configuration, sync_threshold=1000)


async def test_every_match_of_a_filter_is_found(worker: Worker, vectors: Vectors) -> None:
    shard = await SingleShard.create(worker)
    metadatas = [{"n": i, "tenth": i % 10 == 0} for i in range(4000)]
    await shard.add(names(range(4000)), vectors[:4000], metadatas)
    await graph_of(shard, 4000)
    query = vectors[4500]
    true = true_distances(Space.SPACE_L2, query, vectors[:4000])

    for where, matching in (
        ({"n": {"$lt": 5}}, np.arange(5)),
        ({"tenth": True}, np.arange(0, 4000, 10)),
        ({"n": {"$gte": 40}}, np.arange(40, 4000)),
        ({"n": {"$lt": 0}}, np.arange(0)),
    ):
        matches = await shard.search(query, 10, where=where)

        nearest = matching[np.argsort(true[matching], kind="stable")[:10]]
        assert matches.plan.matching_count == len(matching)
        assert answer_of(matches).ids[0] == [f"r{j}" for j in nearest]


async def test_ids_restrict_a_search(shard: SingleShard) -> None:
    await shard.add(list("abcd"), [[1], [2], [3], [4]])

    answer = answer_of(await shard.search([0], 10, ids=["d", "b", "nope", "b"]))

    assert answer.ids == [["b", "d"]]


async def test_more_than_there_are_is_all(shard: SingleShard) -> None:
    await shard.add(list("ab"), [[1], [2]])

    assert answer_of(await shard.search([[0], [3]], 50)).ids == [["a", "b"], ["b", "a"]]


async def test_an_empty_shard_finds_nothing(shard: SingleShard) -> None:
    matches = await shard.search([[1, 2], [3, 4]], 5)

    assert list(matches.match_counts) == [0, 0]
    assert matches.plan.method == SearchMethod.SEARCH_METHOD_NOTHING


async def test_queries_of_another_dimension_are_refused(shard: SingleShard) -> None:
    await shard.add(["a"], [[1, 2]])

    with pytest.raises(DimensionMismatchError, match="dimension 2, got 3"):
        await shard.search([1, 2, 3], 1)


async def test_vectors_that_no_graph_holds_are_found_all_the_same(
    worker: Worker, vectors: Vectors
) -> None:
    shard = await SingleShard.create(worker, quantization=Quantization.QUANTIZATION_F16)
    data = vectors[:2500].copy()
    data[:20] *= 1e6  # beyond 65,504, what f16 can hold
    await shard.add(names(range(2500)), data)
    await graph_of(shard, 2480)

    answer = answer_of(await shard.search(data[:20], 1))

    assert answer.ids == [[f"r{i}"] for i in range(20)]
    assert shard.open.newest.fresh.live_count == 20


async def test_an_answer_over_its_bound_names_include(tmp_path: Path) -> None:
    worker = await started(tmp_path, settings=WorkerSettings(max_answer_bytes=10_000))
    shard = await SingleShard.create(worker)
    await shard.add(names(range(20)), [[i] for i in range(20)], None, ["x" * 1000] * 20)

    matches = await shard.search([0], 20, include=[1])

    assert matches.error.code == OverloadedError.code
    assert "include" in matches.error.message
    await worker.close()


async def test_readers_see_each_acknowledged_write_and_no_half_of_one(
    worker: Worker, vectors: Vectors
) -> None:
    """While records are moved, in batches, from one place to another, a reader finds each once."""
    shard = await SingleShard.create(worker)
    await shard.add(names(range(2500)), vectors[:2500])
    await graph_of(shard, 2500)
    away = np.ones(64, np.float32)
    stop = asyncio.Event()

    async def read() -> int:
        turns = 0
        while not stop.is_set():
            matches = await shard.search(away, 40)
            answer = answer_of(matches)
            near = [n for n, d in zip(answer.ids[0], answer.distances[0], strict=True) if d < 1e-6]
            # Batches of ten: never a part of one.
            assert len(near) % 10 == 0
            assert await shard.count() == 2500
            turns += 1
            await asyncio.sleep(0)
        return turns

    readers = [asyncio.create_task(read()) for _ in range(3)]
    for first in range(0, 40, 10):
        moved = names(range(first, first + 10))
        await shard.update(moved, np.tile(away, (10, 1)))
        answer = answer_of(await shard.search(away, 40))
        assert set(moved) <= set(answer.ids[0])
        await shard.update(moved, vectors[first : first + 10] + 3)
    stop.set()
    assert min(await asyncio.gather(*readers)) > 0


async def test_a_graph_that_finds_too_little_is_made_up_for_by_an_exact_scan(
    worker: Worker, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await SingleShard.create(worker)
    await shard.add(names(range(3000)), vectors[:3000])
    await graph_of(shard, 3000)
    found = Graph.search

    def cut_off(
        self: Graph, queries: Vectors, count: int, threads: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        # As if most of the graph could not be reached from where searches begin.
        keys, counts = found(self, queries, count, threads)
        return keys, np.minimum(counts, 3)

    monkeypatch.setattr(Graph, "search", cut_off)

    for queries in (vectors[5000:5001], vectors[5000:5040]):
        matches = await shard.search(queries, 10)

        assert matches.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
        for query, ids in zip(queries, answer_of(matches).ids, strict=True):
            true = true_distances(Space.SPACE_L2, query, vectors[:3000])
            assert ids == [f"r{i}" for i in np.argsort(true)[:10]]
