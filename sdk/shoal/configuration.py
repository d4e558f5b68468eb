"""The configuration of a collection: what a user writes, what a server answers, and the words for
both.

A key that is not known is an error: a misspelt one would otherwise silently be its default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final, TypedDict

from shoal import errors
from shoal._record_configuration import (
    RECORD_KEYS,
    DocumentConfiguration,
    SparseVectorConfiguration,
    documents_from_message,
    sparse_vectors_from_message,
)
from shoal.types import Space
from shoal.v1 import collection_pb2
from shoal.wire.validation import invalid

__all__ = ["CollectionConfiguration", "EmbeddingFunctionDescription", "HNSWConfiguration"]

_SPACES: Final[Mapping[str, collection_pb2.Space.ValueType]] = {
    "l2": collection_pb2.SPACE_L2,
    "cosine": collection_pb2.SPACE_COSINE,
    "ip": collection_pb2.SPACE_IP,
}
_SPACE_NAMES: Final[Mapping[int, Space]] = {
    collection_pb2.SPACE_L2: "l2",
    collection_pb2.SPACE_COSINE: "cosine",
    collection_pb2.SPACE_IP: "ip",
}
_SPACE_SYNONYMS: Final[Mapping[str, Space]] = {
    "euclidean": "l2",
    "inner_product": "ip",
    "dotproduct": "ip",
}
_QUANTIZATIONS: Final[Mapping[str, collection_pb2.Quantization.ValueType]] = {
    "f32": collection_pb2.QUANTIZATION_F32,
    "f16": collection_pb2.QUANTIZATION_F16,
    "bf16": collection_pb2.QUANTIZATION_BF16,
    "i8": collection_pb2.QUANTIZATION_I8,
}
_QUANTIZATION_NAMES: Final[Mapping[int, str]] = {
    number: name for name, number in _QUANTIZATIONS.items()
}

_UINT32_MAX: Final = 2**32 - 1

# Bounds of the whole numbers, both included.
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "ef_construction": (1, 10_000),
    "ef_search": (1, 10_000),
    "max_neighbors": (2, 512),
    "batch_size": (2, _UINT32_MAX),
    "sync_threshold": (2, _UINT32_MAX),
    "num_threads": (1, 256),
    "dimension": (1, 16_384),
    "shards": (1, 256),
    "replicas": (1, 256),
}
_KEYS: Final = (
    "space",
    "ef_construction",
    "ef_search",
    "max_neighbors",
    "batch_size",
    "sync_threshold",
    "num_threads",
    "resize_factor",
    "dimension",
    "quantization",
    "shards",
    "replicas",
)
CHANGEABLE: Final = frozenset(
    {"ef_search", "num_threads", "batch_size", "sync_threshold", "resize_factor"}
)
"""What can change after a collection has been created."""

# The older way to configure, in the metadata of the collection.
_METADATA_PREFIX: Final = "hnsw:"
_METADATA_KEYS: Final[Mapping[str, str]] = {
    "hnsw:space": "space",
    "hnsw:construction_ef": "ef_construction",
    "hnsw:search_ef": "ef_search",
    "hnsw:M": "max_neighbors",
    "hnsw:num_threads": "num_threads",
    "hnsw:resize_factor": "resize_factor",
    "hnsw:batch_size": "batch_size",
    "hnsw:sync_threshold": "sync_threshold",
}


class EmbeddingFunctionDescription(TypedDict):
    """The embedding function of a collection, as it is stored.

    Attributes:
        name: The name under which it is registered.
        config: What it is built of again.
    """

    name: str
    config: dict[str, Any]


class CollectionConfiguration(TypedDict):
    """The configuration of a collection.

    Attributes:
        hnsw: Every key with the value in force.
        embedding_function: None if the collection has none.
        documents: How documents are indexed.
        sparse_vectors: The metadata keys that hold sparse vectors.
    """

    hnsw: dict[str, Any]
    embedding_function: EmbeddingFunctionDescription | None
    documents: DocumentConfiguration
    sparse_vectors: dict[str, SparseVectorConfiguration]


@dataclass(frozen=True, slots=True)
class HNSWConfiguration:
    """How a collection is indexed and laid out; what is None takes the server's default.

    By itself it is for vectors of 384 numbers, compared by the cosine.

    Attributes:
        dimension: Numbers in each vector, 1 to 16,384; None: fixed by the embedding function, or
            the first vector.
        space: ``l2``, ``cosine`` or ``ip``, or one of their synonyms ``euclidean``,
            ``inner_product``, ``dotproduct``; None: ``cosine``.
        ef_construction: Candidates considered when a vector is linked, 1 to 10,000.
        ef_search: Candidates considered by a search, 1 to 10,000.
        max_neighbors: Links of a vector in the graph (HNSW's M), 2 to 512.
        batch_size: The least number of fresh vectors before a graph takes them in, at least 2.
        sync_threshold: The least number of changes before a checkpoint is due, at least 2.
        num_threads: Upper bound of threads for exact scans and building several shards, 1 to 256.
        resize_factor: At least 1. Kept for compatibility; without effect.
        quantization: Number type of the graph: ``f32``, ``f16``, ``bf16`` or ``i8`` (only with
            ``cosine``). Stored vectors, ranking and distances are exact with each.
        shards: Parts into which the collection is split, 1 to 256.
        replicas: Copies of each shard.
        distance: Another word for `space`.
    """

    dimension: int | None = 384
    space: str | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    batch_size: int | None = None
    sync_threshold: int | None = None
    num_threads: int | None = None
    resize_factor: float | None = None
    quantization: str | None = None
    shards: int | None = None
    replicas: int | None = None
    distance: InitVar[str | None] = None

    def __post_init__(self, distance: str | None) -> None:
        space = self.space
        if space is not None and distance is not None:
            raise invalid("hnsw.space", "give space or distance, which are the same, not both")
        # A frozen dataclass can set its fields only so.
        object.__setattr__(self, "space", check_space(space or distance or "cosine"))
        check_hnsw(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The keys that are set."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }


def check_space(space: object, field: str = "hnsw.space") -> Space:
    """Return the canonical name of a space.

    Raises:
        InvalidArgumentError: There is no such space.
    """
    name = _SPACE_SYNONYMS.get(space, space) if isinstance(space, str) else space
    for known in _SPACE_NAMES.values():
        if name == known:
            return known
    known_names = ", ".join([*_SPACES, *_SPACE_SYNONYMS])
    raise invalid(field, f"{field} must be one of {known_names}; got {space!r}")


def _check_count(key: str, value: object) -> None:
    minimum, maximum = _BOUNDS[key]
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        bound = f"at least {minimum}" if maximum == _UINT32_MAX else f"{minimum} to {maximum}"
        raise invalid(f"hnsw.{key}", f"hnsw.{key} must be a whole number, {bound}; got {value!r}")


def _check_resize_factor(key: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 1:  # type: ignore[arg-type, operator]
        raise invalid(f"hnsw.{key}", f"hnsw.{key} must be a number, at least 1; got {value!r}")


def _check_quantization(key: str, value: object) -> None:
    if value not in _QUANTIZATIONS:
        known = ", ".join(_QUANTIZATIONS)
        raise invalid(f"hnsw.{key}", f"hnsw.{key} must be one of {known}; got {value!r}")


_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    **dict.fromkeys(_BOUNDS, _check_count),
    "resize_factor": _check_resize_factor,
    "quantization": _check_quantization,
}


def check_hnsw(hnsw: object) -> dict[str, Any]:
    """Check the part of a configuration that concerns the index, and return what is set in it.

    Raises:
        InvalidArgumentError: A key is unknown or a value out of bounds.
    """
    if isinstance(hnsw, HNSWConfiguration):
        hnsw = hnsw.to_dict()
    if not isinstance(hnsw, Mapping):
        raise invalid("hnsw", f"hnsw must be a dict, got {type(hnsw).__name__}")
    checked: dict[str, Any] = {}
    for key, value in hnsw.items():
        if key not in _KEYS:
            raise invalid("hnsw", f"hnsw has no key {key!r}; the keys are {', '.join(_KEYS)}")
        if value is None:
            continue
        if key == "space":
            checked[key] = check_space(value)
        else:
            _CHECKS[key](key, value)
            checked[key] = value
    if checked.get("quantization") == "i8" and checked.get("space", "cosine") != "cosine":
        raise invalid(
            "hnsw.quantization",
            f"hnsw.quantization i8 is only for the space cosine, not {checked['space']!r}: "
            "it keeps no lengths",
        )
    return checked


def split_configuration(configuration: Any) -> tuple[dict[str, Any], Any]:
    """Take a user's configuration apart.

    Returns:
        What is set of the index, and the embedding function (a function, its description, or None).
        What it says of records is left to `_record_configuration`.

    Raises:
        InvalidArgumentError: A key is unknown, or a value out of bounds.
    """
    if configuration is None:
        return {}, None
    if isinstance(configuration, HNSWConfiguration):
        return configuration.to_dict(), None
    if not isinstance(configuration, Mapping):
        raise invalid(
            "configuration",
            "configuration must be a dict or an HNSWConfiguration, "
            f"got {type(configuration).__name__}",
        )
    known = ("hnsw", "embedding_function", *RECORD_KEYS)
    unknown = [key for key in configuration if key not in known]
    if unknown:
        raise invalid(
            "configuration",
            f"configuration has no key {unknown[0]!r}; the keys are {', '.join(known)}",
        )
    hnsw = configuration.get("hnsw")
    return check_hnsw({} if hnsw is None else hnsw), configuration.get("embedding_function")


def configuration_from_message(
    message: collection_pb2.CollectionConfiguration,
    function: EmbeddingFunctionDescription | None,
) -> CollectionConfiguration:
    """Return the configuration in force."""
    return {
        "hnsw": hnsw_from_message(message.hnsw),
        "embedding_function": function,
        "documents": documents_from_message(message),
        "sparse_vectors": sparse_vectors_from_message(message),
    }


def hnsw_of_metadata(metadata: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Find the older form of configuration, ``hnsw:…`` keys, in a collection's metadata.

    Raises:
        InvalidArgumentError: Such a key is unknown, or its value out of bounds.
    """
    found: dict[str, Any] = {}
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not key.startswith(_METADATA_PREFIX):
            continue
        if key not in _METADATA_KEYS:
            raise invalid(
                "metadata",
                f"metadata key {key!r} configures nothing; known are {', '.join(_METADATA_KEYS)}",
            )
        found[_METADATA_KEYS[key]] = value
    return check_hnsw(found)


def merge_hnsw(configured: Mapping[str, Any], of_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Merge both forms of a configuration.

    Raises:
        InvalidArgumentError: They contradict each other.
    """
    for key, value in of_metadata.items():
        if key in configured and configured[key] != value:
            raise invalid(
                f"hnsw.{key}",
                f"metadata says hnsw {key} {value!r}, but configuration says {configured[key]!r}",
            )
    return {**of_metadata, **configured}


def hnsw_to_message(hnsw: Mapping[str, Any]) -> collection_pb2.HnswConfiguration:
    """Make the message of what is set."""
    translated = dict(hnsw)
    if "space" in translated:
        translated["space"] = _SPACES[translated["space"]]
    if "quantization" in translated:
        translated["quantization"] = _QUANTIZATIONS[translated["quantization"]]
    return collection_pb2.HnswConfiguration(**translated)


def space_to_message(space: Space) -> collection_pb2.Space.ValueType:
    """Return the number of a space."""
    return _SPACES[space]


def space_of(message: collection_pb2.HnswConfiguration) -> Space | None:
    """Return the name of the space in force."""
    return _SPACE_NAMES.get(message.space)


def hnsw_from_message(message: collection_pb2.HnswConfiguration) -> dict[str, Any]:
    """Return every key with the value in force; the dimension is None as long as none is fixed."""
    values: dict[str, Any] = {key: getattr(message, key) for key in _KEYS}
    values["space"] = _SPACE_NAMES.get(message.space)
    values["quantization"] = _QUANTIZATION_NAMES.get(message.quantization)
    values["dimension"] = message.dimension or None
    return values


def check_changes(configuration: Any) -> tuple[dict[str, Any], Any]:
    """Check a configuration that is to replace parts of an existing one.

    Raises:
        InvalidArgumentError: It holds something that cannot change.
    """
    if isinstance(configuration, HNSWConfiguration):
        raise errors.InvalidArgumentError(
            "an HNSWConfiguration fixes the dimension and the space, which cannot change; "
            f'give the changes as a dict: {{"hnsw": {{{", ".join(sorted(CHANGEABLE))}}}}}'
        )
    hnsw, function = split_configuration(configuration)
    for key in RECORD_KEYS:
        if configuration is not None and configuration.get(key) is not None:
            raise invalid(
                f"configuration.{key}",
                f"configuration.{key} cannot change: it says what the records hold. Clone the "
                "collection, or copy it to one with another configuration",
            )
    for key in hnsw:
        if key not in CHANGEABLE:
            raise invalid(
                f"hnsw.{key}",
                f"hnsw.{key} cannot change; {', '.join(sorted(CHANGEABLE))} can. "
                "Clone the collection with another configuration instead",
            )
    return hnsw, function
