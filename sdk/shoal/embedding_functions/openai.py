"""Embedding by everything that speaks OpenAI's embeddings API.

OpenAI itself, and among others Together, Mistral, Jina, Ollama, vLLM, LM Studio and Text Embeddings
Inference, by their base URL.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal.embedding_functions.config import check_unchanged
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.types import Space

__all__ = ["OpenAIEmbeddingFunction"]

_OPENAI: Final = "https://api.openai.com/v1"
_OPENAI_KEY: Final = "OPENAI_API_KEY"

# OpenAI takes 2,048 texts a request; many of the others take less.
_DEFAULT_BATCH_SIZE: Final = 256

# OpenAI takes 300,000 tokens a request, whatever the number of texts. A token is three to four
# bytes, in any script.
_MAX_BATCH_BYTES: Final = 600_000

# What the model's makers published; for others the first vector tells.
_KNOWN_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}

# What a vector depends on, beside its text.
_FIXED: Final = (
    "model_name",
    "dimensions",
    "document_prefix",
    "query_prefix",
    "document_options",
    "query_options",
)


class OpenAIEmbeddingFunction(EmbeddingFunction):
    """Embeds by a service with OpenAI's embeddings API.

    The key is read from an environment variable at each call; it is never stored. OpenAI's own is
    sent to OpenAI alone: for another service name its variable, or it gets no key.

    Args:
        model_name: The model, as the service knows it.
        api_key_env_var: Name of the environment variable with the key. None: ``OPENAI_API_KEY`` for
            OpenAI, no key for any other service.
        api_base: Where the service is; ``/embeddings`` is added.
        dimensions: Dimension to ask for, of models that can shorten their vectors.
        batch_size: Most texts in one request.
        timeout_s: For one request.
        document_prefix: Put before each document, for models that want one.
        query_prefix: Put before each query.
        document_options: Further fields of a request for documents, such as Jina's
            ``{"task": "retrieval.passage"}``.
        query_options: The same for queries.
        encoding_format: Asks for vectors as base64 or as numbers; None: base64 of OpenAI, nothing
            of others. An answer in either is understood.
    """

    def __init__(
        self,
        model_name: str = "text-embedding-3-small",
        *,
        api_key_env_var: str | None = None,
        api_base: str = _OPENAI,
        dimensions: int | None = None,
        batch_size: int = _DEFAULT_BATCH_SIZE,
        timeout_s: float = 60.0,
        document_prefix: str = "",
        query_prefix: str = "",
        document_options: Mapping[str, Any] | None = None,
        query_options: Mapping[str, Any] | None = None,
        encoding_format: Literal["base64", "float"] | None = None,
    ) -> None:
        # With it comes the standard library's HTTP, which who has other vectors never needs.
        from shoal.embedding_functions._http import JsonService, check_url

        api_base = check_url("api_base", api_base)
        if not model_name:
            raise errors.InvalidArgumentError("model_name must not be empty")
        if batch_size < 1:
            raise errors.InvalidArgumentError(f"batch_size must be at least 1, got {batch_size}")
        if not timeout_s > 0:
            raise errors.InvalidArgumentError(f"timeout_s must be above 0, got {timeout_s}")
        if encoding_format not in (None, "base64", "float"):
            raise errors.InvalidArgumentError(
                f"encoding_format must be 'base64', 'float' or None, got {encoding_format!r}"
            )
        self._config: dict[str, Any] = {
            "model_name": model_name,
            "api_key_env_var": api_key_env_var,
            "api_base": api_base,
            "dimensions": dimensions,
            "batch_size": batch_size,
            "timeout_s": timeout_s,
            "document_prefix": document_prefix,
            "query_prefix": query_prefix,
            "document_options": dict(document_options or {}),
            "query_options": dict(query_options or {}),
            "encoding_format": encoding_format,
        }
        is_openai = api_base == _OPENAI
        self._key_variable = api_key_env_var or (_OPENAI_KEY if is_openai else None)
        self._encoding_format = encoding_format or ("base64" if is_openai else None)
        self._address = f"{api_base}/embeddings"
        self._service = JsonService(
            self._address,
            timeout_s,
            f"the key is that of the environment variable {self._key_variable}"
            if self._key_variable
            else "no key was sent: name the environment variable that holds it as api_key_env_var",
        )

    def __call__(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed documents, shape ``(n, d)``.

        Raises:
            ShoalError: The service cannot be reached, or refuses.
        """
        return self._embed(input, "document")

    def embed_query(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed queries, shape ``(n, d)``."""
        return self._embed(input, "query")

    @staticmethod
    def name() -> str:
        """Name it."""
        return "openai"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the name of the key's variable and not the key."""
        return dict(self._config)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> OpenAIEmbeddingFunction:
        """Build it."""
        return cls(**config)

    def default_space(self) -> Space:
        """Return the cosine, which these models are trained for."""
        return "cosine"

    def dimension(self) -> int | None:
        """Return the dimension asked for, or that is known of the model."""
        dimensions: int | None = self._config["dimensions"]
        return dimensions or _KNOWN_DIMENSIONS.get(self._config["model_name"])

    def validate_config_update(
        self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]
    ) -> None:
        """Check that the model stays; where it is served, and how fast, may change."""
        check_unchanged(self.name(), old_config, new_config, _FIXED)

    def _embed(self, texts: list[str], purpose: str) -> npt.NDArray[np.float32]:
        fields = {"model": self._config["model_name"], "dimensions": self._config["dimensions"]}
        fields |= {"encoding_format": self._encoding_format, **self._config[f"{purpose}_options"]}
        fields = {key: value for key, value in fields.items() if value is not None}
        prefix = self._config[f"{purpose}_prefix"]
        headers = self._authorization()
        parts = []
        for batch in _batches([prefix + text for text in texts], self._config["batch_size"]):
            answer = self._service.post({**fields, "input": batch}, headers)
            parts.append(self._vectors(answer, len(batch)))
        return np.concatenate(parts)

    def _authorization(self) -> dict[str, str]:
        if self._key_variable is None:
            return {}
        key = os.environ.get(self._key_variable)
        if not key:
            raise errors.UnauthenticatedError(
                f"the environment variable {self._key_variable}, which holds the key for "
                f"{self._config['api_base']}, is not set"
            )
        return {"Authorization": f"Bearer {key}"}

    def _vectors(self, answer: Any, count: int) -> npt.NDArray[np.float32]:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            indices = [row["index"] for row in rows]
            vectors = [_vector(row["embedding"]) for row in rows]
            if indices != list(range(count)):
                raise ValueError(f"indices {indices[:10]} for {count} texts")
            return np.stack(vectors)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.InternalError(
                f"the embedding service at {self._address} does not answer as OpenAI's embeddings "
                f"API does: {error!r}"
            ) from error


def _vector(embedding: Any) -> npt.NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.asarray(embedding, np.float32)


def _batches(texts: list[str], batch_size: int) -> Iterator[list[str]]:
    """Split texts, in order, by count and bytes; at least one in each."""
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if batch and (len(batch) == batch_size or size + length > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    yield batch
