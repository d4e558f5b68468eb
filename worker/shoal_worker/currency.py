"""Which vectors of a graph are current, by the records: asked once, when a shard is opened.

From then on each commit tells. The index of keys holds the key of every row, eight bytes each;
without it the keys of all stored vectors are walked over, page by page.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal_worker.environment import Transaction
from shoal_worker.indexes import Indexes
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.store import Meta, Store
from shoal_worker.stored import places_in

__all__ = ["all_current_keys", "are_current"]


def all_current_keys(
    txn: Transaction, store: Store, indexes: Indexes, meta: Meta
) -> npt.NDArray[np.uint64]:
    """Give the keys of all current vectors, ascending.

    Raises:
        DamagedValueError: If a record is not what was stored.
    """
    current = _indexed_keys(txn, store, indexes, meta)
    return store.vector_keys(txn) if current is None else current


def are_current(
    txn: Transaction,
    store: Store,
    indexes: Indexes,
    meta: Meta,
    keys: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]:
    """Say of ascending keys which are those of current vectors.

    Raises:
        DamagedValueError: If a record is not what was stored.
    """
    current = all_current_keys(txn, store, indexes, meta)
    if not len(current):
        return np.zeros(len(keys), np.bool_)
    result: npt.NDArray[np.bool_] = current[places_in(current, keys)] == keys
    return result


def _indexed_keys(
    txn: Transaction, store: Store, indexes: Indexes, meta: Meta
) -> npt.NDArray[np.uint64] | None:
    """Give all current keys, ascending; None if the index of keys cannot be used."""
    index = indexes.keys
    try:
        uncovered = indexes.uncovered(txn, index, meta, remember=False)
        if uncovered is None:
            return None
        keys = index.keys_of(txn, np.arange(meta.next_row, dtype=np.uint32))
    except DamagedIndexError:
        indexes.report_damage(index)
        return None
    for row in uncovered:
        keys[row] = store.key_of(txn, row)
    keys = keys[keys > 0]
    keys.sort()
    return keys
