"""Holding a shard's commits, so that many shards can be cut at one point in time.

While a shard is held its writes wait in its queue, and none fails. A client's batch may have parts
in several shards, and one of them may have been committed where another has not arrived yet; so
each shard says which batches have *ended* in it (committed or refused), and is then told which ones
to *admit*, because they have ended elsewhere. When those have ended here, too, no batch is in by
half, the shard is cut, and let go.

A batch counts as ended for as long as its caller waits. After that nothing of it is on its way any
more: its client was told that it is written in part, or nobody is there to be told.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from shoal.errors import FailedPreconditionError, OverloadedError
from shoal_worker.writes import Batch

__all__ = ["EndedBatches", "Hold", "lost_hold"]

MAX_ENDED_BATCHES: Final = 100_000
"""Batches that are remembered at most: a thousand a second for longer than callers wait. Beyond it
a shard cannot be held until some are forgotten."""


def lost_hold(shard_id: str, why: str) -> FailedPreconditionError:
    """Make the error that voids an attempt."""
    return FailedPreconditionError(
        f"shard {shard_id} is not held any more: {why}", metadata={"shard_id": shard_id}
    )


class EndedBatches:
    """The batches over several shards that have ended in one shard.

    Args:
        now: The monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # In order of their end, which is nearly that of their expiry.
        self._ended: deque[Batch] = deque()
        self._overfull_until = 0.0

    def note(self, batch: Batch) -> None:
        """Take note of one that has ended."""
        self._forget()
        if len(self._ended) >= MAX_ENDED_BATCHES:
            self._overfull_until = max(
                self._overfull_until, *(b.expires_at for b in (self._ended.popleft(),))
            )
        self._ended.append(batch)

    def _forget(self) -> None:
        now = self._now()
        while self._ended and self._ended[0].expires_at <= now:
            self._ended.popleft()

    def current(self, shard_id: str) -> list[Batch]:
        """Give those whose time has not run out, each once.

        Raises:
            OverloadedError: If there were too many to remember.
        """
        now = self._now()
        if self._overfull_until > now:
            raise OverloadedError(
                f"shard {shard_id} takes part in more than {MAX_ENDED_BATCHES} writes over several "
                "shards at a time: repeat later",
                metadata={"shard_id": shard_id},
            )
        return list({b.id: b for b in self._ended if b.expires_at > now}.values())


class Hold:
    """One shard, held for one attempt. Everything here is guarded by the shard's lock.

    Args:
        cut_id: The attempt.
    """

    def __init__(self, cut_id: str) -> None:
        self.cut_id = cut_id
        self.held: Future[list[Batch]] = Future()
        # Who waits for it may leave, but must not take it from the draining thread.
        self.held.set_running_or_notify_cancel()
        self._admitted: frozenset[bytes] = frozenset()
        self._missing: set[bytes] | None = None
        self._cut: Callable[[], None] | None = None
        self._refuse: Callable[[FailedPreconditionError], None] | None = None

    def admit(
        self,
        batch_ids: Iterable[bytes],
        ended: Sequence[Batch],
        cut: Callable[[], None],
        refuse: Callable[[FailedPreconditionError], None],
    ) -> None:
        """Let batches in; when they have ended, the shard is cut.

        Args:
            batch_ids: Which.
            ended: Those that have ended here.
            cut: Called by the draining thread, between commits, when all have ended.
            refuse: Called if it comes to nothing.
        """
        self._admitted = frozenset(batch_ids)
        self._missing = set(self._admitted) - {batch.id for batch in ended}
        self._cut, self._refuse = cut, refuse

    def admits(self, batch: Batch | None) -> bool:
        """Whether a write may pass."""
        return batch is not None and batch.id in self._admitted

    def ended(self, batch: Batch) -> None:
        """Take note that a batch has ended."""
        if self._missing is not None:
            self._missing.discard(batch.id)

    def take_cut(self) -> Callable[[], None] | None:
        """Give what cuts the shard, if nothing is missing; once."""
        if self._cut is None or self._missing:
            return None
        cut, self._cut = self._cut, None
        return cut

    def end(self, shard_id: str, why: str) -> None:
        """Say to who waits that it is over."""
        error = lost_hold(shard_id, why)
        if not self.held.done():
            self.held.set_exception(error)
        if self._cut is not None and self._refuse is not None:
            self._cut = None
            self._refuse(error)
