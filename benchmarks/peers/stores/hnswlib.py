"""hnswlib: an index in process, float32."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

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

_FIRST_CAPACITY = 1_024


class Hnswlib(Store):
    """`hnswlib.Index`, saved when it is settled."""

    package = "hnswlib"
    modules = ("hnswlib",)
    holds_records = False
    batches = "one call, a thread for each core"
    acknowledged = "in memory: an index, no store"
    settings = "float32, M 16, ef_construction 100"

    def open(self, place: str) -> None:
        """Say where indexes lie."""
        self._place = place

    def close(self) -> None:
        """It ends with the process."""

    def _new(self, name: str) -> Any:
        self._file = directory_of(self._place, f"{name}.hnswlib")
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

    def drop(self) -> None:
        """Delete its file."""
        Path(self._file).unlink(missing_ok=True)

    def count(self) -> int:
        """Ask it."""
        count: int = self._index.get_current_count()
        return count

    def write(self, batch: Batch) -> None:
        """Add, with twice the room when there is not enough."""
        if batch.numbers.stop > self._index.get_max_elements():
            self._index.resize_index(2 * batch.numbers.stop)
        self._index.add_items(batch.vectors, list(batch.numbers), num_threads=THREADS)

    def settle(self) -> float:
        """Save it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._index.save_index(str(self._file))
        return 0.0

    def remove(self, numbers: range) -> None:
        """Mark as deleted."""
        for number in numbers:
            self._index.mark_deleted(number)

    def tune(self, effort: int) -> None:
        """Set `ef`."""
        self._index.set_ef(effort)

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query; there is nothing but IDs and distances."""
        del bare
        if below is not None:
            raise NotImplementedError("hnswlib holds no metadata")
        threads = 1 if len(queries) == 1 else THREADS
        return self._index.knn_query(queries, k=NEAREST, num_threads=threads)

    def numbers(self, found: Any) -> list[list[int]]:
        """The first of two arrays."""
        rows: list[list[int]] = found[0].tolist()
        return rows
