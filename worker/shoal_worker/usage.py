"""What the worker's shards hold, for the coordinator, which holds quotas against it.

Reports are incremental: with a heartbeat goes what has changed since the last one that was
answered. A shard that is open is looked at each time, which costs two numbers in memory and the
sizes of its files; one that is not open has not changed, and is opened once after each
registration, a few with each heartbeat, because a coordinator that was restarted knows nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError
from shoal.internal.v1.membership_service_pb2 import ShardUsage
from shoal.internal.v1.worker_service_pb2 import ShardReference
from shoal_worker.environment import EnvironmentClosedError

if TYPE_CHECKING:
    from shoal_worker.holding import Holding
    from shoal_worker.shard import Shard
    from shoal_worker.worker import Worker

__all__ = ["UsageReports"]

MAX_REPORTED: Final = 1_000
"""Shards in one heartbeat."""

_MAX_OPENED: Final = 16
"""Closed shards that are opened for one heartbeat."""

_OPENING_S: Final = 1.0
"""How long one heartbeat waits for shards to be opened. One that has lost its graph may take longer
than a worker may be silent: it is reported with a later one."""


class UsageReports:
    """Gathers what is to be reported.

    Args:
        worker: Whose shards.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # As last reported and answered, by shard.
        self._reported: dict[str, ShardUsage] = {}
        # Of closed shards that an earlier heartbeat did not wait for any longer, by shard.
        self._opening: dict[str, asyncio.Task[ShardUsage | None]] = {}

    def forget(self) -> None:
        """Report everything again: to a coordinator that may know nothing."""
        self._reported.clear()

    async def changed(self) -> list[ShardUsage]:
        """Give what has changed since it was last `answered`."""
        found: list[ShardUsage] = []
        closed_left = _MAX_OPENED
        give_up_at = time.monotonic() + _OPENING_S
        for holding in self._worker.held.all():
            if len(found) >= MAX_REPORTED:
                break
            shard_id = str(holding.shard_id)
            if holding.ready is None:
                if shard_id in self._reported or closed_left == 0:
                    continue
                closed_left -= 1
                usage = await self._opened_until(give_up_at, holding)
            else:
                self._opening.pop(shard_id, None)
                usage = await self._usage_of(holding)
            if usage is not None and usage != self._reported.get(shard_id):
                found.append(usage)
        return found

    def answered(self, usages: list[ShardUsage]) -> None:
        """Note that the coordinator has taken this in."""
        for usage in usages:
            self._reported[usage.shard_id] = usage
        if len(self._reported) > 2 * len(self._worker.held.all()):
            held = {str(holding.shard_id) for holding in self._worker.held.all()}
            self._reported = {i: u for i, u in self._reported.items() if i in held}

    async def _opened_until(self, give_up_at: float, holding: Holding) -> ShardUsage | None:
        """Open a closed shard and give what it holds; None if that takes longer."""
        shard_id = str(holding.shard_id)
        opening = self._opening.get(shard_id)
        if opening is None:
            opening = asyncio.create_task(self._usage_of(holding), name="opening for usage")
            self._opening[shard_id] = opening
        left_s = max(0.0, give_up_at - time.monotonic())
        if not (await asyncio.wait([opening], timeout=left_s))[0]:
            return None
        del self._opening[shard_id]
        return opening.result()

    async def _usage_of(self, holding: Holding) -> ShardUsage | None:
        identity = holding.identity
        if identity is None:
            return None
        reference = ShardReference(
            collection_id=identity.entry.collection.id,
            shard_id=identity.shard_id,
            epoch=identity.epoch,
        )
        try:
            return await self._worker.read(reference, _measure(str(holding.shard_id)), _never)
        except (ShoalError, EnvironmentClosedError):
            return None  # damaged, or going: whoever asks for its data is told


def _measure(shard_id: str) -> Callable[[Shard], ShardUsage]:
    def measure(shard: Shard) -> ShardUsage:
        return ShardUsage(
            shard_id=shard_id,
            record_count=shard.newest.meta.record_count,
            disk_bytes=shard.disk_bytes(),
        )

    return measure


def _never(_shard: Shard) -> bool:
    """File sizes are asked of the kernel: not on the event loop."""
    return False
