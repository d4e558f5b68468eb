"""A plain callable as an embedding function, where more is known of it than its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.errors import InvalidArgumentError
from shoal.types import Space

__all__ = ["CallableEmbeddingFunction"]


class CallableEmbeddingFunction(EmbeddingFunction):
    """Wraps a callable that takes a list of texts and gives one vector for each.

    Nothing can build it again, so it is stored by its name alone and must be passed again by
    whoever opens the collection.

    Args:
        function: The callable.
        name: To store. Default: the callable's own, without its module, so that it may move from
            a notebook into a package.
        query: What embeds queries. Default: `function`.
        dimension: Of its vectors; None: the first vector tells.
        default_space: Of a collection that is created with it.
    """

    def __init__(
        self,
        function: Callable[[list[str]], Any],
        name: str | None = None,
        *,
        query: Callable[[list[str]], Any] | None = None,
        dimension: int | None = None,
        default_space: Space = "l2",
    ) -> None:
        query = function if query is None else query
        for given in (function, query):
            if isinstance(given, type) or not callable(given):
                raise InvalidArgumentError(
                    f"CallableEmbeddingFunction wraps a callable that takes a list of texts, "
                    f"got {given!r}"
                )
        self._function = function
        self._query = query
        self._dimension = dimension
        self._default_space = default_space
        own_name = name or _name_of(function)
        # The protocol's name() belongs to the class; here every instance has its own.
        self.name = lambda: own_name  # type: ignore[method-assign]

    def __call__(self, input: list[str]) -> Any:
        """Embed documents."""
        return self._function(input)

    def embed_query(self, input: list[str]) -> Any:
        """Embed queries."""
        return self._query(input)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> CallableEmbeddingFunction:
        """Refuse.

        Raises:
            InvalidArgumentError: Always: a callable must be passed again.
        """
        raise InvalidArgumentError(
            "a plain callable cannot be built from a configuration; pass it as embedding_function"
        )

    def default_space(self) -> Space:
        """Return the space that was given."""
        return self._default_space

    def dimension(self) -> int | None:
        """Return the dimension that was given."""
        return self._dimension


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__
