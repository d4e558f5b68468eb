"""What the arguments of a call say, checked and as messages."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from shoal import errors
from shoal._records import check_ids
from shoal.v1 import collection_pb2, filter_pb2, value_pb2
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal.wire.limits import Limits
from shoal.wire.metadata import metadata_to_message
from shoal.wire.validation import (
    WRITE_ID_BYTES,
    check_collection_metadata,
    check_name,
    check_snapshot_name,
    invalid,
)

INCLUDES: Final[Mapping[str, value_pb2.Include.ValueType]] = {
    "documents": value_pb2.INCLUDE_DOCUMENTS,
    "embeddings": value_pb2.INCLUDE_VECTORS,
    "metadatas": value_pb2.INCLUDE_METADATAS,
    "distances": value_pb2.INCLUDE_DISTANCES,
    "uris": value_pb2.INCLUDE_URIS,
}

_WITH_DISTANCES: Final = tuple(INCLUDES)
_WITHOUT_DISTANCES: Final = tuple(name for name in INCLUDES if name != "distances")

_UINT64_MAX: Final = 2**64 - 1
_UINT32_MAX: Final = 2**32 - 1


def new_write_id() -> bytes:
    """Name a write, so that repeating it is harmless."""
    return secrets.token_bytes(WRITE_ID_BYTES)


def check_include(include: Any, *, distances: bool) -> list[str]:
    """Check what is to be included.

    Args:
        include: Names, or one.
        distances: Whether there are distances.

    Raises:
        InvalidArgumentError: A name is unknown, or stands twice.
    """
    known = _WITH_DISTANCES if distances else _WITHOUT_DISTANCES
    if isinstance(include, str):
        include = [include]
    if not isinstance(include, Iterable):
        raise invalid("include", f"include must be a list, got {type(include).__name__}")
    names = list(include)
    for name in names:
        if name not in known:
            raise invalid("include", f"include holds {name!r}; it may hold {', '.join(known)}")
    if len(set(names)) != len(names):
        raise invalid("include", f"include holds a name twice: {', '.join(names)}")
    return names


def include_numbers(include: Iterable[str]) -> list[value_pb2.Include.ValueType]:
    """Return the wire's numbers of what is to be included."""
    return [INCLUDES[name] for name in include]


def check_where(where: Any, limits: Limits) -> filter_pb2.Where | None:
    """Translate a metadata filter; None is none."""
    return None if where is None else where_from_dict(where, limits)


def check_where_document(where_document: Any, limits: Limits) -> filter_pb2.WhereDocument | None:
    """Translate a document filter; None is none."""
    return None if where_document is None else where_document_from_dict(where_document, limits)


def check_count(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Check a number of things.

    Raises:
        InvalidArgumentError: It is no whole number between the bounds.
    """
    if isinstance(value, np.integer):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(name, f"{name} must be a whole number, got {value!r}")
    if value < minimum or value > (_UINT64_MAX if maximum is None else maximum):
        bound = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        raise invalid(name, f"{name} must be {bound}, got {value}")
    return value


def check_optional_count(name: str, value: object) -> int | None:
    """Check a number of things that may be left out, at least 0."""
    return None if value is None else check_count(name, value, 0)


def check_offset(offset: object) -> int:
    """Check how many things are passed over; None is none."""
    return 0 if offset is None else check_count("offset", offset, 0, _UINT32_MAX)


def fits_uint32(value: int) -> int:
    """Cut a limit that no answer reaches anyway to what its field holds."""
    return min(value, _UINT32_MAX)


def optional_ids(ids: Any, limits: Limits) -> list[str] | None:
    """Check IDs that may be left out, and whose order says nothing."""
    if ids is None:
        return None
    return check_ids(list(ids) if isinstance(ids, set | frozenset) else ids, limits)


def id_set(ids: Any, limits: Limits) -> list[str] | None:
    """Check IDs that may be left out, and of which one that stands twice says nothing more."""
    if ids is None or isinstance(ids, str):
        return optional_ids(ids, limits)
    listed = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, Mapping) else ids
    is_of_texts = isinstance(listed, list) and all(isinstance(i, str) for i in listed)
    return check_ids(list(dict.fromkeys(listed)) if is_of_texts else listed, limits)


def query_ids(ids: Any, limits: Limits) -> list[str]:
    """Check the records that are to be searched by; one may stand twice, as any query may."""
    if isinstance(ids, list | tuple) and all(isinstance(i, str) for i in ids):
        check_ids(list(dict.fromkeys(ids)), limits, "query_ids")
        return list(ids)
    return check_ids(ids, limits, "query_ids")


def id_list(ids: list[str] | None) -> value_pb2.IdList | None:
    """Make the message; None is none."""
    return None if ids is None else value_pb2.IdList(values=ids)


def check_patch(metadata: object) -> value_pb2.Metadata:
    """Check and translate metadata that is to be set on records; None removes a key.

    Raises:
        InvalidArgumentError: It is not a dict with at least one key, or a key or value is not
            allowed.
    """
    if not isinstance(metadata, Mapping) or not metadata:
        raise invalid("metadata", f"metadata must be a dict that is not empty, got {metadata!r}")
    return metadata_to_message(metadata)


def check_text(name: str, value: object) -> str:
    """Check that an argument is a string.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not isinstance(value, str):
        raise invalid(name, f"{name} must be a string, got {type(value).__name__}")
    return value


def checked_name(kind: str, name: object) -> str:
    """Check the name of a collection, tenant or database.

    Raises:
        InvalidArgumentError: It is not a valid one.
    """
    text = check_text(f"the {kind}'s name", name)
    check_name(kind, text)
    return text


def checked_snapshot_name(kind: str, name: object) -> str:
    """Check the name of a snapshot or backup.

    Raises:
        InvalidArgumentError: It is not a valid one.
    """
    text = check_text(f"the {kind}'s name", name)
    check_snapshot_name(text)
    return text


def collection_metadata(metadata: Any) -> value_pb2.Metadata | None:
    """Check and translate a collection's metadata; None is none.

    Raises:
        InvalidArgumentError: It is not a dict with at least one key, or a key or value is not
            allowed.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise invalid("metadata", f"metadata must be a dict, got {type(metadata).__name__}")
    if not metadata:
        raise invalid("metadata", "metadata is an empty dict; None stands for no metadata")
    message = metadata_to_message(metadata, "metadata", null=False)
    check_collection_metadata(message)
    return message


def by_name(tenant: str, database: str, name: str) -> collection_pb2.CollectionReference:
    """Refer to a collection by its name."""
    return collection_pb2.CollectionReference(tenant=tenant, database=database, name=name)


def by_id(collection: collection_pb2.Collection) -> collection_pb2.CollectionReference:
    """Refer to a collection for good: its name may be given to another."""
    return collection_pb2.CollectionReference(id=collection.id)


def is_answer_too_large(error: errors.OverloadedError) -> bool:
    """Whether a query was refused because its answer would not fit a message."""
    return error.metadata.get("limit") == "max_answer_bytes"


def check_texts(name: str, texts: object) -> list[str]:
    """Check one text or a list of texts.

    Raises:
        InvalidArgumentError: There is none, or one is no string.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise invalid(name, f"{name} must be a text or a list of texts, got {texts!r}")
    checked = list(texts)
    if not checked:
        raise invalid(name, f"{name} is empty; at least one text is needed")
    for position, text in enumerate(checked):
        if not isinstance(text, str):
            raise invalid(
                f"{name}[{position}]",
                f"{name}[{position}] must be a string, got {type(text).__name__}",
            )
    return checked
