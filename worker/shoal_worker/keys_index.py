"""The index of keys: which key each row's current vector has.

An exact scan of what a filter matches needs the keys of thousands of rows, and a record for each is
a lookup in LMDB, a checksum and an ID that nobody asked for: 2 µs. Here they lie in blocks by row,
read at once: 2,048 rows a block, eight bytes each, 0 where there is no record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from shoal_worker.environment import Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.journal import VECTOR_CHANGES, RowChange
from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived
from shoal_worker.store import Store, row_key

__all__ = ["KeysIndex"]

_BITS: Final = 11
_ROWS: Final = 1 << _BITS

_place = xxhash.xxh3_64_intdigest


class KeysIndex:
    """The index of keys of one shard; see `indexes.DerivedIndex`."""

    name: Final = "keys"
    format: Final = 1  # 1: the first
    databases: Final = ("row_keys",)
    concerns: Final = VECTOR_CHANGES
    reads: Final = 0
    concerns_bare_rows: Final = True
    step_rows: Final = 8192
    step_bytes: Final = 1024 * 1024

    def __init__(self, databases: Mapping[str, Database], store: Store) -> None:
        self._keys = databases["row_keys"]
        self._store = store

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """See `indexes.DerivedIndex`.

        What a row has now is put, also where it was to be what it had earlier: a row that has
        changed since is not covered, and comes again.
        """
        blocks: defaultdict[int, list[int]] = defaultdict(list)
        for change in changes:
            blocks[change.row >> _BITS].append(change.row)
        puts: list[tuple[bytes, bytes]] = []
        for block in sorted(blocks):
            keys = self._block(txn, block).copy()
            for row in blocks[block]:
                keys[row & (_ROWS - 1)] = self._store.key_of(txn, row)
            name = row_key(block)
            puts.append((name, seal(keys.tobytes(), _place(name))))
        return Batch(puts=[(self._keys, puts)])

    def _block(self, txn: Transaction, block: int) -> npt.NDArray[np.uint64]:
        name = row_key(block)
        value = txn.get(name, db=self._keys)
        if value is None:
            return np.zeros(_ROWS, "<u8")
        payload = unseal_derived(value, _place(name), "a block of keys")
        if len(payload) != 8 * _ROWS:
            raise DamagedIndexError("a block of keys is cut short")
        return np.frombuffer(payload, "<u8")

    def keys_of(self, txn: Transaction, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        """Give the keys of rows, ascending; 0 where it has none.

        Raises:
            DamagedIndexError: If they are not what was stored.
        """
        blocks = rows >> np.uint32(_BITS)
        starts = np.flatnonzero(np.concatenate(([True], blocks[1:] != blocks[:-1])))
        ends = np.append(starts[1:], len(rows))
        keys = np.empty(len(rows), np.uint64)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            block = self._block(txn, int(blocks[start]))
            keys[start:end] = block[rows[start:end] & np.uint32(_ROWS - 1)]
        return keys
