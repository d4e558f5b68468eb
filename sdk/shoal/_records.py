"""Records that are to be written: checked whole, then cut into parts that a server takes.

Everything a server would refuse in a batch is found here before anything is sent, because a batch
that is sent in parts could otherwise be half written when the fault comes up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import _limits
from shoal._vectors import to_vectors
from shoal.v1 import value_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal.wire.metadata import metadata_to_message
from shoal.wire.validation import (
    check_column_length,
    check_metadata,
    check_record_ids,
    invalid,
    shown,
)
from shoal.wire.vectors import encode_vectors

# Tags and lengths of a record's fields in a message.
_RECORD_OVERHEAD_BYTES: Final = 32

_NO_METADATA: Final = value_pb2.Metadata()


@dataclass(frozen=True, slots=True)
class Records:
    """Columns of records. Each that is not None has one entry for each ID.

    Attributes:
        ids: Not empty, none twice.
        vectors: Shape ``(n, d)``.
        metadatas: As messages; None for a record without.
        documents: None for a record without.
        uris: None for a record without.
    """

    ids: list[str]
    vectors: npt.NDArray[np.float32] | None
    metadatas: list[value_pb2.Metadata | None] | None
    documents: list[str | None] | None
    uris: list[str | None] | None

    def slice(self, start: int, stop: int) -> Records:
        """The records from `start` to before `stop`."""
        return Records(
            self.ids[start:stop],
            None if self.vectors is None else self.vectors[start:stop],
            None if self.metadatas is None else self.metadatas[start:stop],
            None if self.documents is None else self.documents[start:stop],
            None if self.uris is None else self.uris[start:stop],
        )

    def take(self, positions: Sequence[int]) -> Records:
        """The records at some positions, in their order."""
        return Records(
            [self.ids[p] for p in positions],
            None if self.vectors is None else self.vectors[np.asarray(positions)],
            None if self.metadatas is None else [self.metadatas[p] for p in positions],
            None if self.documents is None else [self.documents[p] for p in positions],
            None if self.uris is None else [self.uris[p] for p in positions],
        )

    def with_vectors(self, vectors: npt.NDArray[np.float32]) -> Records:
        """The same records, with these vectors."""
        return replace(self, vectors=vectors)


def check_records(
    ids: Any,
    embeddings: Any,
    metadatas: Any,
    documents: Any,
    uris: Any,
    limits: Limits,
    sparse_keys: Collection[str],
) -> Records:
    """Check what a user gives to be written. A scalar stands for a list of one.

    `sparse_keys` are the metadata keys that hold sparse vectors.

    Raises:
        InvalidArgumentError: An ID, vector, metadata, document or URI breaks a rule, or a column
            has not one entry for each ID. The first offender is named.
        DuplicateIDError: An ID is given twice.
    """
    checked_ids = check_ids(ids, limits)
    count = len(checked_ids)
    vectors = None
    if embeddings is not None:
        vectors = to_vectors(embeddings, limits=limits)
        check_column_length("embeddings", len(vectors), count)
    return Records(
        checked_ids,
        vectors,
        _check_metadatas(metadatas, count, limits, sparse_keys),
        _check_texts(documents, "documents", count, limits.max_document_bytes),
        _check_texts(uris, "uris", count, limits.max_uri_bytes),
    )


def check_ids(ids: Any, limits: Limits, field: str = "ids") -> list[str]:
    """Check record IDs: one or a list of any length.

    Raises:
        InvalidArgumentError: There is none, or one is no string, empty or too long.
        DuplicateIDError: One is given twice.
    """
    checked = [ids] if isinstance(ids, str) else _listed(ids, field)
    for position, record_id in enumerate(checked):
        if not isinstance(record_id, str):
            raise invalid(
                f"{field}[{position}]",
                f"{field}[{position}] is of type {type(record_id).__name__}; an ID is a string",
            )
    _check_utf8(checked, field)
    check_record_ids(checked, limits, field, maximum=len(checked))
    return checked


def _listed(column: Any, field: str) -> list[Any]:
    if isinstance(column, Mapping | str | bytes) or not hasattr(column, "__iter__"):
        raise invalid(field, f"{field} must be a list, got {type(column).__name__}")
    if isinstance(column, set | frozenset):
        raise invalid(
            field, f"{field} is a {type(column).__name__}, which has no order to match others by"
        )
    return list(column)


def _check_utf8(texts: Sequence[str | None], field: str) -> None:
    for position, text in enumerate(texts):
        if text is None or text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            name = f"{field}[{position}]"
            raise invalid(
                name, f"{name}: {shown(text)} has no UTF-8 form ({error.reason})"
            ) from None


def _check_metadatas(
    metadatas: Any, count: int, limits: Limits, sparse_keys: Collection[str]
) -> list[value_pb2.Metadata | None] | None:
    if metadatas is None:
        return None
    rows = [metadatas] if isinstance(metadatas, Mapping) else _listed(metadatas, "metadatas")
    check_column_length("metadatas", len(rows), count)
    checked: list[value_pb2.Metadata | None] = []
    has_other_key_limit = limits.max_metadata_key_bytes < DEFAULT_LIMITS.max_metadata_key_bytes
    for position, row in enumerate(rows):
        name = f"metadatas[{position}]"
        if row is None:
            checked.append(None)
            continue
        if not isinstance(row, Mapping):
            raise invalid(name, f"{name} must be a dict or None, got {type(row).__name__}")
        if not row:
            raise invalid(name, f"{name} is an empty dict; None stands for no metadata")
        message = metadata_to_message(row, name, sparse_keys=sparse_keys)
        # The translation has checked keys and values one by one; to do it again would cost as much
        # as all the rest.
        if (
            has_other_key_limit
            or len(row) > limits.max_metadata_keys
            or message.ByteSize() > limits.max_metadata_bytes
        ):
            check_metadata(message, limits, name)
        checked.append(message)
    return checked


def _check_texts(texts: Any, field: str, count: int, maximum_bytes: int) -> list[str | None] | None:
    if texts is None:
        return None
    rows = [texts] if isinstance(texts, str) else _listed(texts, field)
    check_column_length(field, len(rows), count)
    for position, text in enumerate(rows):
        name = f"{field}[{position}]"
        if text is None:
            continue
        if not isinstance(text, str):
            raise invalid(name, f"{name} must be a string or None, got {type(text).__name__}")
    _check_utf8(rows, field)
    for position, text in enumerate(rows):
        if text is not None and _size(text) > maximum_bytes:
            name = f"{field}[{position}]"
            raise invalid(
                name, f"{name} has {_size(text)} bytes; at most {maximum_bytes} are allowed"
            )
    return rows


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def parts(records: Records, limits: Limits) -> Iterator[tuple[int, int]]:
    """Cut records into parts that fit one request each, in order.

    A part has at least one record: one that is too large alone is for the server to refuse.

    Yields:
        Start and end of each part.
    """
    budget = limits.max_message_bytes - _limits.MESSAGE_HEADROOM_BYTES
    start = 0
    size = 0
    for position in range(len(records.ids)):
        record_size = _record_size(records, position)
        if position > start and (
            size + record_size > budget or position - start >= limits.max_batch_records
        ):
            yield start, position
            start, size = position, 0
        size += record_size
    yield start, len(records.ids)


def _record_size(records: Records, position: int) -> int:
    size = _RECORD_OVERHEAD_BYTES + _size(records.ids[position])
    if records.vectors is not None:
        size += 4 * records.vectors.shape[1]
    if records.metadatas is not None:
        size += (records.metadatas[position] or _NO_METADATA).ByteSize()
    if records.documents is not None:
        size += _size(records.documents[position] or "")
    if records.uris is not None:
        size += _size(records.uris[position] or "")
    return size


def to_batch(records: Records) -> value_pb2.RecordBatch:
    """Make the message."""
    return value_pb2.RecordBatch(
        ids=records.ids,
        vectors=None if records.vectors is None else encode_vectors(records.vectors),
        metadatas=(
            None
            if records.metadatas is None
            else [_NO_METADATA if m is None else m for m in records.metadatas]
        ),
        documents=_to_column(records.documents),
        uris=_to_column(records.uris),
    )


def _to_column(texts: list[str | None] | None) -> value_pb2.StringColumn | None:
    if texts is None:
        return None
    return value_pb2.StringColumn(
        values=[text or "" for text in texts],
        absent=[position for position, text in enumerate(texts) if text is None],
    )
