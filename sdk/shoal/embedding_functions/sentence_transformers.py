"""Embedding by a model of the sentence-transformers library, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.embedding_functions._extras import import_extra
from shoal.embedding_functions.config import check_unchanged
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.types import Space

__all__ = ["SentenceTransformerEmbeddingFunction"]


class SentenceTransformerEmbeddingFunction(EmbeddingFunction):
    """Embeds by a sentence-transformers model.

    Args:
        model_name: Of a model on Hugging Face, or a directory.
        device: For example ``cpu`` or ``cuda``; None: the library chooses.
        normalize_embeddings: Whether vectors are made 1 long.
        query_prompt_name: The model's own prompt for queries, of models that have one.
        document_prompt_name: The model's own prompt for documents.
    """

    def __init__(
        self,
        model_name: str = "all-MiniLM-L6-v2",
        *,
        device: str | None = None,
        normalize_embeddings: bool = True,
        query_prompt_name: str | None = None,
        document_prompt_name: str | None = None,
    ) -> None:
        self._config: dict[str, Any] = {
            "model_name": model_name,
            "device": device,
            "normalize_embeddings": normalize_embeddings,
            "query_prompt_name": query_prompt_name,
            "document_prompt_name": document_prompt_name,
        }
        self._loading = threading.Lock()
        self._model: Any = None  # Guarded by _loading.

    def __call__(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed documents."""
        return self._embed(input, self._config["document_prompt_name"])

    def embed_query(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed queries."""
        return self._embed(input, self._config["query_prompt_name"])

    @staticmethod
    def name() -> str:
        """Name it."""
        return "sentence_transformer"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return dict(self._config)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> SentenceTransformerEmbeddingFunction:
        """Build it; the model is loaded by the first text."""
        return cls(**config)

    def default_space(self) -> Space:
        """Return the cosine."""
        return "cosine"

    def validate_config_update(
        self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]
    ) -> None:
        """Check that the model stays; the device may change."""
        keys = sorted({*old_config, *new_config} - {"device"})
        check_unchanged(self.name(), old_config, new_config, keys)

    def _embed(self, texts: list[str], prompt_name: str | None) -> npt.NDArray[np.float32]:
        with self._loading:
            if self._model is None:
                library = import_extra(
                    "sentence_transformers",
                    "SentenceTransformerEmbeddingFunction",
                    "pip install sentence-transformers",
                )
                self._model = library.SentenceTransformer(
                    self._config["model_name"], device=self._config["device"]
                )
        vectors = self._model.encode(
            list(texts),
            prompt_name=prompt_name,
            convert_to_numpy=True,
            normalize_embeddings=self._config["normalize_embeddings"],
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)
