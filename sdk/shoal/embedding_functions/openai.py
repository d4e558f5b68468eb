"""Embedding by everything that speaks OpenAI's embeddings API.

OpenAI itself, and among others Together, Mistral, Jina, Ollama, vLLM, LM Studio and Text Embeddings
Inference, by their base URL. With the standard library alone: it is one POST.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.types import Space

__all__ = ["OpenAIEmbeddingFunction"]

_DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
_DEFAULT_KEY_VARIABLE: Final = "OPENAI_API_KEY"

# OpenAI takes 2,048 texts a request and 300,000 tokens; many of the others take less.
_DEFAULT_BATCH_SIZE: Final = 256

_ATTEMPTS: Final = 5
_FIRST_BACKOFF_S: Final = 0.5
_MAX_WAIT_S: Final = 60.0
_WORTH_REPEATING: Final = frozenset({408, 409, 429, 500, 502, 503, 504})
_MAX_ERROR_BYTES: Final = 2_000

# What the model's makers published; for others the server or the first vector tells.
_KNOWN_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


class OpenAIEmbeddingFunction(EmbeddingFunction):
    """Embeds by a service with OpenAI's embeddings API.

    The key is read from an environment variable at each use; it is never stored. A service that
    wants none gets none if the variable is not set and the URL is not OpenAI's.

    Args:
        model_name: The model, as the service knows it.
        api_key_env_var: Name of the environment variable with the key.
        api_base: Where the service is; ``/embeddings`` is added.
        dimensions: Dimension to ask for, of models that can shorten their vectors.
        batch_size: Most texts in one request.
        timeout_s: For one request.
        query_prefix: Put before each query, for models that want one.
        document_prefix: Put before each document.
    """

    def __init__(
        self,
        model_name: str = "text-embedding-3-small",
        *,
        api_key_env_var: str = _DEFAULT_KEY_VARIABLE,
        api_base: str = _DEFAULT_BASE_URL,
        dimensions: int | None = None,
        batch_size: int = _DEFAULT_BATCH_SIZE,
        timeout_s: float = 60.0,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        if not api_base.startswith(("http://", "https://")):
            raise errors.InvalidArgumentError(f"api_base must be an HTTP URL, got {api_base!r}")
        if batch_size < 1:
            raise errors.InvalidArgumentError(f"batch_size must be at least 1, got {batch_size}")
        self._model_name = model_name
        self._api_key_env_var = api_key_env_var
        self._api_base = api_base.rstrip("/")
        self._dimensions = dimensions
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._query_prefix = query_prefix
        self._document_prefix = document_prefix

    def __call__(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed documents."""
        return self._embed([self._document_prefix + text for text in input])

    def embed_query(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed queries."""
        return self._embed([self._query_prefix + text for text in input])

    @staticmethod
    def name() -> str:
        """Name it."""
        return "openai"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the name of the key's variable and not the key."""
        return {
            "model_name": self._model_name,
            "api_key_env_var": self._api_key_env_var,
            "api_base": self._api_base,
            "dimensions": self._dimensions,
            "batch_size": self._batch_size,
            "timeout_s": self._timeout_s,
            "query_prefix": self._query_prefix,
            "document_prefix": self._document_prefix,
        }

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> OpenAIEmbeddingFunction:
        """Build it."""
        return cls(**config)

    def default_space(self) -> Space:
        """Return the cosine, which these models are trained for."""
        return "cosine"

    def dimension(self) -> int | None:
        """Return the dimension asked for, or that is known of the model."""
        return self._dimensions or _KNOWN_DIMENSIONS.get(self._model_name)

    def validate_config_update(self, old_config: Any, new_config: Any) -> None:
        """Check that the model stays; where it is served, and how fast, may change."""
        fixed = ("model_name", "dimensions", "query_prefix", "document_prefix")
        super().validate_config_update(
            {key: old_config.get(key) for key in fixed}, {key: new_config.get(key) for key in fixed}
        )

    def _embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        vectors = [
            vector
            for start in range(0, len(texts), self._batch_size)
            for vector in self._request(texts[start : start + self._batch_size])
        ]
        return np.stack(vectors)

    def _request(self, texts: list[str]) -> list[npt.NDArray[np.float32]]:
        body: dict[str, Any] = {"model": self._model_name, "input": texts}
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        url = f"{self._api_base}/embeddings"
        answer = self._post(url, json.dumps(body).encode())
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = [np.asarray(row["embedding"], np.float32) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise errors.InternalError(
                f"{url} did not answer as OpenAI's embeddings API does: {error!r}"
            ) from error
        if len(vectors) != len(texts):
            raise errors.InternalError(
                f"{url} answered with {len(vectors)} vectors for {len(texts)} texts"
            )
        return vectors

    def _post(self, url: str, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", **self._authorization()}
        for wait_s in _waits():
            request = urllib.request.Request(url, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(_MAX_ERROR_BYTES).decode(errors="replace")
                asked_s = _retry_after_s(error)
                if error.code not in _WORTH_REPEATING or wait_s is None:
                    raise _refusal(url, error.code, text, self._api_key_env_var) from None
                wait_s = max(wait_s, asked_s)
            except (TimeoutError, urllib.error.URLError, ConnectionError) as error:
                if wait_s is None:
                    raise errors.UnavailableError(
                        f"the embedding service at {url} cannot be reached: {error}"
                    ) from error
            except json.JSONDecodeError as error:
                raise errors.InternalError(f"{url} did not answer with JSON: {error}") from error
            time.sleep(min(wait_s, _MAX_WAIT_S))
        raise AssertionError("the last attempt raises or returns")

    def _authorization(self) -> dict[str, str]:
        key = os.environ.get(self._api_key_env_var)
        if key:
            return {"Authorization": f"Bearer {key}"}
        if self._api_base == _DEFAULT_BASE_URL:
            raise errors.UnauthenticatedError(
                f"the environment variable {self._api_key_env_var}, which holds the key of "
                f"{self._api_base}, is not set"
            )
        return {}


def _waits() -> Iterator[float | None]:
    """Give for each attempt how long to wait if it fails; None if it is the last."""
    for attempt in range(_ATTEMPTS - 1):
        yield _FIRST_BACKOFF_S * 2**attempt * random.uniform(0.5, 1.0)
    yield None


def _retry_after_s(error: urllib.error.HTTPError) -> float:
    try:
        return float(error.headers.get("Retry-After", 0))
    except ValueError:
        # It may also be a date, which says too little to be worth a parser.
        return 0.0


def _refusal(url: str, code: int, text: str, key_variable: str) -> errors.ShoalError:
    message = f"the embedding service at {url} refused with {code}: {text.strip()}"
    if code in (401, 403):
        return errors.UnauthenticatedError(
            f"{message} (the key is taken from the environment variable {key_variable})"
        )
    if code == 429:
        return errors.OverloadedError(message)
    if code >= 500:
        return errors.UnavailableError(message)
    return errors.InvalidArgumentError(message)
