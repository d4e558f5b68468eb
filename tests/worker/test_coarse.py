"""Coarse distances: what they leave out is surely not among the nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal_worker.coarse import coarse_bounds
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
        bounds = coarse_bounds(space, queries, which, stored.matrix, quantization)
        true = exact(space, queries.double[which], kept)
        assert (bounds.lower <= true).all()
        assert (true <= bounds.upper).all()


def test_bounds_are_narrow_enough_to_be_of_use(tmp_path: Path, vectors: Vectors) -> None:
    stored = stored_of(tmp_path, Fit(Space.COSINE, Quantization.BF16, 8, 32), vectors[:2000])
    queries = Queries.of(vectors[3000:3001])
    bounds = coarse_bounds(Space.COSINE, queries, 0, stored.matrix, Quantization.BF16)
    assert (bounds.upper - bounds.lower).max() < 0.04
