"""Decides when a shard is compacted: one thread for all shards of a worker, one at a time.

For room, when a large part of a file is free pages. To erase, when content that was deleted or
replaced is older than a bound; a graph with dead vectors is then built anew first, by the builder,
while the old one serves. The mark in the records (`erasure`) says since when, so that the bound
holds across restarts; a shard that is closed meanwhile is measured as it closes, and opened when it
is due.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Final

import lmdb

from shoal.errors import ShoalError
from shoal.server import logs
from shoal.server.clock import wall_ms
from shoal_worker import metrics
from shoal_worker.building import MINIMUM_GRAPH_VECTORS, Building
from shoal_worker.compaction import Compacted, Compaction, CompactionError
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.erasure import erasable_since
from shoal_worker.holding import HeldShards, Holding
from shoal_worker.sealed import DamagedIndexError, DamagedValueError
from shoal_worker.shard import Shard

__all__ = ["Compacting"]

_logger: Final = logs.get_logger(__name__)

FREE_SHARE: Final = 0.5
"""Of a file, the share of free pages at which it is compacted: what a copy costs is then at most
what it gives back. LMDB fills free pages again by itself; below this they are left to it."""

LEAST_FREE_BYTES: Final = 16 * 1024 * 1024
"""Free pages that are worth a compaction, whatever their share."""

_LOOK_EVERY_S: Final = 5.0
"""How often changed shards are looked at. Counting their pages takes some 20 µs each."""

_PAUSE_S: Final = 60.0
"""Between two compactions of one shard for room, and before one that failed is tried again."""

_REBUILD_WAIT_S: Final = 5.0
"""How often a graph that is being built anew is asked for."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a look at a shard found.

    Attributes:
        has_room: Whether it is to be compacted for room.
        erasable_since_ms: Since when it holds what is to be erased, or None.
    """

    has_room: bool
    erasable_since_ms: int | None


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """A graph that was asked to be built anew; who asks must not keep a closed shard alive."""

    shard: weakref.ref[Shard]
    asked_at_ms: int


class Compacting:
    """The thread that compacts.

    Args:
        building: Builds graphs anew.
        erase_after_s: When content that was removed must go.
        held: Gives the worker's shards.
    """

    def __init__(
        self, building: Building, erase_after_s: int, held: Callable[[], HeldShards]
    ) -> None:
        self._building = building
        self._erase_after_ms = erase_after_s * 1000
        self._held = held
        self._wake = threading.Condition()
        self._changed: dict[str, Shard] = {}  # guarded by _wake; open ones, not measured since
        self._closed: dict[str, _Measured] = {}  # guarded by _wake; measured as they were closed
        self._is_closing = False  # guarded by _wake
        # The rest belongs to whoever holds _turn: the thread, or a caller of `compact`.
        self._turn = threading.Lock()
        self._with_room: set[str] = set()
        self._erase_at_ms: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._rebuilds: dict[str, _Rebuild] = {}
        self._thread = threading.Thread(target=self._run, name="shoal-compacting", daemon=True)

    def start(self) -> None:
        """Begin to look at shards."""
        self._thread.start()

    def consider(self, shard: Shard) -> None:
        """Have a shard looked at, soon. Called after each change; costs next to nothing."""
        with self._wake:
            if not self._is_closing:
                self._changed[shard.shard_id] = shard

    def leave(self, shard: Shard) -> None:
        """Measure a shard that is about to be closed, if it has changed, and let go of it."""
        with self._wake:
            if self._changed.get(shard.shard_id) is not shard:
                return
            del self._changed[shard.shard_id]
        measured = self._measured(shard)
        if measured is not None:
            with self._wake:
                self._closed[shard.shard_id] = measured

    def close(self) -> None:
        """End the thread; a compaction under way is finished."""
        with self._wake:
            self._is_closing = True
            self._changed.clear()
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def compact(self, holding: Holding, *, erase: bool) -> Compacted:
        """Compact a shard now, whatever it measures.

        Args:
            holding: The shard's.
            erase: Whether everything removed so far must be gone afterwards; waits for the graph.

        Raises:
            CompactionError: If it was given up.
        """
        asked_at_ms = wall_ms()
        while True:
            with self._turn:
                compacted = self._compact(holding, asked_at_ms if erase else None)
            if compacted is not None:
                return compacted
            time.sleep(0.05)

    # The thread.

    def _run(self) -> None:
        while not self._waits(_LOOK_EVERY_S):
            with self._turn:
                due = self._look()
            for shard_id, is_erasing in due.items():
                if self._is_closing:
                    return
                if time.monotonic() >= self._not_before.get(shard_id, 0.0):
                    self._try(shard_id, is_erasing)

    def _waits(self, seconds: float) -> bool:
        """Wait; give whether the worker is closing."""
        with self._wake:
            return self._wake.wait_for(lambda: self._is_closing, seconds)

    def _look(self) -> dict[str, bool]:
        """Measure what has changed; give the shards that are due, and whether to erase."""
        with self._wake:
            changed, self._changed = self._changed, {}
            closed, self._closed = self._closed, {}
        for shard_id, measured in closed.items():
            self._note(shard_id, measured)
        for shard_id, shard in changed.items():
            found = self._measured(shard)
            if found is not None:
                self._note(shard_id, found)
                if shard.indexes.lag:
                    # What an index takes in, frees pages, too: look again.
                    self.consider(shard)
        now_s, now_ms = time.monotonic(), wall_ms()
        self._not_before = {i: at for i, at in self._not_before.items() if at > now_s}
        due = dict.fromkeys(self._with_room, False)
        due.update((i, True) for i, at_ms in self._erase_at_ms.items() if at_ms <= now_ms)
        return due

    def _note(self, shard_id: str, measured: _Measured) -> None:
        if measured.has_room:
            self._with_room.add(shard_id)
        else:
            self._with_room.discard(shard_id)
        if measured.erasable_since_ms is None:
            self._erase_at_ms.pop(shard_id, None)
        else:
            self._erase_at_ms[shard_id] = measured.erasable_since_ms + self._erase_after_ms

    @staticmethod
    def _measured(shard: Shard) -> _Measured | None:
        """Look at a shard; None if it cannot be looked at."""
        try:
            free, size = shard.environment.free_bytes(), shard.environment.file_bytes
            with shard.pin() as pinned:
                since = erasable_since(pinned.txn, shard.store.meta_db)
        except EnvironmentClosedError:
            return None  # looked at when it is opened again
        except (DamagedValueError, lmdb.Error) as error:
            _logger.warning("shard_not_measured", shard_id=shard.shard_id, error=str(error))
            return None
        return _Measured(free >= LEAST_FREE_BYTES and free >= FREE_SHARE * size, since)

    def _try(self, shard_id: str, is_erasing: bool) -> None:
        holding = next((h for h in self._held().all() if str(h.shard_id) == shard_id), None)
        pause_s = _PAUSE_S
        try:
            with self._turn:
                if holding is None or holding.loss is not None:
                    self._forget(shard_id)
                    return
                before_ms = wall_ms() - self._erase_after_ms if is_erasing else None
                if self._compact(holding, before_ms) is None:
                    pause_s = _REBUILD_WAIT_S
        except EnvironmentClosedError:
            pause_s = 0.0
        except (
            CompactionError,
            DamagedIndexError,
            DamagedValueError,
            FutureTimeoutError,
            OSError,
            ShoalError,
            lmdb.Error,
        ) as error:
            metrics.FAILED_COMPACTIONS.inc()
            _logger.warning("compaction_failed", shard_id=shard_id, error=str(error))
        self._not_before[shard_id] = time.monotonic() + pause_s

    def _forget(self, shard_id: str) -> None:
        self._with_room.discard(shard_id)
        self._erase_at_ms.pop(shard_id, None)
        self._not_before.pop(shard_id, None)
        self._rebuilds.pop(shard_id, None)

    # One shard. With the turn held.

    def _compact(self, holding: Holding, erase_before_ms: int | None) -> Compacted | None:
        """Compact; None if its graph has to be built anew first, which was asked for."""
        shard = self._held().opened(holding)
        clean_since_ms: int | None = None
        if erase_before_ms is not None:
            looked_at_ms = wall_ms()
            if not self._graph_is_ready(shard, erase_before_ms):
                return None
            rebuild = self._rebuilds.get(shard.shard_id)
            if rebuild is not None:
                clean_since_ms = rebuild.asked_at_ms
            elif not shard.newest.graph_dead_count:
                clean_since_ms = looked_at_ms
        begin = time.perf_counter()
        compaction = Compaction(
            shard, erase_before_ms=erase_before_ms, graph_clean_since_ms=clean_since_ms
        )
        compacted = compaction.run(lambda work: self._held().reopen(holding, shard, work))
        self._rebuilds.pop(shard.shard_id, None)
        # Measured again, for it was opened anew.
        self._with_room.discard(shard.shard_id)
        self._erase_at_ms.pop(shard.shard_id, None)
        reason = "room" if erase_before_ms is None else "erasure"
        metrics.COMPACTIONS.labels(reason).inc()
        metrics.COMPACTION_GATE_SECONDS.observe(compacted.gate_seconds)
        metrics.COMPACTED_BYTES.inc(max(0, compacted.before_bytes - compacted.after_bytes))
        _logger.info(
            "shard_compacted",
            shard_id=shard.shard_id,
            reason=reason,
            before_bytes=compacted.before_bytes,
            after_bytes=compacted.after_bytes,
            gate_seconds=round(compacted.gate_seconds, 4),
            seconds=round(time.perf_counter() - begin, 3),
        )
        return compacted

    def _graph_is_ready(self, shard: Shard, erase_before_ms: int) -> bool:
        """Whether no vector that died before a time is in the graph, or it is to be removed."""
        state = shard.newest
        if not state.graph_dead_count or state.meta.record_count < MINIMUM_GRAPH_VECTORS:
            return True
        rebuild = self._rebuilds.get(shard.shard_id)
        # A shard that was opened anew has forgotten that it was asked.
        is_asked = rebuild is not None and rebuild.shard() is shard
        if rebuild is None or not is_asked or rebuild.asked_at_ms < erase_before_ms:
            self._rebuilds[shard.shard_id] = _Rebuild(weakref.ref(shard), wall_ms())
            shard.wants_rebuild = True
            self._building.consider(shard)
            return False
        return not shard.wants_rebuild
