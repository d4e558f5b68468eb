"""Says which reads run on the event loop though nobody can say before what they take: by a filter.

On a thread such a read costs a third more: it is handed over and back, and runs with another core's
cold caches. On the loop it holds up everybody else. So the last ones tell: after one that took long
the next go to threads, until as many were short again; and what is begun on the loop and takes
longer after all ends at its next check, to be done again on a thread. Time is that of the CPU: a
read is not long because others compute beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from shoal_worker.shard import Shard

__all__ = ["ShortReads", "TooLongError"]

_T = TypeVar("_T")

_LONG_S: Final = 0.003
"""A read that takes longer belongs on a thread: what handing it over costs is then a tenth, and
others wait for it. Most filtered queries of 100,000 vectors take 1 ms, and beside others that use
the same memory 2."""

_AFTER_LONG: Final = 16
"""Reads that go to threads after a long one: if each of them would have been long, a sixteenth of
the time is spent on beginnings that end at a check."""

_UNKNOWN: Final = 1
"""Reads that go to threads at first: they find out where things lie, and remember it."""

_BACKLOG_CHANGES: Final = 256
"""Changes that indexes have not taken in: a filter looks at those records, in 4 µs each."""

_FRESH_NUMBERS: Final = 3_000_000
"""Numbers of the vectors of a fresh set, which a search scans: 1 ms."""


class TooLongError(Exception):
    """A read on the event loop takes too long there: it is to be done again on a thread."""


class ShortReads:
    """How long reads of one kind took lately, by shard. Asked on the event loop alone."""

    def __init__(self) -> None:
        # Entries are made on the event loop; threads change their numbers. If a change is lost, a
        # read more or less goes to a thread.
        self._to_threads: WeakKeyDictionary[Shard, list[int]] = WeakKeyDictionary()

    def attempt(self, check: Callable[[], None], *, may_be_short: bool) -> Attempt:
        """Begin a read of one shard.

        Args:
            check: Called now and then; what it raises ends the read.
            may_be_short: Whether nothing in it is likely to take long. If something is, what it
                takes says nothing about other reads.
        """
        return Attempt(self, check, may_be_short)

    def likely(self, shard: Shard) -> bool:
        """Whether the next read is likely to be short."""
        left = self._to_threads.get(shard)
        if left is None:
            self._to_threads[shard] = [_UNKNOWN]
            return False
        state = shard.newest
        return (
            not left[0]
            and not state.unloaded_below
            and state.ungraphed is None
            and state.fresh.size * state.meta.dimension <= _FRESH_NUMBERS
            and shard.indexes.backlog <= _BACKLOG_CHANGES
        )

    def took(self, shard: Shard, seconds: float) -> None:
        """Take note of a read."""
        left = self._to_threads.get(shard)
        if left is not None:
            left[0] = _AFTER_LONG if seconds > _LONG_S else max(0, left[0] - 1)


class Attempt:
    """One read, on the event loop or on a thread."""

    def __init__(self, reads: ShortReads, check: Callable[[], None], may_be_short: bool) -> None:
        self._reads = reads
        self._check = check
        self._may_be_short = may_be_short
        self._is_inline = False

    def is_cheap(self, shard: Shard) -> bool:
        """Whether it may run on the event loop; if so, `run` follows at once."""
        self._is_inline = self._may_be_short and self._reads.likely(shard)
        return self._is_inline

    def run(self, shard: Shard, read: Callable[[Callable[[], None]], _T]) -> _T:
        """Run it, giving it what to call now and then.

        Raises:
            TooLongError: If it runs on the event loop and takes too long.
        """
        # Once: if it is run again, then on a thread.
        is_inline, self._is_inline = self._is_inline, False
        began = time.thread_time()

        def check() -> None:
            self._check()
            if time.thread_time() - began > _LONG_S:
                raise TooLongError

        try:
            return read(check if is_inline else self._check)
        finally:
            if self._may_be_short:
                self._reads.took(shard, time.thread_time() - began)
