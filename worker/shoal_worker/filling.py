"""Fills new shards from copies in the snapshot store: restorations and clones.

A fill builds the shard's records in a file of its own, in order of insertion and with their
ordinals, and puts it in the place of the empty records when it is whole: a shard is empty or
filled. What is derived is built behind, as for a shard that has lost it. Copies are fetched and
verified before they are opened; one in a directory on this machine is read where it lies.

Files lie in ``fills/`` beside the shards; what an earlier process left there is removed at the
start, and its fill, asked for again, begins anew. A filled shard carries a mark that says from
what, so that a call that is repeated finds it done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import lmdb
import numpy as np
import numpy.typing as npt
import structlog

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    ShoalError,
    StaleRouteError,
    UnavailableError,
)
from shoal.internal.v1.snapshot_pb2 import StoredObject, StoredShard
from shoal.internal.v1.storage_pb2 import LogEntry, ShardIdentity
from shoal.internal.v1.worker_service_pb2 import FillShardRequest
from shoal.server.buckets import BUCKET_COUNT
from shoal.server.crash import crash_point
from shoal.server.objects import (
    ObjectStore,
    damaged_object,
    file_sha256,
    missing_object,
    open_store,
)
from shoal_worker import metrics
from shoal_worker.apply import apply
from shoal_worker.copies import COPY_FORMAT, CopyReader, DamagedCopyError, NewerCopyError
from shoal_worker.copying import Throttle, check_disk, disk_full
from shoal_worker.derived import DERIVED_DATABASES, indexes_of
from shoal_worker.durable import rename_durably, sync_file
from shoal_worker.environment import Database, Environment, EnvironmentClosedError, Transaction
from shoal_worker.identity import Configuration, configuration_of
from shoal_worker.loading import create_records
from shoal_worker.log import ENTRY_FORMAT
from shoal_worker.record_files import RECORDS_FILE
from shoal_worker.sealed import seal, unseal
from shoal_worker.sources import Records, Wanted, merged
from shoal_worker.store import DATABASES, Store

if TYPE_CHECKING:
    from shoal_worker.holding import Holding
    from shoal_worker.shard import Shard
    from shoal_worker.worker import Worker

__all__ = ["Fill", "Filling"]

_logger: Final = structlog.get_logger(__name__)

_MARK_KEY: Final = b"filled"
_MARK: Final = struct.Struct("<32sQQ")

_COMMIT_RECORDS: Final = 4096
_COMMIT_BYTES: Final = 16 * 1024 * 1024
"""Records that one transaction takes in."""

_IDLE_S: Final = 10 * 60.0
"""After so long without a call a fill is given up: its coordinator is gone."""

_READY_BACKLOG: Final = 0.5
"""A filled shard is ready when what waits for its graph is below this share of the bound, from
which on writers are held back."""

_FIRST_LOOK_S: Final = 0.005
_LAST_LOOK_S: Final = 0.1


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
        if time.monotonic() - self.asked_at > _IDLE_S:
            raise UnavailableError(f"nobody asks for the fill of shard {self.holding.shard_id}")


class Filling:
    """All fills of a worker, one after another.

    Args:
        worker: Whose shards are filled.
        directory: Where drafts and fetched copies lie; emptied by `start`.
    """

    def __init__(self, worker: Worker, directory: Path) -> None:
        self._worker = worker
        self._directory = directory
        self._lock = threading.Lock()
        self._fills: dict[str, Fill] = {}  # guarded by _lock
        self._is_closing = False
        self._thread = ThreadPoolExecutor(1, "shoal-filling")
        self._copies = _Copies(directory)

    def start(self) -> None:
        """Remove what an earlier process has left."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def fill(self, request: FillShardRequest, wait_s: float) -> tuple[bool, Fill]:
        """Fill a shard, or go on; waits for a while, not longer.

        Returns:
            Whether it is filled and ready for writers, and how far it has come.

        Raises:
            ShoalError: Why it failed; what was done is undone.
        """
        reference = request.shard
        holding = self._worker.held.find(
            reference.collection_id, reference.shard_id, reference.epoch
        )
        with self._lock:
            fill = self._fills.get(reference.shard_id)
            if fill is None:
                fill = self._fills[reference.shard_id] = Fill(holding, request)
                self._thread.submit(self._run, fill)
            elif fill.digest != Fill(holding, request).digest:
                raise FailedPreconditionError(
                    f"shard {reference.shard_id} is being filled from other copies"
                )
        until = time.monotonic() + wait_s
        pause_s = _FIRST_LOOK_S
        while True:
            fill.asked_at = time.monotonic()
            is_ready = fill.is_over and await self._worker.off_loop(lambda: self._is_ready(fill))
            if is_ready or fill.asked_at + pause_s >= until:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)
        if is_ready:
            self._forget(fill)
        return is_ready, fill

    def _forget(self, fill: Fill) -> None:
        with self._lock:
            if self._fills.get(str(fill.holding.shard_id)) is fill:
                del self._fills[str(fill.holding.shard_id)]

    def _is_ready(self, fill: Fill) -> bool:
        if fill.error is not None:
            self._forget(fill)
            raise fill.error
        return self._worker.held.opened(fill.holding).backlog_ratio < _READY_BACKLOG

    # The thread.

    def _run(self, fill: Fill) -> None:
        begin = time.perf_counter()
        shard_id = str(fill.holding.shard_id)
        draft = self._directory / shard_id
        try:
            with self._worker.held.using(fill.holding):
                if self._is_filled(fill):
                    return
                draft.mkdir(parents=True)
                self._fill(fill, draft)
            _logger.info(
                "shard_filled",
                shard_id=shard_id,
                sources=len(fill.request.sources),
                records=fill.filled_count,
                seconds=round(time.perf_counter() - begin, 3),
            )
        except ShoalError as error:
            fill.error = error
        except (lmdb.Error, OSError, EnvironmentClosedError) as error:
            code = getattr(error, "code", getattr(error, "errno", None))
            if code in (errno.ENOSPC, errno.EDQUOT):
                fill.error = disk_full(self._directory)
            else:
                fill.error = UnavailableError(f"shard {shard_id} cannot be filled: {error}")
        finally:
            if fill.error is not None:
                _logger.warning("shard_not_filled", shard_id=shard_id, error=str(fill.error))
            shutil.rmtree(draft, ignore_errors=True)
            fill.is_over = True
            with self._lock:
                is_last = all(other.is_over for other in self._fills.values())
            if is_last:
                self._copies.remove()

    def _is_filled(self, fill: Fill) -> bool:
        """Whether this was done before, by an earlier call or process.

        Raises:
            FailedPreconditionError: If the shard holds something else.
        """
        shard = self._worker.held.opened(fill.holding)
        with shard.pin() as pinned:
            mark = pinned.txn.get(_MARK_KEY, db=pinned.store.meta_db)
            sequence = pinned.state.meta.sequence
            if mark is not None:
                digest, seen, filled = _MARK.unpack(unseal(mark, 0, "the mark of a fill"))
                if digest == fill.digest:
                    fill.seen_count, fill.filled_count = seen, filled
                    return True
        if sequence or mark is not None:
            raise FailedPreconditionError(
                f"shard {shard.shard_id} is not empty: it cannot be filled"
            )
        return False

    def _fill(self, fill: Fill, draft: Path) -> None:
        identity = fill.holding.identity
        assert identity is not None
        store = open_store(fill.request.store)
        files = [self._copies.verified(store, source, fill) for source in fill.request.sources]
        crash_point("copies_fetched")
        keys = {path: s.records.key for path, s in zip(files, fill.request.sources, strict=True)}
        try:
            with contextlib.ExitStack() as stack:
                readers = [stack.enter_context(CopyReader(path)) for path in files]
                _Draft(draft, identity, fill).write(readers)
        except DamagedCopyError as error:
            raise damaged_object(store.url, keys[error.path], str(error)) from error
        except NewerCopyError as error:
            raise FailedPreconditionError(f"a copy in {store.url}: {error}") from error
        crash_point("draft_written")
        shard = self._worker.held.opened(fill.holding)
        self._worker.held.reopen(fill.holding, shard, lambda: _replace(shard, draft))
        self._worker.clock.merge(max((s.last_ordinal for s in fill.request.sources), default=0))
        crash_point("shard_filled")

    def close(self) -> None:
        """Give up what is under way."""
        with self._lock:
            for fill in self._fills.values():
                fill.asked_at = -_IDLE_S
        self._thread.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)


