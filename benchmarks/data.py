"""Vectors to measure with, and their exact neighbours; texts."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

PASSAGES = Path(__file__).parents[1] / "data" / "passages"

Vectors = npt.NDArray[np.float32]


NEAREST = 10


@dataclass(frozen=True, slots=True)
class Dataset:
    """Vectors, held-out queries, and each query's true nearest.

    Attributes:
        name: What it is, with its size.
        base: Shape ``(n, d)``, normalised if the metric is cosine.
        queries: Shape ``(q, d)``, and likewise.
        truth: Rows of `base`, shape ``(q, 10)``, nearest first.
        metric: ``cosine`` or ``l2``.
    """

    name: str
    base: Vectors
    queries: Vectors
    truth: npt.NDArray[np.int64]
    metric: str = "cosine"

    def truth_among(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give each query's true nearest of some rows of `base`: ten, or as many as there are."""
        return rows[_nearest(self.base[rows], self.queries, self.metric)]

    def recall(self, found: list[list[int]], queries: range) -> float:
        """The mean share of the true ten that were found."""
        hits = sum(
            len(set(rows) & set(self.truth[q].tolist()))
            for q, rows in zip(queries, found, strict=True)
        )
        return hits / (10 * len(found))


def _dataset(name: str, base: Vectors, queries: Vectors) -> Dataset:
    base = base / np.linalg.norm(base, axis=1, keepdims=True)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    truth = _nearest(base, queries, "cosine")
    return Dataset(f"{name} {len(base):,} x {base.shape[1]}", base, queries, truth)


def _nearest(base: Vectors, queries: Vectors, metric: str) -> npt.NDArray[np.int64]:
    """Rows of `base`, nearest first; exact, but for rounding in float32."""
    distances = -(queries @ base.T)
    if metric == "l2":
        distances = 2 * distances + np.square(base).sum(axis=1)
    return np.argsort(distances, axis=1, kind="stable")[:, :NEAREST].astype(np.int64)


def passages() -> Dataset:
    """The project's real texts, embedded by all-MiniLM-L6-v2."""
    base = np.load(PASSAGES / "passages_vectors_f16.npy").astype(np.float32)
    queries = np.load(PASSAGES / "queries_vectors_f16.npy").astype(np.float32)
    return _dataset("passages", base, queries)


def passages_varied(count: int, neighbours: int = 10) -> Dataset:
    """As many vectors as are wanted, made of the real ones.

    Each further one lies between a passage and one of its nearest, where another passage on the
    same subject would: searching is as hard as among real texts, and none stands there twice.
    """
    rng = np.random.default_rng(21)
    real = passages()
    base = real.base[:count]
    near = np.argsort(-(base @ base.T), axis=1)[:, 1 : neighbours + 1]
    own = rng.integers(0, len(base), count - len(base))
    other = near[own, rng.integers(0, neighbours, len(own))]
    share = rng.uniform(0.2, 0.8, (len(own), 1)).astype(np.float32)
    noise = rng.standard_normal((len(own), base.shape[1])).astype(np.float32) * 0.01
    further = base[own] * share + base[other] * (1 - share) + noise
    return _dataset("passages, varied", np.concatenate([base, further]), real.queries)


def passages_sized(count: int) -> Dataset:
    """Real passages as far as there are enough, else varied ones."""
    real = passages()
    if count > len(real.base):
        return passages_varied(count)
    return _dataset("passages", real.base[:count], real.queries)


def mixture(count: int, dimension: int = 384, intrinsic: int = 32) -> Dataset:
    """A Gaussian mixture on a subspace: like embeddings, of any size.

    `count` vectors of 256 clusters that lie in `intrinsic` dimensions of `dimension`, with a little
    noise in all of them.
    """
    rng = np.random.default_rng(20)
    plane = rng.standard_normal((intrinsic, dimension)).astype(np.float32)
    centres = rng.standard_normal((256, intrinsic)).astype(np.float32) * 1.5

    def draw(n: int) -> Vectors:
        inner = centres[rng.integers(0, len(centres), n)]
        inner = inner + rng.standard_normal((n, intrinsic)).astype(np.float32)
        noise = rng.standard_normal((n, dimension)).astype(np.float32) * 0.3
        return (inner @ plane + noise).astype(np.float32)

    return _dataset("mixture", draw(count), draw(500))


def gaussian(count: int, dimension: int = 384) -> Dataset:
    """Independent normal numbers: the worst case, where a vector is hardly nearer than another."""
    rng = np.random.default_rng(22)
    base = rng.standard_normal((count, dimension)).astype(np.float32)
    queries = rng.standard_normal((200, dimension)).astype(np.float32)
    return _dataset("gaussian", base, queries)


def from_file(path: Path) -> Dataset:
    """Vectors of a file, by L2: ``base``, ``query``, and ``gt100``, each query's true nearest.

    Such are samples of SIFT and MNIST.
    """
    with np.load(path) as arrays:
        base, queries = (arrays[name].astype(np.float32) for name in ("base", "query"))
        truth = arrays["gt100"][:, :NEAREST].astype(np.int64)
    name = f"{path.stem.partition('_')[0]} {len(base):,} x {base.shape[1]}"
    return Dataset(name, base, queries, truth, "l2")


def documents(count: int) -> list[str]:
    """Give real texts, each time with their sentences in another order."""
    with gzip.open(PASSAGES / "passages.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    shuffle = random.Random(3)
    made = []
    for n in range(count):
        sentences = texts[n % len(texts)].split(". ")
        shuffle.shuffle(sentences)
        made.append(". ".join(sentences))
    return made
