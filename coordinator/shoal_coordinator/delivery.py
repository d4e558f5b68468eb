"""What workers must still be told: deletions and newer copies of catalog entries.

Deletions are records of the catalog and outlive the coordinator; which copies are outdated is found
again when a worker registers and reports them. Each worker has one task while something is due for
it and it can be reached; everything is repeated, ever more slowly, until the worker has confirmed.
All calls are idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    ShoalError,
    StaleRouteError,
)
from shoal.internal.v1.catalog_pb2 import ShardDeletion
from shoal.internal.v1.worker_service_pb2 import DeleteShardRequest, UpdateShardRequest
from shoal.server import logs
from shoal.server.rpc import call
from shoal_coordinator import metrics
from shoal_coordinator.changes import Changes
from shoal_coordinator.state import CatalogState, Change
from shoal_coordinator.table import RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import ShardControlServiceAsyncStub

_log = logs.get_logger(__name__)

WorkerStub = Callable[[str], "ShardControlServiceAsyncStub"]
"""Gives the stub for a worker's address, whether that is in another process or in this one."""

CALLS_AT_A_TIME: Final = 16
"""To one worker: it syncs a file for each, and has other work."""

CALL_TIMEOUT_S: Final = 10.0
"""Deleting a large shard takes a while; the worker answers when its directory is out of use."""

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


class Delivery:
    """Tells workers what is due, until they have confirmed.

    Args:
        reachable: Gives the address of a worker that is registered and heard from, else None.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        worker_stub: WorkerStub,
        reachable: Callable[[str], str | None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._worker_stub = worker_stub
        self._reachable = reachable
        # By worker and shard: its deletion, or None for a newer copy of its entry.
        self._due: dict[str, dict[str, ShardDeletion | None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Cut the pause of a worker's task short.
        self._nudges: dict[str, asyncio.Event] = {}
        self._settled = asyncio.Event()
        self.delete(table.state.deletions.values())

    def delete(self, deletions: Iterable[ShardDeletion]) -> None:
        """Have these shards deleted, which the catalog has recorded as such."""
        holders: set[str] = set()
        for deletion in deletions:
            # Takes the place of a newer copy, should one be due.
            self._due.setdefault(deletion.worker_id, {})[deletion.shard_id] = deletion
            holders.add(deletion.worker_id)
        for worker_id in holders:
            self.wake(worker_id)

    def update(self, worker_id: str, shard_ids: Iterable[str]) -> None:
        """Have the copies of the catalog entry beside these shards replaced by the present one."""
        due = self._due.setdefault(worker_id, {})
        for shard_id in shard_ids:
            due.setdefault(shard_id, None)
        self.wake(worker_id)

    def wake(self, worker_id: str) -> None:
        """Go on with a worker, which can be reached perhaps."""
        self._measure()
        self._nudges.setdefault(worker_id, asyncio.Event()).set()
        task = self._tasks.get(worker_id)
        if not self._due.get(worker_id) or (task is not None and not task.done()):
            return
        if self._reachable(worker_id) is None:
            return
        self._tasks[worker_id] = asyncio.create_task(
            self._serve(worker_id), name=f"delivery to {worker_id}"
        )

    async def wait(self, shards: Iterable[tuple[str, str]], timeout_s: float) -> bool:
        """Wait until nothing is due for these (worker, shard) whose worker can be reached.

        Returns:
            Whether that is so; False if the time ran out.
        """
        waited = list(shards)
        try:
            async with asyncio.timeout(timeout_s):
                while any(
                    shard_id in self._due.get(worker_id, ())
                    and self._reachable(worker_id) is not None
                    for worker_id, shard_id in waited
                ):
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop; what is due stays so in the catalog."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _serve(self, worker_id: str) -> None:
        pause_s = _FIRST_PAUSE_S
        nudge = self._nudges[worker_id]
        while due := self._due.get(worker_id):
            nudge.clear()
            failed = False
            round_ = list(due.items())
            for first in range(0, len(round_), CALLS_AT_A_TIME):
                address = self._reachable(worker_id)
                if address is None:
                    # Registering wakes it again.
                    return
                failed |= not await self._deliver(
                    worker_id, address, round_[first : first + CALLS_AT_A_TIME]
                )
            if failed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await nudge.wait()
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S
        self._due.pop(worker_id, None)

    async def _deliver(
        self, worker_id: str, address: str, batch: list[tuple[str, ShardDeletion | None]]
    ) -> bool:
        """Deliver a few at once; give whether all were confirmed."""
        stub = self._worker_stub(address)
        done = await asyncio.gather(
            *(
                self._update(stub, worker_id, shard_id)
                if deletion is None
                else self._delete(stub, worker_id, deletion)
                for shard_id, deletion in batch
            )
        )
        confirmed = [item for item, ok in zip(batch, done, strict=True) if ok]
        deleted = tuple(shard_id for shard_id, deletion in confirmed if deletion is not None)
        if deleted:
            try:
                await self._changes.make(lambda state: _confirm(state, deleted))
            except ShoalError as error:
                _log.warning("deletion_not_recorded", worker_id=worker_id, error=error.message)
                return False
        due = self._due.get(worker_id, {})
        for shard_id, deletion in confirmed:
            # A deletion may have taken the place of the copy while that was under way.
            if due.get(shard_id) is deletion:
                due.pop(shard_id, None)
        self._measure()
        self._settled.set()
        self._settled = asyncio.Event()
        return all(done)

    async def _delete(
        self, stub: ShardControlServiceAsyncStub, worker_id: str, deletion: ShardDeletion
    ) -> bool:
        request = DeleteShardRequest(
            cluster_id=self._table.state.cluster_id, worker_id=worker_id, deletion=deletion
        )
        try:
            await call(stub.DeleteShard, request, timeout_s=CALL_TIMEOUT_S)
        except ShoalError as error:
            _log.warning(
                "shard_deletion_postponed",
                shard_id=deletion.shard_id,
                worker_id=worker_id,
                error=error.message,
            )
            return False
        return True

    async def _update(
        self, stub: ShardControlServiceAsyncStub, worker_id: str, shard_id: str
    ) -> bool:
        state = self._table.state
        entry = state.active(state.collection_of_shard.get(shard_id, ""))
        if entry is None:
            return True
        request = UpdateShardRequest(
            cluster_id=state.cluster_id, worker_id=worker_id, shard_id=shard_id, entry=entry
        )
        try:
            await call(stub.UpdateShard, request, timeout_s=CALL_TIMEOUT_S)
        except (DataLossError, FailedPreconditionError, NotFoundError, StaleRouteError) as error:
            # It does not have the shard: nothing to repeat. When it has it again it registers it.
            _log.warning(
                "entry_copy_refused", shard_id=shard_id, worker_id=worker_id, error=error.message
            )
            return True
        except ShoalError as error:
            _log.info(
                "entry_copy_postponed", shard_id=shard_id, worker_id=worker_id, error=error.message
            )
            return False
        # False if it changed again while this was under way.
        return self._table.state.active(entry.collection.id) in (entry, None)

    def _measure(self) -> None:
        metrics.DELETIONS.set(len(self._table.state.deletions))
        copies = sum(d is None for due in self._due.values() for d in due.values())
        metrics.STALE_COPIES.set(copies)


def _confirm(state: CatalogState, shard_ids: tuple[str, ...]) -> tuple[Change | None, None]:
    recorded = tuple(shard_id for shard_id in shard_ids if shard_id in state.deletions)
    return (Change(confirmed_deletions=recorded) if recorded else None), None