def _replace(shard: Shard, draft: Path) -> None:
    """Put the draft in the place of a shard's records. Behind the gate: nobody writes."""
    if shard.newest.meta.sequence:
        raise FailedPreconditionError(f"shard {shard.shard_id} was written to while it was filled")
    shard.close()
    rename_durably(draft / RECORDS_FILE, shard.directory / RECORDS_FILE)
    crash_point("draft_renamed")


class _Draft:
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


class _Copies:
    """Copies that were fetched and verified, kept as long as a fill may want them.

    Args:
        directory: Where fetched ones lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "copies"
        self._verified: dict[bytes, Path] = {}

    def verified(self, store: ObjectStore, source: StoredShard, fill: Fill) -> Path:
        """Give the file of a copy, verified.

        Raises:
            DataLossError: If it is missing or damaged.
            FailedPreconditionError: If it is of a newer format.
        """
        stored = source.records
        if source.format > COPY_FORMAT:
            raise FailedPreconditionError(
                f"object {stored.key} in the snapshot store {store.url} has format "
                f"{source.format}, this release reads {COPY_FORMAT}",
                metadata={"object": stored.key},
            )
        path = self._verified.get(stored.sha256)
        if path is None:
            path = self._verified[stored.sha256] = self._verified_file(store, stored, fill)
        return path

    def _verified_file(self, store: ObjectStore, stored: StoredObject, fill: Fill) -> Path:
        local = store.local_path(stored.key)
        if local is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            check_disk(self._directory)
            path = self._directory / stored.sha256.hex()
            store.get_to_file(
                stored.key, path, stored.size_bytes, stored.sha256, lambda _: fill.check()
            )
            return path
        size = store.size(stored.key)
        if size is None:
            raise missing_object(store.url, stored.key)
        if size != stored.size_bytes:
            how = f"it has {size} bytes instead of {stored.size_bytes}"
            raise damaged_object(store.url, stored.key, how)
        if file_sha256(local, lambda _: fill.check()) != stored.sha256:
            raise damaged_object(store.url, stored.key, "its SHA-256 is another one")
        return local

    def remove(self) -> None:
        """Remove what was fetched."""
        self._verified.clear()
        shutil.rmtree(self._directory, ignore_errors=True)
