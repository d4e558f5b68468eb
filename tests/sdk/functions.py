"""Embedding functions that a person can compute."""

from __future__ import annotations

from typing import Any

import numpy as np

import shoal


@shoal.register_embedding_function
class Lengths(shoal.EmbeddingFunction):
    """A text's length, and 1."""

    def __init__(self, scale: int = 1) -> None:
        self._scale = scale

    def __call__(self, texts: list[str]) -> Any:
        return [[float(len(text) * self._scale), 1.0] for text in texts]

    @staticmethod
    def name() -> str:
        return "lengths"

    def get_config(self) -> dict[str, Any]:
        return {"scale": self._scale}


@shoal.register_embedding_function
class Vowels(shoal.EmbeddingFunction):
    """How many vowels, whether it is a query, and 1; for the cosine."""

    def __call__(self, texts: list[str]) -> Any:
        return np.array([[sum(map(text.count, "aeiou")), 0.0, 1.0] for text in texts])

    def embed_query(self, texts: list[str]) -> Any:
        return [[sum(map(text.count, "aeiou")), 1.0, 1.0] for text in texts]

    @staticmethod
    def name() -> str:
        return "vowels"

    def get_config(self) -> dict[str, Any]:
        return {}

    def default_space(self) -> shoal.Space:
        return "cosine"

    def supported_spaces(self) -> list[shoal.Space]:
        return ["cosine", "ip"]

    def dimension(self) -> int | None:
        return 3
