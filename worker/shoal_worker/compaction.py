"""Compaction of one shard: its records without free pages, and without what was deleted.

A read transaction is copied to a new file while writers and readers go on (LMDB leaves free pages
out of such a copy). What was written meanwhile is taken from the log, whose entries are kept until
then, and applied to the copy as it was to the records: in rounds while writers go on, and the small
rest behind a gate, when nobody writes. Then the copy is compared with the records, renamed into
their place, and the shard opened from it. A crash leaves either file whole.

To erase, everything else that repeats old content goes before the copy is made: log entries, what
the journal notes of replaced values, and the vectors of the dead in the graph, which is built anew
(`compacting` sees to that), or removed where a shard is too small to need one. And LMDB's own copy
will not do: the gaps in its pages hold what its buffers held before, and its branch pages the keys
of deleted values (both seen, in tests). So every value is put into a new file, which costs about a
microsecond for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from shoal.internal.v1.storage_pb2 import LogEntry
from shoal.server import logs
from shoal.server.clock import wall_ms
from shoal.server.crash import crash_point
from shoal.server.durable import sync_directory, sync_file
from shoal_worker.apply import apply
from shoal_worker.checkpoint_files import (
    checkpoint_path,
    remove_checkpoints_except,
    vector_file_path,
)
from shoal_worker.derived import DERIVED_DATABASES, indexes_of
from shoal_worker.environment import Database, Environment, Transaction
from shoal_worker.erasure import removes_content, set_erasable_since
from shoal_worker.indexes import Indexes
from shoal_worker.log import Log, LogBounds
from shoal_worker.record_files import copy_path, discard_copy, replace_by_copy
from shoal_worker.shard import Shard
from shoal_worker.store import DATABASES, Meta, Store

__all__ = ["Compacted", "Compaction", "CompactionError"]

_logger: Final = logs.get_logger(__name__)

_Bytes: TypeAlias = bytes | memoryview

_ROUND_ENTRIES: Final = 256
_ROUND_BYTES: Final = 32 * 1024 * 1024
"""Log entries that are applied to the copy in one transaction."""

_ROUND_VALUES: Final = 50_000
"""Values that are copied in one transaction, with as many bytes at most."""

_STEP_VALUES: Final = 500
"""Values after which other threads may run: half a millisecond."""

_GATE_ENTRIES: Final = 64
"""Entries that may be left for the gate, when writers wait: some tens of milliseconds."""

_MAX_ROUNDS: Final = 8
"""Rounds of catching up at most. A writer that is as fast as they are must wait in the end."""

_MAX_TAIL_BYTES: Final = 1024 * 1024 * 1024
"""Log that may gather behind a copy. Beyond it the copy is given up, and tried again later."""

_TRIM_TRANSACTIONS: Final = 100_000
"""A bound of the clean-up before erasing, which ends by itself when nothing is left."""

_COMPARED: Final = ("ids", "records", "vectors", "metadata", "documents", "uris", "exact")

_FREE_BYTES_BESIDE: Final = 64 * 1024 * 1024
"""Disk that stays free besides the copy."""

_WAIT_S: Final = 600.0


class CompactionError(Exception):
    """A compaction was given up. The shard is as it was; it is tried again later."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction came to.

    Attributes:
        before_bytes: Bytes of the records' file before.
        after_bytes: And after.
        gate_seconds: How long writers waited.
        is_erased: Whether nothing removed before its beginning is in the directory any more.
    """

    before_bytes: int
    after_bytes: int
    gate_seconds: float
    is_erased: bool


class _Copy:
    """The copy, open."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.environment = Environment(
            copy_path(shard.directory), DATABASES, create=False, derived=DERIVED_DATABASES
        )
        self.store = Store(self.environment)
        self._indexes: Indexes = indexes_of(self.environment, self.store, shard.configuration)
        self._log = Log(self.environment)

    def meta(self) -> Meta:
        with self.environment.read() as txn:
            return self.store.meta(txn)

    def mark(self, at_ms: int | None) -> None:
        """Say since when the copy holds what is to be erased."""
        self.environment.write(lambda txn: set_erasable_since(txn, self.store.meta_db, at_ms))

    def apply(self, entries: list[LogEntry]) -> None:
        """Apply entries of the log, as the commits that they come from did."""

        def work(txn: Transaction) -> None:
            meta = self.store.meta(txn)
            for entry in entries:
                if entry.sequence != meta.sequence + 1:
                    raise CompactionError(
                        f"log entry {entry.sequence} does not follow {meta.sequence}"
                    )
                meta, (sequence,) = self._log.append(txn, meta, [entry])
                self._indexes.journal.note(txn, sequence, entry)
                meta, _ = apply(txn, self.store, meta, entry, self._shard.configuration.fit.holds)
            self.store.put_meta(txn, meta)

        self.environment.write(work)


