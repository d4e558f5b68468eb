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
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lmdb

from shoal.errors import (
    FailedPreconditionError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.snapshot_pb2 import StoredObject, StoredShard
from shoal.internal.v1.worker_service_pb2 import FillShardRequest
from shoal.server import logs
from shoal.server.crash import crash_point
from shoal.server.durable import rename_durably
from shoal.server.objects import (
    ObjectStore,
    damaged_object,
    file_sha256,
    missing_object,
    open_store,
)
from shoal_worker.copies import COPY_FORMAT, CopyReader, DamagedCopyError, NewerCopyError
from shoal_worker.copying import check_disk, disk_full
from shoal_worker.drafts import IDLE_S, Draft, Fill, mark_of
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.record_files import RECORDS_FILE

if TYPE_CHECKING:
    from shoal_worker.shard import Shard
    from shoal_worker.worker import Worker

__all__ = ["Filling"]

_logger: Final = logs.get_logger(__name__)

_READY_BACKLOG: Final = 0.5
"""A filled shard is ready when what waits for its graph is below this share of the bound, from
which on writers are held back."""

_FIRST_LOOK_S: Final = 0.005
_LAST_LOOK_S: Final = 0.1


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
            mark = mark_of(pinned.txn, pinned.store)
            sequence = pinned.state.meta.sequence
            if mark is not None:
                digest, seen, filled = mark
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
                Draft(draft, identity, fill).write(readers)
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
                fill.asked_at = -IDLE_S
        self._thread.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)


def _replace(shard: Shard, draft: Path) -> None:
    """Put the draft in the place of a shard's records. Behind the gate: nobody writes."""
    if shard.newest.meta.sequence:
        raise FailedPreconditionError(f"shard {shard.shard_id} was written to while it was filled")
    shard.close()
    rename_durably(draft / RECORDS_FILE, shard.directory / RECORDS_FILE)
    crash_point("draft_renamed")


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
