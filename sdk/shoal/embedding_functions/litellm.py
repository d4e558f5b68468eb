"""Embedding by the services that LiteLLM knows and that do not speak OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal.embedding_functions._extras import import_extra
from shoal.embedding_functions.config import check_unchanged
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.types import Space

__all__ = ["LiteLLMEmbeddingFunction"]

_DEFAULT_BATCH_SIZE: Final = 96  # What Cohere takes, the least of the common ones.
_RETRIES: Final = 3


class LiteLLMEmbeddingFunction(EmbeddingFunction):
    """Embeds by ``litellm.embedding``.

    Args:
        model_name: As LiteLLM has it, with the provider, for example ``cohere/embed-english-v3.0``.
        api_key_env_var: Name of the environment variable with the key; None: LiteLLM looks in the
            provider's customary one.
        api_base: Where the service is, if not at its customary place.
        query_input_type: ``input_type`` of queries, for models that tell them apart.
        document_input_type: ``input_type`` of documents.
        dimensions: Dimension to ask for.
        batch_size: Most texts in one request.
        timeout_s: For one request.
    """

    def __init__(
        self,
        model_name: str,
        *,
        api_key_env_var: str | None = None,
        api_base: str | None = None,
        query_input_type: str | None = None,
        document_input_type: str | None = None,
        dimensions: int | None = None,
        batch_size: int = _DEFAULT_BATCH_SIZE,
        timeout_s: float = 60.0,
    ) -> None:
        if batch_size < 1:
            raise errors.InvalidArgumentError(f"batch_size must be at least 1, got {batch_size}")
        self._config: dict[str, Any] = {
            "model_name": model_name,
            "api_key_env_var": api_key_env_var,
            "api_base": api_base,
            "query_input_type": query_input_type,
            "document_input_type": document_input_type,
            "dimensions": dimensions,
            "batch_size": batch_size,
            "timeout_s": timeout_s,
        }

    def __call__(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed documents."""
        return self._embed(input, self._config["document_input_type"])

    def embed_query(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed queries."""
        return self._embed(input, self._config["query_input_type"])

    @staticmethod
    def name() -> str:
        """Name it."""
        return "litellm"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, without the key."""
        return dict(self._config)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> LiteLLMEmbeddingFunction:
        """Build it."""
        return cls(**config)

    def default_space(self) -> Space:
        """Return the cosine."""
        return "cosine"

    def dimension(self) -> int | None:
        """Return the dimension asked for."""
        dimensions: int | None = self._config["dimensions"]
        return dimensions

    def validate_config_update(
        self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]
    ) -> None:
        """Check that the model stays; where it is served, and how fast, may change."""
        fixed = ("model_name", "dimensions", "query_input_type", "document_input_type")
        check_unchanged(self.name(), old_config, new_config, fixed)

    def _embed(self, texts: list[str], input_type: str | None) -> npt.NDArray[np.float32]:
        litellm = import_extra("litellm", "LiteLLMEmbeddingFunction", "pip install litellm")
        # All of LiteLLM's errors are of OpenAI's classes, whatever the provider.
        library_error = import_extra("openai", "litellm", "pip install litellm").OpenAIError
        config = self._config
        options = {
            "api_key": self._api_key(),
            "api_base": config["api_base"],
            "dimensions": config["dimensions"],
            "input_type": input_type,
            "timeout": config["timeout_s"],
            "num_retries": _RETRIES,
        }
        given = {key: value for key, value in options.items() if value is not None}
        vectors = []
        for start in range(0, len(texts), config["batch_size"]):
            batch = texts[start : start + config["batch_size"]]
            try:
                answer = litellm.embedding(model=config["model_name"], input=batch, **given)
            except library_error as error:
                status = getattr(error, "status_code", None) or 503
                from shoal.embedding_functions._http import refusal

                raise refusal(f"LiteLLM for {config['model_name']}", status, str(error)) from error
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors += [np.asarray(row["embedding"], np.float32) for row in rows]
        return np.stack(vectors)

    def _api_key(self) -> str | None:
        variable = self._config["api_key_env_var"]
        if variable is None:
            return None
        key = os.environ.get(variable)
        if not key:
            raise errors.UnauthenticatedError(
                f"the environment variable {variable}, which holds the key of "
                f"{self._config['model_name']}, is not set"
            )
        return key
