"""Tenants and databases, and the reset of everything.

A database's snapshots go with it: nobody could name them any more. Backups stay, also after a
reset: they are what an operator has against mistakes.
"""

from __future__ import annotations

import uuid

from shoal.errors import (
    DatabaseExistsError,
    FailedPreconditionError,
    PermissionDeniedError,
    TenantExistsError,
)
from shoal.internal.v1.catalog_pb2 import DatabaseEntry, ShardDeletion, TenantEntry
from shoal_coordinator.changes import Changes
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.snapshots import Snapshots, terminated
from shoal_coordinator.state import (
    DEFAULT_DATABASE,
    DEFAULT_TENANT,
    MAX_DATABASES,
    MAX_TENANTS,
    CatalogState,
    Change,
    check_room,
    deletions_of,
)
from shoal_coordinator.table import RoutingTable


class Namespaces:
    """Creates tenants and databases, deletes databases, resets.

    Args:
        allow_reset: Whether `reset` may be called.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        lifecycle: Lifecycle,
        snapshots: Snapshots,
        *,
        allow_reset: bool,
    ) -> None:
        self._changes = changes
        self._table = table
        self._lifecycle = lifecycle
        self._snapshots = snapshots
        self._allow_reset = allow_reset

    def get_tenant(self, name: str) -> TenantEntry:
        """Find a tenant. Raises TenantNotFoundError."""
        return self._table.state.tenant(name)

    def get_database(self, tenant: str, name: str) -> DatabaseEntry:
        """Find a database. Raises TenantNotFoundError or DatabaseNotFoundError."""
        return self._table.state.database(tenant, name)

    async def create_tenant(self, name: str) -> TenantEntry:
        """Create a tenant. Raises TenantExistsError."""

        def decide(state: CatalogState) -> tuple[Change, TenantEntry]:
            if name in state.tenants:
                raise TenantExistsError(
                    f"tenant {name!r} exists already", metadata={"tenant": name}
                )
            check_room("tenants", len(state.tenants), MAX_TENANTS)
            tenant = TenantEntry(name=name, creation_number=state.next_creation_number)
            return Change(tenants=(tenant,)), tenant

        tenant, version = await self._changes.make(decide)
        await self._lifecycle.confirm(version)
        return tenant

    async def create_database(self, tenant: str, name: str) -> DatabaseEntry:
        """Create a database. Raises TenantNotFoundError or DatabaseExistsError."""

        def decide(state: CatalogState) -> tuple[Change, DatabaseEntry]:
            state.tenant(tenant)
            if (tenant, name) in state.database_ids:
                raise DatabaseExistsError(
                    f"tenant {tenant!r} has a database {name!r} already",
                    metadata={"tenant": tenant, "database": name},
                )
            check_room("databases", len(state.databases), MAX_DATABASES)
            database = DatabaseEntry(
                database_id=str(uuid.uuid4()),
                name=name,
                tenant=tenant,
                creation_number=state.next_creation_number,
            )
            return Change(databases=(database,)), database

        database, version = await self._changes.make(decide)
        await self._lifecycle.confirm(version)
        return database

    async def delete_database(self, tenant: str, name: str) -> None:
        """Delete a database with all its collections and snapshots.

        Raises:
            TenantNotFoundError, DatabaseNotFoundError: There is none.
            FailedPreconditionError: It is the one that always exists.
        """

        def decide(state: CatalogState) -> tuple[Change, tuple[ShardDeletion, ...]]:
            database = state.database(tenant, name)
            if (tenant, name) == (DEFAULT_TENANT, DEFAULT_DATABASE):
                raise FailedPreconditionError(
                    f"database {name!r} of tenant {tenant!r} always exists and cannot be deleted;"
                    " delete its collections instead"
                )
            entries = state.collections_in([database.database_id])
            deletions = deletions_of(entries)
            change = Change(
                removed_databases=(database.database_id,),
                removed_collections=tuple(entry.collection.id for entry in entries),
                deletions=deletions,
                snapshots=terminated(
                    [
                        snapshot
                        for snapshot in state.snapshots.values()
                        if snapshot.database_id == database.database_id
                    ]
                ),
            )
            return change, deletions

        await self._lifecycle.remove(decide)
        self._snapshots.end_terminating()

    async def reset(self) -> None:
        """Delete every collection, snapshot, database and tenant but the default ones.

        Raises:
            PermissionDeniedError: The coordinator was started without `allow_reset`.
        """
        if not self._allow_reset:
            raise PermissionDeniedError(
                "reset is not allowed: start the server with allow_reset"
                " (--allow-reset, or SHOAL_ALLOW_RESET=1)"
            )

        def decide(state: CatalogState) -> tuple[Change, tuple[ShardDeletion, ...]]:
            kept = state.database_ids[DEFAULT_TENANT, DEFAULT_DATABASE]
            deletions = deletions_of(state.collections.values())
            change = Change(
                removed_collections=tuple(state.collections),
                removed_databases=tuple(d for d in state.databases if d != kept),
                removed_tenants=tuple(t for t in state.tenants if t != DEFAULT_TENANT),
                deletions=deletions,
                snapshots=terminated(state.snapshots.values()),
            )
            return (change, deletions)

        await self._lifecycle.remove(decide)
        self._snapshots.end_terminating()
