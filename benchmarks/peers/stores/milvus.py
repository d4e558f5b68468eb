"""Milvus Lite: pymilvus's client, which runs it in its own process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, Batch, Store, Vectors

_METRICS: Final = {"cosine": "COSINE", "l2": "L2"}
_TEXT_BYTES: Final = 65_535


class Milvus(Store):
    """A collection with an HNSW index, and an inverted one of the field that filters ask for."""

    package = "milvus-lite"
    modules = ("milvus_lite", "pymilvus")
    batches = "one call"
    acknowledged = "in its log, no fsync before its segment is flushed"
    settings = "HNSW (Faiss), M 16, efConstruction 100, flushed, INVERTED on the filtered field"

    def open(self, place: str) -> None:
        """Start it."""
        Path(place).mkdir(parents=True, exist_ok=True)
        self._milvus = importlib.import_module("pymilvus")
        self._client: Any = self._milvus.MilvusClient(str(Path(place) / "milvus.db"))
        self._name = ""
        self._effort = EXPANSION

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def use(self, name: str) -> bool:
        """Load it."""
        self._name = name
        found: bool = self._client.has_collection(name)
        if found:
            self._client.load_collection(name)
        return found

    def create(self, name: str) -> None:
        """Make it, with its indexes."""
        kinds = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=self.setting.dimension)
        schema.add_field("text", kinds.VARCHAR, max_length=_TEXT_BYTES)
        schema.add_field("number", kinds.INT64)
        schema.add_field("group", kinds.VARCHAR, max_length=_TEXT_BYTES)
        schema.add_field("thousandth", kinds.INT64)
        indexes = self._client.prepare_index_params()
        indexes.add_index(
            field_name="vector",
            index_type="HNSW",
            metric_type=_METRICS[self.setting.metric],
            params={"M": CONNECTIVITY, "efConstruction": EXPANSION},
        )
        indexes.add_index(field_name="thousandth", index_type="INVERTED")
        self._client.create_collection(name, schema=schema, index_params=indexes)
        self._name = name

    def drop(self) -> None:
        """Delete it."""
        self._client.drop_collection(self._name)

    def count(self) -> int:
        """Count what a query would see."""
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        count: int = rows[0]["count(*)"]
        return count

    def write(self, batch: Batch) -> None:
        """Insert."""
        rows = zip(batch.numbers, batch.vectors, batch.texts, batch.metadatas, strict=True)
        self._client.insert(
            self._name,
            [{"id": n, "vector": v, "text": text, **fields} for n, v, text, fields in rows],
        )

    def settle(self) -> float:
        """Flush what is in memory into a segment; its index is built then."""
        self._client.flush(self._name)
        self._client.load_collection(self._name)
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by IDs."""
        self._client.delete(self._name, ids=list(numbers))

    def tune(self, effort: int) -> None:
        """Every query says how far it goes."""
        self._effort = effort

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Search."""
        return self._client.search(
            self._name,
            data=queries,
            limit=NEAREST,
            filter="" if below is None else f"thousandth < {below}",
            output_fields=[] if bare else ["text", "number", "group", "thousandth"],
            search_params={
                "metric_type": _METRICS[self.setting.metric],
                "params": {"ef": self._effort},
            },
        )

    def numbers(self, found: Any) -> list[list[int]]:
        """Primary keys."""
        return [[hit["id"] for hit in row] for row in found]
