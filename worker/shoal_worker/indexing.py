"""Keeps the derived indexes of a worker's shards up, behind the acknowledgement.

One thread serves all shards. It prepares a step in a read transaction and hands the sorted puts to
the shard's draining thread, which writes them between two groups of commits: a writer waits for one
such step at most, and the step's own sync is the only one it adds.

Changes are gathered for a moment before they are taken in: a step of 2,000 rows costs little more
than one of 20. Until then readers examine them directly.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

import lmdb

from shoal.errors import ShoalError
from shoal.server import logs
from shoal_worker import metrics
from shoal_worker.environment import EnvironmentClosedError, Transaction
from shoal_worker.indexes import DerivedIndex, Step
from shoal_worker.sealed import DamagedIndexError, DamagedValueError
from shoal_worker.shard import Shard

__all__ = ["Indexing"]

_logger: Final = logs.get_logger(__name__)

GATHER_S: Final = 0.1
"""How long changes are gathered, unless there are many of them."""

GATHER_ROWS: Final = 4096
"""Changes at which gathering ends: examining more of them directly would show in searches."""

REST_SHARE: Final = 5.0
"""Of the time of a step, how long a shard that is being written to is left alone after it: the
interpreter is the writers' meanwhile. 20,000 documents with all text indexes, beside the same with
indexing held still, as the median of seven on a busy machine: 0.97 with 5, 0.86 with 2."""

HURRY_RATIO: Final = 0.25
"""Of the bound of the backlog, from where on there is no rest."""

NICENESS: Final = 5
"""The thread gives way to searches, as the builder does: of three that want two cores, the kernel
let searches wait for it by whole ticks of 4 ms. Commits do not: somebody waits for those."""

_WRITE_TIMEOUT_S: Final = 600.0
_RETRY_S: Final = 5.0


class Indexing:
    """The thread that takes changes into indexes."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._waiting: dict[str, tuple[Shard, float]] = {}  # guarded by _wake: due when
        self._rests_until: dict[str, float] = {}  # guarded by _wake; by shard ID
        self._paused = False  # guarded by _wake
        self._is_closing = False  # guarded by _wake
        self._thread = threading.Thread(target=self._run, name="shoal-indexing", daemon=True)

    def start(self) -> None:
        """Begin to take shards."""
        self._thread.start()

    def consider(self, shard: Shard) -> None:
        """Have a shard's indexes kept up if they lag. Called after each change; costs next to
        nothing."""
        self._consider(shard, rest_s=0.0)

    def _consider(self, shard: Shard, rest_s: float) -> None:
        if shard.failed or not shard.indexes.lag:
            return
        with self._wake:
            if self._is_closing:
                return
            known = self._waiting.get(shard.shard_id)
            now = time.monotonic()
            rests_until = self._rests_until.get(shard.shard_id, 0.0)
            if rest_s:
                rests_until = self._rests_until[shard.shard_id] = now + rest_s
            due_at = now + GATHER_S
            if known is not None and known[0] is shard:
                due_at = known[1]
            if shard.indexes.backlog >= GATHER_ROWS:
                due_at = 0.0
            self._waiting[shard.shard_id] = (shard, max(due_at, rests_until))
            self._wake.notify()

    def leave(self, shard: Shard) -> None:
        """Let go of a shard that is about to be closed."""
        with self._wake:
            known = self._waiting.get(shard.shard_id)
            if known is not None and known[0] is shard:
                del self._waiting[shard.shard_id]
            self._rests_until.pop(shard.shard_id, None)

    def pause(self) -> None:
        """Take nothing in until `resume`; what is under way is finished."""
        with self._wake:
            self._paused = True

    def resume(self) -> None:
        """Go on."""
        with self._wake:
            self._paused = False
            self._wake.notify()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._is_closing = True
            self._waiting.clear()
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        if sys.platform == "linux":
            # Of this thread alone; elsewhere it would be the process's.
            os.nice(NICENESS)
        while (shard := self._next()) is not None:
            began, sequence = time.monotonic(), shard.newest.meta.sequence
            try:
                advance(shard)
            except EnvironmentClosedError:
                # Closed meanwhile: considered again when it is opened.
                continue
            except (ShoalError, DamagedValueError, lmdb.Error, OSError) as error:
                metrics.FAILED_INDEX_STEPS.inc()
                _logger.warning("index_step_failed", shard_id=shard.shard_id, error=str(error))
                self._pause()
            except FutureTimeoutError:
                _logger.warning("index_step_timed_out", shard_id=shard.shard_id)
            has_writers = shard.newest.meta.sequence != sequence
            rest_s = REST_SHARE * (time.monotonic() - began)
            self._consider(
                shard, rest_s if has_writers and shard.backlog_ratio < HURRY_RATIO else 0.0
            )

    def _next(self) -> Shard | None:
        with self._wake:
            while not self._is_closing:
                now = time.monotonic()
                due, shard_id = min(
                    ((due, shard_id) for shard_id, (_, due) in self._waiting.items()),
                    default=(float("inf"), ""),
                )
                if due <= now and not self._paused:
                    self._rests_until.pop(shard_id, None)
                    return self._waiting.pop(shard_id)[0]
                self._wake.wait(None if due == float("inf") or self._paused else due - now)
            return None

    def _pause(self) -> None:
        """Wait before the next step, so that what fails at once does not fail without end."""
        with self._wake:
            if not self._is_closing:
                self._wake.wait_for(lambda: self._is_closing, _RETRY_S)


def advance(shard: Shard) -> bool:
    """Bring a shard's indexes one step forward.

    Returns:
        Whether there was anything to do.

    Raises:
        EnvironmentClosedError: If the shard was closed meanwhile.
    """
    with metrics.INDEX_STEP_SECONDS.time():
        with shard.pin() as pinned:
            unusable = shard.indexes.unusable(pinned.txn, pinned.state.meta)
            steps: list[Step] = []
            found_damage = False
            if not unusable:
                for index in shard.indexes.all:
                    try:
                        step = shard.indexes.prepare(pinned.txn, index, pinned.state.meta)
                    except DamagedIndexError as error:
                        _report(shard, index, error)
                        found_damage = True
                        continue
                    if step is not None:
                        steps.append(step)
        if unusable:
            _drop(shard, unusable)
            return True
        if not steps:
            return found_damage
        try:
            shard.write_derived(lambda txn: shard.indexes.take(txn, steps)).result(_WRITE_TIMEOUT_S)
        except DamagedIndexError as error:
            for step in steps:
                _report(shard, step.index, error)
            return True
        shard.indexes.taken(steps)
        return True


def _report(shard: Shard, index: DerivedIndex, error: DamagedIndexError) -> None:
    _logger.warning("index_damaged", shard_id=shard.shard_id, index=index.name, detail=str(error))
    shard.indexes.report_damage(index)


def _drop(shard: Shard, unusable: list[DerivedIndex]) -> None:
    def drop(txn: Transaction) -> None:
        shard.indexes.drop(txn, shard.store.meta(txn), unusable)

    shard.write_derived(drop).result(_WRITE_TIMEOUT_S)
    shard.indexes.dropped(unusable)
    for index in unusable:
        metrics.DROPPED_INDEXES.labels(index.name).inc()
    _logger.warning(
        "indexes_dropped", shard_id=shard.shard_id, indexes=[index.name for index in unusable]
    )
