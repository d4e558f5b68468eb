"""A shard: what is stored and searched together.

Writers put batches into a queue (`WriteQueue`). Those that wait share one transaction and one sync
(group commit), then the new state is published and they are answered.
Readers pin a published state with a read transaction of its sequence; nothing that happens behind
them, commit or new graph, changes what they see or makes them wait.

After a failed commit nobody knows what is on disk: the shard closes, its writers are told that the
outcome is unknown, and the next use opens it anew. A full disk is the one failure that leaves no
doubt: LMDB writes and syncs everything before the page that makes it true, so a write for which
there was no space is refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import lmdb
import numpy as np
import numpy.typing as npt

from shoal.errors import (
    DataLossError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.internal.v1.worker_service_pb2 import WriteShardResponse
from shoal.server import logs
from shoal.server.clock import HybridClock
from shoal.server.crash import crash_point
from shoal_worker import metrics
from shoal_worker.checkpoint_files import (
    checkpoint_path,
    remove_checkpoints_except,
    vector_file_path,
)
from shoal_worker.commit import Commit, Committer
from shoal_worker.currency import are_current
from shoal_worker.environment import (
    INITIAL_MAP_BYTES,
    Environment,
    EnvironmentClosedError,
    StandingReader,
    Transaction,
)
from shoal_worker.file_sizes import size_of_files
from shoal_worker.fresh import FRESH_OVERHEAD_BYTES
from shoal_worker.graph import DamagedCheckpointError, Graph
from shoal_worker.graph_vectors import Deaths, GraphVectors
from shoal_worker.holds import Hold, lost_hold
from shoal_worker.identity import Configuration, configuration_of
from shoal_worker.loading import MAX_LOADED_BYTES, data_loss, load
from shoal_worker.log import Log
from shoal_worker.sealed import DamagedIndexError, DamagedValueError
from shoal_worker.state import Pinned, Publication, State
from shoal_worker.store import Meta
from shoal_worker.vector_file import DamagedVectorsError, VectorFile
from shoal_worker.write_queue import Waiting, WriteQueue
from shoal_worker.writes import Write

__all__ = ["Cut", "Shard"]

_logger = logs.get_logger(__name__)

MAX_BACKLOG_VECTORS: Final = 200_000
MAX_BACKLOG_BYTES: Final = 1024 * 1024 * 1024
"""Vectors that wait for a graph at most: they lie in memory, and every search scans them."""

MAX_BACKLOG_CHANGES: Final = 100_000
"""Changes that an index has not taken in, at most: a filter looks at each, 4 us a record."""

_MINIMUM_FREE_BYTES: Final = 64 * 1024 * 1024
"""Disk that a group of writes leaves free besides four times its own size: LMDB copies pages."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A shard at one point in time.

    Attributes:
        reader: Reads what it held then; the receiver closes it.
        meta: The shard then.
    """

    reader: StandingReader
    meta: Meta


class Shard:
    """An open shard.

    Args:
        directory: The shard's.
        identity: Whose it is.
        clock: The worker's.
        executor: Drains queues; a few threads shared by all shards of the worker.
        changed: Called after each commit and each new graph, on the draining thread.
        initial_map_bytes: Address space that the records begin with.
        max_loaded_bytes: What its vectors may take in memory if its graph and their file are lost.

    Raises:
        DataLossError: If the records are missing, damaged, or not this shard's.
    """

    def __init__(
        self,
        directory: Path,
        identity: ShardIdentity,
        clock: HybridClock,
        executor: Executor,
        changed: Callable[[Shard], None],
        *,
        initial_map_bytes: int = INITIAL_MAP_BYTES,
        max_loaded_bytes: int = MAX_LOADED_BYTES,
    ) -> None:
        self.directory = directory
        self.shard_id = identity.shard_id
        self.collection_id = identity.entry.collection.id
        self.configuration: Configuration = configuration_of(identity.entry)
        self._clock = clock
        self._changed = changed
        loaded = load(
            directory,
            identity,
            self.configuration,
            initial_map_bytes,
            max_loaded_bytes,
            self._vectors_damaged,
        )
        self._environment = loaded.environment
        self.store = loaded.store
        self.indexes = loaded.indexes
        self._fresh = loaded.fresh
        self._publication = Publication(loaded.state)
        self._committer = Committer(
            self.store, Log(self._environment), self.indexes, clock, self.shard_id
        )
        clock.merge(loaded.state.meta.last_ordinal)
        self.queue = WriteQueue(self.shard_id, executor, self._commit)
        # What died must go from its graph, however little it is. Read by the building.
        self.wants_rebuild = False
        self.failed = False  # a commit failed: what is on disk is unknown until it is opened anew

    def _data_loss(self, what: str) -> DataLossError:
        return data_loss(self.shard_id, self.collection_id, what)

    # Reading.

    @property
    def newest(self) -> State:
        """The newest published state."""
        return self._publication.newest

    @property
    def reading_waits(self) -> bool:
        """Whether pinning would wait now, because the map is about to grow."""
        return self._environment.busy

    def pin(self, *, copies: bool = False) -> Pinned:
        """Pin the newest state.

        Args:
            copies: See `Environment.begin_reading`.

        Raises:
            EnvironmentClosedError: If the shard was closed meanwhile: look it up again.
        """
        return Pinned(self._environment, self.store, self.indexes, self._publication, copies)

    # Writing.

    def submit(self, write: Write) -> Future[WriteShardResponse]:
        """Queue a batch.

        Returns:
            Its answer, once it is durable and visible; or why it was refused.

        Raises:
            EnvironmentClosedError: If the shard was closed meanwhile: look it up again.
            OverloadedError: If the queue, or what waits for a graph, is at its bound.
        """
        self._check_backlog()
        return self.queue.submit(write)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the vectors that it holds outside of graphs, and of what it knows of those in
        one."""
        state = self._publication.newest
        size = state.fresh.size * (4 * state.meta.dimension + FRESH_OVERHEAD_BYTES)
        size += state.vectors.deaths.memory_bytes if state.vectors else 0
        return size + (state.ungraphed.memory_bytes if state.ungraphed else 0)

    @property
    def backlog_ratio(self) -> float:
        """How much of its bound is taken by what waits for the graph or an index; from 1 no write
        goes."""
        state = self._publication.newest
        count = state.fresh.pending_count
        size = count * state.meta.dimension * 4
        changes = self.indexes.backlog / MAX_BACKLOG_CHANGES
        return max(count / MAX_BACKLOG_VECTORS, size / MAX_BACKLOG_BYTES, changes)

    def _check_backlog(self) -> None:
        if self.backlog_ratio >= 1:
            count = self._publication.newest.fresh.pending_count
            raise OverloadedError(
                f"shard {self.shard_id} has {count} vectors that its graph has not taken in yet, "
                f"and {self.indexes.backlog} changes that its indexes have not: repeat later",
                metadata={"shard_id": self.shard_id},
                retry_after_s=1.0,
            )

    def _commit(self, group: Sequence[Waiting]) -> None:
        try:
            self._check_disk(sum(waiting.write.size_bytes for waiting in group))
            with metrics.COMMIT_SECONDS.time():
                commit = self._environment.write(
                    lambda txn: self._committer.take(
                        txn, [w.write for w in group], self.configuration.fit.holds
                    ),
                    before_commit=self._offer,
                )
        except DamagedValueError as error:
            # Nothing was committed, and what is damaged is damaged for readers, too.
            self._fresh.roll_back()
            self._refuse(group, self._data_loss(str(error)))
        except OverloadedError as error:
            self._refuse(group, error)
        except (lmdb.Error, OSError, EnvironmentClosedError) as error:
            self._fail(group, error)
        except BaseException as error:
            self._fail(group, error)
            raise
        else:
            self._publish(group, commit)

    def _check_disk(self, size_bytes: int) -> None:
        disk = os.statvfs(self.directory)
        if disk.f_bavail * disk.f_frsize < _MINIMUM_FREE_BYTES + 4 * size_bytes:
            raise self._disk_full()

    def _disk_full(self) -> OverloadedError:
        return OverloadedError(
            f"the disk of data directory {self.directory.parent.parent} is full: free space, or "
            "delete; reading goes on",
            metadata={"shard_id": self.shard_id},
        )

    def _offer(self, commit: Commit) -> None:
        """Prepare and offer the next state, before the commit makes it true."""
        # The transaction may be run again after the map has grown: forget the former attempt.
        self._fresh.roll_back()
        for sequence, changes in commit.changes:
            for key in changes.dead_keys:
                self._fresh.remove(key, sequence)
            if changes.added is not None:
                self._fresh.add(changes.added, changes.exact_keys)
        sequence = commit.meta.sequence
        newest = self.newest
        fresh = self._fresh.snapshot(sequence)
        self._publication.offer(replace(newest, meta=commit.meta, fresh=fresh))
        crash_point("before_commit")

    def _publish(self, group: Sequence[Waiting], commit: Commit) -> None:
        crash_point("after_commit")
        self._fresh.begin()
        state = self._publication.of(commit.meta.sequence)
        if state is not None:
            self._publication.publish(state)
        self._clock.merge(commit.meta.last_ordinal)
        clock = self._clock.now()
        metrics.COMMITTED_WRITES.inc(len(commit.changes))
        self.indexes.noted(commit.changed_count)
        self.queue.note_ended(group)
        for waiting, outcome in zip(group, commit.outcomes, strict=True):
            if isinstance(outcome, ShoalError):
                waiting.answer.set_exception(outcome)
            else:
                outcome.clock = clock
                waiting.answer.set_result(outcome)
        self._changed(self)

    def _refuse(self, group: Sequence[Waiting], error: ShoalError) -> None:
        # What is repeated by the gateway that sent it has not ended.
        if not isinstance(error, UnavailableError):
            self.queue.note_ended(group)
        for waiting in group:
            waiting.answer.set_exception(error)

    def _fail(self, group: Sequence[Waiting], error: BaseException) -> None:
        """Close after a failed commit; the worker opens the shard anew at its next use."""
        self.failed = True
        rest = self.queue.abandon("a commit failed")
        metrics.FAILED_COMMITS.inc()
        is_full = self._is_disk_full(error) and not self._was_stored()
        told: ShoalError
        if is_full:
            told = self._disk_full()
        else:
            told = UnavailableError(
                f"a commit of shard {self.shard_id} failed, whether the write was applied is "
                f"unknown: {error}",
                metadata={"shard_id": self.shard_id},
            )
        _logger.error("commit_failed", shard_id=self.shard_id, error=str(error), disk_full=is_full)
        self._refuse(group, told)
        for waiting in rest:
            # They were not begun: nothing of them was applied.
            if waiting.answer.set_running_or_notify_cancel():
                waiting.answer.set_exception(
                    OverloadedError(
                        f"shard {self.shard_id} is being opened anew: repeat",
                        metadata={"shard_id": self.shard_id},
                        retry_after_s=0.1,
                    )
                )
        self._changed(self)

    def _is_disk_full(self, error: BaseException) -> bool:
        # LMDB makes EIO of a write that came out short, as the last one on a full disk does.
        code = getattr(error, "code", getattr(error, "errno", None))
        disk = os.statvfs(self.directory)
        has_no_room = disk.f_bavail * disk.f_frsize < _MINIMUM_FREE_BYTES
        return code == errno.ENOSPC or (code == errno.EIO and has_no_room)

    def _was_stored(self) -> bool:
        """Whether the page that makes a commit true was written before the commit failed."""
        try:
            with self._environment.read() as txn:
                return self.store.meta(txn).sequence != self.newest.meta.sequence
        except (lmdb.Error, DamagedValueError, EnvironmentClosedError):
            return True

    # Cutting.

    def cut(self, hold: Hold, admitted: Iterable[bytes]) -> Future[Cut]:
        """Let batches in that have ended elsewhere; then fix what the shard holds, and let go.

        Raises:
            FailedPreconditionError: If it is not held any more.
        """
        future: Future[Cut] = Future()
        future.set_running_or_notify_cancel()

        def take() -> None:
            try:
                reader = self._environment.stand()
            except (EnvironmentClosedError, lmdb.Error) as error:
                self.queue.let_go(hold, str(error))
                future.set_exception(lost_hold(self.shard_id, str(error)))
                return
            is_held = self.queue.release(hold)
            if not is_held:
                reader.close()
                future.set_exception(lost_hold(self.shard_id, "its time has run out"))
                return
            future.set_result(Cut(reader, self.newest.meta))

        self.queue.admit(hold, admitted, take, future.set_exception)
        return future

    @property
    def is_being_cut(self) -> bool:
        """Whether it is held, or a state of it is being copied."""
        return self.queue.is_held or self._environment.has_standing_readers

    # Compaction.

    @property
    def environment(self) -> Environment:
        """Where its records lie."""
        return self._environment

    def keep_log(self, first: int) -> Future[None]:
        """Keep log entries from a sequence on, whatever the log's bounds; done when it holds."""
        done: Future[None] = Future()

        def keep() -> None:
            self._committer.keep_log_from = first
            done.set_result(None)

        self.queue.run_exclusively(keep)
        return done

    def let_log_go(self) -> None:
        """Let the log be trimmed again."""
        self._committer.keep_log_from = None

    # Graphs.

    def write_derived(
        self, work: Callable[[Transaction], None], then: Callable[[], None] | None = None
    ) -> Future[None]:
        """Change what is derived, in a transaction of its own between two commits.

        What `work` raises is raised to who waits, and nothing is changed. A commit that fails
        closes the shard, as any other does.

        Args:
            work: The change.
            then: Called when it is committed, before the next commit.
        """
        done: Future[None] = Future()

        def run() -> None:
            try:
                self._check_disk(0)
                self._environment.write(work)
            except (DamagedIndexError, DamagedValueError, OverloadedError) as error:
                done.set_exception(error)
            except (lmdb.Error, OSError, EnvironmentClosedError) as error:
                done.set_exception(error)
                self._fail([], error)
            else:
                if then is not None:
                    then()
                done.set_result(None)

        self.queue.run_exclusively(run)
        return done

    def hold_back(self, keys: Sequence[int]) -> Future[None]:
        """Leave vectors of the fresh set out of every graph from now on, durably."""

        def publish() -> None:
            self._fresh.hold_back(keys)
            fresh = self._fresh.snapshot(self.newest.meta.sequence)
            self._publication.publish(replace(self.newest, fresh=fresh))

        return self.write_derived(lambda txn: self.store.hold_back(txn, keys), publish)

    def adopt_graph(self, sequence: int) -> Future[None]:
        """Open a checkpoint that was built, and publish it between two commits.

        The old graph lives on until its last reader is done. A future that is cancelled before is
        not published: then whoever cancelled it may cut its vectors off again.
        """
        done: Future[None] = Future()
        path = checkpoint_path(self.directory, sequence)
        newest = self.newest
        try:
            graph = Graph.open(
                path,
                self.configuration.fit,
                self.shard_id,
                newest.meta.dimension,
                self.configuration.ef_search,
            )
            vector_path = vector_file_path(self.directory, graph.vector_file)
            file = VectorFile.open(
                vector_path, self.shard_id, newest.meta.dimension, graph.vector_count
            )
        except (DamagedCheckpointError, DamagedVectorsError) as error:
            metrics.REFUSED_CHECKPOINTS.labels(error.reason).inc()
            done.set_exception(error)
            return done

        def swap() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                deaths = Deaths(graph.keys, self._are_current(graph.keys))
            except (DamagedValueError, lmdb.Error) as error:
                done.set_exception(error)
                return
            self._fresh = self._fresh.without(graph.last_key, deaths)
            meta = self.newest.meta
            fresh = self._fresh.snapshot(meta.sequence)
            vectors = GraphVectors(graph.keys, file, deaths, self._vectors_damaged)
            self._publication.publish(State(meta, graph, fresh, vectors=vectors))
            crash_point("graph_swapped")
            try:
                remove_checkpoints_except(self.directory, path, vector_path)
            except OSError as error:
                # They are removed after the next graph.
                _logger.warning("old_checkpoints_stay", shard_id=self.shard_id, error=str(error))
            done.set_result(None)

        self.queue.run_exclusively(swap)
        return done

    def _are_current(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Say which keys of a new graph are current. On the draining thread, between commits."""
        state = self.newest
        here = self._fresh.are_current(keys)
        if state.vectors is not None:
            return here | state.vectors.deaths.are_current(keys)
        if state.ungraphed is not None:
            return here | state.ungraphed.deaths.are_current(keys)
        if state.graph is None and not state.unloaded_below:
            return here
        with self._environment.read() as txn:
            return are_current(txn, self.store, self.indexes, state.meta, keys)

    def _vectors_damaged(self, error: DamagedVectorsError) -> None:
        """Have a graph and its vectors built anew. On whatever thread met the damage."""
        metrics.REFUSED_CHECKPOINTS.labels(error.reason).inc()
        _logger.warning("vectors_damaged", shard_id=self.shard_id, detail=str(error))
        self._changed(self)

    def configure(self, configuration: Configuration) -> None:
        """Take over what may change of a collection's configuration."""
        self.configuration = configuration
        graph = self.newest.graph
        if graph is not None:
            graph.set_ef_search(configuration.ef_search)
        # What was too little for a graph may be enough now.
        self._changed(self)

    def disk_bytes(self) -> int:
        """Give the bytes of the shard's files."""
        return size_of_files(self.directory)

    # Closing.

    def stop_unless_cut(self) -> bool:
        """Finish what is queued and take nothing more, unless closing would end a cut or a copy.

        Returns:
            Whether it was stopped; readers go on.
        """
        return self.queue.stop_unless(lambda: self.is_being_cut)

    def close(self) -> None:
        """Finish what is queued, wait for readers, and close."""
        self.queue.stop()
        self._environment.close()
