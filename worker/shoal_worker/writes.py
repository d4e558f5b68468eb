"""A shard's part of a write, as the service hands it in: our own types, no messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from shoal.v1.filter_pb2 import Where, WhereDocument

__all__ = ["Batch", "Deletion", "Patch", "Put", "PutKind", "Write"]


class PutKind(Enum):
    """What a put does with records that exist, and with those that do not."""

    ADD = auto()
    UPSERT = auto()
    UPDATE = auto()


@dataclass(frozen=True, slots=True)
class Put:
    """Records to be written, column by column, in the order of the client's batch.

    Attributes:
        kind: What happens to records that exist, and to those that do not.
        ids: None twice.
        positions: Place of each in the client's batch, ascending.
        vectors: Shape ``(len(ids), dimension)``, finite; None: the stored vectors stay.
        metadatas: None, or for each record a serialised shoal.v1.Metadata; empty says nothing.
        documents: None, or for each record its document; None says nothing.
        uris: None, or for each record its URI; None says nothing.
    """

    kind: PutKind
    ids: Sequence[str]
    positions: Sequence[int]
    vectors: npt.NDArray[np.float32] | None
    metadatas: Sequence[bytes] | None
    documents: Sequence[str | None] | None
    uris: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """Deletes the records that are in every filter given; the first `limit` in order."""

    ids: Sequence[str] | None
    where: Where | None
    where_document: WhereDocument | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Patch:
    """Merges metadata, a serialised shoal.v1.Metadata, into the records that match."""

    where: Where | None
    where_document: WhereDocument | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """The client's batch that a write is a part of, if it goes to several shards.

    Attributes:
        id: 16 bytes, of one attempt to write it.
        shard_ids: All shards that get a part.
        expires_at: Until when a part may be on its way to a shard, by the monotonic clock.
    """

    id: bytes
    shard_ids: tuple[str, ...]
    expires_at: float


@dataclass(frozen=True, slots=True)
class Write:
    """One batch, or one shard's part of it.

    Attributes:
        write_id: 16 bytes, or empty: names the client's write when it is repeated.
        digest: Of the client's whole request; its first byte says how it was computed.
        first_ordinal: Proposed ordinal of position 0 of the client's batch.
        dimension: What the catalog says; 0 if nothing is fixed.
        operation: What to do.
        size_bytes: Roughly what it holds in memory, for the bound of the queue.
        batch: What it is a part of; None if this shard gets all of it.
    """

    write_id: bytes
    digest: bytes
    first_ordinal: int
    dimension: int
    operation: Put | Deletion | Patch
    size_bytes: int
    batch: Batch | None = None
