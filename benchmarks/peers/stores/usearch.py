"""Raw USearch in process: the ceiling of what is built on it."""

from __future__ import annotations

import importlib
from typing import Any, Final

import numpy as np

from benchmarks.peers.index_store import IndexStore
from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, THREADS, Batch, Vectors

_METRICS: Final = {"cosine": "ip", "l2": "l2sq"}
"""The vectors are normalised already where it is the cosine."""


class Usearch(IndexStore):
    """`usearch.index.Index`, saved when it is settled."""

    package = "usearch"
    modules = ("usearch.index",)
    settings = "bfloat16, inner product of normalised vectors or l2, M 16, ef_construction 100"

    def use(self, name: str) -> bool:
        """Load it."""
        self.create(name)
        if self._file.exists():
            self._index.load(str(self._file))
            return True
        return False

    def create(self, name: str) -> None:
        """Make it."""
        self._file = self._named(name)
        self._index = importlib.import_module("usearch.index").Index(
            ndim=self.setting.dimension,
            metric=_METRICS[self.setting.metric],
            dtype="bf16",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION,
        )

    def count(self) -> int:
        """Ask it."""
        return len(self._index)

    def write(self, batch: Batch) -> None:
        """Add."""
        keys = np.asarray(batch.numbers, dtype=np.uint64)
        self._index.add(keys, batch.vectors, threads=THREADS)

    def _save(self) -> None:
        self._index.save(str(self._file))

    def remove(self, numbers: range) -> None:
        """Delete by keys."""
        self._index.remove(np.asarray(numbers, dtype=np.uint64))

    def tune(self, effort: int) -> None:
        """Set `expansion_search`."""
        self._index.expansion_search = effort

    def _search(self, queries: Vectors, threads: int) -> Any:
        return self._index.search(
            queries[0] if len(queries) == 1 else queries, NEAREST, threads=threads
        )

    def numbers(self, found: Any) -> list[list[int]]:
        """Keys; of one query, a row alone."""
        rows: list[list[int]] = np.atleast_2d(found.keys).tolist()
        return rows
