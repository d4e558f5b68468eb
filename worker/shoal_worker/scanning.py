"""The exact scan: every vector of given rows, read and ranked.

What it costs is reading: a row's key, then its vector, each a lookup in LMDB. Most keys need none:
rows and keys are given together, so that as long as no vector between two records was replaced,
their keys are as far apart as their rows. So the ends of a part are looked up, the keys between
them reckoned, and whatever does not turn out to be the row's vector is looked up after all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.distances import Queries, Space, bounded, exact, norms
from shoal_worker.environment import Transaction
from shoal_worker.nearest import Candidates, Nearest
from shoal_worker.sealed import DamagedValueError
from shoal_worker.store import Store, VectorBatch

__all__ = ["scan", "vectors_of_rows"]

_PART_ROWS: Final = 1024
"""Rows that are read at once: 1.5 MB of vectors at 384 dimensions, which the cache holds."""


def scan(
    txn: Transaction,
    store: Store,
    space: Space,
    queries: Queries,
    rows: npt.NDArray[np.uint32],
    dimension: int,
    limit: int,
    check: Callable[[], None],
) -> list[Candidates]:
    """Give each query's `limit` nearest of the rows, exactly ranked.

    Args:
        txn: The transaction.
        store: Its schema.
        space: Which distance.
        queries: The query vectors.
        rows: Rows that have records, ascending.
        dimension: Numbers in a vector.
        limit: At least 1.
        check: Called for each part; what it raises ends the scan.

    Raises:
        DamagedValueError: If a row has no vector, or it is not what was stored.
    """
    nearest = [Nearest(limit) for _ in range(len(queries.single))]
    for first in range(0, len(rows), _PART_ROWS):
        check()
        part = rows[first : first + _PART_ROWS].tolist()
        batch = vectors_of_rows(txn, store, part, dimension)
        _rank(space, queries, batch, nearest)
    return [n.candidates() for n in nearest]


def _rank(space: Space, queries: Queries, batch: VectorBatch, nearest: list[Nearest]) -> None:
    if len(nearest) == 1:
        distances = exact(space, queries.double[0], batch.vectors)
        nearest[0].add(distances, batch.rows, batch.keys)
        return
    vectors = np.ascontiguousarray(batch.vectors)
    distance, error = bounded(space, queries, vectors, norms(vectors))
    eligible = np.ones(len(batch.keys), np.bool_)
    for i, collected in enumerate(nearest):
        chosen = collected.survivors(distance[i] - error[i], distance[i] + error[i], eligible)
        collected.add(
            exact(space, queries.double[i], vectors[chosen]),
            batch.rows[chosen],
            batch.keys[chosen],
        )


def vectors_of_rows(txn: Transaction, store: Store, rows: list[int], dimension: int) -> VectorBatch:
    """Read the vectors of rows.

    Args:
        txn: The transaction.
        store: Its schema.
        rows: Rows that have records, ascending, at least one.
        dimension: Numbers in a vector.

    Raises:
        DamagedValueError: If a row has no vector, or it is not what was stored.
    """
    keys = _reckoned_keys(txn, store, rows)
    batch, positions = store.vectors_of(txn, keys, dimension)
    if positions is None and batch.rows.tolist() == rows:
        return batch
    found = dict(zip(batch.keys.tolist(), batch.rows.tolist(), strict=True))
    for i, row in enumerate(rows):
        if found.get(keys[i]) != row:
            keys[i] = _key_of(txn, store, row)
    batch, positions = store.vectors_of(txn, keys, dimension)
    if positions is not None or batch.rows.tolist() != rows:
        raise DamagedValueError("a record has no vector")
    return batch


def _reckoned_keys(txn: Transaction, store: Store, rows: list[int]) -> list[int]:
    first, last = _key_of(txn, store, rows[0]), _key_of(txn, store, rows[-1])
    if last - first != rows[-1] - rows[0]:
        return [_key_of(txn, store, row) for row in rows]
    offset = first - rows[0]
    return [row + offset for row in rows]


def _key_of(txn: Transaction, store: Store, row: int) -> int:
    record = store.record(txn, row)
    if record is None:
        raise DamagedValueError(f"row {row} has no record")
    return record.key
