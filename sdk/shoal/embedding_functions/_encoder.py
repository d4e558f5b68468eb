"""From texts to mean-pooled, normalised vectors, by a BERT on onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.embedding_functions._bert import INPUTS, OUTPUT, bert_model
from shoal.embedding_functions._extras import import_extra
from shoal.embedding_functions._safetensors import read_tensors
from shoal.errors import DataLossError, FailedPreconditionError

__all__ = ["ONNX_FILE", "TOKENIZER_FILE", "WEIGHTS_FILE", "SentenceEncoder", "check_directory"]

TOKENIZER_FILE: Final = "tokenizer.json"
ONNX_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "model.safetensors"

_BATCH_SIZE: Final = 32
"""Texts in one run. More are no faster on a CPU, and take memory: 256 tokens are 25 MB a layer."""

_TOKENIZED_AT_ONCE: Final = 4096
"""Bounds the memory for tokens; within it texts are sorted by length."""

_HOW_TO_INSTALL: Final = "pip install 'shoal[embeddings]'"


def check_directory(directory: Path) -> None:
    """Check that a directory holds a tokenizer, and a graph or weights.

    Raises:
        FailedPreconditionError: It does not.
    """
    if not directory.is_dir():
        raise FailedPreconditionError(f"{directory} is not a directory")
    graphs = [name for name in (ONNX_FILE, WEIGHTS_FILE) if (directory / name).is_file()]
    if not graphs or not (directory / TOKENIZER_FILE).is_file():
        raise FailedPreconditionError(
            f"{directory} must hold {TOKENIZER_FILE}, and {ONNX_FILE} or {WEIGHTS_FILE}"
        )


class SentenceEncoder:
    """A loaded model. Several threads may encode at once.

    Args:
        directory: Holds ``tokenizer.json``, and ``model.onnx`` (preferred) or
            ``model.safetensors``.
        max_tokens: Texts are cut after as many, the two that mark beginning and end included.
        head_size: Numbers in each attention head, which weights do not tell.

    Raises:
        FailedPreconditionError: A file is missing.
        DataLossError: A file cannot be used.
        ImportError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, directory: Path, *, max_tokens: int = 256, head_size: int = 32) -> None:
        check_directory(directory)
        self._runtime = import_extra("onnxruntime", type(self).__name__, _HOW_TO_INSTALL)
        tokenizers = import_extra("tokenizers", type(self).__name__, _HOW_TO_INSTALL)
        # A session may go on using the arrays it was given, and does not keep them alive.
        self._weights: list[Any] = []
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
            self._session = self._open_session(directory, head_size)
        except DataLossError:
            raise
        # Both libraries raise bare Exceptions, and their subclasses vary from release to release.
        except Exception as error:
            raise DataLossError(f"the model in {directory} cannot be loaded: {error}") from error
        self._tokenizer.enable_truncation(max_length=max_tokens)
        self._tokenizer.no_padding()
        self._inputs = {value.name for value in self._session.get_inputs()}
        outputs = [value.name for value in self._session.get_outputs()]
        self._output = OUTPUT if OUTPUT in outputs else outputs[0]
        if not {"input_ids", "attention_mask"} <= self._inputs <= set(INPUTS):
            raise DataLossError(
                f"the model in {directory} takes {', '.join(sorted(self._inputs))}; "
                f"it must take {', '.join(INPUTS)}"
            )

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, at least one; shape ``(len(texts), d)``, each vector 1 long."""
        parts = [
            self._encode_part(texts[start : start + _TOKENIZED_AT_ONCE])
            for start in range(0, len(texts), _TOKENIZED_AT_ONCE)
        ]
        return np.concatenate(parts)

    def _encode_part(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length together, so that little is padding.
        order = sorted(range(len(tokens)), key=lambda position: len(tokens[position]))
        vectors = np.concatenate(
            [
                self._run([tokens[position] for position in order[start : start + _BATCH_SIZE]])
                for start in range(0, len(order), _BATCH_SIZE)
            ]
        )
        in_order = np.empty_like(vectors)
        in_order[order] = vectors
        return in_order

    def _run(self, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        shape = len(tokens), max(len(row) for row in tokens)
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for position, row in enumerate(tokens):
            ids[position, : len(row)] = row
            mask[position, : len(row)] = 1
        given = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        (states,) = self._session.run([self._output], {name: given[name] for name in self._inputs})
        if states.ndim != 3:
            raise DataLossError(
                f"the model gives {self._output} of shape {states.shape}; it must give a state for "
                f"each token, (texts, tokens, dimension)"
            )
        sums = np.einsum("ntd,nt->nd", states, mask.astype(np.float32))
        means = sums / mask.sum(axis=1, keepdims=True)
        normalised: npt.NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return normalised.astype(np.float32)

    def _open_session(self, directory: Path, head_size: int) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3  # Errors: warnings are about its own optimisations.
        providers = ["CPUExecutionProvider"]
        if (directory / ONNX_FILE).is_file():
            path = str(directory / ONNX_FILE)
            return self._runtime.InferenceSession(path, options, providers=providers)
        model, weights = bert_model(read_tensors(directory / WEIGHTS_FILE), head_size)
        self._weights = [self._runtime.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
        options.add_external_initializers(list(weights), self._weights)
        return self._runtime.InferenceSession(model, options, providers=providers)
