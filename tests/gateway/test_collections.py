"""Collections, tenants, databases and the cluster itself, through a gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    DatabaseNotFoundError,
    InvalidArgumentError,
    TenantNotFoundError,
    UnavailableError,
)
from shoal.v1 import admin_service_pb2, collection_pb2, collection_service_pb2, record_service_pb2
from shoal.wire.metadata import metadata_to_message
from tests.gateway.cluster import Cluster, add, books


async def test_a_collection_is_described_listed_and_counted(cluster: Cluster) -> None:
    ids = [await cluster.create(name) for name in ("first", "second", "third")]
    listing = collection_service_pb2.ListCollectionsRequest(limit=2)

    page = await cluster.collections.ListCollections(listing)
    listing.page_token = page.next_page_token
    rest = await cluster.collections.ListCollections(listing)
    skipped = await cluster.collections.ListCollections(
        collection_service_pb2.ListCollectionsRequest(offset=1, limit=1)
    )
    counted = await cluster.collections.CountCollections(
        collection_service_pb2.CountCollectionsRequest()
    )
    by_id = await cluster.collections.GetCollection(
        collection_service_pb2.GetCollectionRequest(
            collection=collection_pb2.CollectionReference(id=ids[1].upper())
        )
    )

    assert [c.id for c in page.collections] == ids[:2]
    assert [c.id for c in rest.collections] == ids[2:]
    assert rest.next_page_token == ""
    assert [c.name for c in skipped.collections] == ["second"]
    assert counted.count == 3
    assert by_id.collection.name == "second"


async def test_a_collection_is_not_found_under_another_tenant(cluster: Cluster) -> None:
    reference = collection_pb2.CollectionReference(id=await cluster.create(), tenant="another")

    with pytest.raises(CollectionNotFoundError):
        await cluster.collections.GetCollection(
            collection_service_pb2.GetCollectionRequest(collection=reference)
        )


async def test_a_taken_name_is_refused_or_got(cluster: Cluster) -> None:
    first = await cluster.create()
    request = collection_service_pb2.CreateCollectionRequest(name="books")

    with pytest.raises(CollectionExistsError):
        await cluster.collections.CreateCollection(request)
    request.get_or_create = True
    got = await cluster.collections.CreateCollection(request)

    assert (got.collection.id, got.created) == (first, False)


async def test_a_renamed_collection_keeps_its_records(cluster: Cluster) -> None:
    await cluster.create()
    await cluster.records.Add(add(["a"]))
    update = collection_service_pb2.UpdateCollectionRequest(
        collection=books(), new_name="novels", new_metadata=metadata_to_message({"a": 1})
    )

    answer = await cluster.collections.UpdateCollection(update)
    counted = await cluster.records.Count(
        record_service_pb2.CountRequest(collection=books("novels"))
    )

    assert answer.collection.metadata.fields["a"].int_value == 1
    assert counted.count == 1
    with pytest.raises(CollectionNotFoundError):
        await cluster.records.Count(record_service_pb2.CountRequest(collection=books()))


async def test_a_name_used_again_is_another_collection(cluster: Cluster) -> None:
    first = await cluster.create()
    await cluster.collections.DeleteCollection(
        collection_service_pb2.DeleteCollectionRequest(collection=books())
    )
    second = await cluster.create()

    request = add(["a"])
    request.collection.CopyFrom(collection_pb2.CollectionReference(id=first))
    with pytest.raises(CollectionNotFoundError):
        await cluster.records.Add(request)
    assert first != second


async def test_lists_name_a_database_or_tenant_that_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(DatabaseNotFoundError):
        await cluster.collections.ListCollections(
            collection_service_pb2.ListCollectionsRequest(database="nowhere")
        )
    with pytest.raises(TenantNotFoundError):
        await cluster.collections.CountCollections(
            collection_service_pb2.CountCollectionsRequest(tenant="nobody")
        )
    with pytest.raises(TenantNotFoundError):
        await cluster.admin.ListDatabases(admin_service_pb2.ListDatabasesRequest(tenant="nobody"))


async def test_databases_hold_collections_of_their_own(cluster: Cluster) -> None:
    await cluster.admin.CreateTenant(admin_service_pb2.CreateTenantRequest(name="acme"))
    made = await cluster.admin.CreateDatabase(
        admin_service_pb2.CreateDatabaseRequest(name="library", tenant="acme")
    )
    await cluster.create()
    request = collection_service_pb2.CreateCollectionRequest(
        name="books", tenant="acme", database="library"
    )
    await cluster.collections.CreateCollection(request)

    got = await cluster.admin.GetDatabase(
        admin_service_pb2.GetDatabaseRequest(name="library", tenant="acme")
    )
    listed = await cluster.admin.ListDatabases(
        admin_service_pb2.ListDatabasesRequest(tenant="acme", limit=10)
    )
    await cluster.admin.DeleteDatabase(
        admin_service_pb2.DeleteDatabaseRequest(name="library", tenant="acme")
    )

    assert got.database == made.database
    assert made.database in listed.databases
    with pytest.raises(CollectionNotFoundError):
        await cluster.records.Count(
            record_service_pb2.CountRequest(
                collection=collection_pb2.CollectionReference(
                    name="books", tenant="acme", database="library"
                )
            )
        )
    with pytest.raises(DatabaseNotFoundError):
        await cluster.admin.GetDatabase(
            admin_service_pb2.GetDatabaseRequest(name="library", tenant="acme")
        )


async def test_a_page_token_of_another_database_is_refused(cluster: Cluster) -> None:
    for name in ("first", "second"):
        await cluster.create(name)
    await cluster.admin.CreateDatabase(admin_service_pb2.CreateDatabaseRequest(name="library"))
    page = await cluster.collections.ListCollections(
        collection_service_pb2.ListCollectionsRequest(limit=1)
    )

    with pytest.raises(InvalidArgumentError, match="another request"):
        await cluster.collections.ListCollections(
            collection_service_pb2.ListCollectionsRequest(
                database="library", page_token=page.next_page_token
            )
        )


async def test_status_shows_workers_and_shards(cluster: Cluster) -> None:
    await cluster.create(shards=4)
    await cluster.records.Add(add([str(n) for n in range(20)]))
    cluster.workers[0].down = True

    status = await cluster.admin.GetStatus(admin_service_pb2.GetStatusRequest())

    assert status.coordinator_reachable
    assert status.expected_workers == 2
    assert {w.worker_id: w.shard_count for w in status.workers} == {
        worker.worker_id: len(worker.shards) for worker in cluster.workers
    }
    assert {s.shard_id for s in status.shards if s.available} == set(cluster.workers[1].shards)
    held = sum(len(s.records) for s in cluster.workers[1].shards.values())
    assert sum(s.record_count for s in status.shards) == held
    assert all("nobody listens" in s.message for s in status.shards if not s.available)


async def test_reset_leaves_nothing(cluster: Cluster) -> None:
    await cluster.create()

    await cluster.admin.Reset(admin_service_pb2.ResetRequest())

    counted = await cluster.collections.CountCollections(
        collection_service_pb2.CountCollectionsRequest()
    )
    assert counted.count == 0
    assert all(not worker.shards for worker in cluster.workers)


async def test_the_heart_beats_when_all_workers_have_registered(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start(workers=0, expected_workers=1)
    try:
        with pytest.raises(UnavailableError, match="0 of 1 workers"):
            await cluster.admin.Heartbeat(admin_service_pb2.HeartbeatRequest())

        await cluster.add_worker("worker:1")
        assert await cluster.gateway.table.wait_until(lambda: cluster.gateway.table.ready, 2)
        beat = await cluster.admin.Heartbeat(admin_service_pb2.HeartbeatRequest())

        assert beat.nanoseconds > 0
    finally:
        await cluster.stop()


async def test_limits_and_version_are_stated(cluster: Cluster) -> None:
    limits = await cluster.admin.GetLimits(admin_service_pb2.GetLimitsRequest())
    version = await cluster.admin.GetVersion(admin_service_pb2.GetVersionRequest())

    assert all(getattr(limits, field.name) for field in limits.DESCRIPTOR.fields)
    assert version.version
