"""The part of a configuration that says what records hold: documents of a language, sparse vectors
under some keys.

It is fixed when a collection is created.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

from shoal.v1 import collection_pb2
from shoal.wire.languages import check_language
from shoal.wire.validation import check_metadata_key, invalid

__all__ = ["DocumentConfiguration", "SparseVectorConfiguration", "check_records_part"]

RECORD_KEYS: Final = ("documents", "sparse_vectors")
"""What a configuration says of records."""


class DocumentConfiguration(TypedDict):
    """How documents are indexed for rankings of texts.

    Attributes:
        language: By whose words, as Snowball calls its stemmers: ``english``, ``german``, …
    """

    language: str


class SparseVectorConfiguration(TypedDict):
    """How the sparse vectors under a key are searched.

    Attributes:
        idf: Whether each dimension is weighed by how rare it is in the collection.
    """

    idf: bool


def check_records_part(configuration: Mapping[str, Any]) -> collection_pb2.CollectionConfiguration:
    """Make the message of what a configuration says of records.

    Args:
        configuration: Perhaps with the keys ``documents`` and ``sparse_vectors``; others are not
            looked at.

    Raises:
        InvalidArgumentError: A key is unknown, or a value not allowed.
    """
    message = collection_pb2.CollectionConfiguration()
    documents = configuration.get("documents")
    if documents is not None:
        _check_keys(documents, ("language",), "documents")
        language = documents.get("language")
        if language is not None:
            if not isinstance(language, str):
                raise invalid("documents.language", f"language must be a string, got {language!r}")
            check_language(language, "documents.language")
            message.documents.language = language
    sparse_vectors = configuration.get("sparse_vectors")
    if sparse_vectors is None:
        return message
    if not isinstance(sparse_vectors, Mapping):
        raise invalid(
            "sparse_vectors",
            "sparse_vectors must be a dict of metadata keys to their configurations, got "
            f"{type(sparse_vectors).__name__}",
        )
    for key, own in sparse_vectors.items():
        if not isinstance(key, str):
            raise invalid("sparse_vectors", f"sparse_vectors has the key {key!r}, no string")
        check_metadata_key(key, field="sparse_vectors")
        own = {} if own is None else own
        _check_keys(own, ("idf",), f"sparse_vectors[{key!r}]")
        idf = own.get("idf", False)
        if not isinstance(idf, bool):
            raise invalid("sparse_vectors", f"sparse_vectors[{key!r}].idf must be true or false")
        message.sparse_vectors[key].idf = idf
    return message


def _check_keys(part: Any, known: tuple[str, ...], field: str) -> None:
    if not isinstance(part, Mapping):
        raise invalid(field, f"{field} must be a dict, got {type(part).__name__}")
    for key in part:
        if key not in known:
            raise invalid(field, f"{field} has no key {key!r}; the keys are {', '.join(known)}")


def documents_from_message(
    message: collection_pb2.CollectionConfiguration,
) -> DocumentConfiguration:
    """Return what is in force of documents."""
    return {"language": message.documents.language}


def sparse_vectors_from_message(
    message: collection_pb2.CollectionConfiguration,
) -> dict[str, SparseVectorConfiguration]:
    """Return what is in force of sparse vectors, by key."""
    return {key: {"idf": own.idf} for key, own in sorted(message.sparse_vectors.items())}
