"""A collection's embedding function as its client uses it: found when the first text comes.

What a user may pass is a function by the protocol, or any callable; what a collection stores is a
name and a configuration. This module brings the two together, and says where they contradict.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal import configuration, errors
from shoal._vectors import to_vectors
from shoal.configuration import EmbeddingFunctionDescription
from shoal.embedding_functions import registry
from shoal.embedding_functions.config import (
    check_config,
    config_from_struct,
    config_to_struct,
)
from shoal.types import Space
from shoal.v1 import collection_pb2
from shoal.wire.validation import invalid

DEFAULT_NAME: Final = "default"


class Choice(Enum):
    """Which embedding function, where none is named."""

    DEFAULT = "default"
    """The one that Shoal brings."""

    STORED = "stored"
    """The one that the collection was created with."""


AnyFunction: TypeAlias = Callable[[list[str]], Any]
"""A callable from texts to vectors, with or without the protocol's methods."""

CreateChoice: TypeAlias = AnyFunction | Literal[Choice.DEFAULT] | None
GetChoice: TypeAlias = AnyFunction | Literal[Choice.STORED] | None


def name_of(function: AnyFunction) -> str:
    """Return the name under which a function is stored: its own, else that of the callable."""
    named = getattr(function, "name", None)
    name = named() if callable(named) else None
    if isinstance(name, str) and name:
        return name
    return str(getattr(function, "__name__", None) or type(function).__name__)


def config_of(function: AnyFunction) -> dict[str, Any] | None:
    """Return what a function says it can be built of; None if it says nothing."""
    get_config = getattr(function, "get_config", None)
    if not callable(get_config):
        return None
    config = get_config()
    check_config(name_of(function), config)
    return dict(config)


def dimension_of(function: AnyFunction) -> int | None:
    """Return the dimension that a function says its vectors have."""
    dimension = getattr(function, "dimension", None)
    value = dimension() if callable(dimension) else dimension
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_callable(function: object) -> None:
    """Check that something can embed at all.

    Raises:
        InvalidArgumentError: It cannot.
    """
    if isinstance(function, type) or not callable(function):
        raise invalid(
            "embedding_function",
            "embedding_function must be a callable from a list of texts to vectors, "
            f"got {function!r}",
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # Of a builtin nothing is known.
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) > 1:
        raise invalid(
            "embedding_function",
            "embedding_function must be callable with one argument, a list of texts; "
            f"{name_of(function)!r} wants {', '.join(required)}",
        )


def to_message(function: AnyFunction, *, implied: bool) -> collection_pb2.EmbeddingFunction:
    """Describe a function as it is stored with a collection.

    Args:
        function: By the protocol, or any callable.
        implied: Whether the user did not choose it.

    Raises:
        InvalidArgumentError: Its configuration is not JSON, or holds a secret; or another function
            is known by its name.
    """
    registry.check_owner(name_of(function), function)
    space = collection_pb2.SPACE_UNSPECIFIED
    default_space = getattr(function, "default_space", None)
    if callable(default_space):
        name = configuration.check_space(default_space(), "default_space()")
        space = configuration.space_to_message(name)
    return collection_pb2.EmbeddingFunction(
        name=name_of(function),
        config=config_to_struct(name_of(function), config_of(function) or {}),
        default_space=space,
        dimension=dimension_of(function) or 0,
        implied=implied,
    )


def built(description: Mapping[str, Any]) -> AnyFunction:
    """Build a function that is given by name and configuration.

    Raises:
        InvalidArgumentError: The description has other keys, or no such function can be built here.
    """
    unknown = [key for key in description if key not in ("name", "config", "type")]
    name = description.get("name")
    config = description.get("config") or {}
    if unknown or not isinstance(name, str) or not isinstance(config, Mapping):
        raise invalid(
            "configuration.embedding_function",
            "configuration.embedding_function must be {'name': str, 'config': dict}, "
            f"got {dict(description)!r}",
        )
    function: AnyFunction = registry.resolve(name, dict(config))
    return function


def describe(
    message: collection_pb2.CollectionConfiguration,
) -> EmbeddingFunctionDescription | None:
    """Return the stored description, None if the collection has no function."""
    if not message.HasField("embedding_function"):
        return None
    function = message.embedding_function
    return {"name": function.name, "config": config_from_struct(function.config)}


