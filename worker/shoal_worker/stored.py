"""The vectors of a graph as they lie in its checkpoint, found without USearch.

What USearch (2.x, `index_dense.hpp` and `index.hpp`) writes, all little-endian:

    rows, bytes of a row: uint32 each          the matrix, in order of adding
    a head of 64 bytes, beginning "usearch"
    size, connectivity, that of the lowest level, top level, entry: uint64 each
    the level of each node: int16
    each node: its key (uint64), its level (int16), its neighbours on each level

That is how it is and not promised. So everything is checked against everything else: the lengths
must add up to the last byte, and the keys must rise, for they were added so; what does not fit is
not used, and scans read LMDB instead.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Stored", "places_in", "stored_vectors"]

_MATRIX: Final = struct.Struct("<II")
_HEAD_BYTES: Final = 64
_MAGIC: Final = b"usearch"
_GRAPH: Final = struct.Struct("<QQQQQ")
_LEVEL_BYTES: Final = 2
_NODE_BYTES: Final = 10
_NEIGHBOUR_BYTES: Final = 4


class Stored(NamedTuple):
    """The vectors that a graph holds, side by side.

    Attributes:
        keys: Ascending, shape ``(n,)``.
        matrix: The vectors in the order of their keys, in the graph's number type (bf16 as uint16),
            under cosine normalised, shape ``(n, d)``; a view of the checkpoint.
    """

    keys: npt.NDArray[np.uint64]
    matrix: npt.NDArray[np.generic]

    def places_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Give where each key is, if it is there; any place if not."""
        return places_in(self.keys, keys)


def places_in(
    ascending: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.intp]:
    """Give where each key is among ascending ones, at least one; any place if it is not there."""
    first, end = int(ascending[0]), len(ascending)
    if int(ascending[-1]) - first + 1 == end:
        # Without gaps, as long as nothing was replaced or deleted: no search, but a difference.
        places = (keys - np.uint64(first)).astype(np.intp)
        places[(keys < np.uint64(first)) | (keys > ascending[-1])] = 0
        return places
    places = np.searchsorted(ascending, keys)
    places[places == end] = 0
    return places


def stored_vectors(
    content: memoryview, kind: np.dtype[np.generic], dimension: int, count: int, last_key: int
) -> Stored | None:
    """Find the vectors in what USearch has written; None if it is not what is expected.

    Args:
        content: A graph as USearch serialises it.
        kind: Its number type.
        dimension: Numbers of a vector.
        count: Vectors.
        last_key: No key is greater.
    """
    row_bytes = dimension * kind.itemsize
    head = _MATRIX.size + count * row_bytes
    levels_at = head + _HEAD_BYTES + _GRAPH.size
    nodes_at = levels_at + _LEVEL_BYTES * count
    if not count or nodes_at > len(content) or _MATRIX.unpack_from(content) != (count, row_bytes):
        return None
    if bytes(content[head : head + len(_MAGIC)]) != _MAGIC:
        return None
    size, connectivity, connectivity_base, _, _ = _GRAPH.unpack_from(content, head + _HEAD_BYTES)
    levels = np.frombuffer(content, "<i2", count, levels_at).astype(np.int64)
    node_bytes = (
        _NODE_BYTES
        + _NEIGHBOUR_BYTES * (1 + connectivity_base)
        + levels * (_NEIGHBOUR_BYTES * (1 + connectivity))
    )
    ends = nodes_at + np.cumsum(node_bytes)
    if size != count or levels.min() < 0 or int(ends[-1]) != len(content):
        return None
    places = (ends - node_bytes)[:, None] + np.arange(8)
    keys = np.frombuffer(content, np.uint8)[places].view("<u8").reshape(-1).astype(np.uint64)
    if int(keys[-1]) > last_key or (count > 1 and not (keys[1:] > keys[:-1]).all()):
        return None
    matrix = np.frombuffer(content, kind, count * dimension, _MATRIX.size)
    return Stored(keys, matrix.reshape(count, dimension))
