"""From a file, or anything else that gives batches of records, into a collection."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal import _definitions, _tables, errors
from shoal._embedder import Choice, CreateChoice
from shoal._progress import Progress
from shoal._sync.client import Client
from shoal._sync.collection import Collection
from shoal.configuration import HNSWConfiguration
from shoal.transfer.exporting import STANDARD_STREAM, is_parquet_name
from shoal.transfer.json_lines import JsonLinesReader, open_for_reading
from shoal.transfer.parquet import ParquetReader
from shoal.transfer.records import Reader, Transferred
from shoal.v1 import collection_pb2


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a Parquet file from elsewhere hold what.

    Attributes:
        id: Of the IDs.
        embedding: Of the vectors; if it is missing, documents are embedded.
        document: Of the documents; may be missing.
        uri: Of the URIs; may be missing.
        metadata: Each a key of the metadata; None: all others.
    """

    id: str = "id"
    embedding: str = "embedding"
    document: str = "document"
    uri: str = "uri"
    metadata: Sequence[str] | None = None


def import_collection(
    client: Client,
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    configuration: HNSWConfiguration | Mapping[str, Any] | None = None,
    embedding_function: CreateChoice | Choice = Choice.STORED,
    into_existing: bool = False,
    columns: Columns = Columns(),
    progress: bool = False,
) -> Transferred:
    """Read records from a file into a collection.

    Args:
        client: Where to.
        path: A ``.parquet``, ``.jsonl`` or ``.ndjson`` file, exported or from elsewhere. ``-``:
            JSON lines from standard input.
        name: The collection's name; None: that of the exported collection.
        configuration: Of the new collection, for files from elsewhere.
        embedding_function: Of the new collection; by default the exported one's, or none where the
            file tells of none and has vectors.
        into_existing: Upsert into the collection of that name, if there is one.
        columns: Which column is what, for Parquet from elsewhere.
        progress: Whether to show a progress bar.

    Returns:
        How many records were read, added, updated.

    Raises:
        CollectionExistsError: The name is taken.
        InvalidArgumentError: The file is damaged or of a newer format, or the arguments do not fit
            it.
        PartialWriteError: Something failed after records had been written. They stay: repeat with
            `into_existing`.
    """
    with _reader(os.fspath(path), columns) as reader:
        return fill(
            client,
            reader,
            name,
            configuration=configuration,
            embedding_function=embedding_function,
            into_existing=into_existing,
            progress=progress,
        )


@contextlib.contextmanager
def _reader(path: str, columns: Columns) -> Iterator[Reader]:
    if path == STANDARD_STREAM:
        yield JsonLinesReader(sys.stdin.buffer, "standard input")
        return
    file = Path(path)
    if is_parquet_name(file):
        names = _tables.ColumnNames(
            columns.id, columns.embedding, columns.document, columns.uri, columns.metadata
        )
        yield ParquetReader(file, names)
        return
    with open_for_reading(file) as stream:
        yield JsonLinesReader(stream, str(file))


def fill(
    client: Client,
    reader: Reader,
    name: str | None,
    *,
    configuration: HNSWConfiguration | Mapping[str, Any] | None,
    embedding_function: CreateChoice | Choice,
    into_existing: bool,
    progress: bool,
) -> Transferred:
    """Write what a reader gives; arguments and errors as `import_collection`."""
    collection = _collection(
        client,
        reader.description,
        name,
        configuration,
        embedding_function,
        into_existing=into_existing,
    )
    count = added = updated = 0
    with Progress(progress, reader.total, f"importing {collection.name}") as bar:
        try:
            for batch in reader.batches():
                result = collection.upsert(
                    list(batch.ids),
                    batch.embeddings,
                    None if batch.metadatas is None else list(batch.metadatas),
                    None if batch.documents is None else list(batch.documents),
                    None if batch.uris is None else list(batch.uris),
                )
                count += len(batch.ids)
                added += result["added"]
                updated += result["updated"]
                bar.advance(len(batch.ids))
        except errors.ShoalError as error:
            written = count + getattr(error, "written_count", 0)
            raise errors.PartialWriteError(
                f"{written:,} records are in {collection.name!r}; then: {error}",
                written_count=written,
            ) from error
    return Transferred(collection.name, count, added, updated)


def _collection(
    client: Client,
    description: collection_pb2.Collection | None,
    name: str | None,
    configuration: HNSWConfiguration | Mapping[str, Any] | None,
    embedding_function: CreateChoice | Choice,
    *,
    into_existing: bool,
) -> Collection:
    """Find or create the collection to be filled."""
    wanted = name
    if wanted is None and description is not None:
        wanted = description.name
    if wanted is None:
        raise errors.InvalidArgumentError(
            "the file tells of no collection: say what the new one is to be called"
        )
    if into_existing and client.has_collection(wanted):
        if configuration is not None:
            raise errors.InvalidArgumentError(
                f"{wanted!r} exists, and has a configuration: give none"
            )
        function = Choice.STORED if embedding_function is Choice.DEFAULT else embedding_function
        return client.get_collection(wanted, function)
    if description is None:
        chosen = None if embedding_function is Choice.STORED else embedding_function
        return client.create_collection(wanted, configuration, embedding_function=chosen)
    if configuration is not None:
        raise errors.InvalidArgumentError(
            "the exported collection has a configuration: create another one first, and import "
            "into that"
        )
    copy = _definitions.define_copy(
        description, client.tenant, client.database, wanted, embedding_function
    )
    return client._create(copy.definition)
