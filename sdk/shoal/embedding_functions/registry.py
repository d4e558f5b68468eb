"""Which embedding functions this process can build, by name.

They come from three places, and the first that has the name wins: Shoal's own, what was registered
here, what installed packages offer as entry points. Nothing is imported before its name is asked
for.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final, TypeVar

from shoal.errors import InvalidArgumentError

__all__ = [
    "check_owner",
    "find",
    "known_embedding_functions",
    "register_embedding_function",
    "resolve",
]

ENTRY_POINT_GROUP: Final = "shoal.embedding_functions"

FunctionClass = TypeVar("FunctionClass", bound=type[Any])

# Where Shoal's own are; imported when asked for.
_BUILT_IN: Final = {
    "default": "shoal.embedding_functions.default:DefaultEmbeddingFunction",
    "litellm": "shoal.embedding_functions.litellm:LiteLLMEmbeddingFunction",
    "openai": "shoal.embedding_functions.openai:OpenAIEmbeddingFunction",
    "sentence_transformer": (
        "shoal.embedding_functions.sentence_transformers:SentenceTransformerEmbeddingFunction"
    ),
}

# Guarded by _lock: a thread may resolve a name while another imports what registers one.
_registered: Final[dict[str, type[Any]]] = {}
_lock: Final = threading.Lock()


def register_embedding_function(function_class: FunctionClass) -> FunctionClass:
    """Make an embedding function known by its name; to be used as a decorator of its class.

    Raises:
        InvalidArgumentError: It has no name, cannot be built from a configuration, or another has
            its name.
    """
    if not isinstance(function_class, type):
        raise InvalidArgumentError(
            f"register_embedding_function decorates a class, got {function_class!r}"
        )
    for required in ("__call__", "name", "get_config", "build_from_config"):
        # `__call__` of a class without one is that of `type`, so look where instances will.
        if not any(required in base.__dict__ for base in function_class.__mro__):
            raise InvalidArgumentError(
                f"{function_class.__name__} cannot be registered: it has no method {required}()"
            )
    name = function_class.name()
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(
            f"{function_class.__name__} cannot be registered: name() gives {name!r}, "
            "it must give a string that is not empty"
        )
    with _lock:
        taken = _registered.get(name)
        # A module that is loaded again, as in a notebook, brings its class again.
        if name in _BUILT_IN or (taken is not None and _path(taken) != _path(function_class)):
            owner = "one of Shoal's own" if taken is None else _path(taken)
            raise InvalidArgumentError(
                f"an embedding function {name!r} is registered already: {owner}; "
                f"give {_path(function_class)} another name"
            )
        _registered[name] = function_class
    return function_class


def find(name: str) -> type[Any] | None:
    """Return the class of the embedding function with this name, None if nobody has it."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: type[Any] = getattr(importlib.import_module(module), attribute)
        return found
    with _lock:
        registered = _registered.get(name)
    if registered is not None:
        return registered
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded: type[Any] = entry_point.load()
        return loaded
    return None


def check_owner(name: str, function: object) -> None:
    """Check that a function does not go by the name of another, which would be built for it later.

    Raises:
        InvalidArgumentError: It does.
    """
    owner = find(name)
    if owner is None or isinstance(function, owner) or _path(type(function)) == _path(owner):
        return
    raise InvalidArgumentError(
        f"{name!r} is the name of the embedding function {_path(owner)}, which another client "
        f"would use in place of this one; rename it, or wrap it: CallableEmbeddingFunction("
        f"function, name=...)"
    )


def known_embedding_functions() -> list[str]:
    """Return the names of all embedding functions that can be built here, sorted."""
    offered = {entry_point.name for entry_point in entry_points(group=ENTRY_POINT_GROUP)}
    with _lock:
        return sorted({*_registered, *_BUILT_IN, *offered})


def resolve(name: str, config: Mapping[str, Any]) -> Any:
    """Build the embedding function that a collection was stored with.

    A collection can be used without it as long as no text is to be embedded, so this belongs to
    the first text and not to the opening of the collection.

    Raises:
        InvalidArgumentError: No such function is known here, or it does not take this
            configuration.
        ImportError: It needs a package that is not installed.
    """
    function_class = find(name)
    if function_class is None:
        raise InvalidArgumentError(
            f"embedding function {name!r} is not known here: pass it as embedding_function=, or "
            f"import the module that registers it with @shoal.register_embedding_function; "
            f"known are {', '.join(known_embedding_functions())}"
        )
    try:
        return function_class.build_from_config(dict(config))
    except (KeyError, TypeError) as error:
        # A configuration by another release of the function, or by another client.
        raise InvalidArgumentError(
            f"embedding function {name!r} cannot be built from the configuration "
            f"{dict(config)!r}: {type(error).__name__}: {error}"
        ) from error


def _path(function_class: type[Any]) -> str:
    return f"{function_class.__module__}.{function_class.__qualname__}"
