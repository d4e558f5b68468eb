"""Which of a worker's shards are open: in the order of their last use, and what they hold.

Bounded by count and by memory: what was not used for longest goes first. Nothing here opens or
closes anything, and nothing takes longer for more shards, but for choosing what is to be closed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from shoal.errors import DataLossError
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal_worker.holds import EndedBatches
from shoal_worker.shard import Shard

__all__ = ["Holding", "OpenShards", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a shard, open or not.

    Attributes:
        record_count: Records.
        fresh_count: Those that no graph holds yet; 0 for one that was not open in this process.
        sequence: Of its last write.
        disk_bytes: Bytes of its files.
    """

    record_count: int
    fresh_count: int
    sequence: int
    disk_bytes: int

    @staticmethod
    def of(shard: Shard) -> Summary:
        """Look at a shard, open or just closed."""
        state = shard.newest
        meta = state.meta
        return Summary(meta.record_count, state.fresh.live_count, meta.sequence, shard.disk_bytes())


class Holding:
    """One held shard.

    Attributes:
        identity: Whose it is, at which epoch; None if it cannot be read.
        loss: Why it cannot serve, or None.
    """

    def __init__(
        self, shard_id: UUID, identity: ShardIdentity | None, loss: DataLossError | None
    ) -> None:
        self.shard_id = shard_id
        self.name = str(shard_id)
        self.identity = identity
        self.loss = loss
        self.lock = threading.Lock()  # held while it is opened, closed, changed or deleted
        self.shard: Shard | None = None  # replaced under the lock, read without
        self.opening_count = 0  # under the lock
        self.is_gone = False
        self.summary: Summary | None = None  # under the lock: as it was closed, or looked at
        self.ended_batches = EndedBatches()  # guarded by the lock of the shard that is open
        # The rest is guarded by the lock of OpenShards.
        self.user_count = 0  # calls that are about to use it, or do
        self.used_at = 0.0  # when the last of them began; monotonic
        self.memory_bytes = 0  # as it was last weighed; 0 if it is closed

    @property
    def ready(self) -> Shard | None:
        """The shard, if it is open and sound."""
        shard = self.shard
        return shard if shard is not None and not shard.failed else None

    @property
    def version(self) -> object:
        """What is another one if the summary may be another one; None: nobody has looked yet.

        What an index takes in makes files grow, too: therefore its lag.
        """
        shard = self.ready
        if shard is None:
            return self.summary
        state = shard.newest
        graph_sequence = state.graph.sequence if state.graph is not None else 0
        return self.opening_count, state.meta.sequence, graph_sequence, shard.indexes.lag


class _Use:
    """Keeps a shard from being closed: a class, for a generator costs each call twice as much."""

    __slots__ = ("_holding", "_lock", "_open")

    def __init__(
        self, holding: Holding, lock: threading.Lock, open_holdings: OrderedDict[str, Holding]
    ) -> None:
        self._holding = holding
        self._lock = lock
        self._open = open_holdings

    def __enter__(self) -> None:
        with self._lock:
            self._holding.user_count += 1
            self._holding.used_at = time.monotonic()
            if self._holding.name in self._open:
                self._open.move_to_end(self._holding.name)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._holding.user_count -= 1


class OpenShards:
    """The holdings that are open.

    Args:
        max_count: How many may be.
        max_memory_bytes: What they may hold outside of graphs.
    """

    def __init__(self, max_count: int, max_memory_bytes: int) -> None:
        self._max_count = max_count
        self._max_memory_bytes = max_memory_bytes
        self._lock = threading.Lock()
        self._holdings: OrderedDict[str, Holding] = OrderedDict()  # guarded by _lock; oldest first
        self._memory_bytes = 0  # guarded by _lock: the sum of what they weigh

    def __len__(self) -> int:
        return len(self._holdings)

    def all(self) -> list[Holding]:
        """Give all, the one that was not used for longest first."""
        with self._lock:
            return list(self._holdings.values())

    def using(self, holding: Holding) -> _Use:
        """Keep a shard from being closed to make room, in a `with`."""
        return _Use(holding, self._lock, self._holdings)

    def add(self, holding: Holding) -> None:
        """Take note that one was opened."""
        with self._lock:
            holding.used_at = time.monotonic()
            self._holdings[holding.name] = holding
            self._holdings.move_to_end(holding.name)
        self.weigh(holding)

    def remove(self, holding: Holding) -> None:
        """Take note that one was closed; harmless if it was before."""
        with self._lock:
            if self._holdings.pop(holding.name, None) is not None:
                self._memory_bytes -= holding.memory_bytes
                holding.memory_bytes = 0

    def weigh(self, holding: Holding) -> None:
        """Take note of what one holds by now; harmless if it is closed."""
        shard = holding.shard
        if shard is None:
            return
        memory_bytes = shard.memory_bytes
        with self._lock:
            if holding.name in self._holdings:
                self._memory_bytes += memory_bytes - holding.memory_bytes
                holding.memory_bytes = memory_bytes

    def are_too_many(self) -> bool:
        """Whether one must be closed for their number."""
        return len(self._holdings) > self._max_count

    def hold_too_much(self) -> bool:
        """Whether one must be closed for its memory."""
        return self._memory_bytes > self._max_memory_bytes

    def unused_since(self, moment: float) -> list[Holding]:
        """Give those that nobody uses, nor has begun to use since a moment (monotonic)."""
        found = []
        with self._lock:
            for holding in self._holdings.values():
                if holding.used_at > moment:
                    break
                if not holding.user_count:
                    found.append(holding)
        return found
