"""The rules that every request must keep, whoever checks them.

The gateway checks each request before anything is sent on, so that a batch refused for what it
contains changes nothing in any shard; the client checks the same before it sends. A refusal says
what is wrong, which one, and what would be right.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Collection, Sequence
from typing import Final

from shoal.errors import (
    BatchTooLargeError,
    DuplicateIDError,
    FieldViolation,
    InvalidArgumentError,
)
from shoal.v1 import value_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "check_collection_metadata",
    "check_column_length",
    "check_documents",
    "check_metadata",
    "check_metadata_key",
    "check_name",
    "check_record_ids",
    "check_sparse_keys",
    "check_sparse_vector",
    "check_uris",
    "check_value",
    "check_write_id",
    "invalid",
]

_SNAPSHOT_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*[a-zA-Z0-9]")
_NAME_MIN: Final = 3
_NAME_MAX: Final = 512
WRITE_ID_BYTES: Final = 16
_RESERVED_KEYS: Final = frozenset({"chroma:document"})
_ALWAYS_GOOD: Final = frozenset({"string_value", "int_value", "bool_value"})
_LIST_KINDS: Final = frozenset({"string_list", "int_list", "double_list", "bool_list"})


def invalid(field: str, message: str) -> InvalidArgumentError:
    """Make the error for one field at fault."""
    return InvalidArgumentError(message, violations=[FieldViolation(field, message)])


def shown(text: str, limit: int = 60) -> str:
    """Quote a user's text for a message, cut if it is long."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def check_name(kind: str, name: str, field: str = "name") -> None:
    """Check the name of a collection, tenant or database.

    Args:
        kind: ``collection``, ``tenant`` or ``database``, for the message.
        name: 3 to 512 characters of ``[a-zA-Z0-9._-]``, first and last in ``[a-zA-Z0-9]``, no
            ``..``, not a valid IPv4 address.
        field: Where it stood in the request.

    Raises:
        InvalidArgumentError: It breaks one of these rules.
    """
    problem = None
    if not _NAME_MIN <= len(name) <= _NAME_MAX:
        problem = f"has {len(name)} characters; it must have {_NAME_MIN} to {_NAME_MAX}"
    elif not _NAME.fullmatch(name):
        problem = "must consist of [a-zA-Z0-9._-] and begin and end with a letter or digit of ASCII"
    elif ".." in name:
        problem = "must not contain '..'"
    elif _is_ipv4(name):
        problem = "must not be an IPv4 address"
    if problem:
        raise invalid(field, f"{kind} name {shown(name)} {problem}")


def check_snapshot_name(name: str, field: str = "name") -> None:
    """Check the name of a snapshot or backup.

    Args:
        name: 1 to 45 lowercase letters, digits and hyphens, first and last no hyphen.
        field: Where it stood in the request.

    Raises:
        InvalidArgumentError: It breaks these rules.
    """
    if not _SNAPSHOT_NAME.fullmatch(name):
        raise invalid(
            field,
            f"{field} is {shown(name)}: 1 to 45 lowercase letters, digits and hyphens, of which "
            "the first and last is no hyphen, would be right",
        )


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def check_record_ids(
    ids: Sequence[str], limits: Limits = DEFAULT_LIMITS, field: str = "records.ids",
    *, maximum: int | None = None,
) -> None:  # fmt: skip
    """Check IDs that are given in one call.

    Args:
        ids: At least one, none twice, each 1 to `limits.max_id_bytes` bytes of UTF-8.
        limits: The bounds.
        field: Where they stood in the request.
        maximum: How many there may be; None: `limits.max_batch_records`.

    Raises:
        InvalidArgumentError: There is none, or one is empty or too long.
        BatchTooLargeError: There are too many.
        DuplicateIDError: One is given twice.
    """
    maximum = limits.max_batch_records if maximum is None else maximum
    if not ids:
        raise invalid(field, f"{field} is empty; at least one ID is needed")
    if len(ids) > maximum:
        message = f"{field} has {len(ids)} IDs; at most {maximum} are allowed in one call"
        raise BatchTooLargeError(
            message,
            metadata={"limit": str(maximum), "value": str(len(ids))},
            violations=[FieldViolation(field, message)],
        )
    shortest_that_may_be_too_long = limits.max_id_bytes // 4
    for position, record_id in enumerate(ids):
        if not record_id:
            raise invalid(f"{field}[{position}]", f"ID at position {position} is empty")
        if len(record_id) > shortest_that_may_be_too_long:
            size = len(record_id.encode())
            if size > limits.max_id_bytes:
                raise invalid(
                    f"{field}[{position}]",
                    f"ID {shown(record_id)} at position {position} has {size} bytes; "
                    f"at most {limits.max_id_bytes} are allowed",
                )
    if len(set(ids)) != len(ids):
        _raise_duplicate(ids, field)


