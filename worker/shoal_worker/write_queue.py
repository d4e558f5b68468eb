"""The queue of a shard: writes that wait for their commit, tasks between commits, and holds.

One thread at a time drains it. The writes that wait are taken as a group, which shares one
transaction and one sync; between two groups come the tasks that must not meet a commit. While the
shard is held for a cut, writes stay in the queue, but for those that the hold admits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

from shoal.errors import FailedPreconditionError, OverloadedError
from shoal.internal.v1.worker_service_pb2 import WriteShardResponse
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.holds import EndedBatches, Hold, lost_hold
from shoal_worker.writes import Write

__all__ = ["Waiting", "WriteQueue"]

MAX_QUEUED_WRITES: Final = 1024
MAX_QUEUED_BYTES: Final = 256 * 1024 * 1024
"""What waits for a commit at most; beyond it a writer is refused, and may come again."""

MAX_HELD_WRITES: Final = 16 * 1024
"""The same while the shard is held for a cut: none fails, though none is committed meanwhile."""

MAX_GROUP_WRITES: Final = 256
MAX_GROUP_BYTES: Final = 32 * 1024 * 1024
"""What shares one transaction at most, so that the first of a group does not wait long for the
last."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A write in the queue, and who waits for it."""

    write: Write
    answer: Future[WriteShardResponse]


