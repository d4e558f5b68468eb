"""Records as lines of JSON.

The first line describes the collection; a file without it is read as well. Each further line is a
record: ``{"id": "a", "embedding": [...], "document": ..., "uri": ..., "metadata": {...}}``. A key
whose value is null may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from shoal import errors
from shoal.transfer.records import (
    BATCH_RECORDS,
    HEADER_KEY,
    Batch,
    description_of,
    header_of,
    json_library,
)
from shoal.v1 import collection_pb2

_FIELDS: Final = ("id", "embedding", "document", "uri", "metadata")

_MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""A longer line is not a record that could be written."""


class JsonLinesWriter:
    """Writes records.

    Args:
        stream: Where to, open for bytes; it is left open.
        description: Of the collection.
    """

    def __init__(self, stream: IO[bytes], description: collection_pb2.Collection) -> None:
        self._json = json_library()
        self._options = self._json.OPT_SERIALIZE_NUMPY | self._json.OPT_APPEND_NEWLINE
        self._stream = stream
        self._put({HEADER_KEY: header_of(description)})

    def write(self, batch: Batch) -> None:
        """Write some records."""
        embeddings, metadatas = batch.embeddings, batch.metadatas
        for i, record_id in enumerate(batch.ids):
            record: dict[str, Any] = {"id": record_id}
            if embeddings is not None:
                record["embedding"] = embeddings[i]
            if batch.documents is not None and batch.documents[i] is not None:
                record["document"] = batch.documents[i]
            if batch.uris is not None and batch.uris[i] is not None:
                record["uri"] = batch.uris[i]
            if metadatas is not None and metadatas[i] is not None:
                record["metadata"] = metadatas[i]
            self._put(record)

    def _put(self, value: Any) -> None:
        self._stream.write(self._json.dumps(value, default=_plain, option=self._options))

    def close(self) -> None:
        """Write what is left, which is nothing here."""


def _plain(value: Any) -> Any:
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict):
        return to_dict()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class JsonLinesReader:
    """Reads records.

    Args:
        stream: Where from, open for bytes.
        name: What to call it in errors.

    Raises:
        InvalidArgumentError: The first line is no JSON, or of a newer format.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._json = json_library()
        self._stream = stream
        self._name = name
        self._line = 0
        self._description: collection_pb2.Collection | None = None
        self._first = self._next()
        if self._first is not None and HEADER_KEY in self._first:
            self._description = description_of(self._first[HEADER_KEY], name)
            self._first = None

    @property
    def description(self) -> collection_pb2.Collection | None:
        """The collection that the records are from, if the file tells."""
        return self._description

    @property
    def total(self) -> int | None:
        """How many records there are: not known without reading them."""
        return None

    def batches(self) -> Iterator[Batch]:
        """Give the records. Raises InvalidArgumentError, naming the line."""
        records: list[dict[str, Any]] = []
        first = self._line
        record, self._first = self._first, None
        while record is not None or (record := self._next()) is not None:
            if not records:
                first = self._line
            self._check(record)
            records.append(record)
            record = None
            if len(records) == BATCH_RECORDS:
                yield self._batch(records, first)
                records = []
        if records:
            yield self._batch(records, first)

    def _next(self) -> dict[str, Any] | None:
        """Read a record; None at the end."""
        while True:
            line = self._stream.readline(_MAX_LINE_BYTES + 1)
            if not line:
                return None
            self._line += 1
            if len(line) > _MAX_LINE_BYTES:
                raise self._wrong(f"is longer than {_MAX_LINE_BYTES:,} bytes")
            if line.strip():
                break
        try:
            value = self._json.loads(line)
        except self._json.JSONDecodeError as error:
            raise self._wrong(f"is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise self._wrong(f"is no object, but {type(value).__name__}")
        return value

    def _check(self, record: dict[str, Any]) -> None:
        if not isinstance(record.get("id"), str):
            raise self._wrong(f"has no id that is a string: {record.get('id')!r}")
        unknown = [key for key in record if key not in _FIELDS]
        if unknown:
            raise self._wrong(f"has {unknown[0]!r}; a record has {', '.join(_FIELDS)}")

    def _batch(self, records: list[dict[str, Any]], first: int) -> Batch:
        vectors = [record.get("embedding") for record in records]
        embeddings = None
        if any(vector is not None for vector in vectors):
            try:
                embeddings = np.array(vectors, np.float32)
            except (TypeError, ValueError):
                embeddings = None
            if embeddings is None or embeddings.ndim != 2:
                raise errors.InvalidArgumentError(
                    f"{self._name}: lines {first} to {self._line}: every embedding must be a list "
                    "of numbers, all of one length"
                )
        return Batch(
            [record["id"] for record in records],
            embeddings,
            _column(records, "metadata"),
            _column(records, "document"),
            _column(records, "uri"),
        )

    def _wrong(self, what: str) -> errors.InvalidArgumentError:
        return errors.InvalidArgumentError(f"{self._name}: line {self._line} {what}")


def _column(records: list[dict[str, Any]], key: str) -> list[Any] | None:
    values = [record.get(key) for record in records]
    return values if any(value is not None for value in values) else None


def open_for_reading(path: Path) -> IO[bytes]:
    """Open a file. Raises InvalidArgumentError if it cannot be read."""
    try:
        return path.open("rb")
    except OSError as error:
        raise errors.InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from None
