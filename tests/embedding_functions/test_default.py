"""The default embedding function: all-MiniLM-L6-v2."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from shoal.embedding_functions import DefaultEmbeddingFunction, EmbeddingFunction
from shoal.embedding_functions._encoder import SentenceEncoder
from shoal.embedding_functions.registry import resolve
from shoal.errors import FailedPreconditionError, InvalidArgumentError
from tests.embedding_functions import tiny

PASSAGES = Path(__file__).parents[2] / "data" / "passages"


def test_it_describes_itself_without_loading_anything() -> None:
    def find() -> Path:
        raise AssertionError("loaded")

    function = DefaultEmbeddingFunction(find=find)

    assert function.name() == "default"
    assert function.get_config() == {}
    assert function.default_space() == "l2"
    assert function.dimension() == 384
    assert isinstance(function, EmbeddingFunction)
    assert isinstance(resolve("default", {}), DefaultEmbeddingFunction)
    with pytest.raises(InvalidArgumentError, match="no configuration, got model"):
        resolve("default", {"model": "another"})


def test_importing_shoal_imports_no_model_runtime() -> None:
    code = (
        "import sys, shoal; "
        "print([m for m in ('onnxruntime', 'tokenizers', 'litellm') if m in sys.modules])"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"


def test_without_its_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise AssertionError("looked for a model in vain")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ImportError, match=r"pip install 'shoal\[embeddings\]'"):
        DefaultEmbeddingFunction(find=find)(["a text"])


def test_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors would lie among those of other clients, and mean nothing."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(tiny, "HEAD_SIZE", 16)
    tiny.write_model(tmp_path)
    monkeypatch.setenv("SHOAL_MODEL_DIR", str(tmp_path))
    # Loaded with the real model's shape of heads, which the tiny one has not.
    monkeypatch.setattr(
        "shoal.embedding_functions.default.SentenceEncoder",
        lambda directory: SentenceEncoder(directory, max_tokens=12, head_size=16),
    )

    with pytest.raises(FailedPreconditionError, match="is not all-MiniLM-L6-v2"):
        DefaultEmbeddingFunction()(["a text"])


def passages(count: int) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    with gzip.open(PASSAGES / "passages.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]
    return texts, np.load(PASSAGES / "passages_vectors_f16.npy")[:count].astype(np.float32)


@pytest.mark.long
def test_it_embeds_as_the_passages_were(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MODEL_DIR", str(weights))
    texts, expected = passages(2000)
    function = DefaultEmbeddingFunction()
    encoder = SentenceEncoder(weights, max_tokens=64)
    # They were embedded by their first 64 tokens; those that have no more are embedded whole.
    lengths = [len(tokens.ids) for tokens in encoder._tokenizer.encode_batch(texts)]
    short = [position for position, length in enumerate(lengths) if length < 64]
    assert len(short) > 100

    vectors = function([texts[position] for position in short])
    cut = encoder.encode(texts[:300])

    assert vectors.shape == (len(short), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors * expected[short]).sum(axis=1).min() > 0.9999
    assert (cut * expected[:300]).sum(axis=1).min() > 0.9999


@pytest.mark.long
def test_the_pinned_hashes_are_those_of_the_weights(weights: Path, tmp_path: Path) -> None:
    """What a download must give is what these tests embed with."""
    from shoal.embedding_functions import default
    from shoal.embedding_functions._model_files import find_model

    cached = tmp_path / "shoal" / "models"
    cached.mkdir(parents=True)
    (cached / "all-MiniLM-L6-v2").symlink_to(weights)

    found = find_model(
        default._SOURCE,
        {"XDG_CACHE_HOME": str(tmp_path), "SHOAL_MODEL_URL": "http://127.0.0.1:1/never-asked"},
    )

    assert found == cached / "all-MiniLM-L6-v2"


@pytest.mark.long
def test_functions_share_a_loaded_model(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MODEL_DIR", str(weights))
    functions = [DefaultEmbeddingFunction() for _ in range(4)]
    threads = [threading.Thread(target=function, args=(["a"],)) for function in functions]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(function._encoder) for function in functions}) == 1
