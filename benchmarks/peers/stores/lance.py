"""LanceDB, embedded."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.peers.store import CONNECTIVITY, EXPANSION, NEAREST, Batch, Store, Vectors


class Lance(Store):
    """A table with a graph, and an index of the field that filters ask for."""

    package = "lancedb"
    modules = ("lancedb", "pyarrow")
    batches = "one call"
    acknowledged = "in a new file, no fsync"
    settings = "IVF_HNSW_FLAT, m 16, ef_construction 100, optimized, BTree of the filtered field"

    def open(self, place: str) -> None:
        """Connect."""
        self._lance = importlib.import_module("lancedb")
        self._index = importlib.import_module("lancedb.index")
        self._arrow = importlib.import_module("pyarrow")
        self._database: Any = self._lance.connect(place)
        self._table: Any = None
        self._effort = EXPANSION

    def close(self) -> None:
        """It ends with the process."""

    def use(self, name: str) -> bool:
        """Look for it in the list."""
        if name not in self._database.table_names():
            return False
        self._table = self._database.open_table(name)
        return True

    def create(self, name: str) -> None:
        """Make it."""
        arrow = self._arrow
        schema = arrow.schema(
            {
                "id": arrow.int64(),
                "vector": arrow.list_(arrow.float32(), self.setting.dimension),
                "text": arrow.string(),
                "number": arrow.int64(),
                "group": arrow.string(),
                "thousandth": arrow.int64(),
            }
        )
        self._table = self._database.create_table(name, schema=schema)

    def drop(self) -> None:
        """Delete it."""
        self._database.drop_table(self._table.name)

    def count(self) -> int:
        """Ask it."""
        count: int = self._table.count_rows()
        return count

    def write(self, batch: Batch) -> None:
        """Add columns."""
        arrow, fields = self._arrow, batch.metadatas
        vectors = arrow.FixedSizeListArray.from_arrays(
            arrow.array(np.ascontiguousarray(batch.vectors).ravel()), self.setting.dimension
        )
        columns: dict[str, Any] = {"id": list(batch.numbers), "vector": vectors}
        columns["text"] = batch.texts
        columns |= {name: [f[name] for f in fields] for name in fields[0]}
        self._table.add(arrow.table(columns, schema=self._table.schema))

    def settle(self) -> float:
        """Join the fragments, and build the indexes anew, as after a load."""
        self._table.optimize()
        graph = self._index.HnswFlat(
            distance_type=self.setting.metric, m=CONNECTIVITY, ef_construction=EXPANSION
        )
        self._table.create_index("vector", config=graph)
        self._table.create_index("thousandth", config=self._index.BTree())
        return 0.0

    def remove(self, numbers: range) -> None:
        """Delete by a range of IDs."""
        self._table.delete(f"id >= {numbers.start} AND id < {numbers.stop}")

    def tune(self, effort: int) -> None:
        """Every query says how far it goes."""
        self._effort = effort

    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Search, for a table of Arrow's: the fastest of what it gives."""
        columns = ["id", "_distance"]
        if not bare:
            columns += ["text", "number", "group", "thousandth"]
        if len(queries) > 1:
            columns = ["query_index", *columns]
        query = (
            self._table.search(queries[0] if len(queries) == 1 else queries)
            .distance_type(self.setting.metric)
            .limit(NEAREST)
            .ef(self._effort)
            .select(columns)
        )
        if below is not None:
            query = query.where(f"thousandth < {below}")
        return len(queries), query.to_arrow()

    def numbers(self, found: Any) -> list[list[int]]:
        """The column of IDs; of several queries, each row says whose it is."""
        count, table = found
        ids = table["id"].to_pylist()
        if count == 1:
            return [ids]
        rows: list[list[int]] = [[] for _ in range(count)]
        for query, number in zip(table["query_index"].to_pylist(), ids, strict=True):
            rows[query].append(number)
        return rows
