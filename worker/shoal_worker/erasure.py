"""Since when a shard's files hold content that is deleted or replaced: one mark among its records.

LMDB leaves old content in freed pages, the log and the journal repeat what was written, and a graph
keeps the vectors that have died since it was built. The first entry that removes or replaces
something sets the mark, in its own transaction; the compaction that leaves nothing of it behind
takes the mark away. So the bound in time holds across restarts, too.
"""

from __future__ import annotations

import struct
from typing import Final

from shoal.internal.v1.storage_pb2 import LogEntry
from shoal_worker.environment import Database, Transaction
from shoal_worker.sealed import seal, unseal

__all__ = ["erasable_since", "note_erasable", "removes_content", "set_erasable_since"]

_KEY: Final = b"erasable_since"
_TIME: Final = struct.Struct("<Q")

_IS_NEW: Final = 1  # among the bits of ResolvedPuts.changes


def removes_content(entry: LogEntry) -> bool:
    """Whether an entry deletes or replaces anything."""
    if entry.deletes.rows:
        return True
    return any(not bits & _IS_NEW for bits in entry.puts.changes)


def erasable_since(txn: Transaction, meta_db: Database) -> int | None:
    """Give the wall time (ms) of the first removal whose content may still be there, or None."""
    value = txn.get(_KEY, db=meta_db)
    if value is None:
        return None
    return int(_TIME.unpack(unseal(value, 0, "the mark of what is to be erased"))[0])


def note_erasable(txn: Transaction, meta_db: Database, entry: LogEntry) -> None:
    """Set the mark, if it is not set, for an entry that is being applied."""
    if removes_content(entry) and txn.get(_KEY, db=meta_db) is None:
        set_erasable_since(txn, meta_db, entry.written_at_ms)


def set_erasable_since(txn: Transaction, meta_db: Database, at_ms: int | None) -> None:
    """Set the mark, or take it away."""
    if at_ms is None:
        txn.delete(_KEY, db=meta_db)
    else:
        txn.put(_KEY, seal(_TIME.pack(at_ms), 0), db=meta_db)
