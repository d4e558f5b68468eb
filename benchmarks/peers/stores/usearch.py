"""Raw USearch in process: the ceiling of what is built on it."""

from __future__ import annotations

import importlib
from typing import Any, Final

import numpy as np

from benchmarks.peers.store import (
    CONNECTIVITY,
    EXPANSION,
    NEAREST,
    THREADS,
    Batch,
    Store,
    Vectors,
    directory_of,
)

_METRICS: Final = {"cosine": "ip", "l2": "l2sq"}
"""The vectors are normalised already where it is the cosine."""


class Usearch(Store):
    """`usearch.index.Index`, saved when it is settled."""

    package = "usearch"
    modules = ("usearch.index",)
    holds_records = False
    batches = "one call, a thread for each core"
    acknowledged = "in memory: an index, no store"
    settings = "bfloat16, inner product of normalised vectors or l2, M 16, ef_construction 100"

    def open(self, place: str) -> None:
        """Say where indexes lie."""
        self._place = place

    def close(self) -> None:
        """It ends with the process."""

    def use(self, name: str) -> bool:
        """Load it."""
        self.create(name)
        if self._file.exists():
            self._index.load(str(self._file))
            return True
        return False

    def create(self, name: str) -> None:
        """Make it."""
        self._file = directory_of(self._place, f"{name}.usearch")
        self._index: Any = importlib.import_module("usearch.index").Index(
            ndim=self.setting.dimension,
            metric=_METRICS[self.setting.metric],
            dtype="bf16",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION,
        )

    def drop(self) -> None:
        """Delete its file."""
        self._file.unlink(missing_ok=True)

    def count(self) -> int:
        """Ask it."""
        return len(self._index)

    def write(self, batch: Batch) -> None:
        """Add."""
        keys = np.asarray(batch.numbers, dtype=np.uint64)
        self._index.add(keys, batch.vectors, threads=THREADS)

    def settle(self) -> float:
        """Save it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._index.save(str(self._file))
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by keys."""
        self._index.remove(np.asarray(numbers, dtype=np.uint64))

    def tune(self, effort: int) -> None:
        """Set `expansion_search`."""
        self._index.expansion_search = effort

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query; there is nothing but keys and distances."""
        del bare
        if below is not None:
            raise NotImplementedError("USearch holds no metadata")
        if len(queries) == 1:
            return self._index.search(queries[0], NEAREST, threads=1)
        return self._index.search(queries, NEAREST, threads=THREADS)

    def numbers(self, found: Any) -> list[list[int]]:
        """Keys; of one query, a row alone."""
        rows: list[list[int]] = np.atleast_2d(found.keys).tolist()
        return rows