def _raise_duplicate(ids: Sequence[str], field: str) -> None:
    first: dict[str, int] = {}
    for position, record_id in enumerate(ids):
        if record_id in first:
            message = (
                f"ID {shown(record_id)} is given twice, at positions {first[record_id]} and "
                f"{position}; an ID may occur once in a call"
            )
            raise DuplicateIDError(
                message,
                metadata={"id": record_id[:100]},
                violations=[FieldViolation(f"{field}[{position}]", message)],
            )
        first[record_id] = position


def check_column_length(name: str, length: int, id_count: int) -> None:
    """Check that a column has one entry for each ID.

    Raises:
        InvalidArgumentError: It has not.
    """
    if length != id_count:
        raise invalid(
            f"records.{name}", f"{name} has {length} entries for {id_count} IDs; one each is needed"
        )


def check_metadata_key(key: str, limits: Limits = DEFAULT_LIMITS, field: str = "metadata") -> None:
    """Check a metadata key, of a record, a collection or a filter.

    Raises:
        InvalidArgumentError: It is empty, too long, or reserved.
    """
    if not key:
        raise invalid(field, "a metadata key is empty")
    if key[0] in "$#" or key in _RESERVED_KEYS:
        raise invalid(
            field,
            f"metadata key {shown(key)} is reserved: a key must not begin with '$' or '#', nor be "
            "'chroma:document'",
        )
    size = len(key.encode())
    if size > limits.max_metadata_key_bytes:
        raise invalid(
            field,
            f"metadata key {shown(key)} has {size} bytes; at most "
            f"{limits.max_metadata_key_bytes} are allowed",
        )


@functools.lru_cache(maxsize=4096)
def _is_good_key(key: str, maximum_bytes: int) -> bool:
    """Whether a key keeps the rules of `check_metadata_key`; records share few keys."""
    return (
        0 < len(key.encode()) <= maximum_bytes and key[0] not in "$#" and key not in _RESERVED_KEYS
    )


def check_value(value: value_pb2.Value, field: str, key: str, *, null: bool = False) -> None:
    """Check a metadata value.

    Args:
        value: Of any kind; whether the key may hold a sparse vector is for `check_sparse_keys`.
        field: Where it stood in the request.
        key: Its key, for the message.
        null: Whether null is allowed.

    Raises:
        InvalidArgumentError: It has no kind, is not finite, an empty list, or not allowed.
    """
    kind = value.WhichOneof("kind")
    if kind in _ALWAYS_GOOD:
        return
    if kind == "double_value":
        if not math.isfinite(value.double_value):
            raise invalid(
                field, f"metadata {shown(key)} is {value.double_value}; it must be finite"
            )
    elif kind in _LIST_KINDS:
        values = getattr(value, kind).values
        if not values:
            raise invalid(field, f"metadata {shown(key)} is an empty list; leave the key out")
        if kind == "double_list" and not all(map(math.isfinite, values)):
            raise invalid(field, f"metadata {shown(key)} holds a number that is not finite")
    elif kind == "null_value":
        if not null:
            raise invalid(field, f"metadata {shown(key)} is null, which is not a value here")
    elif kind == "sparse_vector":
        check_sparse_vector(value.sparse_vector, field, f"metadata {shown(key)}")
    else:
        raise invalid(field, f"metadata {shown(key)} has no value of a kind known to this server")


def check_sparse_vector(
    vector: value_pb2.SparseVector, field: str, name: str = "sparse vector"
) -> None:
    """Check a sparse vector.

    Raises:
        InvalidArgumentError: It is empty, its indices do not ascend, or a weight is not finite.
    """
    indices, count = list(vector.indices), len(vector.values)
    if len(indices) != count:
        raise invalid(
            field, f"{name} is a sparse vector of {len(indices)} indices and {count} values"
        )
    if not indices:
        raise invalid(field, f"{name} is an empty sparse vector; leave it out")
    if sorted(set(indices)) != indices:
        raise invalid(
            field, f"{name} is a sparse vector whose indices do not ascend, each above the last"
        )
    if not all(map(math.isfinite, vector.values)):
        raise invalid(field, f"{name} is a sparse vector with a value that is not finite")


def check_sparse_keys(
    metadata: value_pb2.Metadata, declared: Collection[str], field: str = "records.metadatas"
) -> None:
    """Check that sparse vectors stand under the keys that the collection declares, and nothing else
    does.

    Raises:
        InvalidArgumentError: That is not so.
    """
    for key, value in metadata.fields.items():
        kind = value.WhichOneof("kind")
        if (kind == "sparse_vector") != (key in declared) and kind != "null_value":
            raise wrong_sparse_key(key, field, is_sparse=kind == "sparse_vector")


def wrong_sparse_key(key: str, field: str, *, is_sparse: bool) -> InvalidArgumentError:
    """Make the error for a sparse vector under a key that is not for it, or the reverse."""
    if is_sparse:
        what = "is a sparse vector, but the collection does not declare the key for them"
    else:
        what = "must be a sparse vector: the collection declares the key for them"
    return invalid(field, f"{field}: metadata {shown(key)} {what}")


