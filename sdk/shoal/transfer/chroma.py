"""From Chroma, as chromadb serves it: a directory or a server.

Needs ``shoal[chroma]``. Names, metadata, the index' configuration and the embedding function's name
and configuration are kept. Chroma has no order that it promises; records come in the order in which
it gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from shoal import configuration as shoal_configuration
from shoal import errors
from shoal._embedder import Choice
from shoal._sync.client import Client
from shoal.embedding_functions._extras import import_extra
from shoal.embedding_functions.config import config_to_struct
from shoal.transfer.importing import fill
from shoal.transfer.records import BATCH_RECORDS, Batch, Transferred
from shoal.v1 import collection_pb2
from shoal.wire.metadata import metadata_to_message

_HOW: Final = "pip install 'shoal[chroma]'"

_KEPT: Final = (
    "space",
    "ef_construction",
    "ef_search",
    "max_neighbors",
    "num_threads",
    "batch_size",
    "sync_threshold",
    "resize_factor",
)

_INCLUDE: Final = ["embeddings", "metadatas", "documents", "uris"]


class ChromaSource:
    """A Chroma store that is read.

    Args:
        location: Its directory, or ``http://HOST:PORT`` of its server.
        tenant: Chroma's.
        database: Chroma's.
        headers: Sent with each call to a server; for its tokens.

    Raises:
        InvalidArgumentError: It cannot be opened.
    """

    def __init__(
        self,
        location: str,
        tenant: str = "default_tenant",
        database: str = "default_database",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        chromadb = import_extra("chromadb", "reading Chroma", _HOW)
        config = import_extra("chromadb.config", "reading Chroma", _HOW)
        settings = config.Settings(anonymized_telemetry=False)
        url = urlsplit(location)
        try:
            if url.scheme in ("http", "https"):
                self._client = chromadb.HttpClient(
                    host=url.hostname,
                    port=url.port or (443 if url.scheme == "https" else 8000),
                    ssl=url.scheme == "https",
                    headers=dict(headers or {}),
                    settings=settings,
                    tenant=tenant,
                    database=database,
                )
            else:
                self._check_directory(location)
                self._client = chromadb.PersistentClient(
                    location, settings=settings, tenant=tenant, database=database
                )
        except errors.ShoalError:
            raise
        except Exception as error:  # of whichever transport it uses
            raise errors.InvalidArgumentError(f"Chroma at {location}: {error}") from error
        self.location = location

    @staticmethod
    def _check_directory(location: str) -> None:
        # chromadb would make a new store of any directory.
        if not (Path(location) / "chroma.sqlite3").is_file():
            raise errors.InvalidArgumentError(f"there is no Chroma store in {location}")

    def names(self) -> list[str]:
        """Names of its collections, oldest first as far as Chroma tells."""
        found: list[str] = []
        while page := self._client.list_collections(limit=100, offset=len(found)):
            found += [str(getattr(collection, "name", collection)) for collection in page]
        return found

    def reader(self, name: str) -> ChromaReader:
        """Read a collection.

        Raises:
            InvalidArgumentError: There is none of that name.
        """
        try:
            collection = self._client.get_collection(name, embedding_function=None)
        except Exception as error:  # of whichever transport it uses
            raise errors.InvalidArgumentError(
                f"Chroma at {self.location}: collection {name!r}: {error}"
            ) from error
        return ChromaReader(collection)


class ChromaReader:
    """Reads the records of one of Chroma's collections."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self._total = int(collection.count())

    @property
    def description(self) -> collection_pb2.Collection | None:
        """The collection in Shoal's terms."""
        collection = self._collection
        stored: Mapping[str, Any] = collection._model.configuration_json or {}
        # Older stores have it in the metadata, which stays there and says the same.
        hnsw = {
            **shoal_configuration.hnsw_of_metadata(collection.metadata),
            **{k: v for k, v in (stored.get("hnsw") or {}).items() if k in _KEPT and v is not None},
        }
        spann = stored.get("spann") or {}
        if "space" not in hnsw and spann.get("space"):
            hnsw["space"] = spann["space"]
        message = collection_pb2.Collection(
            name=collection.name,
            dimension=collection._model.dimension or self._dimension(),
            configuration=collection_pb2.CollectionConfiguration(
                hnsw=shoal_configuration.hnsw_to_message(shoal_configuration.check_hnsw(hnsw)),
                embedding_function=_function(stored.get("embedding_function")),
            ),
        )
        if collection.metadata:
            message.metadata.CopyFrom(metadata_to_message(collection.metadata))
        message.configuration.hnsw.dimension = message.dimension
        for key, idf in self._sparse_keys():
            message.configuration.sparse_vectors[key].idf = idf
        return message

    def _sparse_keys(self) -> Iterator[tuple[str, bool]]:
        """Give the keys that it declares for sparse vectors, and whether they weigh by IDF."""
        schema = getattr(self._collection, "schema", None)
        for key, types in (getattr(schema, "keys", None) or {}).items():
            index = getattr(getattr(types, "sparse_vector", None), "sparse_vector_index", None)
            if index is not None and index.enabled:
                yield key, bool(index.config.bm25)

    def _dimension(self) -> int:
        first = self._collection.get(limit=1, include=["embeddings"])["embeddings"]
        return len(first[0]) if first is not None and len(first) else 0

    @property
    def total(self) -> int | None:
        """How many records there are."""
        return self._total

    def batches(self) -> Iterator[Batch]:
        """Give the records."""
        offset = 0
        while True:
            found = self._collection.get(limit=BATCH_RECORDS, offset=offset, include=_INCLUDE)
            ids = found["ids"]
            if not ids:
                return
            offset += len(ids)
            yield Batch(
                ids,
                np.asarray(found["embeddings"], np.float32),
                [_metadata(m) for m in found["metadatas"]],
                found["documents"],
                found["uris"],
            )


def _function(stored: Any) -> collection_pb2.EmbeddingFunction | None:
    if not isinstance(stored, Mapping) or not stored.get("name"):
        # Chroma's "legacy" and "unknown" name nothing.
        return None
    return collection_pb2.EmbeddingFunction(
        name=stored["name"], config=config_to_struct(stored["name"], stored.get("config") or {})
    )


def _metadata(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    kept = {key: value for key, value in (found or {}).items() if value is not None}
    return kept or None


def import_chroma(
    client: Client,
    source: ChromaSource,
    names: Sequence[str] | None = None,
    *,
    into_existing: bool = False,
    progress: bool = False,
) -> list[Transferred]:
    """Copy collections of a Chroma store under their own names.

    Args:
        client: Where to.
        source: Where from.
        names: Which; None: all.
        into_existing: Upsert into collections that exist here.
        progress: Whether to show a progress bar for each.

    Returns:
        One for each collection, in order.

    Raises:
        CollectionExistsError: A name is taken here.
        InvalidArgumentError: Chroma has none of a name, or holds what cannot be stored.
        PartialWriteError: As `import_collection`.
    """
    return [
        fill(
            client,
            source.reader(name),
            None,
            configuration=None,
            embedding_function=Choice.STORED,
            into_existing=into_existing,
            progress=progress,
        )
        for name in (source.names() if names is None else names)
    ]
