"""What the worker's shards hold, for the coordinator, which holds quotas against it.

Reports are incremental: with a heartbeat goes what has changed since the last one that was
answered. A shard that may have changed is looked at, whether it is open or not, which opens none;
after a start each is looked at once, a few with each heartbeat. All that happens on a thread: a
heartbeat waits a moment for it, and is sent without if it takes longer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError
from shoal.internal.v1.membership_service_pb2 import ShardUsage
from shoal_worker.environment import EnvironmentClosedError

if TYPE_CHECKING:
    from shoal_worker.open_shards import Holding
    from shoal_worker.worker import Worker

__all__ = ["UsageReports"]

MAX_REPORTED: Final = 1_000
"""Shards in one heartbeat."""

_LOOKING_S: Final = 0.1
"""How long one heartbeat has shards looked at that nobody has looked at since the start: a hundred
and more."""

_RECENTLY_S: Final = 60.0
_ALL_EVERY_S: Final = 15.0
"""A shard that was used within the last minute is asked with each heartbeat whether it has changed;
one that was not changes by what is built behind it alone. Asking takes 4 us."""

_WAIT_S: Final = 1.0
"""How long one heartbeat waits for a look: a disk may take longer than a worker may be silent."""


class UsageReports:
    """Gathers what is to be reported.

    Args:
        worker: Whose shards.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # As last reported and answered, by shard.
        self._reported: dict[str, ShardUsage] = {}
        # As last looked at, by shard, with the holding's version then. The look's, while there is
        # one.
        self._found: dict[str, tuple[object, ShardUsage]] = {}
        self._look: asyncio.Task[None] | None = None
        self._all_at = 0.0  # the look's: when all are asked again

    def forget(self) -> None:
        """Report everything again: to a coordinator that may know nothing."""
        self._reported.clear()

    async def changed(self) -> list[ShardUsage]:
        """Give what has changed since it was last `answered`."""
        if self._look is None:
            looking = self._worker.off_loop(self._look_at_all)
            self._look = asyncio.create_task(looking, name="looking at usage")
        if not (await asyncio.wait([self._look], timeout=_WAIT_S))[0]:
            return []
        look, self._look = self._look, None
        look.result()
        if len(self._reported) > 2 * len(self._found):
            self._reported = {i: u for i, u in self._reported.items() if i in self._found}
        changed: list[ShardUsage] = []
        for shard_id, (_, usage) in self._found.items():
            if len(changed) >= MAX_REPORTED:
                break
            known = self._reported.get(shard_id)
            if usage is not known and usage != known:
                changed.append(usage)
        return changed

    def answered(self, usages: list[ShardUsage]) -> None:
        """Note that the coordinator has taken this in."""
        for usage in usages:
            self._reported[usage.shard_id] = usage

    # On a thread.

    def _look_at_all(self) -> None:
        now = time.monotonic()
        give_up_at = now + _LOOKING_S
        are_all_due = now >= self._all_at
        if are_all_due:
            self._all_at = now + _ALL_EVERY_S
        holdings = self._worker.held.all()
        for holding in holdings:
            known = self._found.get(holding.name)
            if known is not None and not are_all_due and now - holding.used_at > _RECENTLY_S:
                continue
            version = holding.version
            if known is not None and known[0] == version:
                continue
            if version is None and time.monotonic() >= give_up_at:
                continue
            usage = self._usage_of(holding)
            if usage is not None:
                self._found[holding.name] = (version, usage)
        if len(self._found) > len(holdings):
            held = {holding.name for holding in holdings}
            self._found = {i: found for i, found in self._found.items() if i in held}

    def _usage_of(self, holding: Holding) -> ShardUsage | None:
        """Look at a shard; None if somebody opens or closes it just now, or it is damaged."""
        try:
            summary = self._worker.held.summary_at_once(holding)
        except (ShoalError, EnvironmentClosedError):
            return None  # whoever asks for its data is told
        if summary is None:
            return None
        return ShardUsage(
            shard_id=holding.name,
            record_count=summary.record_count,
            disk_bytes=summary.disk_bytes,
        )
