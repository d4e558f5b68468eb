"""What one commit of a shard does: batches resolved, logged and applied in one transaction.

Each batch is resolved against what the ones before it leave, in the same transaction; one that is
refused writes nothing, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shoal.errors import DataLossError, InvalidArgumentError, OverloadedError, ShoalError
from shoal.internal.v1.storage_pb2 import LogEntry
from shoal.internal.v1.worker_service_pb2 import WriteShardResponse
from shoal.server.clock import HybridClock, wall_ms
from shoal_worker.apply import Changes, HoldsVectors, apply
from shoal_worker.environment import Transaction
from shoal_worker.indexes import Indexes
from shoal_worker.log import Log
from shoal_worker.matching import Selection, Source, select
from shoal_worker.resolve import resolve_deletion, resolve_patch, resolve_put
from shoal_worker.sealed import DamagedValueError
from shoal_worker.store import Meta, Record, Store
from shoal_worker.writes import Deletion, Patch, Put, Write

__all__ = ["Commit", "Committer"]


@dataclass(slots=True)
class Commit:
    """What came of a group of batches.

    Attributes:
        meta: The shard after it.
        outcomes: For each batch its answer, or why it was refused.
        changes: What each entry changed among the vectors, with the entry's sequence.
        changed_count: Rows that the entries changed, each as often as it was changed.
    """

    meta: Meta
    outcomes: list[WriteShardResponse | ShoalError] = field(default_factory=list)
    changes: list[tuple[int, Changes]] = field(default_factory=list)
    changed_count: int = 0


class _Current:
    """What the shard holds in a transaction, as `resolve` wants to know it."""

    def __init__(self, txn: Transaction, store: Store) -> None:
        self._txn = txn
        self._store = store

    def find(self, record_id: str) -> Record | None:
        return self._store.find(self._txn, record_id)

    def record(self, row: int) -> Record | None:
        return self._store.record(self._txn, row)

    def metadata(self, row: int) -> bytes | None:
        return self._store.value(self._txn, self._store.metadata, row)

    def vector(self, key: int) -> bytes | None:
        return self._store.vector(self._txn, key)


class Committer:
    """Takes batches into a write transaction.

    Attributes:
        keep_log_from: Log entries from this sequence on are not trimmed; None: no such wish.
    """

    def __init__(
        self, store: Store, log: Log, indexes: Indexes, clock: HybridClock, shard_id: str
    ) -> None:
        self._store = store
        self._log = log
        self._indexes = indexes
        self._clock = clock
        self._shard_id = shard_id
        self.keep_log_from: int | None = None

    def take(self, txn: Transaction, writes: Sequence[Write], holds: HoldsVectors) -> Commit:
        """Resolve, log and apply batches in order. Repeatable: it touches nothing but `txn`.

        Raises:
            DamagedValueError: If applying met something damaged; the transaction must be aborted.
        """
        now_ms = wall_ms()
        commit = Commit(self._store.meta(txn))
        for write in writes:
            try:
                entry = self._resolve(txn, commit.meta, write, now_ms)
            except ShoalError as error:
                commit.outcomes.append(error)
                continue
            except DamagedValueError as error:
                commit.outcomes.append(
                    DataLossError(f"shard {self._shard_id}: {error}", metadata=self._metadata())
                )
                continue
            if isinstance(entry, WriteShardResponse):
                commit.outcomes.append(entry)
                continue
            meta, (sequence,) = self._log.append(txn, commit.meta, [entry])
            # What the entry replaces is noted while it is still there.
            commit.changed_count += self._indexes.journal.note(txn, sequence, entry)
            commit.meta, changes = apply(txn, self._store, meta, entry, holds)
            commit.changes.append((sequence, changes))
            commit.outcomes.append(entry.outcome)
        if commit.changes:
            # Everything applied is in the records: the log is only kept for those who follow it.
            end = commit.meta.sequence + 1
            keep_from = end if self.keep_log_from is None else min(end, self.keep_log_from)
            commit.meta = self._log.trim(txn, commit.meta, now_ms, keep_from)
            self._store.put_meta(txn, commit.meta)
        return commit

    def _metadata(self) -> dict[str, str]:
        return {"shard_id": self._shard_id}

    def _resolve(
        self, txn: Transaction, meta: Meta, write: Write, now_ms: int
    ) -> LogEntry | WriteShardResponse:
        """Give the entry of a batch, or its answer if it changes nothing."""
        if write.write_id:
            repeated = self._repeated(txn, write)
            if repeated is not None:
                return repeated
        entry = self._entry(txn, meta, write, now_ms)
        if write.write_id or entry.HasField("puts") or entry.HasField("deletes"):
            return entry
        entry.outcome.sequence = meta.sequence
        return entry.outcome

    def _repeated(self, txn: Transaction, write: Write) -> WriteShardResponse | None:
        stored = self._log.outcome_of(txn, write.write_id)
        if stored is None:
            if self._log.has_room_for_answers(txn):
                return None
            raise OverloadedError(
                f"shard {self._shard_id} remembers as many write IDs as it may: write in larger "
                "batches, or later",
                metadata=self._metadata(),
            )
        # Digests of two releases may be computed in two ways; only those of one can differ.
        comparable = stored.digest[:1] == write.digest[:1]
        if comparable and stored.digest != write.digest:
            raise InvalidArgumentError(
                f"write ID {write.write_id.hex()} was used before for another write: make a new "
                "one for each call"
            )
        response = WriteShardResponse()
        response.CopyFrom(stored.outcome)
        response.repeated = True
        return response

    def _entry(self, txn: Transaction, meta: Meta, write: Write, now_ms: int) -> LogEntry:
        current = _Current(txn, self._store)
        match write.operation:
            case Put() as put:
                first = write.first_ordinal
                if not self._clock.believes(first):
                    first = self._clock.reserve(put.positions[-1] + 1 if put.positions else 1)
                return resolve_put(write, put, meta, current, now_ms, first)
            case Deletion() as deletion:
                selection = Selection(deletion.ids, deletion.where, deletion.where_document)
                rows = self._matching(txn, meta, selection, deletion.limit)
                filtered = deletion.where is not None or deletion.where_document is not None
                return resolve_deletion(write, rows, filtered, now_ms)
            case Patch() as patch:
                selection = Selection(None, patch.where, patch.where_document)
                rows = self._matching(txn, meta, selection, None)
                return resolve_patch(write, patch.metadata, rows, current, now_ms)

    def _matching(
        self, txn: Transaction, meta: Meta, selection: Selection, limit: int | None
    ) -> npt.NDArray[np.uint32]:
        # Earlier batches of the group are in the transaction already, and in nobody's state yet.
        source = Source(txn, self._store, self._indexes, meta, is_committed=False)
        return select(source, selection, limit=limit).array()
