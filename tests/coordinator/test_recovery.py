"""What is left of the catalog: nothing, or an older one."""

from __future__ import annotations

import shutil

import pytest

from shoal.errors import CollectionNotFoundError, FailedPreconditionError, UnavailableError
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.server.rpc import context_for
from shoal.v1.collection_pb2 import HnswConfiguration
from tests.coordinator.cluster import Cluster, eventually


async def lose_catalog(cluster: Cluster, **options: object) -> None:
    await cluster.stop()
    await cluster.start(catalog="new", **options)


async def register_all(cluster: Cluster) -> None:
    for worker in cluster.workers.values():
        await worker.register(cluster.coordinator)


async def make_database(cluster: Cluster, tenant: str, name: str) -> None:
    service = cluster.coordinator.catalog_service
    await service.create_tenant(catalog_api.CreateTenantRequest(name=tenant), context_for(240))
    await service.create_database(
        catalog_api.CreateDatabaseRequest(tenant=tenant, name=name), context_for(240)
    )


async def test_a_lost_catalog_is_rebuilt_from_the_copies(two_workers: Cluster) -> None:
    books = await two_workers.create("books", shards=4)
    await two_workers.create("deleted")
    await two_workers.delete(await two_workers.get("deleted"))
    renamed = await two_workers.update(await two_workers.create("novels"), new_name="stories")
    cluster_id = two_workers.coordinator.table.state.cluster_id

    await lose_catalog(two_workers, recover=True)
    await register_all(two_workers)

    state = two_workers.coordinator.table.state
    assert state.cluster_id == cluster_id
    assert {e.collection.name for e in state.collections.values()} == {"books", "stories"}
    for entry in (books, renamed):
        found = await two_workers.get(entry.collection.name)
        assert found.collection == entry.collection
        assert found.shards == entry.shards
    # And stays so, without the flag.
    await two_workers.stop()
    await two_workers.start(catalog="new")
    await register_all(two_workers)
    assert (await two_workers.get("books")).shards == books.shards
    assert len(two_workers.coordinator.table.state.collections) == 2


async def test_tenants_and_databases_are_rebuilt_too(two_workers: Cluster) -> None:
    await make_database(two_workers, "acme", "library")
    service = two_workers.coordinator.catalog_service
    created = await service.create_collection(
        catalog_api.CreateCollectionRequest(tenant="acme", database="library", name="books"),
        context_for(240),
    )

    await lose_catalog(two_workers, recover=True)
    await register_all(two_workers)

    state = two_workers.coordinator.table.state
    assert state.database("acme", "library").database_id == created.entry.database_id
    assert state.active(created.entry.collection.id) is not None


async def test_shards_of_absent_workers_stay_theirs(two_workers: Cluster) -> None:
    books = await two_workers.create("books", shards=2)
    await lose_catalog(two_workers, recover=True)
    await two_workers.workers["a:1"].register(two_workers.coordinator)

    found = await two_workers.get("books")
    assert found.shards == books.shards
    absent = two_workers.coordinator.table.state.workers[two_workers.workers["b:1"].worker_id]
    assert not absent.live


async def test_without_the_flag_a_new_catalog_refuses_and_deletes_nothing(
    two_workers: Cluster,
) -> None:
    await two_workers.create("books", shards=2)

    await lose_catalog(two_workers)
    for worker in two_workers.workers.values():
        with pytest.raises(FailedPreconditionError, match="--recover-catalog"):
            await worker.register(two_workers.coordinator)

    assert [len(worker.shards) for worker in two_workers.workers.values()] == [1, 1]


async def test_a_new_worker_waits_until_the_lost_cluster_is_known(two_workers: Cluster) -> None:
    await lose_catalog(two_workers, recover=True)
    new = two_workers.make_worker("new")
    with pytest.raises(UnavailableError, match="waits for a worker of the lost cluster"):
        await new.register(two_workers.coordinator)

    await two_workers.workers["a:1"].register(two_workers.coordinator)
    await new.register(two_workers.coordinator)


async def test_an_older_catalog_keeps_what_it_does_not_know(two_workers: Cluster) -> None:
    books = await two_workers.create("books")
    await two_workers.stop()
    shutil.copytree(two_workers.directory / "coordinator", two_workers.directory / "backup")
    await two_workers.restart()
    changed = await two_workers.update(
        books, new_name="novels", new_hnsw=HnswConfiguration(ef_search=7)
    )
    later = await two_workers.create("later", shards=2)
    before = two_workers.coordinator.table.state.version
    await two_workers.stop()

    await two_workers.start(catalog="backup", now=lambda: 0.0)
    await register_all(two_workers)

    coordinator = two_workers.coordinator
    assert coordinator.table.state.version > before
    # A collection that both know is as it was changed last.
    assert (await two_workers.get("novels")).collection == changed.collection
    # One that the catalog does not know is kept, and reported.
    unknown = {s for shards in coordinator.membership.unknown_shards.values() for s in shards}
    assert unknown == {shard.shard_id for shard in later.shards}
    assert sum(len(worker.shards) for worker in two_workers.workers.values()) == 3
    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("later")

    # With the flag it is taken in again.
    await two_workers.stop()
    await two_workers.start(catalog="backup", recover=True)
    await register_all(two_workers)
    assert (await two_workers.get("later")).collection == later.collection


async def test_a_missing_shard_stays_assigned(two_workers: Cluster) -> None:
    books = await two_workers.create("books", shards=2)
    emptied = two_workers.workers["a:1"]
    for file in emptied.directory.glob("*.shard"):
        file.unlink()
    again = emptied.restart()
    two_workers.workers["a:1"] = again
    await again.register(two_workers.coordinator)

    assert (await two_workers.get("books")) == books
    assert list(two_workers.coordinator.membership.missing_shards) == [again.worker_id]
    assert not again.shards


async def test_two_collections_of_one_name_are_both_reachable(two_workers: Cluster) -> None:
    await two_workers.create("pad")
    old = await two_workers.create("books")
    (holder,) = (w for w in two_workers.workers.values() if old.shards[0].shard_id in w.shards)
    holder.reachable = False
    two_workers.clock.now_s += 100
    for worker in two_workers.workers.values():
        if worker is not holder:
            await worker.heartbeat(two_workers.coordinator)
    await two_workers.delete(old)
    new = await two_workers.create("books")

    holder.reachable = True
    await lose_catalog(two_workers, recover=True)
    for worker in two_workers.workers.values():
        if worker is not holder:
            await worker.register(two_workers.coordinator)
    await holder.register(two_workers.coordinator)

    assert (await two_workers.get("books")).collection.id == new.collection.id
    recovered = await two_workers.get(f"books.recovered-{old.collection.id[:8]}")
    assert recovered.collection.id == old.collection.id


async def test_an_outdated_copy_is_replaced_when_its_worker_comes_back(
    two_workers: Cluster,
) -> None:
    books = await two_workers.create("books", shards=2)
    away = two_workers.workers["b:1"]
    away.reachable = False
    two_workers.clock.now_s += 100
    await two_workers.workers["a:1"].heartbeat(two_workers.coordinator)
    renamed = await two_workers.update(books, new_name="novels")
    assert list(two_workers.workers["a:1"].shards.values()) == [renamed]
    assert [e.collection.name for e in away.shards.values()] == ["books"]

    await two_workers.restart()
    back = away.restart()
    two_workers.workers["b:1"] = back
    await back.register(two_workers.coordinator)

    await eventually(lambda: [e.collection.name for e in back.shards.values()] == ["novels"])
    # The copies that were right have been left alone.
    assert two_workers.workers["a:1"].calls == ["create", "update"]
