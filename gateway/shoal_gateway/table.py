"""The gateway's copy of the routing table: everything that serving needs.

The table is what the coordinator published, applied version by version and each version whole. What
the coordinator has told this gateway in an answer, ahead of the table, is learnt at once and comes
again with the version that it belongs to: a collection is known to the gateway that created it
also if its watch lags. Reading the table never waits, and never needs the coordinator.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from shoal.internal.v1 import catalog_pb2, routing_service_pb2, worker_service_pb2
from shoal.server.buckets import buckets_of
from shoal.v1 import admin_service_pb2, collection_pb2
from shoal.wire.languages import DEFAULT_LANGUAGE

__all__ = ["CollectionRoute", "RoutingTable", "ShardRoute"]


@dataclass(frozen=True, slots=True)
class ShardRoute:
    """A shard, and who holds it.

    Attributes:
        shard_id: Its UUID.
        worker_id: The holder's UUID.
        epoch: Rises when, and only when, the holder changes.
        reference: Addresses the shard in a call.
    """

    shard_id: str
    worker_id: str
    epoch: int
    reference: worker_service_pb2.ShardReference


def by_worker(shards: Iterable[ShardRoute]) -> list[list[ShardRoute]]:
    """Put those together that one worker holds."""
    groups: dict[str, list[ShardRoute]] = {}
    for shard in shards:
        groups.setdefault(shard.worker_id, []).append(shard)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class CollectionRoute:
    """A collection, and where its records are.

    Attributes:
        entry: The catalog's entry; never changed.
        collection_id: Its UUID.
        dimension: 0 as long as no vector has fixed it.
        shards: By ascending first bucket.
        first_buckets: First bucket of each run, ascending, shape ``(runs,)``; the runs cover all
            buckets.
        owners: Position in `shards` of each run's owner, shape ``(runs,)``.
        by_worker: The shards, those that one worker holds together.
    """

    entry: catalog_pb2.CollectionEntry
    collection_id: str
    dimension: int
    shards: tuple[ShardRoute, ...]
    first_buckets: npt.NDArray[np.uint16]
    owners: npt.NDArray[np.intp]
    by_worker: Sequence[Sequence[ShardRoute]]

    @classmethod
    def of(cls, entry: catalog_pb2.CollectionEntry) -> Self:
        """Prepare a catalog entry for routing."""
        collection_id = entry.collection.id
        runs = sorted(
            (run.first, owner) for owner, shard in enumerate(entry.shards) for run in shard.buckets
        )
        shards = tuple(
            ShardRoute(
                shard.shard_id,
                shard.worker_id,
                shard.epoch,
                worker_service_pb2.ShardReference(
                    collection_id=collection_id, shard_id=shard.shard_id, epoch=shard.epoch
                ),
            )
            for shard in entry.shards
        )
        return cls(
            entry,
            collection_id,
            entry.collection.dimension,
            shards,
            np.array([first for first, _ in runs], np.uint16),
            np.array([owner for _, owner in runs], np.intp),
            by_worker(shards),
        )

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.entry.collection.name

    @property
    def sparse_vectors(self) -> Mapping[str, collection_pb2.SparseVectorConfiguration]:
        """The metadata keys that hold sparse vectors, and how they are searched."""
        return self.entry.collection.configuration.sparse_vectors

    @property
    def language(self) -> str:
        """The language by which documents are indexed."""
        return self.entry.collection.configuration.documents.language or DEFAULT_LANGUAGE

    def owners_of(self, record_ids: Sequence[str]) -> npt.NDArray[np.intp]:
        """Give the position in `shards` of each ID's owner, shape ``(ids,)``."""
        if len(self.shards) == 1:
            return np.zeros(len(record_ids), np.intp)
        runs = np.searchsorted(self.first_buckets, buckets_of(record_ids), side="right") - 1
        return self.owners[runs]

    def shard(self, shard_id: str) -> ShardRoute | None:
        """Give a shard by its UUID."""
        return next((shard for shard in self.shards if shard.shard_id == shard_id), None)


