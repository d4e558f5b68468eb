"""Entries of collections: how a new one looks, and what each change makes of one.

Pure: decisions for `Changes.make`. An entry that is given is never modified.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import CollectionExistsError, CollectionNotFoundError
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    COLLECTION_STATE_CREATING,
    BucketRun,
    CollectionEntry,
    DatabaseEntry,
    ShardDeletion,
    ShardEntry,
)
from shoal.v1.collection_pb2 import (
    Collection,
    CollectionConfiguration,
    EmbeddingFunction,
    HnswConfiguration,
)
from shoal.v1.value_pb2 import Metadata
from shoal_coordinator import configuration
from shoal_coordinator.assignment import bucket_runs
from shoal_coordinator.state import CatalogState, Change, deletions_of


@dataclass(frozen=True, slots=True)
class NewCollection:
    """What a caller wishes to create.

    Attributes:
        configuration: As given: what is not set takes its default.
        get_or_create: Be content with an existing one that does not contradict.
    """

    tenant: str
    database: str
    name: str
    configuration: CollectionConfiguration
    metadata: Metadata
    get_or_create: bool


@dataclass(frozen=True, slots=True)
class CollectionUpdate:
    """What a caller wishes to change; None stays."""

    new_name: str | None
    new_metadata: Metadata | None
    new_hnsw: HnswConfiguration | None
    new_embedding_function: EmbeddingFunction | None


def undo_creations(
    state: CatalogState, entries: Sequence[CollectionEntry]
) -> tuple[Change | None, tuple[ShardDeletion, ...]]:
    """Turn reservations into recorded deletions: those of them that still are reservations."""
    reserved = [
        known
        for known in (state.collections.get(entry.collection.id) for entry in entries)
        if known is not None and known.state == COLLECTION_STATE_CREATING
    ]
    if not reserved:
        return None, ()
    deletions = deletions_of(reserved)
    removed = tuple(entry.collection.id for entry in reserved)
    return Change(removed_collections=removed, deletions=deletions), deletions


def new_entry(
    state: CatalogState,
    database: DatabaseEntry,
    wanted: NewCollection,
    resolved: CollectionConfiguration,
    workers: Sequence[str],
    now: float,
) -> CollectionEntry:
    """Make the reservation of a new collection, its shards on `workers` in this order."""
    collection = Collection(
        id=str(uuid.uuid4()),
        name=wanted.name,
        tenant=database.tenant,
        database=database.name,
        dimension=resolved.hnsw.dimension,
        configuration=resolved,
        metadata=wanted.metadata,
    )
    collection.created_at.FromMicroseconds(int(now * 1e6))
    runs = bucket_runs(len(workers))
    return CollectionEntry(
        collection=collection,
        database_id=database.database_id,
        creation_number=state.next_creation_number,
        shards=[
            ShardEntry(
                shard_id=str(uuid.uuid4()),
                worker_id=worker_id,
                epoch=1,
                buckets=[BucketRun(first=first, last=last)],
            )
            for worker_id, (first, last) in zip(workers, runs, strict=True)
        ],
        state=COLLECTION_STATE_CREATING,
        table_version=state.next_version,
    )


def deleted_meanwhile(collection_id: str) -> CollectionNotFoundError:
    """Say that a reserved collection is reserved no more."""
    return CollectionNotFoundError(
        "the database, or everything, was deleted while the collection was being created",
        metadata={"collection_id": collection_id},
    )


def activated(state: CatalogState, collection_id: str) -> tuple[Change, CollectionEntry]:
    """Make a reserved collection visible.

    Raises:
        CollectionNotFoundError: It is reserved no more.
    """
    reserved = state.collections.get(collection_id)
    if reserved is None:
        raise deleted_meanwhile(collection_id)
    active = CollectionEntry()
    active.CopyFrom(reserved)
    active.state = COLLECTION_STATE_ACTIVE
    active.table_version = state.next_version
    return Change(collections=(active,)), active


def updated_entry(
    state: CatalogState, entry: CollectionEntry, update: CollectionUpdate
) -> CollectionEntry:
    """Change what `update` names.

    Raises:
        CollectionExistsError: The new name is taken.
        InvalidArgumentError: A setting is fixed, out of bounds, or contradicts.
    """
    updated = CollectionEntry()
    updated.CopyFrom(entry)
    collection = updated.collection
    if update.new_name is not None:
        owner = state.collection_ids.get((entry.database_id, update.new_name), collection.id)
        if owner != collection.id:
            raise name_taken(state.databases[entry.database_id], update.new_name)
        collection.name = update.new_name
    if update.new_metadata is not None:
        collection.metadata.CopyFrom(update.new_metadata)
    if update.new_hnsw is not None:
        hnsw = configuration.update_hnsw(collection.configuration.hnsw, update.new_hnsw)
        collection.configuration.hnsw.CopyFrom(hnsw)
    if update.new_embedding_function is not None:
        configuration.check_function_update(entry.collection, update.new_embedding_function)
        function = configuration.stored(update.new_embedding_function)
        collection.configuration.embedding_function.CopyFrom(function)
    return updated


def with_dimension(entry: CollectionEntry, dimension: int) -> CollectionEntry:
    """Fix the dimension; an entry that has one comes back as it is."""
    if entry.collection.dimension:
        return entry
    fixed = CollectionEntry()
    fixed.CopyFrom(entry)
    fixed.collection.dimension = dimension
    fixed.collection.configuration.hnsw.dimension = dimension
    return fixed


def not_found(collection_id: str) -> CollectionNotFoundError:
    """The refusal of an ID that names no collection."""
    return CollectionNotFoundError(
        f"there is no collection with ID {collection_id}; it was deleted, or never existed",
        metadata={"collection_id": collection_id},
    )


def name_taken(database: DatabaseEntry, name: str) -> CollectionExistsError:
    """The refusal of a name that another collection has."""
    return CollectionExistsError(
        f"collection {name!r} exists already in database {database.name!r} of tenant"
        f" {database.tenant!r}",
        metadata={"tenant": database.tenant, "database": database.name, "collection": name},
    )
