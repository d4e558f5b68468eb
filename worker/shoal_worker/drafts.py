"""The records of a shard that is being filled: a file aside, made in one go.

Nobody reads it before it is whole, so that its transactions are not synced, and it is once, at the
end. The entries that make it are applied and never logged: the log begins where they end.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from shoal.errors import (
    DataLossError,
    InvalidArgumentError,
    ShoalError,
    StaleRouteError,
    UnavailableError,
)
from shoal.internal.v1.storage_pb2 import LogEntry, ShardIdentity
from shoal.internal.v1.worker_service_pb2 import FillShardRequest
from shoal.server.buckets import BUCKET_COUNT
from shoal.server.crash import crash_point
from shoal.server.durable import sync_file
from shoal_worker import metrics
from shoal_worker.apply import apply
from shoal_worker.copies import CopyReader
from shoal_worker.copying import Throttle, check_disk
from shoal_worker.derived import DERIVED_DATABASES, indexes_of
from shoal_worker.environment import Database, Environment, Transaction
from shoal_worker.identity import Configuration, configuration_of
from shoal_worker.loading import create_records
from shoal_worker.log import ENTRY_FORMAT
from shoal_worker.record_files import RECORDS_FILE
from shoal_worker.sealed import seal, unseal
from shoal_worker.sources import Records, Wanted, merged
from shoal_worker.store import DATABASES, Store

if TYPE_CHECKING:
    from shoal_worker.holding import Holding

__all__ = ["IDLE_S", "Draft", "Fill", "mark_of"]

_MARK_KEY: Final = b"filled"
_MARK: Final = struct.Struct("<32sQQ")

_COMMIT_RECORDS: Final = 4096
_COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Records that one transaction takes in."""

IDLE_S: Final = 10 * 60.0
"""After so long without a call a fill is given up: its coordinator is gone."""


def mark_of(txn: Transaction, store: Store) -> tuple[bytes, int, int] | None:
    """Give from what a shard was filled (`Fill.digest`), how many records were looked at and how
    many taken; None if it never was."""
    value = txn.get(_MARK_KEY, db=store.meta_db)
    if value is None:
        return None
    digest, seen, filled = _MARK.unpack(unseal(value, 0, "the mark of a fill"))
    return digest, seen, filled


class Fill:
    """One fill: what it is to do, and how far it has come.

    Args:
        holding: The shard's.
        request: What it is filled from.
    """

    def __init__(self, holding: Holding, request: FillShardRequest) -> None:
        self.holding = holding
        self.request = request
        self.seen_count = 0
        self.filled_count = 0
        self.is_over = False
        self.error: ShoalError | None = None
        self.asked_at = time.monotonic()

    @property
    def digest(self) -> bytes:
        """Of what the shard is filled from."""
        state = hashlib.sha256()
        for source in self.request.sources:
            state.update(source.records.sha256)
        for part in (self.request.where, self.request.where_document):
            state.update(part.SerializeToString(deterministic=True) + b"\0")
        return state.digest()

    def check(self) -> None:
        """End the fill if nobody wants it any more.

        Raises:
            ShoalError: Why.
        """
        if self.holding.is_gone:
            raise StaleRouteError(f"shard {self.holding.shard_id} was deleted")
        if time.monotonic() - self.asked_at > IDLE_S:
            raise UnavailableError(f"nobody asks for the fill of shard {self.holding.shard_id}")


