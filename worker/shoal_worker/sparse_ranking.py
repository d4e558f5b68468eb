"""Inner products with the sparse vectors of one shard.

Dimensions are weighed by what the gateway says, which has counted them over the whole collection if
they are to be weighed by how rare they are: one shard and eight give the same distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidArgumentError
from shoal_worker.environment import Transaction
from shoal_worker.matching import Selection
from shoal_worker.occurrences import Best, Found, Part, RankedRows
from shoal_worker.rows import rows_of
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.segment_format import Contents
from shoal_worker.sparse_index import SparseIndex, gathered, sparse_vectors
from shoal_worker.state import Pinned
from shoal_worker.store import Store

__all__ = ["measure_sparse", "rank_sparse"]

_SCANNED_ROWS: Final = 1024
"""Vectors that are looked at together."""


def measure_sparse(
    pinned: Pinned, key: str, indices: npt.NDArray[np.uint32], check: Callable[[], None]
) -> tuple[int, list[int]]:
    """Count the vectors under a key, and for each of some dimensions those that have it.

    Raises:
        InvalidArgumentError: The collection declares no such key.
    """
    index = _index(pinned, key)
    numbers = [*index.dimensions(key, indices).tolist(), index.presence(key)]
    found = _found(pinned, index, numbers, lambda: None, check)
    *frequencies, count = found.frequencies.tolist()
    return count, frequencies


def rank_sparse(
    pinned: Pinned,
    key: str,
    indices: npt.NDArray[np.uint32],
    weights: npt.NDArray[np.float64],
    selection: Selection,
    limit: int,
    check: Callable[[], None],
) -> RankedRows:
    """Rank the vectors under a key that have one of the dimensions by 1 - the inner product.

    Raises:
        InvalidArgumentError: The collection declares no such key, or a filter is not one.
    """
    index = _index(pinned, key)

    def distances_of(part: Part) -> npt.NDArray[np.float64]:
        products = np.zeros(len(part.rows), np.float64)
        # Dimension by dimension in one order, so that the sum is the same number in every shard.
        for position, places, values in part.postings:
            weighed = weights[position] * values.astype(np.float64)
            # Three times as fast as an indexed sum.
            np.add.at(products, places.astype(np.intp), weighed)
        return 1.0 - products

    # One for each attempt: of two the first met damage.
    attempts: list[Best] = []

    def begin() -> Callable[[Part], None]:
        attempts.append(Best(pinned, distances_of, selection, limit, check))
        return attempts[-1].take

    _found(pinned, index, index.dimensions(key, indices).tolist(), begin, check)
    return attempts[-1].ranked


def _index(pinned: Pinned, key: str) -> SparseIndex:
    index = pinned.indexes.sparse
    if index is None or key not in index.keys:
        raise InvalidArgumentError(f"the collection declares no sparse vectors under {key[:60]!r}")
    return index


def _found(
    pinned: Pinned,
    index: SparseIndex,
    numbers: Sequence[int],
    begin: Callable[[], Callable[[Part], None] | None],
    check: Callable[[], None],
) -> Found:
    """Find dimensions; `begin` gives what takes the parts, anew if the index proves damaged."""
    txn, store, indexes = pinned.txn, pinned.store, pinned.indexes
    try:
        uncovered = indexes.uncovered(txn, index, pinned.state.meta, remember=True)
        if uncovered is not None:
            found = Found(numbers, begin())
            rows = rows_of(uncovered)
            found.add_segments(txn, index.segments, rows, check)
            for contents in _counted(txn, store, index, iter(rows.tolist())):
                check()
                found.add_contents(contents)
            return found
    except DamagedIndexError:
        indexes.report_damage(index)
    found = Found(numbers, begin())
    every = (row for row, _ in store.rows_from(txn, 0))
    for contents in _counted(txn, store, index, every):
        check()
        found.add_contents(contents)
    return found


def _counted(
    txn: Transaction, store: Store, index: SparseIndex, rows: Iterator[int]
) -> Iterator[Contents]:
    """Read vectors directly."""
    part: list[tuple[int, bytes | None]] = []
    for row in rows:
        part.append((row, store.value(txn, store.metadata, row)))
        if len(part) == _SCANNED_ROWS:
            yield gathered(index, ((r, sparse_vectors(v, index.keys)) for r, v in part))
            part = []
    if part:
        yield gathered(index, ((r, sparse_vectors(v, index.keys)) for r, v in part))
