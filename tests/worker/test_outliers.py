"""A few vectors far longer than the rest do not spoil a graph of inner products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker.compaction import Compaction
from shoal_worker.outliers import outlying
from tests.worker.single import SingleShard, answer_of, graph_of, started
from tests.worker.test_compaction import compacted
from tests.worker.test_search import names

Vectors = npt.NDArray[np.float32]

COUNT, GIANTS = 6000, 10


@pytest.fixture(scope="module")
def directions() -> Vectors:
    """Points of a mixture of low dimension, of norm 1, as embeddings are; the last are queries."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((64, 16)) * 1.5
    inner = centres[rng.integers(0, 64, COUNT + 100)] + rng.standard_normal((COUNT + 100, 16))
    drawn = inner @ rng.standard_normal((16, 48)) + 0.3 * rng.standard_normal((COUNT + 100, 48))
    normalised: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("<f4")
    return normalised


def with_giants(directions: Vectors) -> tuple[Vectors, list[int]]:
    vectors = directions[:COUNT].copy()
    giants = list(range(50, COUNT, COUNT // GIANTS))[:GIANTS]
    vectors[giants] *= 8
    return vectors, giants


async def recall(single: SingleShard, vectors: Vectors, queries: Vectors) -> float:
    truth = np.argsort(-(queries.astype(float) @ vectors.T.astype(float)), axis=1)[:, :10]
    matches = await single.search(queries, 10)
    assert matches.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
    found = answer_of(matches).ids
    hits = [
        len(set(ids) & {f"r{i}" for i in best})
        for ids, best in zip(found, truth.tolist(), strict=True)
    ]
    return sum(hits) / (10 * len(queries))


async def filled(tmp_path: Path, vectors: Vectors) -> SingleShard:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, space=Space.SPACE_IP)
    for first in range(0, len(vectors), 1000):
        await single.add(names(range(first, first + 1000)), vectors[first : first + 1000])
    return single


def held_back(single: SingleShard) -> list[int]:
    with single.open.pin() as pinned:
        return single.open.store.exact_keys(pinned.txn)


async def test_giants_do_not_hide_the_others(tmp_path: Path, directions: Vectors) -> None:
    vectors, giants = with_giants(directions)
    queries = directions[COUNT:]
    single = await filled(tmp_path, vectors)
    await graph_of(single, COUNT - 700)

    assert held_back(single) == [i + 1 for i in giants]
    assert await recall(single, vectors, queries) > 0.99

    await single.worker.close()
    single = single.on(await started(tmp_path))
    assert await recall(single, vectors, queries) > 0.99
    await compacted(single, erase=False)
    assert held_back(single) == [i + 1 for i in giants]
    await single.delete([f"r{i}" for i in giants])
    assert held_back(single) == []
    await single.worker.close()


async def test_what_was_left_out_during_a_compaction_stays_out(
    tmp_path: Path, directions: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, giants = with_giants(directions)
    single = await filled(tmp_path, vectors[:1000])
    catch_up = Compaction._catch_up

    def meanwhile(self: Compaction, copy: Any) -> None:
        catch_up(self, copy)
        single.open.hold_back([giants[0] + 1]).result(10)

    monkeypatch.setattr(Compaction, "_catch_up", meanwhile)

    await compacted(single, erase=True)

    assert held_back(single) == [giants[0] + 1]
    await single.worker.close()


def test_only_what_stands_out_is_left_out_and_the_largest_first() -> None:
    lengths = np.array([1.0, 1.1, 9.0, 1.0, 7.0, 8.0])

    assert outlying(lengths, np.ones(100), 10).tolist() == [2, 4, 5]
    assert outlying(lengths, np.ones(100), 2).tolist() == [2, 5]
    assert outlying(lengths, lengths, 10).tolist() == []
    assert outlying(np.zeros(3), np.zeros(3), 10).tolist() == []
