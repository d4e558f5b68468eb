"""After most records were replaced, the graph finds what one built afresh would find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker.building import Need, need_of
from tests.worker.single import SingleShard, answer_of, started, until
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]

BATCH = 500
QUERIES = 200


def drawn(rng: np.random.Generator, count: int, dimension: int) -> Vectors:
    """Points of a mixture of low dimension, as embeddings are."""
    shape = np.random.default_rng(3)
    centres, plane = shape.standard_normal((64, 40)), shape.standard_normal((40, dimension))
    inner = centres[rng.integers(0, 64, count)] * 1.5 + rng.standard_normal((count, 40))
    points: Vectors = (inner @ plane + 0.3 * rng.standard_normal((count, dimension))).astype("<f4")
    return points


async def settled(single: SingleShard) -> None:
    """Wait until no graph is to be built."""

    def is_settled() -> bool:
        shard = single.open
        state = shard.newest
        return state.graph is not None and need_of(state, shard.configuration) is Need.NOTHING

    await until(is_settled)


async def recall(single: SingleShard, vectors: Vectors, queries: Vectors) -> float:
    double = vectors.astype(float)
    hits = 0
    for first in range(0, len(queries), 20):
        part = queries[first : first + 20]
        matches = await single.search(part, 10)
        assert matches.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
        for query, ids in zip(part, answer_of(matches).ids, strict=True):
            nearest = np.argsort(((double - query) ** 2).sum(axis=1))[:10]
            hits += len(set(ids) & {f"r{i}" for i in nearest})
    return hits / (10 * len(queries))


@pytest.mark.parametrize("count", [4000, pytest.param(30_000, marks=pytest.mark.long)])
async def test_recall_after_replacing_nine_in_ten_is_that_of_a_fresh_build(
    tmp_path: Path, count: int
) -> None:
    rng = np.random.default_rng(11)
    before, vectors = drawn(rng, count, 64), drawn(rng, count, 64)
    kept = np.arange(count) % 10 == 0
    vectors[kept] = before[kept]
    queries = drawn(rng, QUERIES, 64)
    worker = await started(tmp_path)
    replaced = await SingleShard.create(worker, space=Space.SPACE_L2)
    fresh = await SingleShard.create(worker, space=Space.SPACE_L2)
    for shard, given in ((replaced, before), (fresh, vectors)):
        for first in range(0, count, BATCH):
            await shard.add(names(range(first, first + BATCH)), given[first : first + BATCH])
        await settled(shard)

    for first in range(0, count, BATCH):
        part = [i for i in range(first, first + BATCH) if not kept[i]]
        await replaced.upsert([f"r{i}" for i in part], vectors[part])
    await settled(replaced)

    graph = replaced.open.newest.graph
    assert graph is not None
    assert graph.vector_count < 1.5 * count
    found, expected = (
        await recall(replaced, vectors, queries),
        await recall(fresh, vectors, queries),
    )
    assert expected > 0.98
    assert found > expected - 0.005
    await worker.close()