def _rewrite(
    environment: Environment,
    txn: Transaction,
    path: Path,
    cleaned: Mapping[str, Iterator[tuple[bytes, bytes]]],
) -> None:
    """Copy every value of a transaction into a new file; of some databases what is given."""
    copy = Environment(path, DATABASES, create=True, derived=DERIVED_DATABASES)
    try:
        for name, database in environment.databases.items():
            target = copy.databases[name]
            with txn.cursor(db=database) as cursor:
                for batch in _batches(cleaned.get(name, cursor)):
                    copy.write(lambda txn, b=batch, t=target: _append(txn, t, b))  # type: ignore[misc]
    finally:
        copy.close()


def _append(txn: Transaction, database: Database, batch: list[tuple[_Bytes, _Bytes]]) -> None:
    with txn.cursor(db=database) as cursor:
        for first in range(0, len(batch), _STEP_VALUES):
            cursor.putmulti(batch[first : first + _STEP_VALUES], append=True)


def _batches(items: Iterable[tuple[_Bytes, _Bytes]]) -> Iterator[list[tuple[_Bytes, _Bytes]]]:
    """Give what a database holds, in parts that fit into a transaction."""
    batch: list[tuple[_Bytes, _Bytes]] = []
    size = 0
    for key, value in items:
        batch.append((key, value))
        size += len(key) + len(value)
        if size >= _ROUND_BYTES or len(batch) >= _ROUND_VALUES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Compaction:
    """One compaction of an open shard.

    Args:
        shard: The shard.
        erase_before_ms: What was removed before this wall time must be gone afterwards; None: only
            free pages are to go.
        graph_clean_since_ms: If the graph was built anew, when that was asked for: what has died in
            it, has died later, and it may stay. Otherwise one with dead vectors is removed.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        erase_before_ms: int | None = None,
        graph_clean_since_ms: int | None = None,
    ) -> None:
        self._shard = shard
        self._erase_before_ms = erase_before_ms
        self._graph_clean_since_ms = graph_clean_since_ms
        self._is_erasing = erase_before_ms is not None

    def run(self, gate: Callable[[Callable[[], None]], None]) -> Compacted:
        """Compact.

        Args:
            gate: Given a function, stops the shard's writers, runs it, and opens the shard anew.

        Raises:
            CompactionError: If it was given up.
            EnvironmentClosedError: If the shard was closed meanwhile.
        """
        shard = self._shard
        if shard.is_being_cut:
            raise CompactionError("a state of the shard is being copied")
        before_bytes = shard.environment.file_bytes
        self._check_disk(before_bytes)
        if self._is_erasing:
            self._trim()
        discard_copy(shard.directory)
        shard.keep_log(shard.newest.meta.sequence + 1).result(_WAIT_S)
        try:
            copy = self._copied()
            gate_seconds = [0.0]

            def behind_gate() -> None:
                begin = time.perf_counter()
                self._replace(copy)
                gate_seconds[0] = time.perf_counter() - begin

            try:
                self._catch_up(copy)
                gate(behind_gate)
            finally:
                copy.environment.close()
        finally:
            discard_copy(shard.directory)
            # After the gate this shard is closed, and another one is open in its place.
            shard.let_log_go()
        after_bytes = (shard.directory / "records.mdb").stat().st_size
        return Compacted(before_bytes, after_bytes, gate_seconds[0], self._is_erasing)

    def _check_disk(self, size_bytes: int) -> None:
        disk = os.statvfs(self._shard.directory)
        if disk.f_bavail * disk.f_frsize < size_bytes + _FREE_BYTES_BESIDE:
            raise CompactionError(
                f"the disk has no room for a copy of {size_bytes} bytes beside the records"
            )

    # Before the copy.

    def _trim(self) -> None:
        """Remove what is old from the log, from the stored answers and from the journal."""
        shard = self._shard
        assert self._erase_before_ms is not None
        now_ms = wall_ms()
        bounds = LogBounds(age_ms=now_ms - self._erase_before_ms - 1)
        log = Log(shard.environment, bounds)
        for _ in range(_TRIM_TRANSACTIONS):
            removed = [0]

            def work(txn: Transaction, removed: list[int] = removed) -> None:
                before = shard.store.meta(txn)
                after = log.trim(txn, before, now_ms, before.sequence + 1)
                shard.store.put_meta(txn, after)
                removed[0] = after.trimmed_sequence - before.trimmed_sequence
                removed[0] += shard.indexes.trim(txn)

            shard.write_derived(work).result(_WAIT_S)
            if not removed[0]:
                break
        with shard.pin() as pinned:
            oldest = shard.indexes.journal.oldest(pinned.txn)
            if oldest is None:
                return
            entry = log.read(pinned.txn, oldest)
        if entry is None or entry.written_at_ms <= self._erase_before_ms:
            # An index has not taken it in: what it replaced must stay noted until then.
            raise CompactionError("an index lags behind what is to be erased")

    def _copied(self) -> _Copy:
        shard = self._shard
        shard.environment.reserve()
        path = copy_path(shard.directory)
        with shard.environment.read() as txn:
            if self._is_erasing:
                _rewrite(shard.environment, txn, path, shard.indexes.cleaned(txn))
            else:
                shard.environment.copy_compacted(path, txn)
        sync_file(path)
        sync_directory(shard.directory)
        crash_point("compaction_copied")
        copy = _Copy(shard)
        if self._is_erasing:
            copy.mark(self._mark(copy.meta().sequence))
        return copy

    def _mark(self, last: int) -> int | None:
        """Since when the copy holds old content.

        Args:
            last: The copy's sequence.
        """
        log = Log(self._shard.environment)
        removed_at: list[int] = []
        if self._shard.newest.graph_dead_count and self._graph_clean_since_ms is not None:
            removed_at.append(self._graph_clean_since_ms)
        with self._shard.environment.read() as txn:
            # What is still in the log is younger than what is erased; what was removed since then
            # was removed by one of these entries.
            first = self._shard.store.meta(txn).trimmed_sequence + 1
            for sequence in range(first, last + 1):
                entry = log.read(txn, sequence)
                if entry is not None and removes_content(entry):
                    removed_at.append(entry.written_at_ms)
                    break
        return min(removed_at, default=None)

    # Behind the copy.

    def _catch_up(self, copy: _Copy) -> None:
        for _ in range(_MAX_ROUNDS):
            behind = self._shard.newest.meta.sequence - copy.meta().sequence
            if behind <= _GATE_ENTRIES:
                return
            self._apply_rest(copy)
            if self._shard.newest.meta.log_bytes > _MAX_TAIL_BYTES:
                raise CompactionError("more is written than the copy can catch up with")

    def _apply_rest(self, copy: _Copy) -> None:
        while entries := self._entries_after(copy.meta().sequence):
            copy.apply(entries)

    def _entries_after(self, sequence: int) -> list[LogEntry]:
        log = Log(self._shard.environment)
        entries: list[LogEntry] = []
        size = 0
        with self._shard.environment.read() as txn:
            last = self._shard.store.meta(txn).sequence
            while sequence < last and len(entries) < _ROUND_ENTRIES and size < _ROUND_BYTES:
                sequence += 1
                entry = log.read(txn, sequence)
                if entry is None:
                    raise CompactionError(f"log entry {sequence} is gone")
                entries.append(entry)
                size += entry.ByteSize()
        return entries

    # Behind the gate.

    def _replace(self, copy: _Copy) -> None:
        """Put the copy in the place of the records, while nobody writes."""
        shard = self._shard
        self._apply_rest(copy)
        self._hold_back(copy)
        self._compare(copy)
        state = shard.newest
        copy.environment.close()
        # Readers of the old file finish first.
        shard.close()
        crash_point("compaction_caught_up")
        replace_by_copy(shard.directory)
        crash_point("compaction_renamed")
        if self._is_erasing:
            graph = state.graph
            stays = self._graph_clean_since_ms is not None or not state.graph_dead_count
            kept = []
            if graph is not None and stays:
                kept.append(checkpoint_path(shard.directory, graph.sequence))
                kept.append(vector_file_path(shard.directory, graph.vector_file))
            remove_checkpoints_except(shard.directory, *kept)
            sync_directory(shard.directory)

    def _hold_back(self, copy: _Copy) -> None:
        """Mark in the copy what was left out of the graph meanwhile: it is in no log."""
        shard = self._shard
        with shard.environment.read() as txn, copy.environment.read() as copied:
            known = set(copy.store.exact_keys(copied))
            missing = [key for key in shard.store.exact_keys(txn) if key not in known]
        if missing:
            copy.environment.write(lambda txn: copy.store.hold_back(txn, missing))

    def _compare(self, copy: _Copy) -> None:
        """Check that the copy holds what the records hold.

        Raises:
            CompactionError: If it does not.
        """
        shard = self._shard
        with shard.environment.read() as txn, copy.environment.read() as copied:
            expected, found = shard.store.meta(txn), copy.store.meta(copied)
            pairs = [
                (getattr(expected, name), getattr(found, name))
                for name in ("sequence", "next_row", "next_key", "last_ordinal", "record_count")
            ]
            for name in _COMPARED:
                ours = txn.stat(shard.environment.databases[name])["entries"]
                theirs = copied.stat(copy.environment.databases[name])["entries"]
                pairs.append((ours, theirs))
        if any(ours != theirs for ours, theirs in pairs):
            raise CompactionError(f"the copy differs from the records: {pairs}")
