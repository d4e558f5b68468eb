"""The embedding function of a collection that names none: all-MiniLM-L6-v2, on this machine.

384 numbers for each text, of its first 256 tokens; mean-pooled and normalised, as its makers do.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal.embedding_functions._encoder import SentenceEncoder
from shoal.embedding_functions._extras import import_extra
from shoal.embedding_functions._model_files import ModelFile, ModelSource, find_model
from shoal.embedding_functions.protocol import EmbeddingFunction
from shoal.errors import FailedPreconditionError, InvalidArgumentError
from shoal.types import Space

__all__ = ["DefaultEmbeddingFunction"]

_DIMENSION: Final = 384

# The weights as their makers publish them, at a fixed revision. The graph is built from them here:
# exports of it come from several hands, each with a hash of its own.
_SOURCE: Final = ModelSource(
    name="all-MiniLM-L6-v2",
    url=(
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/"
        "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
    ),
    homepage="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    files=(
        ModelFile(
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        ModelFile(
            "tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
    ),
)

# What the model makes of this text, first numbers. Whatever file it came from: vectors of another
# model, or of this one cut down to 8 bits, would lie among the stored ones and mean nothing.
_PROBE: Final = "The shoal turns as one."
_PROBE_NUMBERS: Final = np.array(
    [
        [-0.02399, 0.03121, -0.00594, 0.04474, -0.10941, 0.0415, 0.0011, -0.02228],
        [0.05095, -0.0014, 0.04682, -0.00202, 0.00144, 0.01178, 0.06757, 0.00932],
    ],
    np.float32,
).ravel()
_PROBE_TOLERANCE: Final = 2e-3

# Loaded models by directory, so that ten collections share one; guarded by _loading.
_loaded: Final[weakref.WeakValueDictionary[Path, SentenceEncoder]] = weakref.WeakValueDictionary()
_loading: Final = threading.Lock()


class DefaultEmbeddingFunction(EmbeddingFunction):
    """Embeds by all-MiniLM-L6-v2 on onnxruntime; needs ``shoal[embeddings]``.

    The model is loaded at the first text: from the directory ``SHOAL_MODEL_DIR`` (which holds
    ``tokenizer.json``, and ``model.onnx`` or ``model.safetensors``), else from the cache, else it
    is downloaded, once.

    Args:
        find: Returns the model's directory.
    """

    def __init__(self, *, find: Callable[[], Path] = lambda: find_model(_SOURCE)) -> None:
        self._find = find
        self._encoder: SentenceEncoder | None = None

    def __call__(self, input: list[str]) -> npt.NDArray[np.float32]:
        """Embed documents and queries alike; shape ``(n, 384)``.

        Raises:
            ImportError: ``shoal[embeddings]`` is not installed.
            ShoalError: There is no model; says how to get it.
        """
        if self._encoder is None:
            self._encoder = _load(self._find)
        return self._encoder.encode(input)

    @staticmethod
    def name() -> str:
        """Name it."""
        return "default"

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> DefaultEmbeddingFunction:
        """Build it.

        Raises:
            InvalidArgumentError: There is something in the configuration; it has none.
        """
        if config:
            raise InvalidArgumentError(
                f"embedding function 'default' has no configuration, got {', '.join(config)}"
            )
        return cls()

    def default_space(self) -> Space:
        """Return the squared distance; of vectors that are 1 long it orders as the cosine does."""
        return "l2"

    def dimension(self) -> int:
        """Return 384."""
        return _DIMENSION


def _load(find: Callable[[], Path]) -> SentenceEncoder:
    for module in ("onnxruntime", "tokenizers"):  # Before a download that would be in vain.
        import_extra(module, "DefaultEmbeddingFunction", "pip install 'shoal[embeddings]'")
    with _loading:
        directory = find().resolve()
        encoder = _loaded.get(directory)
        if encoder is None:
            encoder = SentenceEncoder(directory)
            _check_is_minilm(encoder, directory)
            _loaded[directory] = encoder
        return encoder


def _check_is_minilm(encoder: SentenceEncoder, directory: Path) -> None:
    vector = encoder.encode([_PROBE])[0]
    numbers = vector[: len(_PROBE_NUMBERS)]
    if len(vector) != _DIMENSION or not np.allclose(
        numbers, _PROBE_NUMBERS, rtol=0, atol=_PROBE_TOLERANCE
    ):
        raise FailedPreconditionError(
            f"the model in {directory} is not all-MiniLM-L6-v2, or a coarser copy of it: its "
            f"vectors cannot be compared with those of other clients; for another model use "
            f"another embedding function"
        )
