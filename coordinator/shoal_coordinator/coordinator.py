"""The coordinator as one object, for its own process and for roles that share one.

Start: open the catalog · raise the table's version above every one that can have been published ·
undo the creations that a crash interrupted, and say of snapshots under way that they have failed ·
serve. All that in one transaction after the opening.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_CREATING,
    ShardDeletion,
    WorkerEntry,
)
from shoal.internal.v1.worker_service_pb2_grpc import ShardControlServiceStub
from shoal.server import logs
from shoal.server.crash import crash_point
from shoal.server.rpc import channel
from shoal.server.tls import ChannelTls
from shoal.server.transport import AddressedChannel
from shoal_coordinator import backups, snapshots
from shoal_coordinator.api_keys import ApiKeys, BootstrapKey
from shoal_coordinator.backup_restoring import BackupRestorer
from shoal_coordinator.backups import Backups
from shoal_coordinator.catalog import Catalog
from shoal_coordinator.changes import Changes
from shoal_coordinator.creation import Creation
from shoal_coordinator.cuts import Cuts
from shoal_coordinator.delivery import Delivery, WorkerStub
from shoal_coordinator.housekeeping import Housekeeping
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.membership import HEARTBEAT_S, LEASE_S, Membership
from shoal_coordinator.namespaces import Namespaces
from shoal_coordinator.operations import Operations
from shoal_coordinator.quotas import Quotas, Usage
from shoal_coordinator.restoring import Filler, Restorer
from shoal_coordinator.service import CatalogService, MembershipService, RoutingService
from shoal_coordinator.snapshot_service import SnapshotCatalogService
from shoal_coordinator.snapshots import Snapshots
from shoal_coordinator.state import CatalogState, Change, deletions_of
from shoal_coordinator.stored_objects import StoredObjects
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable
from shoal_coordinator.taking import Taker

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import ShardControlServiceAsyncStub

_log = logs.get_logger(__name__)

_LEASE_CHECKS: Final = 10
"""In the time of a lease: it expires at most a tenth late."""


class Coordinator:
    """All of the coordinator but its sockets.

    After `start`, the four service objects answer calls; `close` lets go of the directory.

    Args:
        data_dir: Holds the catalog; made if it is not there.
        expected_workers: So many must register before the cluster is ready.
        allow_reset: Whether everything may be deleted by one call.
        recover: Rebuild the catalog, or complete it, from the copies in the workers' directories.
        bootstrap_key_file: Holds an API key with all rights; see `shoal_coordinator.api_keys`.
        snapshot_store: Where snapshots and backups lie, a URL or a directory; None: there are none.
        worker_stub: Gives the stub for a worker's address; None: by gRPC.
        tls: Of channels to workers, by gRPC.
        clock: Monotonic, seconds; for leases.
        watch: The same, for noticing that this process stood still.
        now: Seconds since 1970.
        cores: Default of a collection's `num_threads`; None: those of this machine.
        crash_point: Called between the steps of a change; for tests.
    """

    catalog_service: CatalogService
    routing_service: RoutingService
    membership_service: MembershipService
    snapshot_catalog_service: SnapshotCatalogService

    def __init__(
        self,
        data_dir: Path,
        *,
        expected_workers: int = 1,
        allow_reset: bool = False,
        recover: bool = False,
        bootstrap_key_file: Path | None = None,
        snapshot_store: str | None = None,
        worker_stub: WorkerStub | None = None,
        tls: ChannelTls | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        cores: int | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        lease_s: float = LEASE_S,
        crash_point: Callable[[str], None] = crash_point,
    ) -> None:
        self._data_dir = data_dir
        self._expected_workers = expected_workers
        self._allow_reset = allow_reset
        self._recover = recover
        self._bootstrap_key_file = bootstrap_key_file
        self._store = SnapshotStore(snapshot_store)
        self._remote = _RemoteWorkers(tls)
        self._worker_stub = worker_stub or self._remote
        self._clock = clock
        self._watch = watch
        self._now = now
        self._cores = cores or len(os.sched_getaffinity(0))
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._crash_point = crash_point

    async def start(self) -> None:
        """Open the catalog, clear up after a crash, and begin to serve.

        Raises:
            DataDirectoryLockedError, FailedPreconditionError, DataLossError: The catalog cannot be
                opened; see `Catalog`.
        """
        catalog = await asyncio.to_thread(Catalog, self._data_dir, recover=self._recover)
        try:
            state = await asyncio.to_thread(catalog.load)
            self.table = RoutingTable(state, expected_workers=self._expected_workers)
            self._changes = Changes(catalog, self.table)
        except BaseException:
            catalog.close()
            raise
        self.membership = Membership(
            self._changes,
            self.table,
            self._worker_stub,
            clock=self._clock,
            watch=self._watch,
            expected_workers=self._expected_workers,
            recover=self._recover,
            joined=self._worker_joined,
            heartbeat_s=self._heartbeat_s,
            lease_s=self._lease_s,
        )
        try:
            await self._changes.make(self._open)
        except BaseException:
            await self._changes.close()
            raise
        self._delivery = Delivery(
            self._changes, self.table, self._worker_stub, self.membership.reachable
        )
        self._creation = Creation(
            self._changes,
            self.table,
            self.membership,
            self._delivery,
            self._worker_stub,
            self._crash_point,
        )
        self._lifecycle = Lifecycle(
            self._changes,
            self.table,
            self.membership,
            self._delivery,
            self._creation,
            now=self._now,
            cores=self._cores,
            crash_point=self._crash_point,
        )
        usage = Usage(self.table)
        self._start_snapshots(usage)
        namespaces = Namespaces(
            self._changes,
            self.table,
            self._lifecycle,
            self._snapshots,
            allow_reset=self._allow_reset,
        )
        api_keys = ApiKeys(self._changes, self._lifecycle, self._now)
        bootstrap = BootstrapKey(api_keys, self._bootstrap_key_file)
        try:
            await bootstrap.start()
        except BaseException:
            await self._close_snapshots()
            await self._lifecycle.close()
            await self._delivery.close()
            await self._changes.close()
            raise
        quotas = Quotas(self._changes, self._lifecycle)
        self.catalog_service = CatalogService(self._lifecycle, namespaces, api_keys, quotas)
        self.routing_service = RoutingService(self._changes, self.table)
        self.membership_service = MembershipService(self.membership, usage)
        self._leases = asyncio.create_task(self._watch_leases(), name="leases of workers")
        self._bootstrap = asyncio.create_task(bootstrap.follow(), name="bootstrap key")
        self._usage = asyncio.create_task(usage.tell(), name="use of quotas")
        _log.info(
            "coordinator_started",
            cluster_id=self.table.state.cluster_id,
            table_version=self.table.state.version,
            collections=len(self.table.state.collections),
        )

    def end_watches(self) -> None:
        """Let gateways go, which will come again; for an orderly stop."""
        self.table.close()

    async def close(self) -> None:
        """Stop, and let go of the directory. What is under way is found at the next start."""
        self._leases.cancel()
        self._bootstrap.cancel()
        self._usage.cancel()
        await asyncio.wait([self._leases, self._bootstrap, self._usage])
        self.table.close()
        await self._close_snapshots()
        await self._lifecycle.close()
        await self._creation.close()
        await self._delivery.close()
        await self._changes.close()
        await self._remote.close()

    def _start_snapshots(self, usage: Usage) -> None:
        objects = StoredObjects(self.table, self._store, self._now)
        taker = Taker(
            Cuts(
                self.table,
                self._worker_stub,
                self.membership.reachable,
                crash_point=self._crash_point,
            ),
            self.table,
            self._store,
            objects,
            self._worker_stub,
            self.membership.reachable,
            crash_point=self._crash_point,
        )
        self._snapshots = Snapshots(
            self._changes,
            self.table,
            taker,
            self._store,
            objects,
            now=self._now,
            crash_point=self._crash_point,
        )
        self._backups = Backups(
            self._changes,
            self.table,
            taker,
            self._store,
            objects,
            now=self._now,
            crash_point=self._crash_point,
        )
        filler = Filler(self.table, self.membership, self._worker_stub)
        restorer = Restorer(
            self._changes,
            self.table,
            self._lifecycle,
            self.membership,
            self._creation,
            filler,
            usage,
            now=self._now,
            cores=self._cores,
            crash_point=self._crash_point,
        )
        backup_restorer = BackupRestorer(
            self._changes,
            self.table,
            self._lifecycle,
            self.membership,
            self._creation,
            filler,
            self._backups,
            self._store,
            crash_point=self._crash_point,
        )
        self._operations = Operations()
        self.snapshot_catalog_service = SnapshotCatalogService(
            self.table,
            self._store,
            self._snapshots,
            self._backups,
            restorer,
            backup_restorer,
            self._operations,
        )
        housekeeping = Housekeeping(self._changes, self.table, self._store, objects, self._now)
        self._housekeeping = [
            asyncio.create_task(housekeeping.clean(), name="snapshot store"),
            asyncio.create_task(housekeeping.measure(), name="metrics of snapshots"),
        ]
        self._snapshots.start()
        self._backups.start()

    async def _close_snapshots(self) -> None:
        for task in self._housekeeping:
            task.cancel()
        await asyncio.wait(self._housekeeping)
        await self._operations.close()
        await self._snapshots.close()
        await self._backups.close()

    def _open(self, state: CatalogState) -> tuple[Change, tuple[ShardDeletion, ...]]:
        interrupted = [
            entry
            for entry in state.collections.values()
            if entry.state == COLLECTION_STATE_CREATING
        ]
        for entry in interrupted:
            _log.warning("interrupted_creation_undone", collection_id=entry.collection.id)
        deletions = deletions_of(interrupted)
        change = Change(
            removed_collections=tuple(entry.collection.id for entry in interrupted),
            deletions=deletions,
            snapshots=snapshots.interrupted(state),
            backups=backups.interrupted(state),
            # Not known to be dead: nothing is to change for gateways because we were restarted.
            workers=tuple(
                WorkerEntry(worker_id=w.worker_id, address=w.address, live=bool(w.address))
                for w in state.workers.values()
            ),
            ready=self._expected_workers == 0,
            version_above=int(self._now() * 1000),
        )
        return change, deletions

    def _worker_joined(self, worker_id: str, stale_copies: Sequence[str]) -> None:
        self._delivery.update(worker_id, stale_copies)

    async def _watch_leases(self) -> None:
        pause_s = self._lease_s / _LEASE_CHECKS
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.membership.expire_leases(pause_s)
            except ShoalError as error:
                # The catalog said so in the log; the next round tries again.
                _log.warning("leases_not_recorded", error=error.message)
            await self._remote.keep(w.address for w in self.table.state.workers.values())


class _RemoteWorkers:
    """Stubs of workers in other processes, one channel for each address."""

    def __init__(self, tls: ChannelTls | None) -> None:
        self._tls = tls
        self._channels: dict[str, AddressedChannel] = {}
        self._stubs: dict[str, ShardControlServiceAsyncStub] = {}

    def __call__(self, address: str) -> ShardControlServiceAsyncStub:
        stub = self._stubs.get(address)
        if stub is None:
            opened = self._channels[address] = channel(address, self._tls)
            stub = self._stubs[address] = ShardControlServiceStub(opened)
        return stub

    async def keep(self, addresses: Iterable[str]) -> None:
        """Close the channels to all other addresses, which no worker has any more."""
        for address in set(self._channels) - set(addresses):
            del self._stubs[address]
            # A call under way is one to a worker that has moved: it may end by itself.
            await self._channels.pop(address).close(grace=None)

    async def close(self) -> None:
        """Close all channels."""
        await self.keep(())
