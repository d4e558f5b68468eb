"""Quotas in the catalog, and what is used of them.

Collections and snapshots are counted where they are created, by the decision that reserves one, so
that their number is exact. Records and bytes are what workers report with their heartbeats: the
coordinator adds them up once a second and tells the gateways, which refuse. It keeps the reports in
memory alone: after a restart workers register again, and report everything anew; until the last one
has, sums are said to be partial, and gateways go by what they were told before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from shoal.errors import NotFoundError, QuotaExceededError
from shoal.internal.v1.catalog_pb2 import CollectionEntry, QuotaEntry
from shoal.internal.v1.membership_service_pb2 import ShardUsage
from shoal.internal.v1.routing_service_pb2 import QuotaUsageReport
from shoal.internal.v1.snapshot_pb2 import SnapshotManifest
from shoal.server import logs
from shoal.server.scopes import Scope, covers, scope_of
from shoal.v1.admin_service_pb2 import QuotaLimits, QuotaSubject
from shoal_coordinator.changes import Changes
from shoal_coordinator.state import MAX_QUOTAS, CatalogState, Change, check_room
from shoal_coordinator.table import RoutingTable

if TYPE_CHECKING:
    from shoal_coordinator.lifecycle import Lifecycle

__all__ = ["Quotas", "Usage", "check_collection_quota", "check_snapshot_quota"]

_TELL_EVERY_S: Final = 1.0

_log: Final = logs.get_logger(__name__)


class Quotas:
    """Sets and removes quotas."""

    def __init__(self, changes: Changes, lifecycle: Lifecycle) -> None:
        self._changes = changes
        self._lifecycle = lifecycle

    async def set(self, quota_id: str, subject: QuotaSubject, limits: QuotaLimits) -> None:
        """Put limits in the place of those that there were; none: remove the quota.

        Raises:
            NotFoundError: The key that it is for does not exist.
            QuotaExceededError: There are too many quotas.
        """

        def decide(state: CatalogState) -> tuple[Change | None, None]:
            known = state.quotas.get(quota_id)
            if not limits.ListFields():
                return (None if known is None else Change(removed_quotas=(quota_id,))), None
            if subject.WhichOneof("subject") == "api_key_id" and (
                subject.api_key_id not in state.api_keys
            ):
                raise NotFoundError(f"there is no API key with ID {subject.api_key_id}")
            if known is None:
                check_room("quotas", len(state.quotas), MAX_QUOTAS)
            number = state.next_creation_number if known is None else known.creation_number
            entry = QuotaEntry(
                quota_id=quota_id, subject=subject, limits=limits, creation_number=number
            )
            return Change(quotas=(entry,)), None

        _, version = await self._changes.make(decide)
        await self._lifecycle.confirm(version)
        _log.info("quota_set", quota_id=quota_id)


class Usage:
    """Adds up what workers report, and tells the table."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._shards: dict[str, ShardUsage] = {}

    def report(self, usages: Iterable[ShardUsage]) -> None:
        """Take in what a worker has reported."""
        for usage in usages:
            self._shards[usage.shard_id] = usage

    async def tell(self) -> None:
        """Tell the table once a second, until cancelled."""
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            state = self._table.state
            if len(self._shards) > 2 * len(state.collection_of_shard):
                kept = state.collection_of_shard
                self._shards = {i: u for i, u in self._shards.items() if i in kept}
            self._table.tell_usages(self.of_quotas())

    def of_quotas(self) -> dict[str, QuotaUsageReport]:
        """Give what is used of each quota that limits more than rates."""
        state = self._table.state
        scopes = {
            quota_id: scope_of(quota.subject.scope)
            for quota_id, quota in state.quotas.items()
            if any(
                quota.limits.HasField(name)
                for name in ("max_collections", "max_records", "max_bytes", "max_snapshots")
            )
        }
        reports = {quota_id: QuotaUsageReport(quota_id=quota_id) for quota_id in scopes}
        if not scopes:
            return reports
        by_scope: dict[Scope, list[QuotaUsageReport]] = {}
        for quota_id, scope in scopes.items():
            reports[quota_id].usage.SetInParent()
            by_scope.setdefault(scope, []).append(reports[quota_id])

        def of_scopes(names: Scope) -> list[QuotaUsageReport]:
            return [
                report
                for length in range(len(names) + 1)
                for report in by_scope.get(names[:length], ())
            ]

        for snapshot in state.snapshots.values():
            if not snapshot.temporary:
                for report in of_scopes(_names_of_snapshot(snapshot)):
                    report.usage.snapshots += 1
        for entry in state.collections.values():
            for report in of_scopes(_names(entry)):
                report.usage.collections += 1
                for shard in entry.shards:
                    held = self._shards.get(shard.shard_id)
                    if held is None:
                        report.partial = True
                    else:
                        report.usage.records += held.record_count
                        report.usage.bytes += held.disk_bytes
        return reports

    def check_room_for_copy(self, state: CatalogState, names: Scope, record_count: int) -> None:
        """Make sure that a copy of stored records may be made.

        Gateways cannot decide that: who waits for a copy asks again and again, and must not be
        refused for what it holds itself. Copies that are being made at the same time are counted
        as far as workers have reported them.

        Args:
            state: Of the catalog.
            names: Of the copy's tenant, its database and itself.
            record_count: How many there will be at least.

        Raises:
            QuotaExceededError: A quota of its scopes does not allow it.
        """
        for quota in state.quotas.values():
            scope, limits = scope_of(quota.subject.scope), quota.limits
            limited = limits.HasField("max_records"), limits.HasField("max_bytes")
            if not any(limited) or not covers(scope, names):
                continue
            held = [
                usage
                for entry in state.collections.values()
                if covers(scope, _names(entry))
                for shard in entry.shards
                if (usage := self._shards.get(shard.shard_id)) is not None
            ]
            records = sum(usage.record_count for usage in held)
            size_bytes = sum(usage.disk_bytes for usage in held)
            if limited[0] and records + max(1, record_count) > limits.max_records:
                raise _too_much(scope, "max_records", limits.max_records, records, record_count)
            if limited[1] and size_bytes >= limits.max_bytes:
                raise _too_much(scope, "max_bytes", limits.max_bytes, size_bytes, record_count)


