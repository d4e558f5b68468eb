"""A BERT of a few thousand random numbers, and the same by plain numpy, to compare."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "fish", "boat", "##s", "the"]
HIDDEN = 16
HEAD_SIZE = 8
LAYERS = 2
POSITIONS = 12


def tensors(seed: int = 7) -> dict[str, npt.NDArray[np.float32]]:
    """Make the weights, under the names of Hugging Face's BertModel."""
    random = np.random.default_rng(seed)

    def dense(name: str, outputs: int, inputs: int) -> dict[str, Any]:
        return {
            f"{name}.weight": random.normal(0, 0.3, (outputs, inputs)),
            f"{name}.bias": random.normal(0, 0.1, outputs),
        }

    def norm(name: str) -> dict[str, Any]:
        return {
            f"{name}.weight": random.normal(1, 0.1, HIDDEN),
            f"{name}.bias": random.normal(0, 0.1, HIDDEN),
        }

    made = {
        f"embeddings.{kind}_embeddings.weight": random.normal(0, 1, (rows, HIDDEN))
        for kind, rows in (("word", len(WORDS)), ("position", POSITIONS), ("token_type", 2))
    }
    made |= norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            made |= dense(f"{prefix}.attention.self.{part}", HIDDEN, HIDDEN)
        made |= dense(f"{prefix}.attention.output.dense", HIDDEN, HIDDEN)
        made |= norm(f"{prefix}.attention.output.LayerNorm")
        made |= dense(f"{prefix}.intermediate.dense", 4 * HIDDEN, HIDDEN)
        made |= dense(f"{prefix}.output.dense", HIDDEN, 4 * HIDDEN)
        made |= norm(f"{prefix}.output.LayerNorm")
    return {name: array.astype(np.float32) for name, array in made.items()}


def write_tokenizer(path: Path) -> None:
    """Write a tokenizer of `WORDS` that pads and cuts as the real one's file says: to no use."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))


def write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the format by its description."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    block = b""
    for name, array in arrays.items():
        kind = {"float32": "F32", "float16": "F16", "int64": "I64"}[array.dtype.name]
        offsets = [len(block), len(block) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        block += array.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + block)


def write_model(directory: Path, seed: int = 7) -> None:
    """Write tokenizer and weights."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(directory / "tokenizer.json")
    write_safetensors(directory / "model.safetensors", tensors(seed))


def encode(
    weights: Mapping[str, npt.NDArray[np.float32]], ids: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Embed one text's tokens, in double precision, without padding."""

    def dense(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        product: npt.NDArray[Any] = value @ weights[f"{name}.weight"].T.astype(float)
        return product + weights[f"{name}.bias"]

    def norm(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        centred = value - value.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        normed: npt.NDArray[Any] = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return normed

    embeddings = "embeddings.{}_embeddings.weight"
    state = (
        weights[embeddings.format("word")][list(ids)].astype(float)
        + weights[embeddings.format("position")][: len(ids)]
        + weights[embeddings.format("token_type")][0]
    )
    state = norm("embeddings.LayerNorm", state)
    erf = np.vectorize(math.erf)
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        query, key, value = (
            dense(f"{prefix}.attention.self.{part}", state) for part in ("query", "key", "value")
        )
        heads = []
        for start in range(0, HIDDEN, HEAD_SIZE):
            head = slice(start, start + HEAD_SIZE)
            scores = np.exp(query[:, head] @ key[:, head].T / math.sqrt(HEAD_SIZE))
            heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, head])
        mixed = dense(f"{prefix}.attention.output.dense", np.concatenate(heads, -1))
        state = norm(f"{prefix}.attention.output.LayerNorm", mixed + state)
        inner = dense(f"{prefix}.intermediate.dense", state)
        inner = inner / 2 * (1 + erf(inner / math.sqrt(2)))
        state = norm(f"{prefix}.output.LayerNorm", dense(f"{prefix}.output.dense", inner) + state)
    mean = state.mean(0)
    result: npt.NDArray[np.float64] = mean / np.linalg.norm(mean)
    return result
