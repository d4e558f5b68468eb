"""The worker: the shards of one data directory, and how calls reach them.

    worker = Worker(data_dir, settings=WorkerSettings(...))
    await worker.start()                      # locks and reads the directory; serves from it at
    once worker.join(membership_stub, address)     # registers in the background, and stays
    registered await worker.joined()                     # optional: until the coordinator has
    taken it in ...                                       # worker.data_service,
    worker.control_service await worker.close()

It serves from its own directory whether the coordinator is there or not.

Reads run where they are cheapest: a search that takes a millisecond or less on the event loop
itself (handing it to a thread costs as much, and under load waits for the interpreter), anything
longer on a thread. Commits never run on the loop.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import lmdb

from shoal.errors import DataLossError, FailedPreconditionError, UnavailableError
from shoal.internal.v1.membership_service_pb2 import HeldShard
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.internal.v1.worker_service_pb2 import ShardReference, WriteShardResponse
from shoal.server import logs, open_files
from shoal.server.clock import HybridClock
from shoal_worker.building import Building
from shoal_worker.closing import Closing
from shoal_worker.compacting import Compacting
from shoal_worker.control_service import ShardControlService
from shoal_worker.cutting import Cutting
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.filling import Filling
from shoal_worker.holding import HeldShards, Holding
from shoal_worker.indexing import Indexing
from shoal_worker.layout import DataDirectory
from shoal_worker.membership import Membership
from shoal_worker.sealed import DamagedValueError
from shoal_worker.service import ShardDataService
from shoal_worker.settings import WorkerSettings
from shoal_worker.shard import Shard
from shoal_worker.short_reads import TooLongError
from shoal_worker.usage import UsageReports
from shoal_worker.writes import Write

__all__ = ["Worker"]

_T = TypeVar("_T")

_logger: Final = logs.get_logger(__name__)

_FILES_A_SHARD: Final = 7
"""LMDB's three, and two graphs with their vectors while one takes the other's place."""

_SLOW_FROM: Final = 0.5
_SLOWEST_S: Final = 0.5
"""From half of the backlog's bound on an answer waits, half a second at the bound: a writer of
batches of 1,000 then comes to fewer vectors a second than the builder takes in."""

_LOOKUPS: Final = 5
"""How often a call looks a shard up that is closed under it each time, before it gives up."""


class Worker:
    """The shards of one data directory.

    Args:
        data_dir: Its place; made if it is missing.
        settings: The role's settings; ports and addresses are `main`'s business.
        clock: Gives ordinals; default: the machine's.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: WorkerSettings | None = None,
        clock: HybridClock | None = None,
    ) -> None:
        self.settings = settings or WorkerSettings()
        self.clock = clock or HybridClock()
        self.process_id = uuid4()
        self._data_dir = data_dir
        self._directory: DataDirectory | None = None
        self._held: HeldShards | None = None
        self._membership: Membership | None = None
        self._readers = ThreadPoolExecutor(self.settings.read_threads, "shoal-read")
        self._committers = ThreadPoolExecutor(self.settings.commit_threads, "shoal-commit")
        self._building = Building()
        self.indexing = Indexing()
        self.cutting = Cutting(self, data_dir / "cuts")
        self.filling = Filling(self, data_dir / "fills")
        self.compacting = Compacting(self._building, self.settings.erase_after_s, lambda: self.held)
        self._closing_unused = Closing(self.settings.close_after_s, lambda: self.held)
        self.data_service = ShardDataService(self)
        self.control_service = ShardControlService(self)

    # Life.

    async def start(self) -> None:
        """Lock the directory and read what it holds.

        Raises:
            DataDirectoryLockedError: If another process uses it.
            FailedPreconditionError: If it is not a worker's, or not this release's.
        """
        await self.off_loop(self._start)

    def _start(self) -> None:
        directory = DataDirectory(self._data_dir)
        try:
            self._held = HeldShards(
                directory,
                self._open_shard,
                self._max_open_shards(),
                self.settings.memory_bytes,
                self._leave,
            )
        except BaseException:
            directory.close()
            raise
        self._directory = directory
        self.filling.start()
        self.cutting.start(had_shards=bool(self._held.all()))
        self._building.start()
        self.indexing.start()
        self.compacting.start()
        self._closing_unused.start()

    def _max_open_shards(self) -> int:
        wanted = self.settings.max_open_shards
        allowed = open_files.fitting(wanted, _FILES_A_SHARD)
        if allowed < wanted:
            _logger.warning(
                "few_files_allowed",
                max_open_shards=wanted,
                open_shards=allowed,
                message="raise the limit of open files (ulimit -n) to keep more shards open",
            )
        return allowed

    def _open_shard(self, path: Path, identity: ShardIdentity) -> Shard:
        shard = Shard(
            path,
            identity,
            self.clock,
            self._committers,
            self._consider,
            max_loaded_bytes=self.settings.memory_bytes // 2,
        )
        # What a crash left without a graph is built now, not at the next write.
        self._consider(shard)
        return shard

    def _consider(self, shard: Shard) -> None:
        self.held.changed(shard)
        self._building.consider(shard)
        self.indexing.consider(shard)
        self.compacting.consider(shard)

    def _leave(self, shard: Shard) -> None:
        self._building.leave(shard)
        self.indexing.leave(shard)
        self.compacting.leave(shard)

    def join(self, stub: Any, address: str) -> None:
        """Register with the coordinator, in the background, and stay registered.

        Args:
            stub: Of MembershipService.
            address: host:port at which others reach this worker.
        """
        self._membership = Membership(
            stub,
            worker_id=self.worker_id,
            process_id=self.process_id,
            address=address,
            cluster_id=lambda: self.cluster_id,
            join=self.directory.join,
            held_shards=self._described_for_coordinator,
            usages=UsageReports(self),
        )
        self._membership.start()

    async def joined(self) -> None:
        """Wait until the coordinator has taken the worker in.

        Raises:
            FailedPreconditionError: If it refuses to: a foreign directory, or a second life of its
                UUID.
        """
        assert self._membership is not None, "join() comes first"
        await self._membership.wait_registered()

    async def refused(self) -> None:
        """Wait until the coordinator refuses the worker, and raise why; else wait for ever."""
        assert self._membership is not None, "join() comes first"
        await self._membership.wait_refused()

    async def close(self) -> None:
        """Finish what is queued, and let go of the directory."""
        if self._membership is not None:
            await self._membership.close()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._closing_unused.close()
        self.cutting.close()
        self.filling.close()
        self.compacting.close()
        self._building.close()
        self.indexing.close()
        if self._held is not None:
            self._held.close()
        self._readers.shutdown()
        self._committers.shutdown()
        if self._directory is not None:
            self._directory.close()
            self._directory = None

    # Who it is.

    @property
    def directory(self) -> DataDirectory:
        """The data directory; after `start`."""
        assert self._directory is not None, "start() comes first"
        return self._directory

    @property
    def held(self) -> HeldShards:
        """The shards; after `start`."""
        assert self._held is not None, "start() comes first"
        return self._held

    @property
    def worker_id(self) -> UUID:
        """The UUID from the data directory."""
        return self.directory.worker_id

    @property
    def cluster_id(self) -> UUID | None:
        """The cluster it belongs to; None if it has not joined one."""
        return self.directory.cluster_id

    def check_addressed(self, cluster_id: str, worker_id: str) -> None:
        """Check that the coordinator means this worker.

        Raises:
            FailedPreconditionError: If it means another one, or is another cluster's.
        """
        own = (str(self.cluster_id or ""), str(self.worker_id))
        if own != (cluster_id, worker_id):
            raise FailedPreconditionError(
                f"this is worker {own[1]} of cluster {own[0] or '(none yet)'}, the call is meant "
                f"for worker {worker_id} of cluster {cluster_id}"
            )

    def _described_for_coordinator(self) -> list[HeldShard]:
        described = []
        for holding in self.held.all():
            identity = holding.identity
            # One that is lost is left out: what it held is in no copy here.
            if identity is not None:
                described.append(
                    HeldShard(
                        shard_id=identity.shard_id, epoch=identity.epoch, entry=identity.entry
                    )
                )
        return described

    # Calls.

    async def off_loop(self, work: Callable[[], _T]) -> _T:
        """Run work that would hold up the event loop on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def read(
        self,
        reference: ShardReference,
        work: Callable[[Shard], _T],
        is_cheap: Callable[[Shard], bool],
    ) -> _T:
        """Run a read on a shard.

        Args:
            reference: Which shard, at which epoch.
            work: The read; run again on the shard opened anew if it was closed meanwhile.
            is_cheap: Whether it may run on the event loop; if it takes too long, it is run again.

        Raises:
            StaleRouteError: If the shard is not held at that epoch.
            DataLossError: If it is gone, or the read met damage.
        """
        held = self.held
        for _ in range(_LOOKUPS):
            holding = held.find(reference.collection_id, reference.shard_id, reference.epoch)
            shard = holding.ready
            try:
                with held.using(holding):
                    if shard is not None and not shard.reading_waits and is_cheap(shard):
                        try:
                            return work(shard)
                        except TooLongError:
                            # On a thread, then; `suppress` would cost every query three calls.
                            pass
                    return await self.off_loop(functools.partial(self._run, holding, work))
            except EnvironmentClosedError:
                continue
            except (DamagedValueError, lmdb.Error) as error:
                raise self._data_loss(reference, error) from error
        raise self._closing(reference)

    async def write(self, reference: ShardReference, write: Write) -> WriteShardResponse:
        """Write a batch to a shard.

        Returns:
            Its answer, once it is durable and visible.
        """
        for _ in range(_LOOKUPS):
            holding = self._find(reference)
            with self.held.using(holding):
                shard = holding.ready
                if shard is None:
                    shard = await self.off_loop(functools.partial(self._opened, holding))
                try:
                    answer = shard.submit(write)
                except EnvironmentClosedError:
                    continue
            # From here on the shard is not idle until it has answered.
            response = await asyncio.wrap_future(answer)
            await self._slow_down(shard)
            return response
        raise self._closing(reference)

    async def _slow_down(self, shard: Shard) -> None:
        """Hold back a writer's answer as the backlog fills, so that few are ever refused."""
        excess = shard.backlog_ratio - _SLOW_FROM
        if excess > 0:
            await asyncio.sleep(min(1.0, excess / (1 - _SLOW_FROM)) * _SLOWEST_S)

    def _find(self, reference: ShardReference) -> Holding:
        return self.held.find(reference.collection_id, reference.shard_id, reference.epoch)

    def _run(self, holding: Holding, work: Callable[[Shard], _T]) -> _T:
        return work(self._opened(holding))

    def _opened(self, holding: Holding) -> Shard:
        return holding.ready or self.held.opened(holding)

    def _data_loss(self, reference: ShardReference, error: Exception) -> DataLossError:
        return DataLossError(
            f"shard {reference.shard_id} of collection {reference.collection_id}: {error}",
            metadata={"shard_id": reference.shard_id, "collection_id": reference.collection_id},
        )

    def _closing(self, reference: ShardReference) -> UnavailableError:
        return UnavailableError(
            f"shard {reference.shard_id} was closed {_LOOKUPS} times under the call: the worker is "
            "stopping, or its disk fails",
            metadata={"shard_id": reference.shard_id},
        )
