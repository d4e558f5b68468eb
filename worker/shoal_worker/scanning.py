"""The exact scan: every vector of given rows, read and ranked.

What it costs is reading: a row's key, then its vector, each a lookup in LMDB. Most keys need none:
rows and keys are given together, so that as long as no vector between two records was replaced,
their keys are as far apart as their rows. So the ends of a part are looked up, the keys between
them reckoned, and whatever does not turn out to be the row's vector is looked up after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.bounding import measured_at
from shoal_worker.coarse import CoarseQuery
from shoal_worker.distances import Queries, Space, bounded, exact, norms
from shoal_worker.environment import Transaction
from shoal_worker.graph import Quantization
from shoal_worker.matching import Source
from shoal_worker.nearest import Candidates, Nearest
from shoal_worker.rows import bitmap_of
from shoal_worker.sealed import DamagedIndexError, DamagedValueError
from shoal_worker.store import Store, VectorBatch
from shoal_worker.stored import Stored

__all__ = ["current_keys", "scan", "scan_coarsely", "vectors_of_rows"]

_READ_ALL: Final = 192
"""Vectors that are read at once rather than bounded first."""

_SAMPLED: Final = 2048
"""Bounds of which a sample tells where about the lowest begin."""

_FIRST_LOOK: Final = 32
"""Vectors that are read first; what they turn out to be narrows down the rest."""

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


def scan_coarsely(
    source: Source,
    space: Space,
    queries: Queries,
    rows: npt.NDArray[np.uint32],
    limit: int,
    stored: Stored,
    quantization: Quantization,
    threads: int,
    check: Callable[[], None],
) -> list[Candidates] | None:
    """Give what `scan` gives, reading only those vectors that may be among the nearest.

    Args:
        source: Where.
        space: Which distance.
        queries: The query vectors.
        rows: Rows that have records, ascending.
        limit: At least 1.
        stored: The graph's vectors.
        quantization: Their number type.
        threads: For coarse distances, at most.
        check: Called for each part; what it raises ends the scan.

    Returns:
        None if the index of keys cannot be used.
    """
    txn, store, dimension = source.txn, source.store, source.meta.dimension
    keys = current_keys(source, rows)
    if keys is None:
        return None
    places = stored.places_of(keys)
    is_stored = stored.keys[places] == keys
    nearest = [Nearest(limit) for _ in range(len(queries.single))]
    outside = rows[~is_stored].tolist()
    for first in range(0, len(outside), _PART_ROWS):
        check()
        batch = vectors_of_rows(txn, store, outside[first : first + _PART_ROWS], dimension)
        _rank(space, queries, batch, nearest)
    keys, rows, places = keys[is_stored], rows[is_stored], places[is_stored]
    if not len(keys):
        return [n.candidates() for n in nearest]
    for which, collected in enumerate(nearest):
        query = CoarseQuery(space, queries, which, quantization)
        bounds = query.bounds(measured_at(query, stored.matrix, places, threads, check))
        for part in _possible(bounds.lower, bounds.upper, collected, limit):
            check()
            batch, missing = store.vectors_of(txn, keys[part].tolist(), dimension)
            if missing is not None or not np.array_equal(batch.rows, rows[part]):
                source.indexes.report_damage(source.indexes.keys)
                return None
            distances = exact(space, queries.double[which], batch.vectors)
            collected.add(distances, batch.rows, batch.keys)
    return [n.candidates() for n in nearest]


def scan_graph(
    space: Space,
    queries: Queries,
    stored: Stored | None,
    quantization: Quantization,
    keys: npt.NDArray[np.uint64],
    places: npt.NDArray[np.intp],
    limit: int,
    threads: int,
    read: Callable[[npt.NDArray[np.uint64]], VectorBatch],
    check: Callable[[], None],
) -> list[Candidates]:
    """Give each query's `limit` nearest of the vectors at some places of a graph.

    Args:
        space: Which distance.
        queries: The query vectors.
        stored: The graph's vectors, for coarse distances; None: all are read.
        quantization: Their number type.
        keys: The graph's, ascending.
        places: Of current vectors.
        limit: At least 1.
        threads: For coarse distances, at most.
        read: Reads the vectors of keys, all current.
        check: Called for each part; what it raises ends the scan.
    """
    nearest = [Nearest(limit) for _ in range(len(queries.single))]
    if stored is None or len(places) <= max(_READ_ALL, 2 * limit):
        for first in range(0, len(places), _PART_ROWS):
            check()
            _rank(space, queries, read(keys[places[first : first + _PART_ROWS]]), nearest)
        return [n.candidates() for n in nearest]
    if not (places[1:] > places[:-1]).all():
        places = np.sort(places)
    for which, collected in enumerate(nearest):
        query = CoarseQuery(space, queries, which, quantization)
        lower = query.lower(measured_at(query, stored.matrix, places, threads, check))
        # A bound that is not a number discards nothing.
        lower[~np.isfinite(lower)] = -np.inf
        for part in _likeliest(lower, collected, limit):
            check()
            batch = read(keys[places[part]])
            distances = exact(space, queries.double[which], batch.vectors)
            collected.add(distances, batch.rows, batch.keys)
    return [n.candidates() for n in nearest]


def _likeliest(
    lower: npt.NDArray[np.float64], collected: Nearest, limit: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Give parts of the vectors that may be among the nearest, the likeliest first.

    What was found in the parts before is in `collected`. Changes `lower`.
    """
    size = max(_FIRST_LOOK, 2 * limit)
    first = _some_lowest(lower, size)
    while len(first):
        yield np.sort(first)
        lower[first] = np.inf
        left = np.flatnonzero(lower <= collected.bound)
        if np.isinf(collected.bound):
            left = left[lower[left] < np.inf]
        size = min(2 * size, _PART_ROWS)
        first = left[np.argsort(lower[left], kind="stable")[:size]] if len(left) else left


