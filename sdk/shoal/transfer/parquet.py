"""Records as Parquet.

Columns: ``id`` (string), ``embedding`` (fixed-size list of float32), ``document``, ``uri``
(strings), ``metadata`` (a JSON object as a string, since one key may hold values of several types).
The file's own metadata describes the collection. Files from elsewhere are read as well:
`importing.Columns` says which column is what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal import _tables, errors
from shoal.embedding_functions._extras import import_extra
from shoal.transfer.json_lines import _plain
from shoal.transfer.records import (
    BATCH_RECORDS,
    HEADER_KEY,
    HOW,
    Batch,
    description_of,
    header_of,
    json_library,
    parquet_library,
)
from shoal.v1 import collection_pb2


class ParquetWriter:
    """Writes records.

    Args:
        path: The file, which is replaced.
        description: Of the collection.
    """

    def __init__(self, path: Path, description: collection_pb2.Collection) -> None:
        self._arrow = import_extra("pyarrow", "Parquet", HOW)
        self._parquet = parquet_library()
        self._json = json_library()
        self._path = path
        self._header = self._json.dumps(header_of(description))
        self._dimension = description.dimension
        self._writer: Any = None

    def _schema(self, dimension: int) -> Any:
        arrow = self._arrow
        return arrow.schema(
            [
                arrow.field("id", arrow.string(), nullable=False),
                # A width of 0 is no type; without a dimension there are no records.
                arrow.field("embedding", arrow.list_(arrow.float32(), max(dimension, 1))),
                arrow.field("document", arrow.string()),
                arrow.field("uri", arrow.string()),
                arrow.field("metadata", arrow.string()),
            ],
            metadata={HEADER_KEY: self._header},
        )

    def _open(self, dimension: int) -> Any:
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(
                self._path,
                self._schema(dimension),
                compression="zstd",
                # Vectors hardly repeat: a dictionary of them only costs.
                use_dictionary=["document", "uri", "metadata"],
            )
        return self._writer

    def write(self, batch: Batch) -> None:
        """Write some records, as a row group."""
        arrow, count = self._arrow, len(batch.ids)
        assert batch.embeddings is not None
        flat = arrow.array(np.ascontiguousarray(batch.embeddings).reshape(-1))
        width = batch.embeddings.shape[1]
        writer = self._open(width)
        table = arrow.table(
            [
                arrow.array(batch.ids, arrow.string()),
                arrow.FixedSizeListArray.from_arrays(flat, width),
                arrow.array(batch.documents or [None] * count, arrow.string()),
                arrow.array(batch.uris or [None] * count, arrow.string()),
                arrow.array(self._texts(batch.metadatas, count), arrow.string()),
            ],
            schema=self._schema(width),
        )
        writer.write_table(table)

    def _texts(
        self, metadatas: Sequence[Mapping[str, Any] | None] | None, count: int
    ) -> list[str | None]:
        if metadatas is None:
            return [None] * count
        dumps = self._json.dumps
        return [None if m is None else dumps(m, default=_plain).decode() for m in metadatas]

    def close(self) -> None:
        """Write the file's end."""
        self._open(self._dimension).close()


class ParquetReader:
    """Reads records.

    Args:
        path: The file.
        names: Which column is what, in a file from elsewhere.

    Raises:
        InvalidArgumentError: It cannot be read, or is of a newer format.
    """

    def __init__(self, path: Path, names: _tables.ColumnNames) -> None:
        arrow = import_extra("pyarrow", "Parquet", HOW)
        try:
            self._file = parquet_library().ParquetFile(path)
        except (OSError, arrow.ArrowException) as error:
            raise errors.InvalidArgumentError(f"{path} is no Parquet file: {error}") from None
        self._arrow = arrow
        self._json = json_library()
        self._path = path
        self._names = names
        own = (self._file.schema_arrow.metadata or {}).get(HEADER_KEY.encode())
        self._description: collection_pb2.Collection | None = None
        if own is not None:
            self._description = description_of(self._json.loads(own), str(path))

    @property
    def description(self) -> collection_pb2.Collection | None:
        """The collection that the records are from, if the file tells."""
        return self._description

    @property
    def total(self) -> int | None:
        """How many records there are."""
        return int(self._file.metadata.num_rows)

    def batches(self) -> Iterator[Batch]:
        """Give the records. Raises InvalidArgumentError for what is damaged."""
        try:
            for part in self._file.iter_batches(BATCH_RECORDS):
                yield self._own(part) if self._description is not None else self._foreign(part)
        except (OSError, self._arrow.ArrowException) as error:
            raise errors.InvalidArgumentError(f"{self._path} is damaged: {error}") from None

    def _own(self, part: Any) -> Batch:
        embedding = part.column("embedding")
        width = embedding.type.list_size
        vectors = np.asarray(embedding.flatten()).reshape(len(part), width)
        texts = part.column("metadata").to_pylist()
        return Batch(
            part.column("id").to_pylist(),
            vectors,
            [None if text is None else self._metadata(text) for text in texts],
            part.column("document").to_pylist(),
            part.column("uri").to_pylist(),
        )

    def _metadata(self, text: str) -> Any:
        try:
            return self._json.loads(text)
        except self._json.JSONDecodeError as error:
            raise errors.InvalidArgumentError(
                f"{self._path}: metadata {text[:60]!r} is no JSON: {error}"
            ) from None

    def _foreign(self, part: Any) -> Batch:
        records = _tables.from_arrow(self._arrow.Table.from_batches([part]), self._names)
        embeddings = records.embeddings
        return Batch(
            records.ids,
            None if embeddings is None else np.asarray(embeddings, np.float32),
            records.metadatas,
            records.documents,
            records.uris,
        )
