"""What a worker's report of its shards means for the catalog.

Pure. Absence is never an instruction: a shard that the catalog does not know is kept where it is, a
shard that the worker does not have stays assigned to it, and nothing here ever deletes.

Every shard's directory holds a copy of its collection's catalog entry. From these copies

- a catalog that is older than what was published (restored from a backup) takes the newer entries
  of the collections that it knows,
- and, only if the operator asked for it, one that is gone takes in the collections that it does not
  know. A collection is then served as soon as one of its shards is reported: the entry names them
  all and their workers, and those that are not back yet are unavailable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    COLLECTION_STATE_CREATING,
    CollectionEntry,
    DatabaseEntry,
    TenantEntry,
    WorkerEntry,
)
from shoal.internal.v1.membership_service_pb2 import HeldShard
from shoal_coordinator.state import CatalogState


@dataclass(slots=True)
class Report:
    """What is to be done about the shards that a worker has reported.

    Attributes:
        collections: Entries to take over, because the catalog is older or because they are
            adopted; with the tenants, databases and workers that they need.
        adopted: IDs of those collections among them that the catalog did not know.
        unknown: Shards that the catalog does not know, or not on this worker. They are kept.
        missing: Shards that the catalog assigns to this worker and that it does not have.
        stale: Shards beside which an outdated copy of the entry lies.
        newest_version: The highest table version in any copy.
        catalog_is_older: Whether that is above the table's own.
    """

    collections: dict[str, CollectionEntry] = field(default_factory=dict)
    tenants: dict[str, TenantEntry] = field(default_factory=dict)
    databases: dict[tuple[str, str], DatabaseEntry] = field(default_factory=dict)
    workers: dict[str, WorkerEntry] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    newest_version: int = 0
    catalog_is_older: bool = False


def read_report(
    state: CatalogState, worker_id: str, held: Iterable[HeldShard], *, adopt: bool
) -> Report:
    """Compare the shards that lie on a worker with the catalog.

    Args:
        adopt: Take in collections that the catalog does not know.
    """
    report = Report()
    reported: set[str] = set()
    for shard in held:
        reported.add(shard.shard_id)
        report.newest_version = max(report.newest_version, shard.entry.table_version)
        if shard.shard_id in state.deletions:
            continue
        holder = state.holder(shard.shard_id)
        if holder is not None and holder.worker_id == worker_id:
            _compare_copy(state, shard, holder.epoch, report)
        elif holder is None and adopt and _can_be_adopted(state, worker_id, shard):
            _adopt(state, shard, report)
        else:
            report.unknown.append(shard.shard_id)
    for shard_id in state.shards_of_worker.get(worker_id, ()):
        entry = state.collections[state.collection_of_shard[shard_id]]
        if shard_id not in reported and entry.state == COLLECTION_STATE_ACTIVE:
            report.missing.append(shard_id)
    _name_apart(state, report)
    report.catalog_is_older = report.newest_version > state.version
    return report


def same_content(one: CollectionEntry, other: CollectionEntry) -> bool:
    """Whether two entries tell the same, whenever they were written.

    A shard is created with the entry as it will be; its version and state are those of the moment.
    """
    return _timeless(one) == _timeless(other)


def _timeless(entry: CollectionEntry) -> CollectionEntry:
    copy = CollectionEntry()
    copy.CopyFrom(entry)
    copy.ClearField("table_version")
    copy.ClearField("state")
    return copy


def _compare_copy(state: CatalogState, shard: HeldShard, epoch: int, report: Report) -> None:
    collection_id = state.collection_of_shard[shard.shard_id]
    entry = report.collections.get(collection_id) or state.collections[collection_id]
    if (
        shard.entry.table_version > entry.table_version
        and shard.entry.collection.id == collection_id
        and entry.state == COLLECTION_STATE_ACTIVE
    ):
        _take_over(state, shard.entry, report)
    elif (
        shard.epoch != epoch
        or shard.entry.state != entry.state
        or not same_content(shard.entry, entry)
    ):
        report.stale.append(shard.shard_id)


def _can_be_adopted(state: CatalogState, worker_id: str, shard: HeldShard) -> bool:
    """Whether the copy is about this shard on this worker, and contradicts nothing known."""
    named = [s for s in shard.entry.shards if s.shard_id == shard.shard_id]
    if not named or named[0].worker_id != worker_id or not shard.entry.collection.name:
        return False
    if shard.entry.state == COLLECTION_STATE_CREATING:
        # It was being restored: what lies there may be a part of it.
        return False
    if shard.entry.collection.id in state.collections:
        return False
    return all(
        s.shard_id not in state.deletions and s.shard_id not in state.collection_of_shard
        for s in shard.entry.shards
    )


def _adopt(state: CatalogState, shard: HeldShard, report: Report) -> None:
    collection_id = shard.entry.collection.id
    known = report.collections.get(collection_id)
    if known is None:
        report.adopted.append(collection_id)
    if known is None or shard.entry.table_version > known.table_version:
        _take_over(state, shard.entry, report)


def _take_over(state: CatalogState, copy: CollectionEntry, report: Report) -> None:
    entry = CollectionEntry()
    entry.CopyFrom(copy)
    entry.state = COLLECTION_STATE_ACTIVE
    entry.database_id = _database(state, entry, report)
    report.collections[entry.collection.id] = entry
    for shard in entry.shards:
        if shard.worker_id not in state.workers:
            report.workers[shard.worker_id] = WorkerEntry(worker_id=shard.worker_id)


def _database(state: CatalogState, entry: CollectionEntry, report: Report) -> str:
    """The ID of the database by its name: a catalog made anew gives it another ID."""
    tenant, name = entry.collection.tenant, entry.collection.database
    key = (tenant, name)
    known = state.database_ids.get(key)
    if known is not None:
        return known
    number = state.next_creation_number + len(report.tenants) + len(report.databases)
    if tenant not in state.tenants and tenant not in report.tenants:
        report.tenants[tenant] = TenantEntry(name=tenant, creation_number=number)
        number += 1
    if key not in report.databases:
        report.databases[key] = DatabaseEntry(
            database_id=entry.database_id, name=name, tenant=tenant, creation_number=number
        )
    return report.databases[key].database_id


def _name_apart(state: CatalogState, report: Report) -> None:
    """Give collections whose name another one has a name of their own, so that all are reachable.

    It happens when a collection was deleted and its name used again while a worker was away, and
    then the catalog was lost with its record of the deletion.
    """
    taken: dict[tuple[str, str], str] = {}
    # The one that was created last is the one that its users call so.
    for entry in sorted(report.collections.values(), key=lambda e: -e.creation_number):
        collection = entry.collection
        key = (entry.database_id, collection.name)
        owner = taken.get(key) or state.collection_ids.get(key)
        if owner not in (None, collection.id):
            former = state.collections.get(collection.id)
            collection.name = (
                former.collection.name
                if former is not None
                else f"{collection.name[:480]}.recovered-{collection.id[:8]}"
            )
        taken[entry.database_id, collection.name] = collection.id
