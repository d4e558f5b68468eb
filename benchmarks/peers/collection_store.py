"""What stores share whose clients have Chroma's collections."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, Batch, Store, Vectors, integers


class CollectionStore(Store):
    """A collection with the graph that all have here; else as it comes."""

    batches = "one call"
    settings = "cosine or l2, M 16, ef_construction 100"

    _client: Any
    _collection: Any = None

    def _graph(self) -> dict[str, Any]:
        """The configuration of its graph."""
        return {
            "space": self.setting.metric,
            "ef_construction": EXPANSION,
            "max_neighbors": CONNECTIVITY,
        }

    def create(self, name: str) -> None:
        """Make it."""
        self._collection = self._client.create_collection(
            name, configuration={"hnsw": self._graph()}, embedding_function=None
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

    def remove(self, numbers: range) -> None:
        """Delete by IDs."""
        self._collection.delete(ids=[str(n) for n in numbers])

    def tune(self, effort: int) -> None:
        """Change the configuration."""
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
