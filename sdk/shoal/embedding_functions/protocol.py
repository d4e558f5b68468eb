"""What an embedding function is: it turns texts into vectors, and says how to build it again.

Embedding functions run in the client. With a collection are stored a name and a configuration, so
that any machine that opens it embeds in the same way; what must not be stored there (keys, loaded
models) is found by the function when its first text comes.

The least is a callable that takes texts and returns vectors: it is stored by its name alone, and
must be passed again by whoever opens the collection.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from shoal.embedding_functions.config import check_unchanged
from shoal.types import Space

__all__ = ["EmbeddingFunction"]


@runtime_checkable
class EmbeddingFunction(Protocol):
    """Turns texts into vectors of one dimension.

    Whatever has these methods is one; to derive from it gives those that one need not say. Write
    `__call__`, `name` and `get_config`, and decorate the class with `register_embedding_function`.
    Building one must be cheap: what is heavy is loaded by the first call.

    A function that knows the dimension of its vectors without embedding anything may say so, too,
    by a method ``dimension() -> int | None``: then a collection is created with it.
    """

    @abstractmethod
    def __call__(self, input: list[str]) -> Any:
        """Embed documents.

        Args:
            input: Texts, at least one.

        Returns:
            One vector for each: an array of shape ``(n, d)``, or a list of lists or arrays.
        """
        raise NotImplementedError(f"{type(self).__name__} does not embed")

    def embed_query(self, input: list[str]) -> Any:
        """Embed queries; the same as documents, unless the model tells them apart."""
        return self(input)

    @staticmethod
    def name() -> str:
        """Name it in the registry and in the collections that use it.

        A function without a name is stored as a plain callable, under that of its class.
        """
        return ""

    def get_config(self) -> dict[str, Any]:
        """Return what `build_from_config` needs, as JSON has it; never a secret."""
        return {}

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> EmbeddingFunction:
        """Build one from what `get_config` returned, on any machine."""
        return cls(**config)

    def default_space(self) -> Space:
        """Return the space its vectors are meant for."""
        return "l2"

    def supported_spaces(self) -> list[Space]:
        """Return the spaces its vectors are good for."""
        return ["l2", "cosine", "ip"]

    def validate_config_update(
        self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]
    ) -> None:
        """Check that a collection's vectors stay valid if its function is configured anew.

        By itself nothing may change but what is named `api_key_env_var`.

        Raises:
            InvalidArgumentError: They would not.
        """
        keys = {*old_config, *new_config} - {"api_key_env_var"}
        check_unchanged(self.name(), old_config, new_config, sorted(keys))