def _too_much(
    scope: Scope, limit: str, allowed: int, used: int, record_count: int
) -> QuotaExceededError:
    return QuotaExceededError(
        f"the quota of {'/'.join(scope) or 'the cluster'} is {allowed} "
        f"{limit.removeprefix('max_')}, and {used} are used: {record_count} more records do not "
        "fit; delete some, or have it raised",
        metadata={"limit": limit, "value": str(allowed), "used": str(used)},
    )


def check_collection_quota(state: CatalogState, names: Scope) -> None:
    """Make sure that one more collection may be made.

    Args:
        state: Reservations included.
        names: Of its tenant, its database and itself.

    Raises:
        QuotaExceededError: A quota of its scopes does not allow it.
    """
    _check(state, names, "collections", lambda: map(_names, state.collections.values()))


def check_snapshot_quota(state: CatalogState, names: Scope) -> None:
    """Make sure that one more snapshot may be taken.

    Args:
        state: Of which failed snapshots count, too: they are there until they are deleted.
        names: Of its source's tenant, its database and itself.

    Raises:
        QuotaExceededError: A quota of its scopes does not allow it.
    """

    def existing() -> Iterable[Scope]:
        return (_names_of_snapshot(s) for s in state.snapshots.values() if not s.temporary)

    _check(state, names, "snapshots", existing)


def _check(
    state: CatalogState, names: Scope, what: str, existing: Callable[[], Iterable[Scope]]
) -> None:
    """Check all quotas; what exists is gone through for those alone that might refuse."""
    limited = f"max_{what}"
    for quota in state.quotas.values():
        if not quota.limits.HasField(limited):  # type: ignore[arg-type]
            continue
        scope = scope_of(quota.subject.scope)
        if not covers(scope, names):
            continue
        limit: int = getattr(quota.limits, limited)
        count = sum(covers(scope, other) for other in existing())
        if count >= limit:
            raise QuotaExceededError(
                f"{'/'.join(scope) or 'the cluster'} has {count} {what}, its quota is {limit}:"
                " delete one, or have the quota raised",
                metadata={"limit": limited, "value": str(limit)},
            )


def _names(entry: CollectionEntry) -> Scope:
    collection = entry.collection
    return collection.tenant, collection.database, collection.name


def _names_of_snapshot(snapshot: SnapshotManifest) -> Scope:
    description = snapshot.description
    return description.tenant, description.database, description.source.name
