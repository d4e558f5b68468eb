"""Cuts of a worker's shards: held for an attempt, cut at one point in time, copied, stored.

```
HoldShards   →  Attempt: every shard held; by itself it lets go after its time
CutShards    →  Cut: a standing reader on every shard; copies are written from them at once
StoreCut     →  the copies are put into the store
ReleaseCut   →  nothing is left
```

Copies lie in ``cuts/<cut>/<shard>`` beside the shards. What a process has cut ends with it: at the
next start the directory is emptied. A cut that nobody has asked for in ten minutes is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.server import logs, open_files
from shoal.server.crash import crash_point
from shoal_worker.cuts import CutPart, WorkerCut
from shoal_worker.environment import STANDING_MAP_BYTES, EnvironmentClosedError
from shoal_worker.holds import Hold, lost_hold
from shoal_worker.shard import Cut, Shard
from shoal_worker.store import Meta
from shoal_worker.storing import Storing
from shoal_worker.writes import Batch

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2 import ShardReference
    from shoal_worker.holding import Holding
    from shoal_worker.worker import Worker

__all__ = ["Cutting"]

_logger: Final = logs.get_logger(__name__)

IDLE_S: Final = 10 * 60.0
"""After so long without a call a cut is given up: its coordinator is gone."""

MAX_CUTS: Final = 64
"""Attempts and cuts at a time."""

_SETTLING_S: Final = 3.0
"""After its start a worker does not know which batches had ended in its shards, and a gateway goes
on for so long with a batch whose worker was restarted."""

_FIRST_LOOK_S: Final = 0.005
_LAST_LOOK_S: Final = 0.1
"""How often a call that waits for the store looks whether it need not any more."""

_RESERVE_LOOKS: Final = 20
_RESERVE_LOOK_S: Final = 0.003
"""How long moments are sought in which the maps of the shards can grow."""

_ADDRESS_SPACE_BYTES: Final = 16 * 1024**4
"""What the maps of open shards share for this: of the 128 TiB of a process a part that leaves
enough also if shards are opened by and by."""

_FILES_A_SHARD: Final = 5


@dataclass(slots=True)
class _HeldPart:
    """One shard of an attempt."""

    holding: Holding
    shard: Shard
    hold: Hold


@dataclass(slots=True)
class _Attempt:
    """Shards that are held.

    Attributes:
        parts: In the order of the call, by shard.
        in_use: Keeps the shards open.
        ended: What was answered.
    """

    cut_id: str
    hold_s: float
    parts: dict[str, _HeldPart] = field(default_factory=dict)
    in_use: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    ended: list[list[Batch]] = field(default_factory=list)
    timer: threading.Timer | None = None


class Cutting:
    """All cuts of a worker.

    Args:
        worker: Whose shards are cut.
        directory: Where copies lie; emptied by `start`.
    """

    def __init__(self, worker: Worker, directory: Path) -> None:
        self._worker = worker
        self._directory = directory
        self._lock = threading.Lock()
        self._attempts: dict[str, _Attempt] = {}  # guarded by _lock
        self._cuts: dict[str, WorkerCut] = {}  # guarded by _lock
        self._copier = ThreadPoolExecutor(1, "shoal-copying")
        self._storers = ThreadPoolExecutor(2, "shoal-storing")
        self._started_at = time.monotonic()
        self._had_shards = False
        self._idle_timer: threading.Timer | None = None  # guarded by _lock

    def start(self, *, had_shards: bool) -> None:
        """Remove what an earlier process has left."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._had_shards = had_shards
        self._started_at = time.monotonic()

    # Holding.

    async def hold(
        self, cut_id: str, references: Sequence[ShardReference], hold_s: float
    ) -> list[list[Batch]]:
        """Hold shards, and give for each the batches that have ended in it.

        Raises:
            ShoalError: Nothing is held; the attempt is void.
        """
        with self._lock:
            attempt = self._attempts.get(cut_id)
            if attempt is not None and attempt.ended:
                return attempt.ended
            if attempt is not None or cut_id in self._cuts:
                raise FailedPreconditionError(f"cut {cut_id} was begun before")
            if len(self._attempts) + len(self._cuts) >= MAX_CUTS:
                raise FailedPreconditionError(f"the worker has {MAX_CUTS} cuts under way")
            attempt = self._attempts[cut_id] = _Attempt(cut_id, hold_s)
        try:
            await self._worker.off_loop(functools.partial(self._prepare, attempt, references))
            self._begin_holds(attempt)
            waits = [asyncio.wrap_future(part.hold.held) for part in attempt.parts.values()]
            answers = await asyncio.gather(*waits, return_exceptions=True)
        except BaseException:
            self._give_up(attempt, "the attempt was given up")
            raise
        for answer in answers:
            if isinstance(answer, BaseException):
                self._give_up(attempt, "another shard of the attempt could not be held")
                raise answer
        attempt.ended = [answer for answer in answers if not isinstance(answer, BaseException)]
        crash_point("shards_held")
        return attempt.ended

    def _prepare(self, attempt: _Attempt, references: Sequence[ShardReference]) -> None:
        """Open the shards, and let their maps grow, before anybody waits."""
        if open_files.fitting(len(references), _FILES_A_SHARD) < len(references):
            raise FailedPreconditionError(
                f"{len(references)} shards cannot be open at a time: raise the limit of open files "
                "(ulimit -n)"
            )
        held = self._worker.held
        for reference in references:
            holding = held.find(reference.collection_id, reference.shard_id, reference.epoch)
            self._check_settled(holding)
            attempt.in_use.enter_context(held.using(holding))
            shard = holding.ready or held.opened(holding)
            attempt.parts[shard.shard_id] = _HeldPart(holding, shard, Hold(attempt.cut_id))

        self._reserve(attempt)
        with self._lock:
            is_wanted = self._attempts.get(attempt.cut_id) is attempt
        if not is_wanted:
            # Its caller has left meanwhile.
            attempt.in_use.close()
            raise _void(attempt.cut_id)

    def _reserve(self, attempt: _Attempt) -> None:
        """Let the maps grow as far as they may have to while readers stand."""
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            # A map that cannot be made is the end of its shard: what there is must do.
            return
        open_count = max(1, len(self._worker.held.open))
        room_bytes = min(STANDING_MAP_BYTES, _ADDRESS_SPACE_BYTES // open_count)
        shards = [part.shard for part in attempt.parts.values()]
        for _ in range(_RESERVE_LOOKS):
            try:
                shards = [s for s in shards if not s.environment.reserve_for_standing(room_bytes)]
            except EnvironmentClosedError as error:
                raise _void(attempt.cut_id) from error
            if not shards:
                break
            # A shard without the room is copied all the same: its map has some, and if that is not
            # enough, the copy ends and no writer waits.
            time.sleep(_RESERVE_LOOK_S)

    def _check_settled(self, holding: Holding) -> None:
        identity = holding.identity
        waits_s = self._started_at + _SETTLING_S - time.monotonic()
        if self._had_shards and waits_s > 0 and identity and len(identity.entry.shards) > 1:
            raise UnavailableError(
                f"the worker was started just now, and batches over several shards may be under "
                f"way from before: repeat in {waits_s:.1f} s",
                retry_after_s=waits_s,
            )

    def _begin_holds(self, attempt: _Attempt) -> None:
        timer = threading.Timer(
            attempt.hold_s,
            self._give_up,
            (attempt, f"its {round(1000 * attempt.hold_s)} ms have run out"),
        )
        timer.daemon = True
        attempt.timer = timer
        timer.start()
        for part in attempt.parts.values():
            try:
                part.shard.queue.hold(part.hold)
            except EnvironmentClosedError as error:
                raise lost_hold(part.shard.shard_id, "it was closed") from error

    def _give_up(self, attempt: _Attempt, why: str) -> None:
        """Let go of everything; harmless if it was cut or given up before."""
        with self._lock:
            if self._attempts.get(attempt.cut_id) is not attempt:
                return
            del self._attempts[attempt.cut_id]
        self._let_go(attempt, why)
        attempt.in_use.close()

    def _let_go(self, attempt: _Attempt, why: str) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        for part in attempt.parts.values():
            part.shard.queue.let_go(part.hold, why)

    # Cutting.

    async def cut(self, cut_id: str, admitted: Mapping[str, Sequence[bytes]]) -> list[Meta]:
        """Cut shards that are held, with the batches that must be in, and begin to copy them.

        Args:
            cut_id: The attempt.
            admitted: For each of its shards, the batches that have ended elsewhere.

        Returns:
            What each shard knows about itself at that point.

        Raises:
            ShoalError: The attempt is void; nothing is held.
        """
        with self._lock:
            known = self._cuts.get(cut_id)
            attempt = self._attempts.get(cut_id)
        if known is not None:
            return [part.meta for part in known.parts.values()]
        if attempt is None:
            raise _void(cut_id)
        if set(admitted) != set(attempt.parts):
            self._give_up(attempt, "the attempt was given up")
            raise InvalidArgumentError(f"cut {cut_id} was begun with other shards")
        futures: dict[str, Future[Cut]] = {}
        try:
            for shard_id, batch_ids in admitted.items():
                part = attempt.parts[shard_id]
                futures[shard_id] = part.shard.cut(part.hold, batch_ids)
            waits = [asyncio.wrap_future(future) for future in futures.values()]
            await asyncio.gather(*waits)
            return self._cut_is_there(attempt, futures)
        except BaseException:
            self._give_up(attempt, "the attempt was given up")
            for future in futures.values():
                future.add_done_callback(_close_reader)
            raise

    def _cut_is_there(self, attempt: _Attempt, futures: dict[str, Future[Cut]]) -> list[Meta]:
        parts: dict[str, CutPart] = {}
        for shard_id, future in futures.items():
            taken = future.result()
            source = (taken, attempt.parts[shard_id].shard.store)
            parts[shard_id] = CutPart(shard_id, taken.meta, source)
        cluster_id = str(self._worker.cluster_id)
        cut = WorkerCut(attempt.cut_id, cluster_id, parts, self._directory / attempt.cut_id)
        with self._lock:
            if self._attempts.get(attempt.cut_id) is not attempt:
                raise _void(attempt.cut_id)
            del self._attempts[attempt.cut_id]
            self._cuts[attempt.cut_id] = cut
            self._watch_idle()
        if attempt.timer is not None:
            attempt.timer.cancel()
        cut.in_use = attempt.in_use
        crash_point("shards_cut")
        self._copier.submit(cut.copy_all)
        return [part.meta for part in parts.values()]

    # Storing.

    async def store(
        self, cut_id: str, url: str, known: Sequence[StoredShard], wait_s: float
    ) -> Storing:
        """Put the copies of a cut into the store; waits for a while, not longer.

        Raises:
            NotFoundError: If there is no such cut (any more).
            ShoalError: Why it failed.
        """
        with self._lock:
            cut = self._cuts.get(cut_id)
            if cut is None:
                raise NotFoundError(
                    f"worker {self._worker.worker_id} has no cut {cut_id}: it was started anew, or "
                    "the cut was released"
                )
            cut.asked_at = time.monotonic()
            storing = cut.storing
            if storing is None or storing.has_failed:
                storing = cut.storing = Storing(cut, url, known, storing)
                self._storers.submit(storing.run)
        until = time.monotonic() + wait_s
        pause_s = _FIRST_LOOK_S
        while not storing.is_over and time.monotonic() + pause_s < until:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)
        cut.asked_at = time.monotonic()
        storing.check()
        return storing

    # Ending.

    async def release(self, cut_id: str) -> None:
        """Give up an attempt or a cut, and remove its copies."""
        await self._worker.off_loop(lambda: self._release(cut_id))

    def _release(self, cut_id: str) -> None:
        with self._lock:
            attempt = self._attempts.get(cut_id)
            cut = self._cuts.pop(cut_id, None)
        if attempt is not None:
            self._give_up(attempt, "the attempt was released")
        if cut is not None:
            self._remove(cut)

    def _remove(self, cut: WorkerCut) -> None:
        cut.is_released = True
        # Its copying may be behind that of others: then it finds that it is released.
        cut.copied_all.add_done_callback(lambda _: shutil.rmtree(cut.directory, ignore_errors=True))

    def _watch_idle(self) -> None:
        """With the lock held."""
        if self._idle_timer is None and self._cuts:
            self._idle_timer = threading.Timer(IDLE_S / 10, self._end_idle)
            self._idle_timer.daemon = True
            self._idle_timer.start()

    def _end_idle(self) -> None:
        with self._lock:
            self._idle_timer = None
            longest = time.monotonic() - IDLE_S
            idle = [cut for cut in self._cuts.values() if cut.asked_at < longest]
            for cut in idle:
                del self._cuts[cut.cut_id]
            self._watch_idle()
        for cut in idle:
            _logger.warning("cut_abandoned", cut_id=cut.cut_id)
            self._remove(cut)

    def close(self) -> None:
        """Give up everything."""
        with self._lock:
            attempts, cuts = list(self._attempts.values()), list(self._cuts.values())
            self._cuts.clear()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
        for attempt in attempts:
            self._give_up(attempt, "the worker is stopping")
        for cut in cuts:
            self._remove(cut)
        self._copier.shutdown()
        self._storers.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)


def _void(cut_id: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the shards are not held any more: cut {cut_id} is not known, or its time has run out"
    )


def _close_reader(future: Future[Cut]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().reader.close()
