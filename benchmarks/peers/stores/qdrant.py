"""Qdrant's engine in process: qdrant-edge-py."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

from benchmarks.peers.store import (
    CONNECTIVITY,
    EXPANSION,
    NEAREST,
    Batch,
    Store,
    Vectors,
    directory_of,
)

_FULL_SCAN_KB = 10_000
"""Qdrant's default: smaller segments are scanned."""


class Qdrant(Store):
    """A shard of its own for each collection, with an index of the field that filters ask for."""

    package = "qdrant-edge-py"
    modules = ("qdrant_edge",)
    batches = "query_batch"
    acknowledged = "in its log, no fsync before `flush`"
    settings = "HNSW, m 16, ef_construct 100, optimized, integer index of the filtered field"

    def open(self, place: str) -> None:
        """Say where shards lie."""
        self._edge = importlib.import_module("qdrant_edge")
        self._place = place
        self._effort = EXPANSION
        self._shard: Any = None

    def close(self) -> None:
        """Close the shard."""
        if self._shard is not None:
            self._shard.close()

    def use(self, name: str) -> bool:
        """Load it."""
        self._directory = directory_of(self._place, name)
        if not self._directory.exists():
            return False
        self._shard = self._edge.EdgeShard.load(str(self._directory))
        return True

    def create(self, name: str) -> None:
        """Make it."""
        edge = self._edge
        distance = {"cosine": edge.Distance.Cosine, "l2": edge.Distance.Euclid}
        configuration = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=self.setting.dimension, distance=distance[self.setting.metric]
            ),
            hnsw_config=edge.HnswIndexConfig(
                m=CONNECTIVITY, ef_construct=EXPANSION, full_scan_threshold=_FULL_SCAN_KB
            ),
        )
        self._directory = directory_of(self._place, name)
        self._directory.mkdir(parents=True)
        self._shard = edge.EdgeShard.create(str(self._directory), configuration)
        self._shard.update(
            edge.UpdateOperation.create_field_index("thousandth", edge.PayloadSchemaType.Integer)
        )

    def drop(self) -> None:
        """Close it, and delete its directory."""
        self._shard.close()
        self._shard = None
        shutil.rmtree(self._directory)

    def count(self) -> int:
        """Ask it."""
        count: int = self._shard.info().points_count
        return count

    def write(self, batch: Batch) -> None:
        """Upsert."""
        point = self._edge.Point
        rows = zip(batch.numbers, batch.vectors.tolist(), batch.texts, batch.metadatas, strict=True)
        self._shard.update(
            self._edge.UpdateOperation.upsert_points(
                [point(n, vector, {"text": text, **fields}) for n, vector, text, fields in rows]
            )
        )

    def settle(self) -> float:
        """Optimize, which here is the caller's work, and flush."""
        while self._shard.optimize():
            pass
        self._shard.flush()
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by IDs."""
        self._shard.update(self._edge.UpdateOperation.delete_points(list(numbers)))

    def tune(self, effort: int) -> None:
        """Every query says how far it goes."""
        self._effort = effort

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Query, or several as a batch."""
        edge = self._edge
        where = None
        if below is not None:
            less = edge.FieldCondition("thousandth", range=edge.RangeFloat(lt=below))
            where = edge.Filter(must=[less])
        requests = [
            edge.QueryRequest(
                limit=NEAREST,
                query=edge.Query.Nearest(vector),
                filter=where,
                params=edge.SearchParams(hnsw_ef=self._effort),
                with_payload=not bare,
            )
            for vector in queries.tolist()
        ]
        if len(requests) == 1:
            return [self._shard.query(requests[0])]
        return self._shard.query_batch(edge.QueryBatchRequest(requests))

    def numbers(self, found: Any) -> list[list[int]]:
        """IDs of points."""
        return [[point.id for point in row] for row in found]
