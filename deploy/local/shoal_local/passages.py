"""The data of the demo: descriptions of Debian packages and their vectors, ``data/passages``."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Passages", "find_folder", "load_passages"]

_FILES: Final = (
    "passages.jsonl.gz",
    "passages_vectors_f16.npy",
    "queries.jsonl.gz",
    "queries_vectors_f16.npy",
)


@dataclass(frozen=True, slots=True)
class Passages:
    """Records to store, and queries that are none of them.

    Attributes:
        ids: One for each record.
        documents: Their texts.
        metadatas: Strings, ints, floats, bools and lists, by field.
        vectors: Normalised, shape ``(records, 384)``.
        query_texts: Texts to search for.
        query_vectors: Their vectors, shape ``(queries, 384)``.
    """

    ids: list[str]
    documents: list[str]
    metadatas: list[dict[str, Any]]
    vectors: npt.NDArray[np.float32]
    query_texts: list[str]
    query_vectors: npt.NDArray[np.float32]


def find_folder(given: Path | None) -> Path:
    """Find the data: where it is said to be, in the checkout, or below the working directory.

    Raises:
        FileNotFoundError: It is in none of these.
    """
    checkout = Path(__file__).resolve().parents[3] / "data" / "passages"
    places = [given] if given is not None else [checkout, Path("data/passages")]
    for place in places:
        if all((place / name).is_file() for name in _FILES):
            return place
    raise FileNotFoundError(
        f"the demo's data is not in {' or '.join(map(str, places))}: run it in a checkout of "
        "Shoal, or name the folder with --passages"
    )


def load_passages(folder: Path) -> Passages:
    """Read everything."""
    records = _lines(folder / "passages.jsonl.gz")
    ids = [record.pop("id") for record in records]
    documents = [record.pop("text") for record in records]
    return Passages(
        ids=ids,
        documents=documents,
        # Neither null nor an empty list is a value that metadata can hold.
        metadatas=[{k: v for k, v in r.items() if v is not None and v != []} for r in records],
        vectors=np.load(folder / "passages_vectors_f16.npy").astype(np.float32),
        query_texts=[query["text"] for query in _lines(folder / "queries.jsonl.gz")],
        query_vectors=np.load(folder / "queries_vectors_f16.npy").astype(np.float32),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
