"""What filters are measured on: records whose metadata say how many match, and which.

Built once into a data directory and opened again by every measurement. Vectors are a Gaussian
mixture, or real ones and variations of them. Documents are real texts, their sentences in another
order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import Dataset, documents, mixture, passages_varied
from benchmarks.search import wait_until_built

BATCH: Final = 1_000
QUERY_COUNT: Final = 200
_INDEXED_TIMEOUT_S: Final = 1_200.0
_NAME: Final = "filters"

SHARES: Final = (0.9, 0.5, 0.1, 0.01, 0.001, 0.0001)


class Given(NamedTuple):
    """A filter, another one at each turn, and which records match it."""

    where: Callable[[int], dict[str, Any] | None]
    matching: Callable[[int], npt.NDArray[np.bool_]]


class Records:
    """Metadata of a data set's records, and filters with what they match."""

    def __init__(self, dataset: Dataset) -> None:
        count = len(dataset.base)
        self.dataset = dataset
        self.queries = dataset.queries[:QUERY_COUNT]
        self.rank = np.random.default_rng(5).permutation(count)
        # The worst case: what matches lies as far from the queries as can be.
        nearness = dataset.base @ dataset.queries[0]
        self.far = np.argsort(np.argsort(nearness))
        self.near_queries = dataset.base[np.argsort(-nearness)[:100]]
        self.even: dict[str, Given] = {}
        self.worst: dict[str, Given] = {}
        for share in SHARES:
            size = max(1, int(share * count))
            self.even[f"{share:.2%}, a range"] = self._range(size)
            self.worst[f"{share:.2%}, the farthest"] = self._farthest(size)
        for parts, field in ((10, "tenth"), (100, "hundredth"), (1000, "thousandth")):
            self.even[f"{1 / parts:.2%}, a string"] = self._part(parts, field)
        self.even["90.00%, a complement"] = Given(
            lambda turn: {"tenth": {"$nin": [f"tenth {turn % 10}", f"none {turn}"]}},
            lambda turn: self.rank % 10 != turn % 10,
        )
        self.even["45.00%, two conditions"] = Given(
            lambda turn: {
                "$and": [
                    {"tenth": {"$ne": f"tenth {turn % 10}"}},
                    {"rank": {"$lt": count // 2 - turn}},
                ]
            },
            lambda turn: (self.rank % 10 != turn % 10) & (self.rank < count // 2 - turn),
        )
        same = self._range(count // 2)
        self.even["50.00%, the same range again"] = Given(
            lambda _: same.where(0), lambda _: same.matching(0)
        )

    def _range(self, size: int) -> Given:
        return Given(
            lambda turn: {"$and": [{"rank": {"$gte": turn}}, {"rank": {"$lt": turn + size}}]},
            lambda turn: (self.rank >= turn) & (self.rank < turn + size),
        )

    def _farthest(self, size: int) -> Given:
        return Given(
            lambda turn: {"$and": [{"far": {"$gte": -turn}}, {"far": {"$lt": size}}]},
            lambda _: self.far < size,
        )

    def _part(self, parts: int, field: str) -> Given:
        return Given(
            lambda turn: {field: {"$in": [f"{field} {turn % parts}", f"none {turn}"]}},
            lambda turn: self.rank % parts == turn % parts,
        )

    def metadata(self, n: int) -> dict[str, Any]:
        """Give the metadata of a record."""
        rank = int(self.rank[n])
        return {
            "rank": rank,
            "far": int(self.far[n]),
            "tenth": f"tenth {rank % 10}",
            "hundredth": f"hundredth {rank % 100}",
            "thousandth": f"thousandth {rank % 1000}",
            "same": "same",
        }


def dataset_in(directory: Path, kind: str, count: int) -> Dataset:
    """Give a data set, from a file if it was made before."""
    path = directory / f"{kind}-{count}.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        made = mixture(count) if kind == "mixture" else passages_varied(count)
        np.savez(path, name=made.name, base=made.base, queries=made.queries)
    stored = np.load(path)
    none = np.empty((0, 10), np.int64)
    return Dataset(str(stored["name"]), stored["base"], stored["queries"], none)


def collection_in(client: shoal.Client, records: Records) -> shoal.Collection:
    """Give the collection of the records, loaded, indexed and built, once."""
    if client.has_collection(_NAME):
        collection = client.get_collection(_NAME, embedding_function=None)
    else:
        collection = client.create_collection(
            _NAME, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )
    base = records.dataset.base
    texts: Sequence[str] = ()
    for first in range(collection.count(), len(base), BATCH):
        texts = texts or documents(len(base))
        part = slice(first, min(first + BATCH, len(base)))
        numbers = range(part.start, part.stop)
        collection.add(
            ids=[str(n) for n in numbers],
            embeddings=base[part],
            metadatas=[records.metadata(n) for n in numbers],
            documents=list(texts[part]),
        )
    wait_until_indexed(collection)
    wait_until_built(collection)
    return collection


def wait_until_indexed(collection: shoal.Collection) -> None:
    """Wait until no filter has to look at a record."""
    probe = np.ones(collection.dimension or 1, np.float32)
    deadline = time.monotonic() + _INDEXED_TIMEOUT_S
    while time.monotonic() < deadline:
        answer: Any = collection.query(
            query_embeddings=probe,
            n_results=1,
            where={"no such field": "x"},
            where_document={"$contains": "\x01\x02\x03\x04"},
            explain=True,
        )
        if not sum(shard["examined_count"] for shard in answer["plan"]["shards"]):
            return
        time.sleep(0.05)
    raise TimeoutError("the indexes have not taken everything in")
