"""The log of a shard: its ordered account of writes, and the answers that were given.

The interface is small on purpose: `append` makes entries durable and gives their sequences; what
they do to the records is `apply`'s, separate and deterministic. This driver keeps the log in the
shard's own LMDB environment and runs both in one transaction, and nothing else may rely on that.

An entry stays until the log is longer or older than its bounds. The records, at the sequence the
log is trimmed to, together with the entries after it, are the database.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal.internal.v1.storage_pb2 import LogEntry
from shoal.internal.v1.worker_service_pb2 import WriteShardResponse
from shoal_worker.environment import Environment, Transaction
from shoal_worker.sealed import DamagedValueError, seal, unseal
from shoal_worker.store import Meta, number_key

__all__ = ["ENTRY_FORMAT", "Log", "LogBounds", "StoredOutcome"]

ENTRY_FORMAT: Final = 1
"""Version of a log entry. 1: the first."""

WRITE_ID_RETENTION_MS: Final = 15 * 60 * 1000
"""How long a write's answer is kept. Law 12 promises ten minutes; clocks and retries get a half
more."""

MAX_WRITE_IDS: Final = 2_000_000
"""Answers kept at most; a shard would have to take 2,200 writes a second for 15 minutes. Beyond it
the shard refuses writes that carry an ID rather than forget one too early."""

_TRIM_STEP: Final = 256
"""Entries, and answers, that one commit removes at most, so that no writer waits for a clean-up."""

_WRITE: Final = struct.Struct("<QQH")
_TIME: Final = struct.Struct("<Q")
_SEQUENCE: Final = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class LogBounds:
    """How much log a shard keeps.

    Attributes:
        bytes: Entries beyond this many bytes are trimmed, oldest first.
        age_ms: Entries older than this are trimmed.
    """

    bytes: int = 64 * 1024 * 1024
    age_ms: int = 60 * 60 * 1000


DEFAULT_BOUNDS: Final = LogBounds()


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """What was answered to a write that carried an ID."""

    digest: bytes
    sequence: int
    outcome: WriteShardResponse


class Log:
    """The log in the shard's own environment."""

    def __init__(self, environment: Environment, bounds: LogBounds = DEFAULT_BOUNDS) -> None:
        self._entries = environment.databases["log"]
        self._writes = environment.databases["writes"]
        self._write_times = environment.databases["write_times"]
        self._bounds = bounds

    def append(
        self, txn: Transaction, meta: Meta, entries: Sequence[LogEntry]
    ) -> tuple[Meta, list[int]]:
        """Append entries, give each its sequence, and remember the answers of those with an ID.

        Args:
            txn: The transaction whose commit makes them durable.
            meta: The shard before; its `sequence` is left to `apply`.
            entries: Their `sequence` and their outcome's are set here.
        """
        sequences = []
        log_bytes = meta.log_bytes
        for sequence, entry in enumerate(entries, meta.sequence + 1):
            entry.sequence = sequence
            entry.outcome.sequence = sequence
            # The time goes first, too, so that trimming by age need not parse the entry.
            value = seal(_TIME.pack(entry.written_at_ms) + entry.SerializeToString(), sequence)
            txn.put(_SEQUENCE.pack(sequence), value, db=self._entries, append=True)
            log_bytes += len(value)
            sequences.append(sequence)
            if entry.write_id:
                self._remember(txn, entry)
        return replace(meta, log_bytes=log_bytes), sequences

    def read(self, txn: Transaction, sequence: int) -> LogEntry | None:
        """Read one entry; None if it is trimmed or not there yet."""
        value = txn.get(_SEQUENCE.pack(sequence), db=self._entries)
        if value is None:
            return None
        entry = LogEntry.FromString(unseal(value, sequence, "the log entry")[_TIME.size :])
        if entry.format > ENTRY_FORMAT:
            raise DamagedValueError(
                f"log entry {sequence} has format {entry.format}, this release reads {ENTRY_FORMAT}"
            )
        return entry

    def trim(self, txn: Transaction, meta: Meta, now_ms: int, keep_from: int) -> Meta:
        """Remove entries beyond the bounds, and answers past their time, a step at most.

        Args:
            txn: The write transaction.
            meta: The shard before.
            now_ms: Wall time.
            keep_from: Entries from this sequence on stay.
        """
        log_bytes, trimmed = meta.log_bytes, meta.trimmed_sequence
        with txn.cursor(db=self._entries) as cursor:
            for _ in range(_TRIM_STEP):
                if not cursor.first():
                    break
                (sequence,) = _SEQUENCE.unpack(cursor.key())
                if sequence >= keep_from:
                    break
                size = len(cursor.value())
                if log_bytes <= self._bounds.bytes and not self._is_old(cursor.value(), now_ms):
                    break
                cursor.delete()
                log_bytes -= size
                trimmed = sequence
        self._forget(txn, now_ms - WRITE_ID_RETENTION_MS)
        return replace(meta, log_bytes=log_bytes, trimmed_sequence=trimmed)

    def _is_old(self, value: memoryview, now_ms: int) -> bool:
        return int(_TIME.unpack_from(value)[0]) < now_ms - self._bounds.age_ms

    # Answers.

    def outcome_of(self, txn: Transaction, write_id: bytes) -> StoredOutcome | None:
        """Give what was answered to a write; None if it is not known (any more)."""
        value = txn.get(write_id, db=self._writes)
        if value is None:
            return None
        payload = unseal(value, 0, "the answer to a write")
        _, sequence, digest_length = _WRITE.unpack_from(payload)
        digest = payload[_WRITE.size : _WRITE.size + digest_length]
        outcome = WriteShardResponse.FromString(payload[_WRITE.size + digest_length :])
        return StoredOutcome(digest, sequence, outcome)

    def has_room_for_answers(self, txn: Transaction) -> bool:
        """Whether another write with an ID may be taken."""
        return txn.stat(self._writes)["entries"] < MAX_WRITE_IDS

    def _remember(self, txn: Transaction, entry: LogEntry) -> None:
        head = _WRITE.pack(entry.written_at_ms, entry.sequence, len(entry.digest))
        value = seal(head + entry.digest + entry.outcome.SerializeToString(), 0)
        txn.put(entry.write_id, value, db=self._writes)
        txn.put(number_key(entry.written_at_ms) + entry.write_id, b"", db=self._write_times)

    def _forget(self, txn: Transaction, before_ms: int) -> None:
        with txn.cursor(db=self._write_times) as cursor:
            for _ in range(_TRIM_STEP):
                if not cursor.first():
                    return
                key = bytes(cursor.key())
                if _SEQUENCE.unpack(key[:8])[0] >= before_ms:
                    return
                cursor.delete()
                txn.delete(key[8:], db=self._writes)