class RoutingTable:
    """What a gateway knows of the cluster.

    Attributes:
        cluster_id: Empty as long as there is no table.
        version: The version that the gateway routes by; 0 as long as there is no table.
        ready: Whether the cluster has been ready since this gateway started: all expected workers
            had registered.
        expected_workers: How many those are.
        gateway_count: How many gateways follow the coordinator, this one included.
    """

    def __init__(self) -> None:
        self.cluster_id = ""
        self.version = 0
        self.ready = False
        self.expected_workers = 0
        self.gateway_count = 1
        self._collections: dict[str, CollectionRoute] = {}
        self._collection_ids: dict[tuple[str, str, str], str] = {}  # by tenant, database, name
        self._databases: dict[str, catalog_pb2.DatabaseEntry] = {}
        self._database_ids: dict[tuple[str, str], str] = {}  # by tenant, name
        self._tenants: dict[str, catalog_pb2.TenantEntry] = {}
        self._workers: dict[str, catalog_pb2.WorkerEntry] = {}
        self._api_keys: dict[str, catalog_pb2.ApiKeyEntry] = {}
        self._quotas: dict[str, catalog_pb2.QuotaEntry] = {}
        self._quota_usages: dict[str, admin_service_pb2.QuotaUsage] = {}
        # Deleted through this gateway, and still in the table. UUIDs are never used again, so that
        # what is here needs no version.
        self._deleted: set[str] = set()
        self._changed = asyncio.Event()

    def apply(self, pages: Sequence[routing_service_pb2.WatchTableResponse]) -> None:
        """Apply the pages of one version."""
        if pages[0].snapshot_start:
            self._forget_everything()
        for page in pages:
            self._remove(page)
            for tenant in page.tenants:
                self._tenants[tenant.name] = tenant
            for database in page.databases:
                self._put_database(database)
            for worker in page.workers:
                self._workers[worker.worker_id] = worker
            for key in page.api_keys:
                self._api_keys[key.description.id] = key
            for quota in page.quotas:
                self._quotas[quota.quota_id] = quota
            for report in page.quota_usages:
                self._put_quota_usage(report)
            for entry in page.collections:
                self._put_collection(entry)
        last = pages[-1]
        self.cluster_id = last.cluster_id
        self.version = last.version
        self.expected_workers = last.expected_workers
        self.gateway_count = max(1, last.gateway_count)
        for quota_id in self._quota_usages.keys() - self._quotas.keys():
            del self._quota_usages[quota_id]
        self.ready = self.ready or last.ready
        self._deleted &= self._collections.keys()
        self._changed.set()
        self._changed = asyncio.Event()

    def learn(self, entry: catalog_pb2.CollectionEntry) -> CollectionRoute:
        """Take in an entry that the coordinator answered with, and give its route.

        The table keeps it only if it is ahead of the table: an older one was changed or removed
        while the answer was on its way.
        """
        if entry.table_version > self.version:
            known = self._collections.get(entry.collection.id)
            if known is None or known.entry.table_version <= entry.table_version:
                self._put_collection(entry)
        return self._collections.get(entry.collection.id) or CollectionRoute.of(entry)

    def forget(self, collection_id: str) -> None:
        """Take in that a collection was deleted."""
        if collection_id in self._collections:
            self._deleted.add(collection_id)

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until something holds of the table; False if it did not in time.

        Args:
            holds: Asked after each version.
            timeout_s: None: for ever.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # Looking up

    def collection(self, collection_id: str) -> CollectionRoute | None:
        """Find a collection by its UUID."""
        return None if collection_id in self._deleted else self._collections.get(collection_id)

    def collection_named(self, tenant: str, database: str, name: str) -> CollectionRoute | None:
        """Find a collection by its name."""
        collection_id = self._collection_ids.get((tenant, database, name))
        return None if collection_id is None else self.collection(collection_id)

    def collections(self) -> Iterable[CollectionRoute]:
        """Give all collections, in no order."""
        return [r for i, r in self._collections.items() if i not in self._deleted]

    def collections_in(self, tenant: str, database: str) -> list[CollectionRoute]:
        """Give a database's collections in order of creation."""
        found = [
            route
            for route in self.collections()
            if route.entry.collection.tenant == tenant
            and route.entry.collection.database == database
        ]
        return sorted(found, key=lambda route: route.entry.creation_number)

    def tenant(self, name: str) -> catalog_pb2.TenantEntry | None:
        """Find a tenant."""
        return self._tenants.get(name)

    def database(self, tenant: str, name: str) -> catalog_pb2.DatabaseEntry | None:
        """Find a database."""
        database_id = self._database_ids.get((tenant, name))
        return None if database_id is None else self._databases[database_id]

    def databases_of(self, tenant: str) -> list[catalog_pb2.DatabaseEntry]:
        """Give a tenant's databases in order of creation."""
        found = [entry for entry in self._databases.values() if entry.tenant == tenant]
        return sorted(found, key=lambda entry: entry.creation_number)

    def worker(self, worker_id: str) -> catalog_pb2.WorkerEntry | None:
        """Find a worker."""
        return self._workers.get(worker_id)

    def workers(self) -> list[catalog_pb2.WorkerEntry]:
        """Give all workers, by UUID."""
        return sorted(self._workers.values(), key=lambda entry: entry.worker_id)

    def api_key(self, key_id: str) -> catalog_pb2.ApiKeyEntry | None:
        """Find an API key."""
        return self._api_keys.get(key_id)

    def api_keys(self) -> list[catalog_pb2.ApiKeyEntry]:
        """Give all API keys in order of creation."""
        return sorted(self._api_keys.values(), key=lambda entry: entry.creation_number)

    def quota(self, quota_id: str) -> catalog_pb2.QuotaEntry | None:
        """Find a quota."""
        return self._quotas.get(quota_id)

    def quotas(self) -> list[catalog_pb2.QuotaEntry]:
        """Give all quotas in order of creation."""
        return sorted(self._quotas.values(), key=lambda entry: entry.creation_number)

    def quota_usage(self, quota_id: str) -> admin_service_pb2.QuotaUsage | None:
        """Give what is used of a quota, as far as it was told."""
        return self._quota_usages.get(quota_id)

    @property
    def has_quotas(self) -> bool:
        """Whether there is any quota."""
        return bool(self._quotas)

    @property
    def api_key_count(self) -> int:
        """How many API keys there are."""
        return len(self._api_keys)

    # Changing

    def _forget_everything(self) -> None:
        self._collections.clear()
        self._collection_ids.clear()
        self._databases.clear()
        self._database_ids.clear()
        self._tenants.clear()
        self._workers.clear()
        self._api_keys.clear()
        self._quotas.clear()

    def _remove(self, page: routing_service_pb2.WatchTableResponse) -> None:
        for collection_id in page.removed_collection_ids:
            self._remove_collection(collection_id)
        for database_id in page.removed_database_ids:
            self._remove_database(database_id)
        for name in page.removed_tenants:
            self._tenants.pop(name, None)
        for worker_id in page.removed_worker_ids:
            self._workers.pop(worker_id, None)
        for key_id in page.removed_api_key_ids:
            self._api_keys.pop(key_id, None)
        for quota_id in page.removed_quota_ids:
            self._quotas.pop(quota_id, None)

    def _put_collection(self, entry: catalog_pb2.CollectionEntry) -> None:
        self._remove_collection(entry.collection.id)
        self._collections[entry.collection.id] = CollectionRoute.of(entry)
        self._collection_ids[_name_of(entry)] = entry.collection.id

    def _put_quota_usage(self, report: routing_service_pb2.QuotaUsageReport) -> None:
        known = self._quota_usages.get(report.quota_id)
        if known is not None and report.partial:
            report.usage.records = max(report.usage.records, known.records)
            report.usage.bytes = max(report.usage.bytes, known.bytes)
        self._quota_usages[report.quota_id] = report.usage

    def _remove_collection(self, collection_id: str) -> None:
        route = self._collections.pop(collection_id, None)
        # Its name may be another's by now: the two changes of a version have no order.
        if route is not None and self._collection_ids.get(_name_of(route.entry)) == collection_id:
            del self._collection_ids[_name_of(route.entry)]

    def _put_database(self, entry: catalog_pb2.DatabaseEntry) -> None:
        self._remove_database(entry.database_id)
        self._databases[entry.database_id] = entry
        self._database_ids[entry.tenant, entry.name] = entry.database_id

    def _remove_database(self, database_id: str) -> None:
        entry = self._databases.pop(database_id, None)
        if entry is not None and self._database_ids.get((entry.tenant, entry.name)) == database_id:
            del self._database_ids[entry.tenant, entry.name]


def _name_of(entry: catalog_pb2.CollectionEntry) -> tuple[str, str, str]:
    collection = entry.collection
    return collection.tenant, collection.database, collection.name
