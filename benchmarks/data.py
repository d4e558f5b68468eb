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


@dataclass(frozen=True, slots=True)
class Dataset:
    """Normalised vectors, held-out queries, and each query's true nearest by cosine.

    Attributes:
        name: What it is, with its size.
        base: Shape ``(n, d)``.
        queries: Shape ``(q, d)``.
        truth: Rows of `base`, shape ``(q, 10)``, nearest first.
    """

    name: str
    base: Vectors
    queries: Vectors
    truth: npt.NDArray[np.int64]

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
    truth = np.argsort(-(queries @ base.T), axis=1, kind="stable")[:, :10]
    return Dataset(f"{name} {len(base):,} x {base.shape[1]}", base, queries, truth)


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
