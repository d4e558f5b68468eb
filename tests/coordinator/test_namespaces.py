"""Tenants, databases, reset."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import (
    CollectionNotFoundError,
    DatabaseExistsError,
    DatabaseNotFoundError,
    FailedPreconditionError,
    PermissionDeniedError,
    TenantExistsError,
    TenantNotFoundError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1.catalog_pb2 import DatabaseEntry
from shoal.server.rpc import context_for
from shoal_coordinator import lifecycle
from shoal_coordinator.state import DEFAULT_DATABASE, DEFAULT_TENANT
from tests.coordinator.cluster import Cluster, eventually


async def create_tenant(cluster: Cluster, name: str) -> None:
    await cluster.coordinator.catalog_service.create_tenant(
        catalog_api.CreateTenantRequest(name=name), context_for(240)
    )


async def create_database(cluster: Cluster, name: str, tenant: str) -> DatabaseEntry:
    response = await cluster.coordinator.catalog_service.create_database(
        catalog_api.CreateDatabaseRequest(name=name, tenant=tenant), context_for(240)
    )
    return response.entry


async def get_database(cluster: Cluster, name: str, tenant: str) -> DatabaseEntry:
    response = await cluster.coordinator.catalog_service.get_database(
        catalog_api.GetDatabaseRequest(name=name, tenant=tenant), context_for(240)
    )
    return response.entry


async def delete_database(cluster: Cluster, name: str, tenant: str) -> None:
    await cluster.coordinator.catalog_service.delete_database(
        catalog_api.DeleteDatabaseRequest(name=name, tenant=tenant), context_for(240)
    )


async def reset(cluster: Cluster) -> None:
    await cluster.coordinator.catalog_service.reset(catalog_api.ResetRequest(), context_for(240))


async def test_a_database_belongs_to_its_tenant(cluster: Cluster) -> None:
    await create_tenant(cluster, "acme")
    created = await create_database(cluster, "library", "acme")

    assert await get_database(cluster, "library", "acme") == created
    with pytest.raises(DatabaseNotFoundError, match="no database 'library'"):
        await get_database(cluster, "library", DEFAULT_TENANT)
    other = await create_database(cluster, "library", DEFAULT_TENANT)
    assert other.database_id != created.database_id


async def test_taken_and_missing_names_are_refused(cluster: Cluster) -> None:
    await create_tenant(cluster, "acme")
    await create_database(cluster, "library", "acme")
    with pytest.raises(TenantExistsError):
        await create_tenant(cluster, "acme")
    with pytest.raises(DatabaseExistsError):
        await create_database(cluster, "library", "acme")
    with pytest.raises(TenantNotFoundError):
        await create_database(cluster, "library", "nobody")
    with pytest.raises(TenantNotFoundError):
        await cluster.coordinator.catalog_service.get_tenant(
            catalog_api.GetTenantRequest(name="nobody"), context_for(240)
        )


async def test_one_name_in_two_databases_is_two_collections(two_workers: Cluster) -> None:
    await create_database(two_workers, "library", DEFAULT_TENANT)
    here = await two_workers.create("books")
    there = await two_workers.create("books", database="library")

    assert here.collection.id != there.collection.id
    assert await two_workers.get("books") == here


async def test_deleting_a_database_deletes_its_collections(two_workers: Cluster) -> None:
    await create_database(two_workers, "library", DEFAULT_TENANT)
    await two_workers.create("books", database="library", shards=4)
    kept = await two_workers.create("books")

    await delete_database(two_workers, "library", DEFAULT_TENANT)

    held = {s for worker in two_workers.workers.values() for s in worker.shards}
    assert held == {kept.shards[0].shard_id}
    with pytest.raises(DatabaseNotFoundError):
        await two_workers.create("books", database="library")
    with pytest.raises(DatabaseNotFoundError):
        await delete_database(two_workers, "library", DEFAULT_TENANT)


async def test_the_default_database_cannot_be_deleted(cluster: Cluster) -> None:
    with pytest.raises(FailedPreconditionError, match="always exists"):
        await delete_database(cluster, DEFAULT_DATABASE, DEFAULT_TENANT)


async def test_a_collection_is_not_created_into_a_deleted_database(two_workers: Cluster) -> None:
    await create_database(two_workers, "library", DEFAULT_TENANT)
    two_workers.hold_up("create")
    creation = asyncio.create_task(two_workers.create("books", database="library"))
    await two_workers.called("create")

    deletion = asyncio.create_task(delete_database(two_workers, "library", DEFAULT_TENANT))
    state = two_workers.coordinator.table.state
    await eventually(lambda: (DEFAULT_TENANT, "library") not in state.database_ids)
    two_workers.go_on()
    await deletion

    with pytest.raises(CollectionNotFoundError, match="while the collection was being created"):
        await creation
    await two_workers.settled()
    assert not any(worker.shards for worker in two_workers.workers.values())


async def test_reset_has_to_be_allowed(two_workers: Cluster) -> None:
    await two_workers.create("books")
    with pytest.raises(PermissionDeniedError, match="SHOAL_ALLOW_RESET"):
        await reset(two_workers)
    await two_workers.get("books")


async def test_reset_leaves_the_defaults(two_workers: Cluster) -> None:
    await two_workers.restart(allow_reset=True)
    await create_tenant(two_workers, "acme")
    await create_database(two_workers, "library", "acme")
    await two_workers.create("books", shards=4)

    await reset(two_workers)

    state = two_workers.coordinator.table.state
    assert list(state.tenants) == [DEFAULT_TENANT]
    assert list(state.database_ids) == [(DEFAULT_TENANT, DEFAULT_DATABASE)]
    assert not state.collections
    assert not any(worker.shards for worker in two_workers.workers.values())
    await two_workers.create("books")


async def test_reset_with_a_worker_down_reaches_it_later(
    two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CONFIRM_S", 0.3)
    await two_workers.restart(allow_reset=True)
    await two_workers.create("books", shards=4)
    away = two_workers.workers["b:1"]
    away.refuse = lambda method: UnavailableError("down")

    await reset(two_workers)
    assert len(away.shards) == 2

    away.refuse = lambda method: None
    await two_workers.settled()
    assert not away.shards
