"""seekdb embedded: pyseekdb, which runs the database in a process beside."""

from __future__ import annotations

import importlib
import threading
from typing import Any, Final

from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, Batch, Store, Vectors, integers

_DATABASE: Final = "test"
_TIMEOUT_US: Final = 600_000_000
"""Instead of its ten seconds, which a batch may take on a busy machine."""


class Seekdb(Store):
    """A collection with a graph of VSAG's; one connection for each calling thread."""

    package = "pyseekdb"
    modules = ("pylibseekdb", "pyseekdb")
    batches = "one call, a statement for each query"
    acknowledged = "in its log on the disk (fsync)"
    settings = "HNSW (VSAG), M 16, ef_construction 100, its full-text index as always"

    def open(self, place: str) -> None:
        """Start the database."""
        self._place = place
        self._name = ""
        self._effort = 0
        self._local = threading.local()
        self._client()

    def _client(self) -> Any:
        if not hasattr(self._local, "client"):
            client = importlib.import_module("pyseekdb").Client(
                path=self._place, database=_DATABASE
            )
            self._local.client = client
            self._local.collection = None
            self._local.effort = 0
            client.list_collections()
            for name in ("ob_query_timeout", "ob_trx_timeout"):
                self._set(name, _TIMEOUT_US)
        return self._local.client

    def _set(self, name: str, value: int) -> None:
        """Set a variable of this thread's connection, which pyseekdb gives no other way to."""
        cursor = self._local.client._server.get_raw_connection().cursor()
        cursor.execute(f"set {name} = {value}")
        cursor.close()

    @property
    def _collection(self) -> Any:
        """This thread's, that searches as far as was set last."""
        client, local = self._client(), self._local
        if local.collection is None or local.collection.name != self._name:
            local.collection = client.get_collection(self._name, embedding_function=None)
        if self._effort != local.effort:
            self._set("ob_hnsw_ef_search", self._effort)
            local.effort = self._effort
        return local.collection

    def close(self) -> None:
        """It ends with the process."""

    def use(self, name: str) -> bool:
        """Ask for it."""
        self._name = name
        found: bool = self._client().has_collection(name)
        return found

    def create(self, name: str) -> None:
        """Make it."""
        configuration = importlib.import_module("pyseekdb").HNSWConfiguration(
            dimension=self.setting.dimension,
            distance=self.setting.metric,
            M=CONNECTIVITY,
            ef_construction=EXPANSION,
        )
        self._client().create_collection(name, configuration=configuration, embedding_function=None)
        self._name = name

    def drop(self) -> None:
        """Delete it."""
        self._client().delete_collection(self._name)
        self._local.collection = None

    def count(self) -> int:
        """Ask it."""
        count: int = self._collection.count()
        return count

    def write(self, batch: Batch) -> None:
        """Add."""
        self._collection.add(
            ids=batch.ids,
            embeddings=batch.vectors.tolist(),
            documents=batch.texts,
            metadatas=batch.metadatas,
        )

    def settle(self) -> float:
        """Bring what was written into the graph."""
        self._collection.refresh_index()
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by IDs."""
        self._collection.delete(ids=[str(n) for n in numbers])

    def tune(self, effort: int) -> None:
        """Remember it for every connection."""
        self._effort = effort

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query."""
        wanted: dict[str, Any] = {"include": ["distances"]} if bare else {}
        if below is not None:
            wanted["where"] = {"thousandth": {"$lt": below}}
        vectors = queries.tolist()
        return self._collection.query(
            query_embeddings=vectors[0] if len(vectors) == 1 else vectors,
            n_results=NEAREST,
            **wanted,
        )

    def numbers(self, found: Any) -> list[list[int]]:
        """IDs are numbers, as texts."""
        return integers(found["ids"])
