"""Collections, tenants and databases, by every way in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from tests.sdk.ways import Ways, ways_in


def test_a_collection_says_what_it_is(client: Any) -> None:
    books = client.create_collection("books", metadata={"owner": "me", "n": 1, "f": 1.5, "b": True})
    assert isinstance(books.id, uuid.UUID)
    assert (books.name, books.tenant, books.database) == (
        "books",
        "default_tenant",
        client.database,
    )
    assert books.metadata == {"owner": "me", "n": 1, "f": 1.5, "b": True}
    assert books.dimension is None
    assert books.configuration["embedding_function"] == {"name": "default", "config": {}}
    hnsw = books.configuration["hnsw"]
    assert (hnsw["space"], hnsw["ef_construction"], hnsw["ef_search"]) == ("l2", 100, 100)
    assert (hnsw["max_neighbors"], hnsw["batch_size"], hnsw["sync_threshold"]) == (16, 100, 1000)
    assert (hnsw["resize_factor"], hnsw["shards"], hnsw["replicas"]) == (1.2, 1, 1)
    assert 1 <= hnsw["num_threads"] <= 256
    assert hnsw["quantization"] in ("f32", "f16", "bf16", "i8")
    assert set(hnsw) == {
        "space", "ef_construction", "ef_search", "max_neighbors", "batch_size", "sync_threshold",
        "num_threads", "resize_factor", "dimension", "quantization", "shards", "replicas",
    }  # fmt: skip


def test_it_is_found_by_name_and_by_id(client: Any) -> None:
    books = client.create_collection("books", metadata={"a": 1}, embedding_function=None)
    assert client.get_collection("books") == books
    assert client.get_collection("books").metadata == {"a": 1}
    assert client.get_collection_by_id(books.id).name == "books"
    assert client.get_collection_by_id(str(books.id)) == books
    assert client.has_collection("books")
    assert not client.has_collection("papers")
    assert not client.has_collection("..")
    missing: list[Callable[[], Any]] = [
        lambda: client.get_collection("papers"),
        lambda: client.get_collection_by_id(uuid.uuid4()),
        lambda: client.delete_collection("papers"),
    ]
    for call in missing:
        with pytest.raises(shoal.CollectionNotFoundError) as caught:
            call()
        assert isinstance(caught.value, KeyError)
    with pytest.raises(shoal.InvalidArgumentError):
        client.get_collection_by_id("books")


def test_a_taken_name_is_refused(client: Any) -> None:
    client.create_collection("books")
    with pytest.raises(shoal.CollectionExistsError, match="books") as caught:
        client.create_collection("books")
    assert isinstance(caught.value, ValueError)


def test_they_are_listed_in_order_of_creation(client: Any) -> None:
    names = ["ccc", "aaa", "bbb", "ddd"]
    for name in names:
        client.create_collection(name)
    assert [c.name for c in client.list_collections()] == names
    assert [c.name for c in client.list_collections(limit=2)] == names[:2]
    assert [c.name for c in client.list_collections(limit=2, offset=1)] == names[1:3]
    assert [c.name for c in client.list_collections(offset=3)] == names[3:]
    assert client.list_collections(limit=0) == []
    assert client.count_collections() == 4


def test_get_or_create_leaves_what_exists_and_refuses_contradictions(client: Any) -> None:
    first = client.create_collection(
        "books", {"hnsw": {"space": "cosine", "dimension": 3}}, {"a": 1}, embedding_function=None
    )
    again = client.get_or_create_collection("books", metadata={"b": 2})
    assert again == first
    assert again.metadata == {"a": 1}
    assert again.configuration["hnsw"]["space"] == "cosine"
    same = {"hnsw": {"space": "cosine", "dimension": 3, "ef_search": 7}}
    assert client.get_or_create_collection("books", same).configuration["hnsw"]["ef_search"] == 100
    for contradiction in (
        {"configuration": {"hnsw": {"space": "l2"}}},
        {"configuration": {"hnsw": {"dimension": 4}}},
        {"configuration": shoal.HNSWConfiguration()},
        {"metadata": {"hnsw:space": "ip"}},
    ):
        with pytest.raises(shoal.InvalidArgumentError):
            client.get_or_create_collection("books", **contradiction)
    assert client.get_or_create_collection("papers").name == "papers"
    assert client.create_collection("papers", get_or_create=True).name == "papers"


def test_every_configuration_is_in_force(client: Any) -> None:
    given = {
        "space": "ip", "ef_construction": 50, "ef_search": 60, "max_neighbors": 8,
        "batch_size": 10, "sync_threshold": 20, "num_threads": 3, "resize_factor": 1.5,
        "dimension": 4, "quantization": "f16", "shards": 2, "replicas": 1,
    }  # fmt: skip
    client.create_collection("books", {"hnsw": given}, embedding_function=None)
    books = client.get_collection("books")
    assert books.configuration == {
        "hnsw": given,
        "embedding_function": None,
        "documents": {"language": "english"},
        "sparse_vectors": {},
    }
    assert books.dimension == 4


def test_hnsw_configuration_is_384_and_cosine(client: Any) -> None:
    books = client.create_collection("books", shoal.HNSWConfiguration())
    assert (books.dimension, books.configuration["hnsw"]["space"]) == (384, "cosine")


def test_more_replicas_than_there_can_be_are_refused(client: Any) -> None:
    with pytest.raises(shoal.UnimplementedError):
        client.create_collection("books", {"hnsw": {"replicas": 2}})


def test_older_metadata_keys_configure(client: Any) -> None:
    metadata = {"hnsw:space": "cosine", "hnsw:search_ef": 77}
    books = client.create_collection("books", metadata=metadata)
    assert books.metadata == metadata
    hnsw = client.get_collection("books").configuration["hnsw"]
    assert (hnsw["space"], hnsw["ef_search"]) == ("cosine", 77)
    with pytest.raises(shoal.InvalidArgumentError, match="cosine"):
        client.create_collection("papers", {"hnsw": {"space": "l2"}}, metadata)


def test_modify(client: Any) -> None:
    books = client.create_collection("books", metadata={"a": 1}, embedding_function=None)
    other = client.create_collection("papers")
    books.modify(name="novels", metadata={"b": 2})
    books.modify(configuration={"hnsw": {"ef_search": 5, "num_threads": 2}})
    for seen in (books, client.get_collection("novels")):
        assert (seen.name, seen.metadata) == ("novels", {"b": 2})
        hnsw = seen.configuration["hnsw"]
        assert (hnsw["ef_search"], hnsw["num_threads"]) == (5, 2)
    assert not client.has_collection("books")
    with pytest.raises(shoal.CollectionExistsError, match="papers"):
        books.modify(name="papers")
    books.modify(name="novels")
    assert other.name == "papers"
    with pytest.raises(shoal.InvalidArgumentError, match="hnsw"):
        books.modify(metadata={"hnsw:space": "ip"})


def test_a_deleted_collection_is_gone_for_good(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    books.add("a", [1, 2])
    client.delete_collection("books")
    again = client.create_collection("books", embedding_function=None)
    again.add("z", [1, 2, 3])
    assert again.id != books.id
    for call in (
        lambda: books.add("b", [1, 2]),
        books.get,
        books.count,
        lambda: books.query([1, 2]),
        lambda: books.delete("a"),
        lambda: books.modify(name="other"),
        books.list_ids,
        lambda: books.update("a", metadatas={"x": 1}),
        lambda: books.update_where({"x": 1}, {"y": 1}),
        lambda: list(books.iterate()),
    ):
        with pytest.raises(shoal.CollectionNotFoundError):
            call()
    assert again.get()["ids"] == ["z"]


def test_databases_hold_their_own_collections(ways: Ways, way: str, client: Any) -> None:
    admin = ways.admin(way)
    admin.create_database("elsewhere")
    other = ways.client(way, database="elsewhere")
    client.create_collection("books")
    assert other.list_collections() == []
    other.create_collection("books")
    assert other.get_collection("books") != client.get_collection("books")
    with pytest.raises(shoal.CollectionNotFoundError):
        other.get_collection_by_id(client.get_collection("books").id)
    admin.delete_database("elsewhere")
    with pytest.raises(shoal.NotFoundError):
        other.get_collection("books")
    with pytest.raises(shoal.DatabaseNotFoundError):
        other.create_collection("papers")
    assert client.has_collection("books")
    other.close()
    admin.close()


def test_tenants_and_databases(ways: Ways, way: str) -> None:
    tenant = f"tenant-{way}"
    admin = ways.admin(way)
    assert admin.create_tenant(tenant) == {"name": tenant}
    assert admin.get_tenant(tenant) == {"name": tenant}
    with pytest.raises(shoal.TenantExistsError):
        admin.create_tenant(tenant)
    with pytest.raises(shoal.TenantNotFoundError):
        admin.get_tenant("nobody")
    created = admin.create_database("first-one", tenant)
    assert created == admin.get_database("first-one", tenant)
    assert (created["name"], created["tenant"]) == ("first-one", tenant)
    uuid.UUID(created["id"])
    with pytest.raises(shoal.DatabaseExistsError):
        admin.create_database("first-one", tenant)
    with pytest.raises(shoal.TenantNotFoundError):
        admin.create_database("first-one", "nobody")
    with pytest.raises(shoal.DatabaseNotFoundError):
        admin.get_database("nothing", tenant)
    with pytest.raises(shoal.DatabaseNotFoundError):
        admin.delete_database("nothing", tenant)
    admin.create_database("second", tenant)
    names = [d["name"] for d in admin.list_databases(tenant=tenant)]
    assert names[-2:] == ["first-one", "second"]
    assert len(admin.list_databases(limit=1, offset=1, tenant=tenant)) == 1
    with pytest.raises(shoal.TenantNotFoundError):
        admin.list_databases(tenant="nobody")
    assert admin.get_database("default_database")["tenant"] == "default_tenant"
    mine = ways.client(way, tenant=tenant, database="second")
    assert mine.create_collection("books").tenant == tenant
    mine.close()
    admin.delete_database("second", tenant)
    admin.close()


def test_the_server_says_who_it_is(client: Any) -> None:
    assert client.heartbeat() > 1_700_000_000_000_000_000
    assert client.get_version() == shoal.__version__
    assert client.get_max_batch_size() == 10_000


def test_reset_is_forbidden_by_default(client: Any) -> None:
    client.create_collection("books")
    with pytest.raises(shoal.PermissionDeniedError, match="allow_reset"):
        client.reset()
    assert client.count_collections() == 1


@pytest.fixture(scope="module")
def resettable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    directory: Path = tmp_path_factory.mktemp("resettable")
    with ways_in(directory, allow_reset=True) as ways:
        yield ways


def test_reset_empties_everything_where_it_is_allowed(resettable: Ways, way: str) -> None:
    client, admin = resettable.client(way), resettable.admin(way)
    books = client.create_collection("books", embedding_function=None)
    books.add("a", [1, 2])
    admin.create_tenant("somebody")
    assert client.reset() is True
    assert client.list_collections() == []
    with pytest.raises(shoal.CollectionNotFoundError):
        books.count()
    with pytest.raises(shoal.TenantNotFoundError):
        admin.get_tenant("somebody")
    assert client.create_collection("books", embedding_function=None).count() == 0
    assert client.reset()
    client.close()
    admin.close()