def _some_lowest(lower: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Give the places of the `count` lowest, or of as many that are nearly so, in no order."""
    if len(lower) <= 4 * _SAMPLED:
        return np.argpartition(lower, count - 1)[:count] if count < len(lower) else _all(lower)
    # Ordering all of a million takes longer than computing them.
    step = len(lower) // _SAMPLED
    sample = lower[::step]
    among = count // step + 2
    found = np.flatnonzero(lower <= np.partition(sample, among)[among])
    if len(found) > count:
        found = found[np.argpartition(lower[found], count - 1)[:count]]
    return found


def _all(lower: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.arange(len(lower))


def current_keys(source: Source, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64] | None:
    """Give the keys of rows that have records; None if the index of keys cannot be used."""
    indexes, index = source.indexes, source.indexes.keys
    try:
        uncovered = indexes.uncovered(source.txn, index, source.meta, remember=source.is_committed)
        if uncovered is None:
            return None
        keys = index.keys_of(source.txn, rows)
    except DamagedIndexError:
        indexes.report_damage(index)
        return None
    changed = uncovered & bitmap_of(rows) if uncovered else uncovered
    for row in changed:
        keys[int(np.searchsorted(rows, row))] = _key_of(source.txn, source.store, row)
    return keys


def _possible(
    lower: npt.NDArray[np.float64],
    upper: npt.NDArray[np.float64],
    collected: Nearest,
    limit: int,
) -> Iterator[npt.NDArray[np.intp]]:
    """Give parts of the vectors that may be among the nearest, the likeliest first.

    What was found in the parts before is in `collected`.
    """
    # Written so that a bound that is not a number discards nothing.
    bound = np.inf
    if len(upper) > limit:
        bound = float(np.partition(upper, limit - 1)[limit - 1])
    left = np.flatnonzero(~(lower > bound))
    left = left[np.argsort(lower[left], kind="stable")]
    size = max(_FIRST_LOOK, 2 * limit)
    while len(left):
        yield np.sort(left[:size])
        left = left[size:]
        left = left[~(lower[left] > collected.bound)]
        size = min(2 * size, _PART_ROWS)


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
