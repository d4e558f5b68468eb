"""Coarse distances: what they leave out is surely not among the nearest."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal.errors import DeadlineExceededError
from shoal_worker import bounding
from shoal_worker.bounding import measured_at
from shoal_worker.coarse import CoarseBounds, CoarseQuery
from shoal_worker.distances import Queries, Space, exact
from shoal_worker.graph import Fit, Graph, GraphWriter, Quantization
from shoal_worker.stored import Stored

Vectors = npt.NDArray[np.float32]


def stored_of(tmp_path: Path, fit: Fit, vectors: Vectors) -> Stored:
    writer = GraphWriter(fit, vectors.shape[1], "shard")
    keys = np.arange(len(vectors), dtype=np.uint64) * 3 + 2
    holds = fit.holds(vectors)
    writer.add(keys[holds], vectors[holds])
    path = tmp_path / "graph"
    path.write_bytes(b"".join(writer.checkpoint(1, int(keys[-1]), 1)))
    stored = Graph.open(path, fit, "shard", vectors.shape[1], 16).stored
    assert stored is not None
    assert stored.keys.tolist() == keys[holds].tolist()
    return stored


def never() -> None:
    """Let a pass go on."""


def bounds_of(
    space: Space, queries: Queries, which: int, stored: Stored, quantization: Quantization
) -> CoarseBounds:
    query = CoarseQuery(space, queries, which, quantization)
    everything = np.arange(len(stored.keys))
    bounds = query.bounds(measured_at(query, stored.matrix, everything, 1, never))
    lower = query.lower(measured_at(query, stored.matrix, everything, 1, never))
    assert np.allclose(lower, bounds.lower, rtol=0.0, atol=1e-12 * np.abs(bounds.lower).max())
    return bounds


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize(
    "quantization", [Quantization.BF16, Quantization.F16, Quantization.F32], ids=lambda q: q.value
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e3])
def test_every_distance_lies_between_its_bounds(
    tmp_path: Path, space: Space, quantization: Quantization, scale: float
) -> None:
    random = np.random.default_rng(3)
    dimension = 48
    vectors = random.normal(size=(500, dimension)).astype(np.float32) * np.float32(scale)
    vectors[0] = 0
    vectors[1] *= 1e-4
    vectors[2, 1:] = 0
    vectors[3:40] = vectors[50] + vectors[3:40] * 1e-4
    fit = Fit(space, quantization, 8, 32)
    stored = stored_of(tmp_path, fit, vectors)
    queries = Queries.of(np.concatenate((vectors[48:56], vectors[:4], -vectors[50:52])))
    kept = vectors[fit.holds(vectors)]
    for which in range(len(queries.single)):
        bounds = bounds_of(space, queries, which, stored, quantization)
        true = exact(space, queries.double[which], kept)
        assert (bounds.lower <= true).all()
        assert (true <= bounds.upper).all()


def test_bounds_are_narrow_enough_to_be_of_use(tmp_path: Path, vectors: Vectors) -> None:
    stored = stored_of(tmp_path, Fit(Space.COSINE, Quantization.BF16, 8, 32), vectors[:2000])
    queries = Queries.of(vectors[3000:3001])
    bounds = bounds_of(Space.COSINE, queries, 0, stored, Quantization.BF16)
    assert (bounds.upper - bounds.lower).max() < 0.04


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("share", [0.001, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_passed_over_and_what_is_gathered_are_measured_alike(
    monkeypatch: pytest.MonkeyPatch, space: Space, share: float, threads: int
) -> None:
    monkeypatch.setattr(bounding, "_SHARED_NUMBERS", 1000)
    random = np.random.default_rng(8)
    matrix = random.normal(size=(30_000, 16)).astype(np.float32)
    queries = Queries.of(random.normal(size=(1, 16)).astype(np.float32))
    query = CoarseQuery(space, queries, 0, Quantization.F32)
    wanted = random.random(len(matrix)) < share
    # A stretch that is passed over among others that are gathered, and the other way about.
    wanted[9_000:18_500] = share < 0.1
    wanted[20_000] = True
    places = np.flatnonzero(wanted)
    expected = np.empty((query.raw_count, len(places)))
    query.measure(np.ascontiguousarray(matrix[places]), expected)
    checks: list[None] = []
    measured = measured_at(query, matrix, places, threads, lambda: checks.append(None))
    assert np.array_equal(measured, expected)
    assert checks
    backwards = measured_at(query, matrix, places[::-1].copy(), threads, never)
    assert np.array_equal(backwards, expected[:, ::-1])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pass_ends_by_its_check_on_every_thread(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(bounding, "_SHARED_NUMBERS", 1000)
    matrix = np.ones((40_000, 16), np.float32)
    queries = Queries.of(np.ones((1, 16), np.float32))
    query = CoarseQuery(Space.COSINE, queries, 0, Quantization.F32)
    callers: set[int] = set()

    def check() -> None:
        callers.add(threading.get_ident())
        if len(callers) == threads:
            raise DeadlineExceededError("too late")

    with pytest.raises(DeadlineExceededError):
        measured_at(query, matrix, np.arange(len(matrix)), threads, check)
    assert len(callers) == threads
