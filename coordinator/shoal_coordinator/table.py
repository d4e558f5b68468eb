"""The routing table: what gateways route by, in versions that they follow and confirm.

A watch keeps no queue. It keeps the version that it has sent, and goes on from there through the
history of changes, which all watches share; one that has fallen behind the history, or comes with a
version that the history does not reach, gets the whole table again. So a slow gateway costs nothing
but its own delay, whatever happens meanwhile.

The version also orders this run of the coordinator after all former ones: when a catalog is opened
its version is raised above the clock, in milliseconds since 1970 (see `Coordinator.start`). A
catalog that was restored from a backup thereby never gives a version a second time, and a gateway's
version names one content only.

All methods belong to the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    ApiKeyEntry,
    CollectionEntry,
    DatabaseEntry,
    QuotaEntry,
    TenantEntry,
    WorkerEntry,
)
from shoal.internal.v1.routing_service_pb2 import QuotaUsageReport, WatchTableResponse
from shoal_coordinator import metrics
from shoal_coordinator.state import CatalogState, Change

MAX_PAGE_BYTES: Final = 1 << 20
"""Of entries in one message: some thousand collections, far below the message limit."""

MAX_PAGE_ENTRIES: Final = 1_000
"""In one message, so that encoding it does not hold up the event loop."""

MAX_HISTORY_CHANGES: Final = 1_000
"""Changes that a gateway can have missed and still get as deltas."""

MAX_HISTORY_ENTRIES: Final = 20_000
"""Entries in all these changes together: beyond, the whole table is not much larger."""

_Item = ApiKeyEntry | CollectionEntry | DatabaseEntry | QuotaEntry | TenantEntry | WorkerEntry


@dataclass(frozen=True, slots=True)
class _Published:
    version: int
    change: Change
    entry_count: int


class Watch:
    """One gateway that follows the table. Made by `RoutingTable.watch`.

    Attributes:
        gateway_id: UUID of the gateway's process.
        confirmed: The version that it routes by.
    """

    def __init__(self, gateway_id: str, table: RoutingTable, version: int) -> None:
        self.gateway_id = gateway_id
        self.confirmed = version
        self._table = table
        self._sent = version
        self._moment = 0
        self._closed = False
        self._news = asyncio.Event()
        self._news.set()

    def confirm(self, version: int) -> None:
        """Note that the gateway routes by this version."""
        self.confirmed = max(self.confirmed, version)
        self._table.notify_confirmed()

    def wake(self) -> None:
        """Note that there is something to send."""
        self._news.set()

    def close(self) -> None:
        """Let `updates` end."""
        self._closed = True
        self._news.set()

    async def updates(self) -> AsyncIterator[WatchTableResponse]:
        """Give what brings the gateway up to date, and then each change, until it is closed.

        The first page comes at once, also if nothing was missed: it shows that the watch stands.
        """
        while True:
            await self._news.wait()
            if self._closed:
                return
            self._news.clear()
            missed = self._table.since(self._sent)
            if missed is None:
                metrics.SNAPSHOTS.inc()
                version, pages = self._table.snapshot()
                for page in pages:
                    yield page
                self._sent = version
                # What was published while the pages went out.
                self._news.set()
                continue
            for published in missed:
                for page in self._table.delta(published):
                    yield page
                self._sent = published.version
            moment, page = self._table.since_moment(self._moment, self._sent)
            if moment != self._moment:
                self._moment = moment
                yield page


class RoutingTable:
    """The published state, its recent history, and who follows it.

    Args:
        state: What the catalog holds; belongs to the table from now on.
        expected_workers: Told to gateways.
    """

    def __init__(self, state: CatalogState, *, expected_workers: int) -> None:
        self.state = state
        self.expected_workers = expected_workers
        self._history: deque[_Published] = deque()
        self._history_entries = 0
        # The version before the oldest change of the history. Above 0, which names no content, once
        # the coordinator has started.
        self._history_base = state.version
        self._watches: set[Watch] = set()
        self._confirmed = asyncio.Event()
        # What is told beside the versions: how many gateways there are, and what is used of
        # quotas, each with the moment, counted, at which that last changed.
        self._moment = 1
        self._usages: dict[str, tuple[int, QuotaUsageReport]] = {}

    def publish(self, change: Change) -> None:
        """Make a committed change hold, and tell it to all watches."""
        self.state.apply(change)
        if not change.published:
            return
        if change.version_above:
            # Versions up to that one may name other contents than ours.
            self._begin_history()
            return
        count = (
            len(change.collections) + len(change.removed_collections)
            + len(change.databases) + len(change.removed_databases)
            + len(change.tenants) + len(change.removed_tenants)
            + len(change.workers) + len(change.removed_workers)
            + len(change.api_keys) + len(change.removed_api_keys)
            + len(change.quotas) + len(change.removed_quotas)
        )  # fmt: skip
        self._history.append(_Published(self.state.version, change, count))
        self._history_entries += count
        while (
            len(self._history) > MAX_HISTORY_CHANGES or self._history_entries > MAX_HISTORY_ENTRIES
        ):
            oldest = self._history.popleft()
            self._history_entries -= oldest.entry_count
            self._history_base = oldest.version
        self._wake_all()

    def replace(self, state: CatalogState) -> None:
        """Hold another state, of a higher version, to which no change leads; all get it whole."""
        self.state = state
        self._begin_history()

    def watch(self, gateway_id: str, version: int) -> Watch:
        """Begin to tell a gateway, which routes by `version` (0: by nothing), what changes."""
        watch = Watch(gateway_id, self, version)
        self._watches.add(watch)
        self._tell_moment()
        metrics.WATCHES.set(len(self._watches))
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Forget a gateway, whose confirmation nobody waits for any more."""
        self._watches.discard(watch)
        self._tell_moment()
        metrics.WATCHES.set(len(self._watches))
        self.notify_confirmed()

    def close(self) -> None:
        """Let all watches end."""
        for watch in self._watches:
            watch.close()

    async def wait_confirmed(self, version: int, timeout_s: float) -> bool:
        """Wait until every watch has confirmed `version`.

        Returns:
            Whether all have; False if the time ran out.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while any(watch.confirmed < version for watch in self._watches):
                    await self._confirmed.wait()
        except TimeoutError:
            metrics.UNCONFIRMED_VERSIONS.inc()
            return False
        return True

    def notify_confirmed(self) -> None:
        """Wake who waits for confirmations."""
        self._confirmed.set()
        self._confirmed = asyncio.Event()

    def since(self, version: int) -> list[_Published] | None:
        """Give the changes after `version`; None if the history does not reach that far."""
        if not self._history_base <= version <= self.state.version:
            return None
        missed: list[_Published] = []
        for published in reversed(self._history):
            if published.version <= version:
                break
            missed.append(published)
        missed.reverse()
        return missed

    def tell_usages(self, reports: Mapping[str, QuotaUsageReport]) -> None:
        """Tell gateways what is used of quotas, by quota; what has not changed is not repeated."""
        former = {quota_id: report for quota_id, (_, report) in self._usages.items()}
        if former != reports:
            self._tell_moment()
            self._usages = {
                quota_id: self._usages[quota_id]
                if former.get(quota_id) == report
                else (self._moment, report)
                for quota_id, report in reports.items()
            }

    def since_moment(self, moment: int, version: int) -> tuple[int, WatchTableResponse]:
        """Give the present moment, and what has changed since another one beside the versions.

        Args:
            moment: 0: tell all.
            version: That the gateway has been sent.
        """
        page = self.nothing()
        page.version = version
        page.quota_usages.extend(
            report for changed, report in self._usages.values() if changed > moment
        )
        return self._moment, page

    def _tell_moment(self) -> None:
        self._moment += 1
        for watch in self._watches:
            watch.wake()

    def snapshot(self) -> tuple[int, Iterator[WatchTableResponse]]:
        """Give the version and the pages of the whole table as it is now.

        The pages are encoded as they are taken; what is published meanwhile does not show in them.
        """
        state = self.state
        items: list[_Item] = [
            *state.tenants.values(),
            *state.databases.values(),
            *state.workers.values(),
            *state.api_keys.values(),
            *state.quotas.values(),
            *(e for e in state.collections.values() if e.state == COLLECTION_STATE_ACTIVE),
        ]
        return state.version, self._pages(state.version, items, Change(), snapshot=True)

    def delta(self, published: _Published) -> Iterator[WatchTableResponse]:
        """Give the pages of one change."""
        change = published.change
        items: list[_Item] = [
            *change.tenants,
            *change.databases,
            *change.workers,
            *change.api_keys,
            *change.quotas,
            *(e for e in change.collections if e.state == COLLECTION_STATE_ACTIVE),
        ]
        return self._pages(published.version, items, change, snapshot=False)

    def nothing(self) -> WatchTableResponse:
        """Give a page that changes nothing."""
        return next(self._pages(self.state.version, [], Change(), snapshot=False))

    def _pages(
        self, version: int, items: list[_Item], removed: Change, *, snapshot: bool
    ) -> Iterator[WatchTableResponse]:
        # Everything but entries is the same for the whole table, and read when the pages begin.
        cluster_id, ready = self.state.cluster_id, self.state.ready

        def page(*, first: bool) -> WatchTableResponse:
            return WatchTableResponse(
                version=version,
                snapshot_start=snapshot and first,
                more=True,
                cluster_id=cluster_id,
                expected_workers=self.expected_workers,
                ready=ready,
                gateway_count=len(self._watches),
            )

        current = page(first=True)
        # Removals lead, so that a name which passes on within a change is free when it is taken.
        current.removed_collection_ids.extend(removed.removed_collections)
        current.removed_database_ids.extend(removed.removed_databases)
        current.removed_tenants.extend(removed.removed_tenants)
        current.removed_worker_ids.extend(removed.removed_workers)
        current.removed_api_key_ids.extend(removed.removed_api_keys)
        current.removed_quota_ids.extend(removed.removed_quotas)
        count = size = 0
        for item in items:
            if count >= MAX_PAGE_ENTRIES or (count and size + item.ByteSize() > MAX_PAGE_BYTES):
                yield current
                current = page(first=False)
                count = size = 0
            _add(current, item)
            count += 1
            size += item.ByteSize()
        current.more = False
        yield current

    def _begin_history(self) -> None:
        self._history.clear()
        self._history_entries = 0
        self._history_base = self.state.version
        self._wake_all()

    def _wake_all(self) -> None:
        for watch in self._watches:
            watch.wake()
        metrics.TABLE_VERSION.set(self.state.version)
        metrics.COLLECTIONS.set(len(self.state.collections))
        metrics.SHARDS.set(len(self.state.collection_of_shard))
        live = sum(worker.live for worker in self.state.workers.values())
        metrics.WORKERS.labels("yes").set(live)
        metrics.WORKERS.labels("no").set(len(self.state.workers) - live)
        metrics.UNAVAILABLE_SHARDS.set(
            sum(
                len(self.state.shards_of_worker.get(worker.worker_id, ()))
                for worker in self.state.workers.values()
                if not worker.live
            )
        )


def _add(page: WatchTableResponse, item: _Item) -> None:
    if isinstance(item, CollectionEntry):
        page.collections.append(item)
    elif isinstance(item, WorkerEntry):
        page.workers.append(item)
    elif isinstance(item, DatabaseEntry):
        page.databases.append(item)
    elif isinstance(item, ApiKeyEntry):
        page.api_keys.append(item)
    elif isinstance(item, QuotaEntry):
        page.quotas.append(item)
    else:
        page.tenants.append(item)
