"""Snapshots and backups, as clients describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from shoal._embedder import describe
from shoal.configuration import CollectionConfiguration, configuration_from_message, space_of
from shoal.types import Space
from shoal.v1 import snapshot_service_pb2 as api

__all__ = ["Backup", "Snapshot", "SnapshotStatus"]

SnapshotStatus = Literal["Initializing", "Ready", "Failed", "Terminating"]
"""Where a snapshot or backup is in its life: being copied, complete, not complete and never to be,
being deleted."""

_STATUSES: Final[dict[int, SnapshotStatus]] = {
    api.SNAPSHOT_STATUS_INITIALIZING: "Initializing",
    api.SNAPSHOT_STATUS_READY: "Ready",
    api.SNAPSHOT_STATUS_FAILED: "Failed",
    api.SNAPSHOT_STATUS_TERMINATING: "Terminating",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A static copy of a collection at one point in time, as of when it was described.

    Attributes:
        name: Unique among the snapshots of its database.
        status: ``Initializing``, ``Ready``, ``Failed`` or ``Terminating``.
        source: Name that the collection had.
        size_bytes: Bytes of its files; what it shares with other snapshots counts in each. 0 until
            it is ready.
        dimension: Numbers in each vector; None if nothing had fixed it.
        vector_count: Records; 0 until the point in time is fixed.
        space: The collection's.
        configuration: The collection's, every key with the value in force.
        created_at: When it was asked for.
        failure: Why it failed; None unless it has.
        id: UUID.
        tenant: Its tenant.
        database: Its database.
    """

    name: str
    status: SnapshotStatus
    source: str
    size_bytes: int
    dimension: int | None
    vector_count: int
    space: Space | None
    configuration: CollectionConfiguration = field(repr=False)
    created_at: datetime
    failure: str | None
    id: str = field(repr=False)
    tenant: str = field(repr=False)
    database: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of the whole cluster at one point in time, as of when it was described.

    Attributes:
        name: Unique in the cluster.
        status: ``Initializing``, ``Ready``, ``Failed`` or ``Terminating``.
        size_bytes: Bytes of its files; what it shares with others counts in each. 0 until it is
            ready.
        collection_count: Collections; 0 until the point in time is fixed.
        vector_count: Records; 0 until then, too.
        created_at: When it was asked for.
        failure: Why it failed; None unless it has.
        id: UUID.
        cluster_id: UUID of the cluster that took it.
    """

    name: str
    status: SnapshotStatus
    size_bytes: int
    collection_count: int
    vector_count: int
    created_at: datetime
    failure: str | None
    id: str = field(repr=False)
    cluster_id: str = field(repr=False)


def snapshot_from_message(message: api.Snapshot) -> Snapshot:
    """Describe a snapshot."""
    source = message.source
    return Snapshot(
        name=message.name,
        status=_STATUSES[message.status],
        source=source.name,
        size_bytes=message.size_bytes,
        dimension=source.dimension or None,
        vector_count=message.vector_count,
        space=space_of(source.configuration.hnsw),
        configuration=configuration_from_message(
            source.configuration, describe(source.configuration)
        ),
        created_at=message.created_at.ToDatetime(UTC),
        failure=message.failure or None,
        id=message.id,
        tenant=message.tenant,
        database=message.database,
    )


def backup_from_message(message: api.Backup) -> Backup:
    """Describe a backup."""
    return Backup(
        name=message.name,
        status=_STATUSES[message.status],
        size_bytes=message.size_bytes,
        collection_count=message.collection_count,
        vector_count=message.vector_count,
        created_at=message.created_at.ToDatetime(UTC),
        failure=message.failure or None,
        id=message.id,
        cluster_id=message.cluster_id,
    )
