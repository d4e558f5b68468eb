"""Reads records out of copies of shards: those of some buckets that filters match, in one order.

The copies are disjoint and each is in order of insertion, so that they are merged as they are read:
one entry of each is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.internal.v1.storage_pb2 import LogEntry
from shoal.server.buckets import buckets_of
from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal_worker.apply import DOCUMENT_CHANGES, IS_NEW, METADATA_CHANGES, URI_CHANGES
from shoal_worker.copies import CopyReader, DamagedCopyError
from shoal_worker.filters import compile_document, compile_where, fields_of

__all__ = ["Records", "Wanted", "merged"]


@dataclass(slots=True)
class Records:
    """Records, column by column, in order of insertion.

    Attributes:
        ordinals: Shape ``(n,)``.
        ids: Their IDs.
        vectors: Shape ``(n, dimension)``.
        metadatas: Each serialised; None: none.
        documents: None: none.
        uris: None: none.
    """

    ordinals: npt.NDArray[np.uint64]
    ids: list[str]
    vectors: npt.NDArray[np.float32]
    metadatas: list[bytes | None]
    documents: list[str | None]
    uris: list[str | None]

    @staticmethod
    def of(entry: LogEntry, dimension: int) -> Records:
        """Decode an entry of a copy.

        Raises:
            ValueError: If its columns do not fit together.
        """
        puts = entry.puts
        count = len(puts.ids)
        bits = np.frombuffer(puts.changes, np.uint8)
        vectors = np.frombuffer(puts.vectors, "<f4")
        if not (
            len(bits) == len(puts.ordinals) == count
            and vectors.size == count * dimension
            and bool((bits & IS_NEW).all())
        ):
            raise ValueError("the columns of an entry do not fit together")
        return Records(
            np.array(puts.ordinals, np.uint64),
            list(puts.ids),
            vectors.reshape(count, dimension),
            _spread(bits, METADATA_CHANGES, puts.metadatas),
            _spread(bits, DOCUMENT_CHANGES, puts.documents),
            _spread(bits, URI_CHANGES, puts.uris),
        )

    def take(self, positions: npt.NDArray[np.intp]) -> Records:
        """Give the records at some positions."""
        if len(positions) == len(self.ids) and bool((np.diff(positions) == 1).all()):
            return self
        places = positions.tolist()
        return Records(
            self.ordinals[positions],
            [self.ids[i] for i in places],
            self.vectors[positions],
            [self.metadatas[i] for i in places],
            [self.documents[i] for i in places],
            [self.uris[i] for i in places],
        )

    def to_entry(self, entry: LogEntry, first_row: int, first_key: int) -> None:
        """Write them into an entry as new records, with rows and keys from these on."""
        count = len(self.ids)
        puts = entry.puts
        puts.rows.extend(range(first_row, first_row + count))
        puts.keys.extend(range(first_key, first_key + count))
        puts.ordinals.extend(self.ordinals.tolist())
        puts.ids.extend(self.ids)
        puts.vectors = np.ascontiguousarray(self.vectors, "<f4").tobytes()
        changes = np.full(count, IS_NEW, np.uint8)
        for bit, values in (
            (METADATA_CHANGES, self.metadatas),
            (DOCUMENT_CHANGES, self.documents),
            (URI_CHANGES, self.uris),
        ):
            changes[np.array([value is not None for value in values], np.bool_)] |= bit
        puts.changes = changes.tobytes()
        puts.metadatas.extend(value for value in self.metadatas if value is not None)
        puts.documents.extend(value for value in self.documents if value is not None)
        puts.uris.extend(value for value in self.uris if value is not None)


def _spread(bits: npt.NDArray[np.uint8], bit: int, values: Sequence[object]) -> list[Any]:
    has = (bits & bit != 0).tolist()
    if sum(has) != len(values):
        raise ValueError("the columns of an entry do not fit together")
    given = iter(values)
    return [next(given) if one else None for one in has]


class Wanted:
    """Which records are wanted.

    Args:
        buckets: Shape ``(4096,)``: whether a bucket's records are.
        where: On metadata, or None.
        where_document: On documents, or None.

    Raises:
        InvalidArgumentError: If a filter is not one.
    """

    def __init__(
        self,
        buckets: npt.NDArray[np.bool_],
        where: Where | None,
        where_document: WhereDocument | None,
    ) -> None:
        self._buckets = buckets
        self._all_buckets = bool(buckets.all())
        self._where = None if where is None else compile_where(where)
        self._document = None if where_document is None else compile_document(where_document)

    def among(self, records: Records) -> Records:
        """Give those that are wanted."""
        if self._all_buckets:
            positions = np.arange(len(records.ids))
        else:
            positions = np.flatnonzero(self._buckets[buckets_of(records.ids)])
        where, document = self._where, self._document
        if where is not None:
            metadatas = records.metadatas
            kept = [i for i in positions.tolist() if where(fields_of(metadatas[i]))]
            positions = np.array(kept, np.intp)
        if document is not None:
            documents = records.documents
            kept = [
                i
                for i in positions.tolist()
                if document(None if (text := documents[i]) is None else text.encode())
            ]
            positions = np.array(kept, np.intp)
        return records.take(positions)


def merged(
    readers: Sequence[CopyReader],
    dimension: int,
    wanted: Wanted,
    seen: Callable[[int], None],
) -> Iterator[Records]:
    """Give the wanted records of copies, in order of (ordinal, ID).

    Args:
        readers: At their beginning.
        dimension: Numbers in each vector.
        wanted: Which.
        seen: Told how many further records were looked at; what it raises ends the reading.

    Raises:
        DamagedCopyError: If a copy is damaged.
    """

    sources = [_wanted_of(reader, dimension, wanted, seen) for reader in readers]
    if len(sources) == 1:
        yield from sources[0]
        return
    heads: dict[int, Records] = {}
    for i, source in enumerate(sources):
        first = next(source, None)
        if first is not None:
            heads[i] = first
    while heads:
        # Up to the lowest last record, every head is complete.
        end = min((int(head.ordinals[-1]), head.ids[-1]) for head in heads.values())
        parts: list[Records] = []
        for i, head in list(heads.items()):
            count = _count_up_to(head, *end)
            if count:
                parts.append(head.take(np.arange(count)))
            if count < len(head.ids):
                heads[i] = head.take(np.arange(count, len(head.ids)))
                continue
            following = next(sources[i], None)
            if following is None:
                del heads[i]
            else:
                heads[i] = following
        yield _joined(parts)


def _wanted_of(
    reader: CopyReader, dimension: int, wanted: Wanted, seen: Callable[[int], None]
) -> Iterator[Records]:
    """Give the wanted records of one copy."""
    for entry in reader.entries():
        seen(len(entry.puts.ids))
        try:
            given = Records.of(entry, dimension)
        except ValueError as error:
            raise DamagedCopyError(reader.path, str(error)) from error
        records = wanted.among(given)
        if records.ids:
            yield records


def _count_up_to(records: Records, ordinal: int, record_id: str) -> int:
    """How many come before a place in the order, or are at it."""
    count = int(np.searchsorted(records.ordinals, np.uint64(ordinal), "left"))
    ordinals, ids = records.ordinals, records.ids
    while count < len(ids) and int(ordinals[count]) == ordinal and ids[count] <= record_id:
        count += 1
    return count


def _joined(parts: Sequence[Records]) -> Records:
    """Join records into one order."""
    if len(parts) == 1:
        return parts[0]
    ordinals = np.concatenate([part.ordinals for part in parts])
    ids = [i for part in parts for i in part.ids]
    order = sorted(range(len(ids)), key=list(zip(ordinals.tolist(), ids, strict=True)).__getitem__)
    together = Records(
        ordinals,
        ids,
        np.concatenate([part.vectors for part in parts]),
        [value for part in parts for value in part.metadatas],
        [value for part in parts for value in part.documents],
        [value for part in parts for value in part.uris],
    )
    return together.take(np.array(order, np.intp))
