"""What is transferred: records in batches, and the description of the collection they are from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format

from shoal import errors
from shoal.embedding_functions._extras import import_extra
from shoal.v1 import collection_pb2

FORMAT: Final = 1
"""Version of exported files. 1: the first."""

BATCH_RECORDS: Final = 1_000

HEADER_KEY: Final = "shoal_collection"
"""Under which the description of the collection stands, in either kind of file."""

HOW: Final = "pip install 'shoal[transfer]'"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records.

    Attributes:
        embeddings: Float32 of shape ``(n, d)``; None: they are to be made of the documents.
    """

    ids: Sequence[str]
    embeddings: npt.NDArray[np.float32] | None
    metadatas: Sequence[Mapping[str, Any] | None] | None
    documents: Sequence[str | None] | None
    uris: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class Transferred:
    """What came of a transfer.

    Attributes:
        collection: Name of the collection that was read or written.
        count: Records that were read.
        added: Records that were new in the target; 0 for an export.
        updated: Records that were there and were merged into; 0 for an export.
    """

    collection: str
    count: int
    added: int = 0
    updated: int = 0


class Reader(Protocol):
    """Records from somewhere, read once, in order."""

    @property
    def description(self) -> collection_pb2.Collection | None:
        """The collection that they are from, if the source tells."""
        ...

    @property
    def total(self) -> int | None:
        """How many there are, if that is known beforehand."""
        ...

    def batches(self) -> Iterator[Batch]:
        """Give the records."""
        ...


def header_of(description: collection_pb2.Collection) -> dict[str, Any]:
    """Describe a collection in JSON's terms."""
    return {"format": FORMAT, "collection": json_format.MessageToDict(description)}


def description_of(header: Any, where: str) -> collection_pb2.Collection:
    """Read what `header_of` wrote.

    Raises:
        InvalidArgumentError: It is damaged, or of a newer format.
    """
    found = header.get("format") if isinstance(header, Mapping) else None
    if not isinstance(found, int) or found > FORMAT:
        raise errors.InvalidArgumentError(
            f"{where} is of format {found!r}; this release reads {FORMAT}"
        )
    try:
        return json_format.ParseDict(header["collection"], collection_pb2.Collection())
    except (json_format.ParseError, KeyError) as error:
        raise errors.InvalidArgumentError(f"{where}: its header is damaged: {error}") from None


def json_library() -> Any:
    """Import orjson, which writes arrays of float32 as they are, and int64 whole."""
    return import_extra("orjson", "JSON lines", HOW)


def parquet_library() -> Any:
    """Import pyarrow with its Parquet."""
    return import_extra("pyarrow.parquet", "Parquet", HOW)