def check_against_stored(
    function: AnyFunction, stored: EmbeddingFunctionDescription | None, collection_name: str
) -> None:
    """Check that a function which a user passes is the one that a collection was created with.

    Raises:
        InvalidArgumentError: It is not.
    """
    if stored is None:
        raise invalid(
            "embedding_function",
            f"collection {collection_name!r} was created without an embedding function, "
            f"got {name_of(function)!r}; copy the collection to embed it otherwise",
        )
    if name_of(function) != stored["name"]:
        raise invalid(
            "embedding_function",
            f"collection {collection_name!r} was created with the embedding function "
            f"{stored['name']!r}, got {name_of(function)!r}; copy the collection to embed it "
            "otherwise",
        )
    validate = getattr(function, "validate_config_update", None)
    config = config_of(function)
    if config is not None and callable(validate):
        # As it will be when it has been stored, so that 1 and 1.0 are no difference.
        validate(stored["config"], _as_stored(config, stored["name"]))


def is_same(function: AnyFunction, stored: EmbeddingFunctionDescription | None) -> bool:
    """Whether a function makes the vectors that a stored one makes."""
    if stored is None or name_of(function) != stored["name"]:
        return False
    config = _as_stored(config_of(function) or {}, stored["name"])
    return config == stored["config"]


def _supported_spaces(function: AnyFunction) -> list[Space] | None:
    supported = getattr(function, "supported_spaces", None)
    if not callable(supported):
        return None
    return [configuration.check_space(name, "supported_spaces()") for name in supported()]


def supports_space(function: AnyFunction, space: Space | None) -> bool:
    """Whether a function's vectors are good for a space; so it is if the function does not say."""
    spaces = _supported_spaces(function)
    return space is None or spaces is None or space in spaces


def check_space_supported(function: AnyFunction, space: Space | None) -> None:
    """Warn of a space that a function's vectors are not good for."""
    if not supports_space(function, space):
        spaces = _supported_spaces(function) or []
        warnings.warn(
            f"embedding function {name_of(function)!r} is meant for the spaces "
            f"{', '.join(spaces)}, not for {space}",
            UserWarning,
            stacklevel=4,
        )


def check_dimensions_agree(function: AnyFunction, dimension: int | None) -> None:
    """Check a configured dimension against the function's.

    Raises:
        InvalidArgumentError: They differ.
    """
    own = dimension_of(function)
    if dimension is not None and own is not None and own != dimension:
        raise invalid(
            "hnsw.dimension",
            f"the configuration says dimension {dimension}, but the embedding function "
            f"{name_of(function)!r} makes vectors of {own}",
        )


def _as_stored(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration as it is once it has been stored: then 1.0 is 1."""
    return config_from_struct(config_to_struct(name, config))


class Embedder:
    """Embeds the texts of one collection.

    Args:
        collection_name: For messages.
        function: What the user passed; None if it is to be built from `stored` at the first text.
        stored: What the collection stores; None if nothing, or if it is not to be used.
    """

    def __init__(
        self,
        collection_name: str,
        function: AnyFunction | None,
        stored: EmbeddingFunctionDescription | None,
    ) -> None:
        self._collection_name = collection_name
        self._function = function
        self._stored = stored

    @property
    def function(self) -> AnyFunction | None:
        """The function; None if there is none.

        Raises:
            InvalidArgumentError: One is stored that is not known here.
        """
        if self._function is None and self._stored is not None:
            self._function = registry.resolve(self._stored["name"], self._stored["config"])
        return self._function

    def check_ready(self) -> None:
        """Check that there is a function to embed documents with.

        Raises:
            InvalidArgumentError: There is none, or it is not known here.
        """
        self._required("a document without an embedding")

    def embed_documents(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed documents, shape ``(n, d)``."""
        function = self._required("a document without an embedding")
        return self._checked(function, function(list(texts)), len(texts))

    def embed_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed queries, shape ``(n, d)``."""
        function = self._required("a query by text")
        embed_query = getattr(function, "embed_query", None)
        embed = embed_query if callable(embed_query) else function
        return self._checked(function, embed(list(texts)), len(texts))

    def _required(self, what: str) -> AnyFunction:
        function = self.function
        if function is None:
            raise errors.InvalidArgumentError(
                f"{what} needs an embedding function, and collection "
                f"{self._collection_name!r} has none (embedding_function=None); give embeddings"
            )
        return function

    def _checked(self, function: AnyFunction, vectors: Any, count: int) -> npt.NDArray[np.float32]:
        checked = to_vectors(vectors, f"the answer of embedding function {name_of(function)!r}")
        if len(checked) != count:
            raise errors.InvalidArgumentError(
                f"embedding function {name_of(function)!r} gave {len(checked)} vectors "
                f"for {count} texts"
            )
        return checked
