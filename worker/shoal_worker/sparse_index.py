"""The index of sparse vectors: which rows have a dimension, under which key, with which weight.

In segments a dimension is the number ``2 * key << 32 | dimension``, where keys are numbered in the
order of their names; that a row has a vector under a key at all is the number ``(2 * key + 1) <<
32``. Which keys there are is fixed when a collection is created, and part of the index's format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from shoal.v1.value_pb2 import Metadata
from shoal_worker.apply import METADATA_CHANGES
from shoal_worker.environment import Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.journal import RowChange
from shoal_worker.segment_format import Contents
from shoal_worker.segments import Segments

__all__ = ["SparseIndex", "SparseVector", "gathered", "sparse_vectors"]

_FORMAT: Final = 0  # 0: the first

_DIMENSION_BITS: Final = 32

_ONE: Final = np.ones(1, np.float32)


class SparseVector(NamedTuple):
    """A sparse vector.

    Attributes:
        indices: Ascending, shape ``(n,)``.
        values: Shape ``(n,)``.
    """

    indices: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float32]


def sparse_vectors(encoded: bytes | None, keys: Sequence[str]) -> dict[str, SparseVector]:
    """Give the sparse vectors that serialised metadata has under some keys."""
    if not encoded:
        return {}
    found = {}
    fields = Metadata.FromString(encoded).fields
    for key in keys:
        if key in fields and fields[key].WhichOneof("kind") == "sparse_vector":
            vector = fields[key].sparse_vector
            found[key] = SparseVector(
                np.array(vector.indices, np.uint32), np.array(vector.values, np.float32)
            )
    return found


class SparseIndex:
    """The index of the sparse vectors of one shard; see `indexes.DerivedIndex`.

    Args:
        databases: The shard's.
        keys: The metadata keys that hold sparse vectors.
    """

    name: Final = "sparse"
    databases: Final = ("sparse_segments", "sparse_blocks")
    concerns: Final = METADATA_CHANGES
    reads: Final = METADATA_CHANGES
    concerns_bare_rows: Final = False
    step_rows: Final = 2048
    step_bytes: Final = 4 * 1024 * 1024

    def __init__(self, databases: Mapping[str, Database], keys: Sequence[str]) -> None:
        self.keys = tuple(sorted(keys))
        self.format = _FORMAT ^ xxhash.xxh32_intdigest("\n".join(self.keys).encode())
        segments, blocks = self.databases
        self.segments = Segments(databases[segments], databases[blocks], "sparse vectors")

    def dimensions(self, key: str, indices: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """Give the numbers of dimensions under a key."""
        high = np.uint64(2 * self.keys.index(key) << _DIMENSION_BITS)
        return indices.astype(np.uint64) | high

    def presence(self, key: str) -> int:
        """Give the number that stands for a vector under a key."""
        return (2 * self.keys.index(key) + 1) << _DIMENSION_BITS

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """See `indexes.DerivedIndex`."""
        gone: list[int] = []
        come: list[tuple[int, dict[str, SparseVector]]] = []
        for change in changes:
            if change.new_metadata == change.old_metadata and change.was_there == change.is_there:
                continue
            old = sparse_vectors(change.old_metadata, self.keys)
            new = sparse_vectors(change.new_metadata, self.keys)
            if not _are_same(old, new):
                if old:
                    gone.append(change.row)
                come.append((change.row, new))
        if not come:
            return Batch()
        return self.segments.changed(txn, np.array(sorted(gone), np.uint32), gathered(self, come))

    def cleaned(self, txn: Transaction) -> Mapping[str, Iterator[tuple[bytes, bytes]]]:
        """See `indexes.HoldsRemains`."""
        return dict(zip(self.databases, self.segments.cleaned(txn), strict=True))


def _are_same(old: Mapping[str, SparseVector], new: Mapping[str, SparseVector]) -> bool:
    return old.keys() == new.keys() and all(
        old[key].indices.tobytes() == vector.indices.tobytes()
        and old[key].values.tobytes() == vector.values.tobytes()
        for key, vector in new.items()
    )


def gathered(
    index: SparseIndex, vectors: Iterable[tuple[int, Mapping[str, SparseVector]]]
) -> Contents:
    """Give what rows hold, in segments.

    Args:
        index: The index.
        vectors: For each of at most 65,536 rows its vectors by key; rows without
            a vector are left out.
    """
    rows: list[int] = []
    numbers = [np.empty(0, np.uint64)]
    weights = [np.empty(0, np.float32)]
    counts: list[int] = []
    for row, by_key in vectors:
        if not by_key:
            continue
        rows.append(row)
        count = 0
        for key, vector in by_key.items():
            numbers += (
                index.dimensions(key, vector.indices),
                np.array([index.presence(key)], np.uint64),
            )
            weights += (vector.values, _ONE)
            count += len(vector.indices) + 1
        counts.append(count)
    all_numbers = np.concatenate(numbers)
    places = np.repeat(np.arange(len(rows)), counts)
    # Stable: of equal numbers the places stay in order.
    order = np.argsort(all_numbers, kind="stable")
    return Contents(
        np.array(rows, np.uint32),
        np.zeros(len(rows), np.uint32),
        all_numbers[order],
        places[order].astype(np.uint16),
        np.concatenate(weights)[order],
    )