class Draft:
    """The records of a shard that is being filled.

    Args:
        directory: Empty.
        identity: The shard's.
        fill: Counts, and says when to end.
    """

    def __init__(self, directory: Path, identity: ShardIdentity, fill: Fill) -> None:
        self._directory = directory
        self._identity = identity
        self._fill = fill
        self._configuration: Configuration = configuration_of(identity.entry)
        self._throttle = Throttle()

    def write(self, readers: Sequence[CopyReader]) -> None:
        """Write everything, durably.

        Raises:
            DataLossError: If a copy is damaged.
            OverloadedError: If the disk is full.
        """
        identity, fill = self._identity, self._fill
        cluster_id, shard_id = UUID(identity.cluster_id), UUID(identity.shard_id)
        create_records(self._directory, cluster_id, shard_id, self._configuration)
        path = self._directory / RECORDS_FILE
        environment = Environment(
            path, DATABASES, create=False, derived=DERIVED_DATABASES, is_draft=True
        )
        try:
            store = Store(environment)
            request = fill.request
            wanted = Wanted(
                _buckets_of(identity),
                request.where if request.HasField("where") else None,
                request.where_document if request.HasField("where_document") else None,
            )
            records = merged(readers, _dimension_of(readers, identity), wanted, self._seen)
            for group in _groups(records):
                check_disk(self._directory)
                environment.write(lambda txn, group=group: self._take(txn, store, group))  # type: ignore[misc]
                fill.filled_count += sum(len(part.ids) for part in group)
                metrics.FILLED_RECORDS.inc(sum(len(part.ids) for part in group))
                crash_point("draft_growing")
                self._throttle.pause()
            last_ordinal = max((reader.header.last_ordinal for reader in readers), default=0)
            environment.write(lambda txn: self._finish(txn, environment, store, last_ordinal))
            environment.sync()
        finally:
            environment.close()
        sync_file(path)

    def _seen(self, count: int) -> None:
        self._fill.check()
        self._fill.seen_count += count

    def _take(self, txn: Transaction, store: Store, group: Sequence[Records]) -> None:
        meta = store.meta(txn)
        for part in group:
            entry = LogEntry(format=ENTRY_FORMAT, sequence=meta.sequence + 1)
            part.to_entry(entry, meta.next_row, meta.next_key)
            meta, _ = apply(txn, store, meta, entry, self._configuration.fit.holds)

    def _finish(
        self, txn: Transaction, environment: Environment, store: Store, last_ordinal: int
    ) -> None:
        meta = store.meta(txn)
        ids: Database = store.ids
        if txn.stat(ids)["entries"] != meta.record_count:
            raise DataLossError("the copies hold an ID more than once")
        # The entries were never in the log: the records are where it begins.
        meta = replace(
            meta,
            trimmed_sequence=meta.sequence,
            last_ordinal=max(meta.last_ordinal, last_ordinal),
        )
        store.put_meta(txn, meta)
        if meta.sequence:
            indexes = indexes_of(environment, store, self._configuration)
            indexes.drop(txn, meta, indexes.all)
        fill = self._fill
        mark = _MARK.pack(fill.digest, fill.seen_count, fill.filled_count)
        txn.put(_MARK_KEY, seal(mark, 0), db=store.meta_db)


def _groups(records: Iterator[Records]) -> Iterator[list[Records]]:
    """Give records in parts that fit into a transaction."""
    group: list[Records] = []
    count = size = 0
    for part in records:
        group.append(part)
        count += len(part.ids)
        size += part.vectors.nbytes + sum(len(d) for d in part.documents if d is not None)
        if count >= _COMMIT_RECORDS or size >= _COMMIT_BYTES:
            yield group
            group, count, size = [], 0, 0
    if group:
        yield group


def _buckets_of(identity: ShardIdentity) -> npt.NDArray[np.bool_]:
    """Give which buckets a shard owns, shape ``(4096,)``."""
    owned = np.zeros(BUCKET_COUNT, np.bool_)
    for shard in identity.entry.shards:
        if shard.shard_id == identity.shard_id:
            for run in shard.buckets:
                owned[run.first : run.last + 1] = True
    return owned


def _dimension_of(readers: Sequence[CopyReader], identity: ShardIdentity) -> int:
    given = {reader.header.dimension for reader in readers} - {0}
    wanted = identity.entry.collection.dimension
    if len(given | ({wanted} - {0})) > 1:
        raise InvalidArgumentError(
            f"the copies hold vectors of dimension {sorted(given)}, the collection's is {wanted}"
        )
    return max(given, default=0)
