"""The shards that a worker holds: opened at their first use, closed when others need the room, or
nobody has used them for long.

A held shard is what lies in the data directory; it serves at one epoch. Opening takes milliseconds
and happens on the caller's thread. A shard that is closed under a caller that has just looked it
up says so (`EnvironmentClosedError`), and the caller looks it up again.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    OverloadedError,
    StaleRouteError,
)
from shoal.internal.v1.catalog_pb2 import CollectionEntry, ShardDeletion
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.server import logs
from shoal_worker import metrics
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.file_sizes import size_of_files
from shoal_worker.identity import (
    IDENTITY_FORMAT,
    configuration_of,
    read_identity,
    write_identity,
)
from shoal_worker.layout import DataDirectory, ShardFate
from shoal_worker.loading import create_records, peek
from shoal_worker.open_shards import Holding, OpenShards, Summary
from shoal_worker.shard import Shard

__all__ = ["HeldShards", "Holding"]

_logger: Final = logs.get_logger(__name__)

OpenShard = Callable[[Path, ShardIdentity], Shard]

_QUICK_BYTES: Final = 4 * 1024 * 1024
"""Vectors that are read when a shard without a graph is opened, in some ten milliseconds: one with
more, and one whose graph has to be read through, stays open as long as there is room."""


class HeldShards:
    """All shards of a data directory.

    Args:
        directory: Locked by the caller.
        open_shard: Opens one.
        max_open: How many may be open.
        max_memory_bytes: What open shards may hold outside of graphs.
        leave: Told of a shard that takes nothing more and is about to be closed: nobody may keep it
            alive after that.
    """

    def __init__(
        self,
        directory: DataDirectory,
        open_shard: OpenShard,
        max_open: int,
        max_memory_bytes: int,
        leave: Callable[[Shard], None],
    ) -> None:
        self._directory = directory
        self._open_shard = open_shard
        self._leave = leave
        self._lock = threading.Lock()
        self._holdings: dict[str, Holding] = {}  # guarded by _lock for changes
        self._open = OpenShards(max_open, max_memory_bytes)
        for shard_id in directory.held_shards():
            self._holdings[str(shard_id)] = self._found(shard_id)
        self._count()
        # Of open shards, counted when somebody asks: each commit changes them.
        metrics.SHARD_RECORDS.set_function(
            lambda: sum(s.newest.meta.record_count for s in self.open)
        )
        metrics.FRESH_VECTORS.set_function(lambda: sum(s.newest.outside_count for s in self.open))
        metrics.QUEUED_WRITES.set_function(lambda: sum(len(s.queue) for s in self.open))
        metrics.UNINDEXED_CHANGES.set_function(lambda: sum(s.indexes.backlog for s in self.open))
        metrics.FULLEST_BACKLOG.set_function(
            lambda: max((s.backlog_ratio for s in self.open), default=0.0)
        )

    def _found(self, shard_id: UUID) -> Holding:
        path = self._directory.shard_path(shard_id)
        try:
            if not path.is_dir():
                raise self._gone(shard_id)
            identity = read_identity(path)
            self._check(identity, shard_id)
        except DataLossError as error:
            error.metadata["shard_id"] = str(shard_id)
            _logger.error("shard_lost", shard_id=str(shard_id), message=str(error))
            return Holding(shard_id, None, error)
        return Holding(shard_id, identity, None)

    def _check(self, identity: ShardIdentity, shard_id: UUID) -> None:
        own = (str(self._directory.cluster_id or ""), str(self._directory.worker_id), str(shard_id))
        if (identity.cluster_id, identity.worker_id, identity.shard_id) != own:
            raise FailedPreconditionError(
                f"the directory of shard {shard_id} belongs to shard {identity.shard_id} of worker "
                f"{identity.worker_id} in cluster {identity.cluster_id}: it is not this worker's"
            )

    def _gone(self, shard_id: UUID) -> DataLossError:
        return DataLossError(
            f"shard {shard_id} was created on this worker and its directory "
            f"{self._directory.shard_path(shard_id)} is gone",
            metadata={"shard_id": str(shard_id)},
        )

    def _count(self) -> None:
        # Of a copy: shards are created and deleted by several threads at once.
        holdings = self.all()
        metrics.HELD_SHARDS.set(len(holdings))
        metrics.LOST_SHARDS.set(sum(h.loss is not None for h in holdings))
        metrics.OPEN_SHARDS.set(len(self._open))

    def all(self) -> list[Holding]:
        """Give every held shard."""
        return list(self._holdings.values())

    @property
    def open(self) -> list[Shard]:
        """Every shard that is open and sound."""
        return [shard for h in self._open.all() if (shard := h.ready) is not None]

    # Finding.

    def find(self, collection_id: str, shard_id: str, epoch: int) -> Holding:
        """Give the holding of a shard at an epoch.

        Raises:
            StaleRouteError: If this worker does not hold the shard at that epoch.
            DataLossError: If it does, and it is gone or damaged.
        """
        holding = self._holdings.get(shard_id)
        if holding is None:
            raise StaleRouteError(
                f"this worker does not hold shard {shard_id}", metadata={"shard_id": shard_id}
            )
        if holding.loss is not None:
            raise holding.loss
        identity = holding.identity
        assert identity is not None
        if identity.epoch != epoch or identity.entry.collection.id != collection_id:
            raise StaleRouteError(
                f"shard {shard_id} is held at epoch {identity.epoch} for collection "
                f"{identity.entry.collection.id}, asked for at {epoch} for {collection_id}",
                metadata={"shard_id": shard_id, "epoch": str(identity.epoch)},
            )
        return holding

    def opened(self, holding: Holding) -> Shard:
        """Give a holding's shard, open. Opening reads its files: not for the event loop.

        Raises:
            DataLossError: If its records are gone or damaged.
            StaleRouteError: If it was deleted meanwhile.
        """
        with holding.lock:
            if holding.is_gone or holding.identity is None:
                raise StaleRouteError(f"shard {holding.shard_id} was deleted")
            shard = holding.shard
            if shard is not None and shard.failed:
                shard.queue.stop()
                self._leave(shard)
                shard.close()
                shard = holding.shard = None
            if shard is None:
                path = self._directory.shard_path(holding.shard_id)
                if not path.is_dir():
                    raise self._gone(holding.shard_id)
                shard = self._open_shard(path, holding.identity)
                shard.queue.ended_batches = holding.ended_batches
                holding.shard = shard
                holding.opening_count += 1
                self._open.add(holding)
        self._make_room()
        return shard

    def changed(self, shard: Shard) -> None:
        """Take note that a shard has changed, and may hold more. Costs next to nothing."""
        holding = self._holdings.get(shard.shard_id)
        if holding is not None and holding.shard is shard:
            self._open.weigh(holding)

    def summary(self, holding: Holding) -> Summary:
        """Say what a shard holds, without opening one that is closed. Not for the event loop.

        Raises:
            DataLossError: If its records are gone or damaged.
            StaleRouteError: If it was deleted meanwhile.
        """
        shard = holding.ready
        if shard is not None:
            return Summary.of(shard)
        with holding.lock:
            return self._looked_at(holding)

    def summary_at_once(self, holding: Holding) -> Summary | None:
        """As `summary`; None if somebody opens or closes it just now, which may take long."""
        shard = holding.ready
        if shard is not None:
            return Summary.of(shard)
        if not holding.lock.acquire(blocking=False):
            return None
        try:
            return self._looked_at(holding)
        finally:
            holding.lock.release()

    def _looked_at(self, holding: Holding) -> Summary:
        """With the holding's lock held."""
        if holding.loss is not None:
            raise holding.loss
        if holding.is_gone or holding.identity is None:
            raise StaleRouteError(f"shard {holding.shard_id} was deleted")
        path = self._directory.shard_path(holding.shard_id)
        if not path.is_dir():
            raise self._gone(holding.shard_id)
        if holding.shard is not None:
            return Summary.of(holding.shard)
        if holding.summary is None:
            # What is closed does not change: it is looked at once.
            meta = peek(path, holding.identity)
            size = size_of_files(path)
            holding.summary = Summary(meta.record_count, 0, meta.sequence, size)
        return holding.summary

    def using(self, holding: Holding) -> contextlib.AbstractContextManager[None]:
        """Keep a shard from being closed to make room, in a `with`."""
        return self._open.using(holding)

    def _make_room(self) -> None:
        """Close the shards that were not used for longest, as far as they are idle."""
        if self._open.are_too_many():
            for holding in self._open.all():
                if not self._open.are_too_many():
                    break
                self._close_if_idle(holding)
        if self._open.hold_too_much():
            oldest = self._open.all()
            # A graph may have taken in since what was weighed after the last write.
            for holding in oldest:
                self._open.weigh(holding)
            for holding in oldest:
                if not self._open.hold_too_much():
                    break
                self._close_if_idle(holding)
        metrics.OPEN_SHARDS.set(len(self._open))

    def close_unused(self, unused_s: float) -> int:
        """Close the small shards that nobody has used for a time; they are opened again in a
        millisecond.

        Returns:
            How many were closed.
        """
        closed_count = 0
        before = time.monotonic() - unused_s
        for holding in self._open.unused_since(before):
            shard = holding.ready
            if shard is None or not _opens_quickly(shard):
                continue
            if shard.indexes.lag or shard.is_being_cut:
                continue
            closed_count += self._close_if_idle(holding, before)
        metrics.OPEN_SHARDS.set(len(self._open))
        return closed_count

    def _close_if_idle(self, holding: Holding, before: float = math.inf) -> bool:
        if not holding.lock.acquire(blocking=False):
            return False
        try:
            if holding.user_count or holding.used_at > before:
                return False
            if holding.shard is not None and not holding.shard.queue.is_idle:
                return False
            self._close(holding)
            return True
        finally:
            holding.lock.release()

    def reopen(self, holding: Holding, shard: Shard, work: Callable[[], None]) -> None:
        """Stop a shard's writers, run something, close it if that has not, and open it again.

        Whoever looks the shard up meanwhile waits.

        Raises:
            EnvironmentClosedError: If the holding has another shard by now, or none.
            OverloadedError: If the shard is being cut, which closing it would spoil.
        """
        with holding.lock:
            if holding.shard is not shard:
                raise EnvironmentClosedError(str(shard.directory))
            # First, so that whoever looks it up from now on waits here.
            holding.shard = None
            if not shard.stop_unless_cut():
                holding.shard = shard
                raise OverloadedError(f"shard {holding.shard_id} is being copied: repeat later")
            try:
                work()
            finally:
                holding.shard = shard
                self._close(holding)
        self.opened(holding)

    def _close(self, holding: Holding) -> None:
        """With the holding's lock held."""
        shard, holding.shard = holding.shard, None
        holding.summary = None
        if shard is not None:
            shard.queue.stop()
            self._leave(shard)
            shard.close()
            if not shard.failed and shard.directory.is_dir():
                holding.summary = Summary.of(shard)
        self._open.remove(holding)

    # Changing.

    def create(self, shard_id: UUID, entry: CollectionEntry) -> None:
        """Create an empty shard; nothing to do if it was created before.

        Raises:
            DataLossError: If it was created before and is gone.
            FailedPreconditionError: If it was deleted before, or the entry does not give it to this
                worker.
        """
        name = str(shard_id)
        holding = self._holdings.get(name)
        if holding is not None:
            if holding.loss is not None:
                raise holding.loss
            if not self._directory.shard_path(shard_id).is_dir():
                raise self._gone(shard_id)
            return
        if self._directory.fate(shard_id) == ShardFate.DELETED:
            raise FailedPreconditionError(f"shard {name} was deleted: a shard's UUID is used once")
        cluster_id = self._directory.cluster_id
        assert cluster_id is not None
        identity = ShardIdentity(
            format=IDENTITY_FORMAT,
            cluster_id=str(cluster_id),
            worker_id=str(self._directory.worker_id),
            shard_id=name,
            epoch=self._epoch_in(entry, name),
            entry=entry,
        )
        self._directory.create_shard(
            identity,
            lambda path: create_records(path, cluster_id, shard_id, configuration_of(entry)),
        )
        with self._lock:
            self._holdings[name] = Holding(shard_id, identity, None)
        self._count()
        _logger.info("shard_created", shard_id=name, collection_id=entry.collection.id)

    def _epoch_in(self, entry: CollectionEntry, name: str) -> int:
        own = str(self._directory.worker_id)
        for shard in entry.shards:
            if shard.shard_id == name and shard.worker_id == own:
                return shard.epoch
        raise FailedPreconditionError(
            f"the catalog entry of collection {entry.collection.id} does not give shard {name} to "
            f"worker {own}"
        )

    def update(self, shard_id: UUID, entry: CollectionEntry) -> None:
        """Store a newer copy of the catalog entry; an older one is passed over.

        Raises:
            StaleRouteError: If the shard is not held.
            DataLossError: If it is gone or damaged.
        """
        name = str(shard_id)
        holding = self._holdings.get(name)
        if holding is None:
            raise StaleRouteError(f"this worker does not hold shard {name}")
        if holding.loss is not None:
            raise holding.loss
        with holding.lock:
            identity = holding.identity
            if identity is None or entry.table_version <= identity.entry.table_version:
                return
            path = self._directory.shard_path(shard_id)
            if not path.is_dir():
                raise self._gone(shard_id)
            newer = ShardIdentity()
            newer.CopyFrom(identity)
            newer.entry.CopyFrom(entry)
            newer.epoch = max(identity.epoch, self._epoch_in(entry, name))
            write_identity(path, newer)
            holding.identity = newer
            if holding.shard is not None:
                holding.shard.configure(configuration_of(entry))

    def delete(self, deletion: ShardDeletion) -> None:
        """Delete a shard, as the catalog has recorded it; nothing to do if it is deleted.

        Raises:
            StaleRouteError: If the shard is held at a higher epoch than the deletion speaks of.
        """
        shard_id = UUID(deletion.shard_id)
        holding = self._holdings.get(deletion.shard_id)
        if holding is None:
            if self._directory.fate(shard_id) != ShardFate.DELETED:
                self._directory.delete_shard(shard_id)
            return
        with holding.lock:
            identity = holding.identity
            if identity is not None and identity.epoch > deletion.epoch:
                raise StaleRouteError(
                    f"shard {shard_id} is held at epoch {identity.epoch}, the deletion speaks of "
                    f"{deletion.epoch}"
                )
            holding.is_gone = True
            self._close(holding)
            self._directory.delete_shard(shard_id)
        with self._lock:
            self._holdings.pop(deletion.shard_id, None)
        self._count()
        _logger.info("shard_deleted", shard_id=deletion.shard_id)

    def close(self) -> None:
        """Close every open shard."""
        for holding in self.all():
            with holding.lock:
                self._close(holding)
        self._count()


def _opens_quickly(shard: Shard) -> bool:
    """Whether a shard, closed now, would be open again before its caller notices."""
    state = shard.newest
    is_bare = state.graph is None and state.ungraphed is None and not state.unloaded_below
    return is_bare and shard.memory_bytes <= _QUICK_BYTES
