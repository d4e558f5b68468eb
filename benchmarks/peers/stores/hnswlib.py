"""hnswlib: an index in process, float32."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.peers.index_store import IndexStore
from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, THREADS, Batch, Vectors

_FIRST_CAPACITY = 1_024


class Hnswlib(IndexStore):
    """`hnswlib.Index`, saved when it is settled."""

    package = "hnswlib"
    modules = ("hnswlib",)
    settings = "float32, M 16, ef_construction 100"

    def _new(self, name: str) -> Any:
        self._file = self._named(name)
        index = importlib.import_module("hnswlib").Index
        return index(space=self.setting.metric, dim=self.setting.dimension)

    def use(self, name: str) -> bool:
        """Load it."""
        self._index = self._new(name)
        if self._file.exists():
            self._index.load_index(str(self._file))
            return True
        return False

    def create(self, name: str) -> None:
        """Make it."""
        self._index = self._new(name)
        self._index.init_index(_FIRST_CAPACITY, M=CONNECTIVITY, ef_construction=EXPANSION)

    def count(self) -> int:
        """Ask it."""
        count: int = self._index.get_current_count()
        return count

    def write(self, batch: Batch) -> None:
        """Add, with twice the room when there is not enough."""
        if batch.numbers.stop > self._index.get_max_elements():
            self._index.resize_index(2 * batch.numbers.stop)
        self._index.add_items(batch.vectors, list(batch.numbers), num_threads=THREADS)

    def _save(self) -> None:
        self._index.save_index(str(self._file))

    def remove(self, numbers: range) -> None:
        """Mark as deleted."""
        for number in numbers:
            self._index.mark_deleted(number)

    def tune(self, effort: int) -> None:
        """Set `ef`."""
        self._index.set_ef(effort)

    def _search(self, queries: Vectors, threads: int) -> Any:
        return self._index.knn_query(queries, k=NEAREST, num_threads=threads)

    def numbers(self, found: Any) -> list[list[int]]:
        """The first of two arrays."""
        rows: list[list[int]] = found[0].tolist()
        return rows
