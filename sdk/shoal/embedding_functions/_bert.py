"""BERT (Devlin et al. 2018) as an ONNX graph, from its weights.

The makers of all-MiniLM-L6-v2 publish weights; a graph of them can be had from several hands, each
exported in its own way. To build it from the weights here needs one file whose hash its makers
fixed, and no further package.

The graph's inputs and output are those of the usual exports: ``input_ids``, ``attention_mask`` and
``token_type_ids``, int64 of shape ``(batch, tokens)``, to ``last_hidden_state``, float32 of shape
``(batch, tokens, hidden)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.embedding_functions._onnx import Graph

__all__ = ["INPUTS", "OUTPUT", "bert_model"]

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT: Final = "last_hidden_state"

_EPSILON: Final = 1e-12
"""`layer_norm_eps` of every BERT."""

_MASKED: Final = float(np.finfo(np.float32).min)
"""Added to the attention to what is padding: nothing is left of it after the softmax."""


def bert_model(
    tensors: Mapping[str, npt.NDArray[Any]], head_size: int
) -> tuple[bytes, dict[str, npt.NDArray[Any]]]:
    """Build the model.

    Args:
        tensors: Under the names of Hugging Face's ``BertModel``.
        head_size: Numbers in each attention head.

    Returns:
        The model, and the weights that a session needs beside it, by name.

    Raises:
        KeyError: A tensor is missing.
    """
    bert = _Bert(tensors, head_size)
    return bert.build(), bert.weights


class _Bert:
    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]], head_size: int) -> None:
        self._tensors = tensors
        self._graph = Graph()
        self._hidden = int(tensors["embeddings.word_embeddings.weight"].shape[1])
        self._head_size = head_size

    @property
    def weights(self) -> dict[str, npt.NDArray[Any]]:
        return self._graph.weights

    def build(self) -> bytes:
        graph = self._graph
        state = self._embeddings()
        bias = self._attention_bias()
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in self._tensors:
            state = self._layer(f"encoder.layer.{layer}", state, bias)
            layer += 1
        graph.node("Identity", state, output=OUTPUT)
        inputs = dict.fromkeys(INPUTS, ("batch", "tokens"))
        return graph.model(inputs, {OUTPUT: ("batch", "tokens", "hidden")})

    def _embeddings(self) -> str:
        graph = self._graph
        words = graph.node("Gather", self._weight("embeddings.word_embeddings.weight"), INPUTS[0])
        kinds = graph.node(
            "Gather", self._weight("embeddings.token_type_embeddings.weight"), INPUTS[2]
        )
        # The first rows of the positions, as many as there are tokens.
        tokens = graph.node("Slice", graph.node("Shape", INPUTS[0]), *self._ints([1], [2], [0]))
        positions = graph.node(
            "Slice",
            self._weight("embeddings.position_embeddings.weight"),
            *self._ints([0]),
            tokens,
            *self._ints([0]),
        )
        total = graph.node("Add", graph.node("Add", words, kinds), positions)
        return self._normalize("embeddings.LayerNorm", total)

    def _attention_bias(self) -> str:
        """0 for tokens, the least float32 for padding; shape ``(batch, 1, 1, tokens)``."""
        graph = self._graph
        mask = graph.node("Cast", graph.node("Unsqueeze", INPUTS[1], *self._ints([1, 2])), to=1)
        padding = graph.node("Sub", self._number(1.0), mask)
        return graph.node("Mul", padding, self._number(_MASKED))

    def _layer(self, prefix: str, state: str, bias: str) -> str:
        graph = self._graph
        attention = f"{prefix}.attention"
        query, key, value = (
            self._heads(self._dense(f"{attention}.self.{part}", state), key=part == "key")
            for part in ("query", "key", "value")
        )
        scale = self._number(1 / math.sqrt(self._head_size))
        scores = graph.node("Add", graph.node("Mul", graph.node("MatMul", query, key), scale), bias)
        mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
        mixed = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = graph.node("Reshape", mixed, *self._ints([0, 0, self._hidden]))
        state = self._add_and_normalize(f"{attention}.output", mixed, state)
        inner = self._gelu(self._dense(f"{prefix}.intermediate.dense", state))
        return self._add_and_normalize(f"{prefix}.output", inner, state)

    def _heads(self, value: str, *, key: bool) -> str:
        """Split into heads: ``(batch, heads, tokens, size)``; a key with its last two swapped."""
        heads = self._hidden // self._head_size
        split = self._graph.node("Reshape", value, *self._ints([0, 0, heads, self._head_size]))
        return self._graph.node("Transpose", split, perm=[0, 2, 3, 1] if key else [0, 2, 1, 3])

    def _add_and_normalize(self, prefix: str, value: str, residual: str) -> str:
        total = self._graph.node("Add", self._dense(f"{prefix}.dense", value), residual)
        return self._normalize(f"{prefix}.LayerNorm", total)

    def _normalize(self, prefix: str, value: str) -> str:
        scale, bias = self._weight(f"{prefix}.weight"), self._weight(f"{prefix}.bias")
        return self._graph.node("LayerNormalization", value, scale, bias, epsilon=_EPSILON, axis=-1)

    def _dense(self, prefix: str, value: str) -> str:
        # Hugging Face stores (out, in).
        weight = self._constant(self._tensors[f"{prefix}.weight"].T)
        product = self._graph.node("MatMul", value, weight)
        return self._graph.node("Add", product, self._weight(f"{prefix}.bias"))

    def _gelu(self, value: str) -> str:
        """x / 2 * (1 + erf(x / sqrt 2)): Hendrycks & Gimpel 2016."""
        graph = self._graph
        curve = graph.node("Erf", graph.node("Div", value, self._number(math.sqrt(2))))
        raised = graph.node("Add", curve, self._number(1.0))
        return graph.node("Mul", graph.node("Mul", value, raised), self._number(0.5))

    def _weight(self, name: str) -> str:
        return self._constant(self._tensors[name])

    def _constant(self, array: npt.NDArray[Any]) -> str:
        # A session reads the array's memory as it is, and a file aligns nothing.
        return self._graph.constant(np.require(array, np.float32, ["C", "A"]))

    def _number(self, value: float) -> str:
        return self._graph.constant(np.array(value, np.float32))

    def _ints(self, *rows: list[int]) -> list[str]:
        return [self._graph.constant(np.array(row, np.int64)) for row in rows]
