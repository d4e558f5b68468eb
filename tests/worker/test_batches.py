"""Batches of queries: ranked together, and each answered as if it came alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Space
from shoal_worker.columns import Column, ColumnReader
from shoal_worker.distances import Queries, exact, exact_of_each
from shoal_worker.distances import Space as Distance
from shoal_worker.nearest import ranked, ranked_of_each
from shoal_worker.vector_file import encode_heads
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of


@pytest.mark.parametrize("space", list(Distance))
@pytest.mark.parametrize("count", [1, 3, 700])
def test_distances_of_each_query_are_the_exact_ones(space: Distance, count: int) -> None:
    random = np.random.default_rng(count)
    queries = random.standard_normal((9, 33)).astype(np.float32)
    vectors = random.standard_normal((9, count, 33)).astype(np.float32)
    vectors[0, 0], vectors[1, 0], queries[2] = 0.0, -3.0 * queries[1], 0.0
    expected = [
        exact(space, q.astype(np.float64), v) for q, v in zip(queries, vectors, strict=True)
    ]
    given = exact_of_each(space, Queries.of(queries), vectors)
    # To the last bit: equal vectors, one ranked this way and one that, are a tie.
    np.testing.assert_array_equal(given, expected)
    if space is Distance.COSINE:
        assert given.min() >= 0.0
        assert given.max() <= 2.0
        assert given[0, 0] == 1.0
        assert (given[2] == 1.0).all()


def test_places_without_a_candidate_are_left_out() -> None:
    distances = np.array([[3.0, np.inf, 1.0, 1.0], [np.inf] * 4])
    rows = np.array([[5, 9, 7, 6], [0, 1, 2, 3]], np.uint32)
    keys = rows.astype(np.uint64) + 100
    first, second = ranked_of_each(distances, rows, keys, 3)
    assert first.rows.tolist() == [6, 7, 5]
    assert first.keys.tolist() == [106, 107, 105]
    assert not len(second.rows)
    alone = ranked(distances[0, [0, 2, 3]], rows[0, [0, 2, 3]], keys[0, [0, 2, 3]], 3)
    assert alone.rows.tolist() == first.rows.tolist()


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_batch_answers_each_query_as_if_it_came_alone(
    worker: Worker, vectors: npt.NDArray[np.float32], threads: int
) -> None:
    shard = await SingleShard.create(worker, space=Space.SPACE_COSINE, num_threads=threads)
    await shard.add([str(i) for i in range(4000)], vectors[:4000])
    await graph_of(shard, 3000)
    # Dead beside the graph, a replaced one, and fresh ones.
    await shard.delete([str(i) for i in range(0, 600, 3)])
    await shard.upsert([str(i) for i in range(1, 300, 3)], vectors[4000:4100])
    queries = vectors[5000:5100]
    together = answer_of(await shard.search(queries, 10))
    for i, query in enumerate(queries):
        alone = answer_of(await shard.search(query, 10))
        assert together.ids[i] == alone.ids[0]
        np.testing.assert_array_equal(together.distances[i], alone.distances[0])


def nothing() -> None:
    """Check nothing."""


async def test_rows_are_read_as_records_are_one_by_one(
    worker: Worker, vectors: npt.NDArray[np.float32]
) -> None:
    shard = await SingleShard.create(worker)
    ids = [f"r{i}" for i in range(200)]
    metadatas = [{"n": i} if i % 3 else None for i in range(200)]
    documents = [f"document {i}" if i % 2 else None for i in range(200)]
    await shard.add(ids, vectors[:200], metadatas, documents)
    include = frozenset(Column)
    with shard.open.pin() as pinned:
        rows = list(range(199, -1, -2))
        together = ColumnReader(pinned.txn, pinned.store, include, 1 << 20)
        assert together.add_rows(rows, None, nothing)
        one_by_one = ColumnReader(pinned.txn, pinned.store, include, 1 << 20)
        for row in rows:
            record = pinned.store.record(pinned.txn, row)
            assert record is not None
            assert one_by_one.add(record)
        assert together.columns == one_by_one.columns
        named = ColumnReader(pinned.txn, pinned.store, include - {Column.VECTORS}, 1 << 20)
        # Of every third record the head is not known, and of one the ID does not fit into it.
        records = [pinned.store.record(pinned.txn, row) for row in rows]
        known = [(r.ordinal, r.id.encode()) if r is not None else None for r in records]
        known[::3] = [None] * len(known[::3])
        known[1] = (known[1][0], b"x" * 44) if known[1] is not None else None
        heads = encode_heads(rows, rows, known)
        heads[::3] = 0
        assert named.add_rows(rows, heads, nothing)
        assert named.columns.ids == one_by_one.columns.ids
        assert named.columns.ordinals == one_by_one.columns.ordinals
        assert named.columns.metadatas == one_by_one.columns.metadatas
        assert named.columns.documents == one_by_one.columns.documents
        small = ColumnReader(pinned.txn, pinned.store, include, 1000)
        assert not small.add_rows(rows, None, nothing)
        alone = ColumnReader(pinned.txn, pinned.store, include, 10)
        assert alone.add_rows(rows[:1], None, nothing)
    with shard.open.pin(copies=True) as pinned:
        copied = ColumnReader(pinned.txn, pinned.store, include, 1 << 20)
        assert copied.add_rows(rows, None, nothing)
        assert copied.columns == together.columns
