"""Embedding functions: from texts to vectors, in the client.

Importing this package imports none of the libraries behind them: each function loads what it needs
when its first text comes.
"""

from shoal.embedding_functions.default import DefaultEmbeddingFunction
from shoal.embedding_functions.litellm import LiteLLMEmbeddingFunction
from shoal.embedding_functions.openai import OpenAIEmbeddingFunction
from shoal.embedding_functions.plain import CallableEmbeddingFunction
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.embedding_functions.registry import (
    known_embedding_functions,
    register_embedding_function,
)
from shoal.embedding_functions.sentence_transformers import SentenceTransformerEmbeddingFunction
from shoal.embedding_functions.sparse import (
    Bm25EmbeddingFunction,
    SparseEncoderEmbeddingFunction,
)

__all__ = [
    "Bm25EmbeddingFunction",
    "CallableEmbeddingFunction",
    "DefaultEmbeddingFunction",
    "EmbeddingFunction",
    "LiteLLMEmbeddingFunction",
    "OpenAIEmbeddingFunction",
    "SentenceTransformerEmbeddingFunction",
    "SparseEncoderEmbeddingFunction",
    "known_embedding_functions",
    "register_embedding_function",
]
