"""Under any filter as many matches as there are, the nearest ones, whatever the plan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Quantization, Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal.wire.filters import where_from_dict
from shoal_worker.matching import Selection
from shoal_worker.search import Search, search
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, indexed

Vectors = npt.NDArray[np.float32]

COUNT = 6000
FRESH = 100
LIMIT = 10


async def filled(
    worker: Worker, vectors: Vectors, quantization: Quantization.ValueType
) -> tuple[SingleShard, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A shard with a graph, some fresh records, some updated and some deleted ones."""
    shard = await SingleShard.create(
        worker, space=Space.SPACE_COSINE, quantization=quantization, ef_construction=64
    )
    rank = np.random.default_rng(1).permutation(COUNT + FRESH)
    far = np.argsort(np.argsort(vectors[: COUNT + FRESH] @ vectors[-1]))

    async def put(numbers: range) -> None:
        await shard.upsert(
            [f"id {n}" for n in numbers],
            vectors[numbers.start : numbers.stop],
            [{"rank": int(rank[n]), "far": int(far[n])} for n in numbers],
        )

    for first in range(0, COUNT, 1000):
        await put(range(first, first + 1000))
    await graph_of(shard, 5000)
    await put(range(COUNT, COUNT + FRESH))
    # Other keys for some rows: away, and back.
    await shard.update([f"id {n}" for n in range(0, 300, 3)], -vectors[:300:3])
    await shard.update([f"id {n}" for n in range(0, 300, 3)], vectors[:300:3])
    gone = [f"id {n}" for n in range(1000, 1050)]
    await shard.delete(gone)
    rank[1000:1050] = far[1000:1050] = 10**9
    # What lags far behind is not searched by its places in the graph.
    await indexed(shard)
    return shard, rank, far


@pytest.mark.parametrize(
    "quantization",
    [Quantization.QUANTIZATION_BF16, Quantization.QUANTIZATION_F16, Quantization.QUANTIZATION_I8],
    ids=["bf16", "f16", "i8"],
)
async def test_filtered_searches_find_the_nearest_matches(
    worker: Worker, vectors: Vectors, quantization: Quantization.ValueType
) -> None:
    shard, rank, far = await filled(worker, vectors, quantization)
    base = vectors[: COUNT + FRESH]
    near_queries = base[np.argsort(-(base @ vectors[-1]))[:30]]
    methods = set()
    for field, values, queries in (
        ("rank", rank, vectors[-30:]),
        ("far", far, near_queries),
    ):
        for end in (5500, 3000, 600, 60, 6, 1, 0):
            matching = np.flatnonzero(values < end)
            hits = total = 0
            for query in queries:
                found = await shard.search([query], LIMIT, where={field: {"$lt": end}})
                ids = answer_of(found).ids[0]
                assert len(ids) == min(LIMIT, len(matching))
                assert found.plan.matching_count == len(matching)
                order = np.argsort(-(base[matching] @ query), kind="stable")[:LIMIT]
                truth = {f"id {n}" for n in matching[order]}
                if found.plan.method == SearchMethod.SEARCH_METHOD_EXACT:
                    assert set(ids) == truth
                hits += len(truth & set(ids))
                total += len(truth)
                methods.add(found.plan.method)
            assert hits >= 0.99 * total, (field, end)
    assert methods >= {
        SearchMethod.SEARCH_METHOD_NOTHING,
        SearchMethod.SEARCH_METHOD_EXACT,
        SearchMethod.SEARCH_METHOD_GRAPH,
    }


async def test_a_batch_of_filtered_queries_is_answered_as_one_by_one(
    worker: Worker, vectors: Vectors
) -> None:
    shard, _, _ = await filled(worker, vectors, Quantization.QUANTIZATION_BF16)
    for end in (3000, 600, 60):
        where = {"far": {"$lt": end}}
        together = answer_of(await shard.search(vectors[-8:], LIMIT, where=where))
        for query, ids in zip(vectors[-8:], together.ids, strict=True):
            assert len(ids) == LIMIT
            alone = answer_of(await shard.search([query], LIMIT, where=where))
            assert len(set(ids) & set(alone.ids[0])) >= LIMIT - 1


async def test_a_reader_of_an_older_state_finds_what_was_current_then(
    worker: Worker, vectors: Vectors
) -> None:
    shard, rank, _ = await filled(worker, vectors, Quantization.QUANTIZATION_BF16)
    matching = np.flatnonzero(rank < 60)
    selection = Selection(where=where_from_dict({"rank": {"$lt": 60}}))
    query = vectors[-1:]
    sought = Search(query, LIMIT, selection, frozenset(), 1 << 20, 1, lambda: None)
    order = matching[np.argsort(-(vectors[matching] @ query[0]), kind="stable")]
    with shard.open.pin() as older:
        # The nearest go away, before anybody has asked where rows lie in the graph.
        gone = [f"id {n}" for n in order[:20]]
        await shard.update(gone[:10], -vectors[order[:10]])
        await shard.delete(gone[10:])
        with shard.open.pin() as newer:
            found = search(newer, shard.open.configuration.fit.space, sought)
            assert newer.state.vectors is not None
            assert newer.state.vectors.places is not None
            assert found.columns.ids == [f"id {n}" for n in order[20:30]]
        found = search(older, shard.open.configuration.fit.space, sought)
        assert found.columns.ids == [f"id {n}" for n in order[:10]]
