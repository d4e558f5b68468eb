"""What a write has to decide before its parts are sent, and to say when one of them fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal._records import Records
from shoal.results import WriteResult
from shoal.wire.limits import Limits
from shoal.wire.validation import invalid

Kind = Literal["add", "upsert", "update"]


@dataclass(frozen=True, slots=True)
class Group:
    """Records that are treated alike, and where they stood in the user's call.

    Attributes:
        records: Some of the records of a call.
        positions: Of each, its position in the call.
        embeds: Whether their vectors are to be made from their documents.
    """

    records: Records
    positions: range | list[int]
    embeds: bool

    def slice(self, start: int, stop: int) -> Group:
        """A part of the group."""
        return Group(self.records.slice(start, stop), self.positions[start:stop], self.embeds)

    def with_vectors(self, vectors: npt.NDArray[np.float32]) -> Group:
        """The same records, with these vectors."""
        return Group(self.records.with_vectors(vectors), self.positions, embeds=False)

    def chunks(self, limits: Limits) -> Iterator[Group]:
        """Cut the group into what one request may hold by its number of records."""
        step = limits.max_batch_records
        for start in range(0, len(self.records.ids), step):
            yield self.slice(start, start + step)


def groups(kind: Kind, records: Records) -> list[Group]:
    """Decide which records need vectors made of their documents.

    Raises:
        InvalidArgumentError: A record lacks what this kind of write needs.
    """
    everything = range(len(records.ids))
    if records.vectors is not None:
        return [Group(records, everything, embeds=False)]
    documents = records.documents
    if kind != "update":
        if documents is None:
            raise invalid("embeddings", f"{kind} needs embeddings, or documents to embed")
        for position, document in enumerate(documents):
            if document is None:
                raise invalid(
                    f"documents[{position}]",
                    f"record {records.ids[position]!r} at position {position} has neither an "
                    "embedding nor a document",
                )
        return [Group(records, everything, embeds=True)]
    if documents is None:
        return [Group(records, everything, embeds=False)]
    # A new document is embedded again; where there is none, the stored vector stays.
    with_text = [p for p in everything if documents[p] is not None]
    without = [p for p in everything if documents[p] is None]
    if not without:
        return [Group(records, everything, embeds=True)]
    found = [Group(records.take(without), without, embeds=False)]
    if with_text:
        found.append(Group(records.take(with_text), with_text, embeds=True))
    return found


class Account:
    """Counts what the parts of one write did.

    Args:
        kind: Of write.
        total: Records in the call.
    """

    def __init__(self, kind: Kind, total: int) -> None:
        self.kind: Final = kind
        self.total: Final = total
        self.written_count = 0
        self.added = 0
        self.updated = 0
        self.ignored = 0

    def add(self, count: int, *, added: int = 0, updated: int = 0, ignored: int = 0) -> None:
        """Say that a part of `count` records is done."""
        self.written_count += count
        self.added += added
        self.updated += updated
        self.ignored += ignored

    def result(self) -> WriteResult:
        """What the whole write did."""
        return WriteResult(added=self.added, updated=self.updated, ignored=self.ignored)

    def failure(self, error: Exception, part: Group) -> Exception:
        """Say of a write of which `part` failed how far it came.

        Returns:
            The error itself, if nothing was written before or if it says everything; else a
            `PartialWriteError`, whose positions are those of the call.
        """
        is_partial = isinstance(error, errors.PartialWriteError)
        if not self.written_count and not (is_partial and len(part.records.ids) < self.total):
            return error
        written_count = self.written_count
        shards: tuple[errors.ShardOutcome, ...] = ()
        if isinstance(error, errors.PartialWriteError):
            written_count += error.written_count
            shards = tuple(
                replace(shard, positions=tuple(part.positions[p] for p in shard.positions))
                for shard in error.shards
            )
        return errors.PartialWriteError(
            f"{written_count:,} of {self.total:,} records were written; then: {error}",
            metadata=error.metadata if isinstance(error, errors.ShoalError) else None,
            shards=shards,
            written_count=written_count,
        )
