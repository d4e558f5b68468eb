"""What indexes share that hold vectors alone, in this process."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from benchmarks.peers.store import THREADS, Store, Vectors, directory_of


class IndexStore(Store):
    """An index, saved into a file when it is settled."""

    holds_records = False
    batches = "one call, a thread for each core"
    acknowledged = "in memory: an index, no store"

    _index: Any
    _file: Path

    def open(self, place: str) -> None:
        """Say where indexes lie."""
        self._place = place

    def close(self) -> None:
        """It ends with the process."""

    def _named(self, name: str) -> Path:
        """The file of an index."""
        return directory_of(self._place, f"{name}.{self.package}")

    def drop(self) -> None:
        """Delete its file."""
        self._file.unlink(missing_ok=True)

    def settle(self) -> float:
        """Save it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        return 0.0

    @abstractmethod
    def _save(self) -> None:
        """Write its file."""

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query; there is nothing but keys and distances."""
        del bare
        if below is not None:
            raise NotImplementedError(f"{self.package} holds no metadata")
        return self._search(queries, 1 if len(queries) == 1 else THREADS)

    @abstractmethod
    def _search(self, queries: Vectors, threads: int) -> Any:
        """Search with so many threads."""