class WriteQueue:
    """Orders what changes one shard.

    Args:
        shard_id: For errors.
        executor: Drains queues; a few threads shared by all shards of the worker.
        commit: Called on the draining thread with a group; answers each of them.
    """

    def __init__(
        self, shard_id: str, executor: Executor, commit: Callable[[Sequence[Waiting]], None]
    ) -> None:
        self._shard_id = shard_id
        self._executor = executor
        self._commit = commit
        self._lock = threading.Lock()
        self._waiting: deque[Waiting] = deque()  # guarded by _lock
        self._waiting_bytes = 0  # guarded by _lock
        self._tasks: deque[Callable[[], None]] = deque()  # guarded by _lock
        self._draining = False  # guarded by _lock: a thread is at it, or about to be
        self._hold: Hold | None = None  # guarded by _lock: writes wait, but for those it admits
        # Guarded by _lock. The holding's own, once it has one: it outlives this object.
        self.ended_batches = EndedBatches()
        self._is_closed = False  # guarded by _lock
        self._drained = threading.Condition(self._lock)

    def __len__(self) -> int:
        """Writes that wait for their commit."""
        return len(self._waiting)

    @property
    def is_closed(self) -> bool:
        """Whether it takes nothing more."""
        return self._is_closed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or under way."""
        with self._lock:
            return not self._draining and not self._waiting and self._hold is None

    @property
    def is_held(self) -> bool:
        """Whether writes wait for a cut."""
        return self._hold is not None

    # Putting in.

    def submit(self, write: Write) -> Future[WriteShardResponse]:
        """Queue a write.

        Returns:
            Its answer.

        Raises:
            EnvironmentClosedError: If the queue is closed.
            OverloadedError: If it is at its bound.
        """
        waiting = Waiting(write, Future())
        with self._lock:
            self._check_open()
            most = MAX_QUEUED_WRITES if self._hold is None else MAX_HELD_WRITES
            size = self._waiting_bytes + write.size_bytes
            if len(self._waiting) >= most or size > MAX_QUEUED_BYTES:
                raise OverloadedError(
                    f"shard {self._shard_id} has {len(self._waiting)} writes waiting: repeat later",
                    metadata={"shard_id": self._shard_id},
                    retry_after_s=0.1,
                )
            self._waiting.append(waiting)
            self._waiting_bytes = size
            self._start_draining()
        return waiting.answer

    def run_exclusively(self, task: Callable[[], None]) -> None:
        """Run a task between commits, on the draining thread.

        Raises:
            EnvironmentClosedError: If the queue is closed.
        """
        with self._lock:
            self._check_open()
            self._tasks.append(task)
            self._start_draining()

    def _check_open(self) -> None:
        """With the lock held."""
        if self._is_closed:
            raise EnvironmentClosedError(f"shard {self._shard_id} takes no more writes")

    # Draining.

    def _start_draining(self) -> None:
        """With the lock held."""
        if not self._draining:
            self._draining = True
            self._executor.submit(self._drain)

    def _drain(self) -> None:
        try:
            while self._drain_once():
                pass
        except BaseException:
            with self._lock:
                self._draining = False
                self._drained.notify_all()
            raise

    def _drain_once(self) -> bool:
        with self._lock:
            cut = self._hold.take_cut() if self._hold is not None else None
            group = self._next_group() if cut is None else []
            tasks = list(self._tasks)
            self._tasks.clear()
            if not group and not tasks and cut is None:
                self._draining = False
                self._drained.notify_all()
                return False
        for task in tasks:
            task()
        if cut is not None:
            cut()
        if group:
            self._commit(group)
        return True

    def _next_group(self) -> list[Waiting]:
        """With the lock held."""
        if self._hold is not None:
            return self._next_admitted(self._hold)
        group: list[Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP_WRITES:
            size += self._waiting[0].write.size_bytes
            if group and size > MAX_GROUP_BYTES:
                break
            waiting = self._waiting.popleft()
            self._waiting_bytes -= waiting.write.size_bytes
            # A caller that has gone away before its turn is not written for.
            if waiting.answer.set_running_or_notify_cancel():
                group.append(waiting)
        return group

    def _next_admitted(self, hold: Hold) -> list[Waiting]:
        """With the lock held."""
        admitted = [waiting for waiting in self._waiting if hold.admits(waiting.write.batch)]
        group: list[Waiting] = []
        for waiting in admitted[:MAX_GROUP_WRITES]:
            self._waiting.remove(waiting)
            self._waiting_bytes -= waiting.write.size_bytes
            if waiting.answer.set_running_or_notify_cancel():
                group.append(waiting)
        return group

    def note_ended(self, group: Sequence[Waiting]) -> None:
        """Take note that writes have been committed or refused."""
        with self._lock:
            for waiting in group:
                batch = waiting.write.batch
                if batch is not None:
                    self.ended_batches.note(batch)
                    if self._hold is not None:
                        self._hold.ended(batch)

    # Holding.

    def hold(self, hold: Hold) -> None:
        """Hold the writes that are not under way; `hold.held` is done when those have ended.

        Raises:
            EnvironmentClosedError: If the queue is closed.
            FailedPreconditionError: If it is held already.
        """
        with self._lock:
            self._check_open()
            if self._hold is not None:
                raise FailedPreconditionError(
                    f"shard {self._shard_id} is held for cut {self._hold.cut_id}: repeat later",
                    metadata={"shard_id": self._shard_id},
                )
            self._hold = hold
            self._tasks.append(lambda: self._confirm(hold))
            self._start_draining()

    def _confirm(self, hold: Hold) -> None:
        """On the draining thread, behind the commit that was under way."""
        with self._lock:
            if self._hold is not hold:
                return
            try:
                hold.held.set_result(self.ended_batches.current(self._shard_id))
            except OverloadedError as error:
                hold.held.set_exception(error)

    def admit(
        self,
        hold: Hold,
        batch_ids: Iterable[bytes],
        then: Callable[[], None],
        refuse: Callable[[FailedPreconditionError], None],
    ) -> None:
        """Let batches in that have ended elsewhere, though the queue is held.

        Args:
            hold: The present one.
            batch_ids: Which.
            then: Called on the draining thread, between commits, when all of them have ended.
            refuse: Called if it comes to nothing.

        Raises:
            FailedPreconditionError: If it is not held any more.
        """
        with self._lock:
            if self._hold is not hold:
                raise lost_hold(self._shard_id, "its time has run out")
            hold.admit(batch_ids, self.ended_batches.current(self._shard_id), then, refuse)
            self._start_draining()

    def release(self, hold: Hold) -> bool:
        """End a hold whose shard has been cut.

        Returns:
            Whether it was held until now.
        """
        # Whoever ends a hold does so with the lock held: now it is certain.
        with self._lock:
            is_held, self._hold = self._hold is hold, None
            self._start_draining()
        return is_held

    def let_go(self, hold: Hold, why: str) -> None:
        """End a hold; harmless if it has ended."""
        with self._lock:
            if self._hold is hold:
                self._end_hold(why)
                self._start_draining()

    def _end_hold(self, why: str) -> None:
        """With the lock held."""
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.end(self._shard_id, why)

    # Closing.

    def abandon(self, why: str) -> list[Waiting]:
        """Take nothing more, and do nothing of what waits.

        Returns:
            What waited: nothing of it was begun.
        """
        with self._lock:
            self._is_closed = True
            rest = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._end_hold(why)
        return rest

    def stop_unless(self, is_needed: Callable[[], bool]) -> bool:
        """As `stop`, but not if something holds at the moment of closing.

        Returns:
            Whether it was stopped.
        """
        with self._lock:
            if is_needed():
                return False
            self._is_closed = True
        self.stop()
        return True

    def stop(self) -> None:
        """Finish what is queued, and take nothing more."""
        with self._lock:
            self._is_closed = True
            if self._hold is not None:
                self._end_hold("it was closed")
                self._start_draining()
            while self._draining:
                self._drained.wait()
            # It is the shard's own: with it, what a closed shard held would stay until Python next
            # looks for what refers to itself.
            self._commit = _commit_nothing


def _commit_nothing(group: Sequence[Waiting]) -> None:
    raise AssertionError(f"{len(group)} writes came to a queue that was stopped")
