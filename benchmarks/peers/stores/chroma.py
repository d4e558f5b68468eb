"""Chroma: server and embedded, by its own client."""

from __future__ import annotations

import importlib

from benchmarks.peers.collection_store import CollectionStore


class Chroma(CollectionStore):
    """A collection with the graph that all have here; an open one keeps its `ef_search`."""

    package = "chromadb"
    modules = ("chromadb",)
    tunes_on_open = True
    acknowledged = "in its log on the disk (SQLite, fsync)"

    def open(self, place: str) -> None:
        """Connect to a server, or open a directory."""
        chroma = importlib.import_module("chromadb")
        settings = chroma.Settings(anonymized_telemetry=False)
        self._client = (
            chroma.HttpClient("127.0.0.1", int(place.removeprefix("port:")), settings=settings)
            if place.startswith("port:")
            else chroma.PersistentClient(place, settings=settings)
        )

    def close(self) -> None:
        """Its client needs no closing: the process ends."""

    def use(self, name: str) -> bool:
        """Look for it in the list."""
        found = [c.name for c in self._client.list_collections() if c.name == name]
        if found:
            self._collection = self._client.get_collection(name, embedding_function=None)
        return bool(found)

    def settle(self) -> float:
        """A query brings what is in the log into the graph."""
        self._collection.query(
            query_embeddings=[[1.0] + [0.0] * (self.setting.dimension - 1)], n_results=1
        )
        return 0.0
