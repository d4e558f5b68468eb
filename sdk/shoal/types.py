"""The types of what goes into the client, for annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from shoal.wire.sparse import SparseVector

__all__ = [
    "DatabaseInfo",
    "Embedding",
    "Embeddings",
    "Include",
    "Metadata",
    "MetadataValue",
    "OneOrMany",
    "Space",
    "SparseVector",
    "TenantInfo",
    "Where",
    "WhereDocument",
]

Space: TypeAlias = Literal["l2", "cosine", "ip"]
"""A distance; smaller is nearer."""

Include: TypeAlias = Literal["documents", "embeddings", "metadatas", "distances", "uris"]
"""What an answer carries beside the IDs."""

MetadataValue: TypeAlias = (
    str
    | int
    | float
    | bool
    | Sequence[str]
    | Sequence[int]
    | Sequence[float]
    | Sequence[bool]
    | SparseVector
)
"""One metadata value. A list is of one type and not empty; a sparse vector only under a key that
the collection declares for it."""

Metadata: TypeAlias = Mapping[str, MetadataValue | None]
"""A record's metadata as it is written: None removes a key, or leaves it out."""

Embedding: TypeAlias = npt.NDArray[Any] | Sequence[float]
"""One vector: anything of real numbers; stored as float32."""

# One union of items rather than one of lists: a type checker could not choose among the latter for
# lists that mix ints and floats.
Embeddings: TypeAlias = npt.NDArray[Any] | Sequence[Embedding | float]
"""Vectors of one dimension, one for each record; or one vector."""

OneOrMany: TypeAlias = str | Sequence[str]
"""A text, or a list of texts."""

Where: TypeAlias = Mapping[str, Any]
"""A filter on metadata, for example ``{"year": {"$gte": 2020}}``."""

WhereDocument: TypeAlias = Mapping[str, Any]
"""A filter on documents, for example ``{"$contains": "whale"}``."""

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Vectors as they are stored, shape ``(n, d)``."""


class TenantInfo(TypedDict):
    """A tenant."""

    name: str


class DatabaseInfo(TypedDict):
    """A database.

    Attributes:
        id: UUID.
        name: Unique in its tenant.
        tenant: The tenant it belongs to.
    """

    id: str
    name: str
    tenant: str
