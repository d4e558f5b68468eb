"""What a log entry does to the records. It decides nothing and cannot fail for what it holds.

The same entries, applied to the same records, give the same records everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.internal.v1.storage_pb2 import LogEntry, ResolvedPuts
from shoal_worker.environment import Database, Transaction
from shoal_worker.erasure import note_erasable
from shoal_worker.sealed import DamagedValueError, seal
from shoal_worker.store import Meta, Record, Store, VectorBatch, id_key, number_key, row_key

__all__ = ["DOCUMENT_CHANGES", "IS_NEW", "METADATA_CHANGES", "URI_CHANGES", "Changes", "apply"]

# Bits of ResolvedPuts.changes.
IS_NEW: Final = 1
METADATA_CHANGES: Final = 2
DOCUMENT_CHANGES: Final = 4
URI_CHANGES: Final = 8

HoldsVectors = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.bool_]]
"""Says for each vector whether the graph's number type can hold it."""


@dataclass(slots=True)
class Changes:
    """What an entry changed among the vectors.

    Attributes:
        added: New vectors, or None.
        exact_keys: Keys of those among them that no graph can hold.
        dead_keys: Keys whose vectors are no longer current.
    """

    added: VectorBatch | None
    exact_keys: list[int]
    dead_keys: list[int]


def apply(
    txn: Transaction, store: Store, meta: Meta, entry: LogEntry, holds: HoldsVectors
) -> tuple[Meta, Changes]:
    """Apply the entry that follows `meta.sequence`.

    Args:
        txn: The write transaction.
        store: The schema.
        meta: The shard before.
        entry: What to apply.
        holds: Decided by the collection's configuration alone, so that it too is the same
            everywhere.

    Returns:
        The shard after, also stored, and what changed among its vectors.
    """
    changes = Changes(None, [], [])
    note_erasable(txn, store.meta_db, entry)
    if entry.HasField("puts"):
        meta = _apply_puts(txn, store, meta, entry.puts, holds, changes)
    if entry.HasField("deletes"):
        for row in entry.deletes.rows:
            _remove(txn, store, _existing(txn, store, row), changes)
        meta = replace(meta, record_count=meta.record_count - len(entry.deletes.rows))
    meta = replace(meta, sequence=entry.sequence)
    store.put_meta(txn, meta)
    return meta, changes


def _existing(txn: Transaction, store: Store, row: int) -> Record:
    record = store.record(txn, row)
    if record is None:
        raise DamagedValueError(f"row {row} of a log entry is missing among the records")
    return record


def _apply_puts(
    txn: Transaction,
    store: Store,
    meta: Meta,
    puts: ResolvedPuts,
    holds: HoldsVectors,
    changes: Changes,
) -> Meta:
    rows, keys, bits = list(puts.rows), list(puts.keys), puts.changes
    new = [i for i in range(len(rows)) if bits[i] & IS_NEW]
    added = _added_vectors(meta, puts, rows, keys)
    dimension = meta.dimension

    for i, row in enumerate(rows):
        if not bits[i] & IS_NEW and keys[i]:
            _drop_vector(txn, store, _existing(txn, store, row).key, changes)
    ids, ordinals = puts.ids, puts.ordinals
    # Sorted, so that neighbouring leaf pages are touched once.
    _put(txn, store.ids, sorted((id_key(ids[i]), row_key(rows[i])) for i in new), append=False)
    _put(
        txn,
        store.records,
        (
            (row_key(row), store.encode_record(row, ordinals[i], keys[i], ids[i]))
            for i, row in enumerate(rows)
            if keys[i]
        ),
        append=len(new) == len(rows),
    )
    if added is not None:
        dimension = added.vectors.shape[1]
        blocks = added.vectors
        _put(
            txn,
            store.vectors,
            (
                (number_key(key), store.encode_vector(key, row, blocks[i].tobytes()))
                for i, (key, row) in enumerate(
                    zip(added.keys.tolist(), added.rows.tolist(), strict=True)
                )
            ),
            append=True,
        )
        changes.added = added
        changes.exact_keys = added.keys[~holds(added.vectors)].tolist()
        for key in changes.exact_keys:
            txn.put(number_key(key), b"", db=store.exact)
    _apply_values(txn, store, puts, rows)
    return replace(
        meta,
        dimension=dimension,
        record_count=meta.record_count + len(new),
        next_row=max(meta.next_row, max((rows[i] for i in new), default=0) + 1 if new else 0),
        next_key=max(meta.next_key, max(keys, default=0) + 1),
        last_ordinal=max(meta.last_ordinal, max((ordinals[i] for i in new), default=0)),
    )


def _added_vectors(
    meta: Meta, puts: ResolvedPuts, rows: list[int], keys: list[int]
) -> VectorBatch | None:
    given = [i for i, key in enumerate(keys) if key]
    if not given:
        return None
    numbers = np.frombuffer(puts.vectors, "<f4")
    dimension = meta.dimension or numbers.size // len(given)
    return VectorBatch(
        np.array([keys[i] for i in given], np.uint64),
        np.array([rows[i] for i in given], np.uint32),
        numbers.reshape(len(given), dimension),
    )


def _apply_values(txn: Transaction, store: Store, puts: ResolvedPuts, rows: list[int]) -> None:
    columns: tuple[tuple[Database, int, Iterable[str | bytes]], ...] = (
        (store.metadata, METADATA_CHANGES, puts.metadatas),
        (store.documents, DOCUMENT_CHANGES, puts.documents),
        (store.uris, URI_CHANGES, puts.uris),
    )
    for database, bit, values in columns:
        changed = [row for row, change in zip(rows, puts.changes, strict=True) if change & bit]
        items = []
        for row, value in zip(changed, values, strict=True):
            encoded: bytes = value.encode() if isinstance(value, str) else value
            if bit == METADATA_CHANGES and not encoded:
                txn.delete(row_key(row), db=database)
            else:
                items.append((row_key(row), seal(encoded, row)))
        _put(txn, database, items, append=False)


def _put(
    txn: Transaction, database: Database, items: Iterable[tuple[bytes, bytes]], *, append: bool
) -> None:
    with txn.cursor(db=database) as cursor:
        cursor.putmulti(items, append=append)


def _drop_vector(txn: Transaction, store: Store, key: int, changes: Changes) -> None:
    packed = number_key(key)
    txn.delete(packed, db=store.vectors)
    txn.delete(packed, db=store.exact)
    changes.dead_keys.append(key)


def _remove(txn: Transaction, store: Store, record: Record, changes: Changes) -> None:
    packed = row_key(record.row)
    txn.delete(id_key(record.id), db=store.ids)
    txn.delete(packed, db=store.records)
    txn.delete(packed, db=store.metadata)
    txn.delete(packed, db=store.documents)
    txn.delete(packed, db=store.uris)
    _drop_vector(txn, store, record.key, changes)
