"""Chroma: server and embedded, by its own client."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, Batch, Store, Vectors, integers


class Chroma(Store):
    """A collection with the graph that all have here; else as it comes."""

    package = "chromadb"
    modules = ("chromadb",)
    tunes_on_open = True
    batches = "one call"
    acknowledged = "in its log on the disk (SQLite, fsync)"
    settings = "cosine or l2, M 16, ef_construction 100"

    def open(self, place: str) -> None:
        """Connect to a server, or open a directory."""
        chroma = importlib.import_module("chromadb")
        settings = chroma.Settings(anonymized_telemetry=False)
        self._client: Any = (
            chroma.HttpClient("127.0.0.1", int(place.removeprefix("port:")), settings=settings)
            if place.startswith("port:")
            else chroma.PersistentClient(place, settings=settings)
        )
        self._collection: Any = None

    def close(self) -> None:
        """Its client needs no closing: the process ends."""

    def use(self, name: str) -> bool:
        """Look for it in the list."""
        found = [c.name for c in self._client.list_collections() if c.name == name]
        if found:
            self._collection = self._client.get_collection(name, embedding_function=None)
        return bool(found)

    def create(self, name: str) -> None:
        """Make it."""
        hnsw = {
            "space": self.setting.metric,
            "ef_construction": EXPANSION,
            "max_neighbors": CONNECTIVITY,
        }
        self._collection = self._client.create_collection(
            name, configuration={"hnsw": hnsw}, embedding_function=None
        )

    def drop(self) -> None:
        """Delete it."""
        self._client.delete_collection(self._collection.name)

    def count(self) -> int:
        """Ask it."""
        count: int = self._collection.count()
        return count

    def write(self, batch: Batch) -> None:
        """Add."""
        self._collection.add(
            ids=batch.ids,
            embeddings=batch.vectors,
            documents=batch.texts,
            metadatas=batch.metadatas,
        )

    def settle(self) -> float:
        """A query brings what is in the log into the graph."""
        self._collection.query(
            query_embeddings=[[1.0] + [0.0] * (self.setting.dimension - 1)], n_results=1
        )
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by IDs."""
        self._collection.delete(ids=[str(n) for n in numbers])

    def tune(self, effort: int) -> None:
        """Change the configuration; an open index keeps the old one."""
        self._collection.modify(configuration={"hnsw": {"ef_search": effort}})

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query."""
        wanted: dict[str, Any] = {"include": ["distances"]} if bare else {}
        if below is not None:
            wanted["where"] = {"thousandth": {"$lt": below}}
        return self._collection.query(query_embeddings=queries, n_results=NEAREST, **wanted)

    def numbers(self, found: Any) -> list[list[int]]:
        """IDs are numbers, as texts."""
        return integers(found["ids"])
