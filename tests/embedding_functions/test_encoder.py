"""A tiny model on onnxruntime, against the same by plain numpy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.embedding_functions import _encoder
from shoal.embedding_functions._bert import bert_model
from shoal.embedding_functions._encoder import SentenceEncoder
from shoal.embedding_functions._safetensors import read_tensors
from shoal.errors import DataLossError, FailedPreconditionError
from tests.embedding_functions import tiny

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

TEXTS = ["the red fish", "boats", "", "Green, blue & red fishs", "what is this", "the boat " * 3]


def tokens(text: str) -> list[int]:
    """Tokenize by hand what `TEXTS` has."""
    words = text.lower().replace(",", " , ").replace("&", " & ").split()
    pieces = [piece for word in words for piece in _pieces(word)]
    return [2, *(tiny.WORDS.index(piece) for piece in pieces), 3]


def _pieces(word: str) -> list[str]:
    if word in tiny.WORDS:
        return [word]
    if word.endswith("s") and word[:-1] in tiny.WORDS:
        return [word[:-1], "##s"]
    return ["[UNK]"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny.write_model(directory)
    return directory


def load(directory: Path, max_tokens: int = tiny.POSITIONS) -> SentenceEncoder:
    return SentenceEncoder(directory, max_tokens=max_tokens, head_size=tiny.HEAD_SIZE)


def test_vectors_are_those_of_the_architecture(directory: Path) -> None:
    expected = np.stack([tiny.encode(tiny.tensors(), tokens(text)) for text in TEXTS])

    vectors = load(directory).encode(TEXTS)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_long_texts_are_cut(directory: Path) -> None:
    cut = [*tokens("the red fish")[:4], 3]

    (vector,) = load(directory, max_tokens=5).encode(["the red fish boat boat boat"])

    np.testing.assert_allclose(vector, tiny.encode(tiny.tensors(), cut), atol=2e-6)


def test_batches_and_their_order_make_no_difference(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_encoder, "_BATCH_SIZE", 4)
    monkeypatch.setattr(_encoder, "_TOKENIZED_AT_ONCE", 10)
    encoder = load(directory)
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(tiny.WORDS[4:9], random.integers(0, 9))) for _ in range(33)]

    together = encoder.encode(texts)

    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_several_threads_may_encode(directory: Path) -> None:
    encoder = load(directory)
    expected = encoder.encode(TEXTS)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: encoder.encode(TEXTS), range(16)))

    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=2e-6)


def test_a_graph_is_taken_as_it_is(directory: Path, tmp_path: Path) -> None:
    """A model.onnx wins over weights beside it: here one of other weights."""
    import onnxruntime

    tiny.write_model(tmp_path, seed=1)
    model, weights = bert_model(tiny.tensors(), tiny.HEAD_SIZE)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_external_initializers(
        list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
    )
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    vectors = load(tmp_path).encode(TEXTS)

    np.testing.assert_allclose(vectors, load(directory).encode(TEXTS), atol=2e-6)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    tiny.write_model(tmp_path)
    (tmp_path / missing).unlink()

    with pytest.raises(FailedPreconditionError, match=missing):
        load(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="nowhere is not a directory"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "model.onnx"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100])
def test_a_damaged_file_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    tiny.write_model(tmp_path)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataLossError, match=str(tmp_path)):
        load(tmp_path)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    tiny.write_model(tmp_path)
    weights = tiny.tensors()
    del weights["encoder.layer.0.attention.self.key.bias"]
    tiny.write_safetensors(tmp_path / "model.safetensors", weights)

    with pytest.raises(DataLossError, match=r"encoder\.layer\.0\.attention\.self\.key\.bias"):
        load(tmp_path)


def test_tensors_come_out_of_a_file_as_they_went_in(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "ids": np.arange(3),
        "odd": np.ones((1, 3), np.float16),  # After it nothing is aligned to four bytes.
        "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    tiny.write_safetensors(tmp_path / "t.safetensors", arrays)

    read = read_tensors(tmp_path / "t.safetensors")

    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tiny.write_safetensors(path, {"a": np.ones(4, np.float32)})
    whole = path.read_bytes()

    for length in (0, 7, 8, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataLossError, match="not a usable safetensors file"):
            read_tensors(path)
