"""Who is in the cluster, who lives, and who may not join.

A worker registers with what lies in its data directory and then sends heartbeats; without one for a
lease it counts as not live, which the table says and which keeps new shards away from it. Nothing
else follows from silence: its shards stay assigned to it.

Two rules keep data apart that must not mix. A data directory of another cluster is refused. And a
UUID is one directory: while the process that registered it still answers at its old address, a
second process with the same UUID (a copied directory) is refused; as soon as it does not, the
newcomer is the same worker, restarted or moved, and accepted at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotRegisteredError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.catalog_pb2 import WorkerEntry
from shoal.internal.v1.membership_service_pb2 import HeldShard
from shoal.internal.v1.worker_service_pb2 import DescribeWorkerRequest
from shoal.server import logs
from shoal.server.rpc import call
from shoal_coordinator import metrics
from shoal_coordinator.changes import Changes
from shoal_coordinator.delivery import WorkerStub
from shoal_coordinator.recovery import Report, read_report
from shoal_coordinator.state import CatalogState, Change
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

HEARTBEAT_S: Final = 1.0
LEASE_S: Final = 5.0
"""Some lost heartbeats, or a long pause of the process, are no death."""

INTRODUCTION_S: Final = 0.05
"""A new worker has written down its cluster after this time, and sends its first heartbeat."""

PROBE_TIMEOUT_S: Final = 1.0
"""How long the former process of a UUID may take to say that it is still there."""

MAX_WORKERS: Final = 4_096
"""In the catalog; each is told to every gateway."""


@dataclass(slots=True)
class _Member:
    """A worker as this run of the coordinator knows it.

    Attributes:
        process_id: Empty until it has registered since the coordinator started.
        heard_at_s: When it last registered or sent a heartbeat.
    """

    process_id: str
    address: str
    heard_at_s: float


class Membership:
    """Registers workers and keeps their leases.

    Args:
        clock: Monotonic, seconds; by which leases expire.
        watch: The same; by which this process notices that it stood still.
        recover: Take the cluster of the first worker if the catalog has none, and adopt
            collections that the catalog does not know.
        joined: Called when a worker has registered, with its ID and the shards whose copy of the
            catalog entry is outdated.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        worker_stub: WorkerStub,
        *,
        clock: Callable[[], float],
        watch: Callable[[], float],
        expected_workers: int,
        recover: bool,
        joined: Callable[[str, Sequence[str]], None],
        heartbeat_s: float = HEARTBEAT_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._changes = changes
        self._table = table
        self._worker_stub = worker_stub
        self._clock = clock
        self._expected_workers = expected_workers
        self._recover = recover
        self._joined = joined
        self._watch = watch
        self._due_at_s = watch()  # when leases are to be looked at next
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        # Workers of the catalog count as live for one lease, so that a restart of the coordinator
        # shows nobody anything that is not so.
        self._members = {
            worker_id: _Member("", worker.address, clock())
            for worker_id, worker in table.state.workers.items()
        }
        self._registering: dict[str, asyncio.Lock] = {}
        self._reports: dict[str, Report] = {}

    @property
    def unknown_shards(self) -> dict[str, list[str]]:
        """Shards that workers hold and the catalog does not know, by worker."""
        return {w: report.unknown for w, report in self._reports.items() if report.unknown}

    @property
    def missing_shards(self) -> dict[str, list[str]]:
        """Shards of the catalog that their worker reported not to have, by worker."""
        return {w: report.missing for w, report in self._reports.items() if report.missing}

    def reachable(self, worker_id: str) -> str | None:
        """The address of a worker that has registered and is heard from."""
        member = self._members.get(worker_id)
        if member is None or not member.process_id or self._expired(member):
            return None
        return member.address

    def candidates(self, state: CatalogState) -> dict[str, int]:
        """The workers that can take a shard now, with how many they hold."""
        return {
            worker_id: len(state.shards_of_worker.get(worker_id, ()))
            for worker_id in self._members
            if self.reachable(worker_id) is not None
        }

    async def register(
        self,
        worker_id: str,
        process_id: str,
        address: str,
        cluster_id: str,
        held: Sequence[HeldShard],
    ) -> tuple[str, float]:
        """Let a worker join, or join again.

        A worker whose directory belongs to no cluster yet is only told which one this is: it writes
        that down, is told by its first heartbeat to register again, and then is a member. So no
        shard can come into a directory that does not know its cluster.

        Returns:
            The cluster's UUID, and the time until the worker's first heartbeat.

        Raises:
            FailedPreconditionError: Its directory belongs to another cluster, or another live
                process has its UUID.
            UnavailableError: The catalog is to be recovered and waits for another worker.
        """
        if not (worker_id and process_id and address):
            raise InvalidArgumentError("a worker registers with its UUID, process and address")
        # One at a time for each worker, so that of two processes with one UUID one is first.
        lock = self._registering.setdefault(worker_id, asyncio.Lock())
        try:
            async with lock:
                self._check_cluster(self._table.state, worker_id, cluster_id)
                await self._check_alone(worker_id, process_id, address)
                if not cluster_id:
                    return self._table.state.cluster_id, INTRODUCTION_S
                report, _ = await self._changes.make(
                    lambda state: self._admit(state, worker_id, address, cluster_id, held)
                )
                self._members[worker_id] = _Member(process_id, address, self._clock())
        except ShoalError as error:
            metrics.REGISTRATIONS.labels("refused").inc()
            _log.warning(
                "worker_refused", worker_id=worker_id, address=address, error=error.message
            )
            raise
        finally:
            if worker_id not in self._members and not lock.locked():
                self._registering.pop(worker_id, None)
        metrics.REGISTRATIONS.labels("accepted").inc()
        self._note(worker_id, address, report, len(held))
        await self._announce_readiness()
        self._joined(worker_id, report.stale)
        return self._table.state.cluster_id, self._heartbeat_s

    async def heartbeat(self, worker_id: str, process_id: str) -> None:
        """Prolong a worker's lease. Raises NotRegisteredError: it must register (again)."""
        member = self._members.get(worker_id)
        if member is None or member.process_id != process_id:
            raise NotRegisteredError(
                f"worker {worker_id} is not registered with this coordinator; register",
                metadata={"worker_id": worker_id},
            )
        expired = self._expired(member)
        member.heard_at_s = self._clock()
        if expired:
            await self._changes.make(lambda state: _mark(state, {worker_id: True}))
            _log.info("worker_back", worker_id=worker_id)
            self._joined(worker_id, ())

    async def expire_leases(self, next_s: float = 0.0) -> None:
        """Publish that workers which are not heard from any more are not live.

        Args:
            next_s: The time until this is called again.
        """
        now_s, late_s = self._clock(), self._late_s()
        for member in self._members.values():
            member.heard_at_s = min(member.heard_at_s + late_s, now_s)
        self._due_at_s = self._watch() + next_s
        silent = {
            worker_id: False
            for worker_id, member in self._members.items()
            if self._expired(member) and self._is_live(worker_id)
        }
        if not silent:
            return
        for worker_id in silent:
            metrics.EXPIRED_LEASES.inc()
            _log.warning("worker_lost", worker_id=worker_id, lease_s=self._lease_s)
        await self._changes.make(lambda state: _mark(state, silent))

    def _is_live(self, worker_id: str) -> bool:
        worker = self._table.state.workers.get(worker_id)
        return worker is not None and worker.live

    def _expired(self, member: _Member) -> bool:
        return self._clock() - member.heard_at_s > self._lease_s + self._late_s()

    def _late_s(self) -> float:
        """How long this process has stood still: suspended, or with no core to run on.

        It could not have heard of anybody, so that a lease lasts so much longer. Else a program
        that is stopped with Ctrl-Z would find its own store without a worker.
        """
        return max(0.0, self._watch() - self._due_at_s)

    def _check_cluster(self, state: CatalogState, worker_id: str, cluster_id: str) -> None:
        if not state.cluster_id:
            if not cluster_id:
                raise UnavailableError(
                    "the catalog is being recovered and waits for a worker of the lost cluster;"
                    " a new worker can join after it"
                )
            return
        if cluster_id and cluster_id != state.cluster_id:
            raise FailedPreconditionError(
                f"the data directory of worker {worker_id} belongs to cluster {cluster_id}, this"
                f" coordinator to cluster {state.cluster_id}. Nothing was changed. If the worker"
                " was sent to the wrong coordinator, correct its coordinator address. If this"
                " coordinator lost its catalog, stop it, move its data directory away, and start"
                " it with --recover-catalog, which rebuilds the catalog from its workers",
                metadata={"worker_cluster_id": cluster_id, "cluster_id": state.cluster_id},
            )

    async def _check_alone(self, worker_id: str, process_id: str, address: str) -> None:
        """Refuse a second process with one UUID, while the first answers."""
        member = self._members.get(worker_id)
        if member is None or member.process_id == process_id or not member.address:
            return
        if not member.process_id and member.address == address:
            # Not heard of since the coordinator started, and where it was before.
            return
        try:
            former = await call(
                self._worker_stub(member.address).DescribeWorker,
                DescribeWorkerRequest(),
                timeout_s=PROBE_TIMEOUT_S,
            )
        except ShoalError:
            return
        if former.worker_id != worker_id or former.process_id == process_id:
            return
        raise FailedPreconditionError(
            f"worker {worker_id} lives at {member.address} already, as process"
            f" {former.process_id}: two processes must not have one data directory, or copies of"
            " one. Stop one of the two; a copied directory cannot join",
            metadata={"worker_id": worker_id, "address": member.address},
        )

    def _admit(
        self,
        state: CatalogState,
        worker_id: str,
        address: str,
        cluster_id: str,
        held: Sequence[HeldShard],
    ) -> tuple[Change | None, Report]:
        self._check_cluster(state, worker_id, cluster_id)
        if worker_id not in state.workers and len(state.workers) >= MAX_WORKERS:
            raise OverloadedError(
                f"the cluster has {len(state.workers)} workers, the most it may have",
                metadata={"limit": "MAX_WORKERS", "value": str(MAX_WORKERS)},
            )
        report = read_report(state, worker_id, held, adopt=self._recover)
        workers = dict(report.workers)
        joined = WorkerEntry(worker_id=worker_id, address=address, live=True)
        if state.workers.get(worker_id) != joined:
            workers[worker_id] = joined
        else:
            workers.pop(worker_id, None)
        removed: list[str] = []
        for other in state.workers.values():
            if other.worker_id == worker_id or other.address != address:
                continue
            if _holds_nothing(state, other.worker_id):
                removed.append(other.worker_id)
            elif other.replaced_by != worker_id:
                workers[other.worker_id] = WorkerEntry(
                    worker_id=other.worker_id, address=address, replaced_by=worker_id
                )
        change = Change(
            cluster_id=cluster_id if not state.cluster_id else None,
            tenants=tuple(report.tenants.values()),
            databases=tuple(report.databases.values()),
            collections=tuple(report.collections.values()),
            workers=tuple(workers.values()),
            removed_workers=tuple(removed),
            version_above=report.newest_version if report.catalog_is_older else 0,
        )
        return (change if change.published else None), report

    def _note(self, worker_id: str, address: str, report: Report, held_count: int) -> None:
        _log.info("worker_joined", worker_id=worker_id, address=address, shards=held_count)
        self._reports[worker_id] = report
        for other in list(self._members):
            entry = self._table.state.workers.get(other)
            if entry is None:
                del self._members[other]
                self._reports.pop(other, None)
                self._registering.pop(other, None)
            elif entry.replaced_by == worker_id:
                # Its own heartbeats, should it live after all, make it register again.
                self._members[other].process_id = ""
                _log.warning(
                    "worker_replaced", worker_id=other, replaced_by=worker_id, address=address
                )
        metrics.UNKNOWN_SHARDS.set(sum(map(len, self.unknown_shards.values())))
        metrics.MISSING_SHARDS.set(sum(map(len, self.missing_shards.values())))
        if report.catalog_is_older:
            _log.warning("catalog_is_older_than_worker", worker_id=worker_id)
        if report.adopted:
            _log.warning(
                "collections_adopted", worker_id=worker_id, collection_ids=report.adopted[:100]
            )
        if report.unknown:
            _log.warning(
                "unknown_shards_kept",
                worker_id=worker_id,
                count=len(report.unknown),
                shard_ids=report.unknown[:100],
                remedy="if the catalog is older than the workers, start the coordinator"
                " with --recover-catalog to take them in",
            )
        if report.missing:
            _log.error(
                "shards_missing",
                worker_id=worker_id,
                count=len(report.missing),
                shard_ids=report.missing[:100],
            )

    async def _announce_readiness(self) -> None:
        registered = sum(bool(member.process_id) for member in self._members.values())
        if registered < self._expected_workers or self._table.state.ready:
            return
        await self._changes.make(lambda state: (None if state.ready else Change(ready=True), None))


def _holds_nothing(state: CatalogState, worker_id: str) -> bool:
    return not state.shards_of_worker.get(worker_id) and not any(
        deletion.worker_id == worker_id for deletion in state.deletions.values()
    )


def _mark(state: CatalogState, live: dict[str, bool]) -> tuple[Change | None, None]:
    changed = [
        WorkerEntry(worker_id=w.worker_id, address=w.address, live=live[w.worker_id])
        for w in (state.workers.get(worker_id) for worker_id in live)
        if w is not None and w.live != live[w.worker_id]
    ]
    return (Change(workers=tuple(changed)) if changed else None), None