def check_metadata(
    metadata: value_pb2.Metadata,
    limits: Limits = DEFAULT_LIMITS,
    field: str = "records.metadatas",
) -> bool:
    """Check the metadata of one record, as it is written or as it results from a merge.

    Null is allowed: it leaves a key out, or removes it.

    Returns:
        Whether it holds a sparse vector.

    Raises:
        InvalidArgumentError: Too many keys or bytes, or a key or value breaks its rules.
    """
    fields = metadata.fields
    if len(fields) > limits.max_metadata_keys:
        raise invalid(
            field,
            f"{field} has {len(fields)} keys; at most {limits.max_metadata_keys} are allowed",
        )
    # This runs for every value of every record: what is usual takes no call of ours.
    maximum = limits.max_metadata_key_bytes
    has_sparse = False
    for key in fields:
        if not _is_good_key(key, maximum):
            check_metadata_key(key, limits, field)
        kind = fields[key].WhichOneof("kind")
        if kind not in _ALWAYS_GOOD:
            check_value(fields[key], field, key, null=True)
            has_sparse |= kind == "sparse_vector"
    if metadata.ByteSize() > limits.max_metadata_bytes:
        size = sum(len(key.encode()) + _value_bytes(value) for key, value in fields.items())
        if size > limits.max_metadata_bytes:
            raise invalid(
                field,
                f"{field} has {size} bytes; at most {limits.max_metadata_bytes} are allowed",
            )
    return has_sparse


def _value_bytes(value: value_pb2.Value) -> int:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return len(value.string_value.encode())
    if kind == "string_list":
        return sum(len(v.encode()) for v in value.string_list.values)
    if kind in ("int_list", "double_list"):
        return 8 * len(getattr(value, kind).values)
    if kind == "sparse_vector":
        return 8 * len(value.sparse_vector.indices)
    if kind == "bool_list":
        return len(value.bool_list.values)
    return 1 if kind in ("bool_value", "null_value") else 8


def check_collection_metadata(
    metadata: value_pb2.Metadata, limits: Limits = DEFAULT_LIMITS, field: str = "metadata"
) -> None:
    """Check the metadata of a collection: strings, ints, finite floats, bools.

    Raises:
        InvalidArgumentError: As `check_metadata`, or a value of another kind.
    """
    if len(metadata.fields) > limits.max_metadata_keys:
        raise invalid(
            field,
            f"{field} has {len(metadata.fields)} keys; "
            f"at most {limits.max_metadata_keys} are allowed",
        )
    for key, value in metadata.fields.items():
        check_metadata_key(key, limits, field)
        kind = value.WhichOneof("kind")
        if kind not in ("string_value", "int_value", "double_value", "bool_value"):
            raise invalid(
                field,
                f"metadata {shown(key)} of a collection must be a string, int, float or bool",
            )
        check_value(value, field, key)
    if metadata.ByteSize() > limits.max_metadata_bytes:
        raise invalid(
            field,
            f"{field} has {metadata.ByteSize()} bytes; "
            f"at most {limits.max_metadata_bytes} are allowed",
        )


def _check_column(
    column: value_pb2.StringColumn, name: str, id_count: int, maximum_bytes: int
) -> None:
    check_column_length(name, len(column.values), id_count)
    previous = -1
    for position in column.absent:
        if not previous < position < id_count:
            raise invalid(
                f"records.{name}.absent",
                f"{name}.absent must hold positions below {id_count}, ascending; "
                f"found {position} after {previous}",
            )
        if column.values[position]:
            raise invalid(
                f"records.{name}.absent",
                f"{name}.absent names position {position}, but {name}.values has text there",
            )
        previous = position
    shortest_that_may_be_too_long = maximum_bytes // 4
    for position, text in enumerate(column.values):
        if len(text) > shortest_that_may_be_too_long:
            size = len(text.encode())
            if size > maximum_bytes:
                raise invalid(
                    f"records.{name}.values[{position}]",
                    f"{name}[{position}] has {size} bytes; at most {maximum_bytes} are allowed",
                )


def check_documents(
    column: value_pb2.StringColumn, id_count: int, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Check a column of documents.

    Raises:
        InvalidArgumentError: Its length, its absent positions, or a document's size is wrong.
    """
    _check_column(column, "documents", id_count, limits.max_document_bytes)


def check_uris(
    column: value_pb2.StringColumn, id_count: int, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Check a column of URIs.

    Raises:
        InvalidArgumentError: Its length, its absent positions, or a URI's size is wrong.
    """
    _check_column(column, "uris", id_count, limits.max_uri_bytes)


def check_write_id(write_id: bytes) -> None:
    """Check a write ID: empty or 16 bytes.

    Raises:
        InvalidArgumentError: It has another length.
    """
    if len(write_id) not in (0, WRITE_ID_BYTES):
        raise invalid(
            "write_id",
            f"write_id has {len(write_id)} bytes; it must be empty or {WRITE_ID_BYTES} random ones",
        )
