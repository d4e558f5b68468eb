"""Records through a gateway: the same whatever the number of shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import (
    CollectionNotFoundError,
    DimensionMismatchError,
    NotFoundError,
    ShoalError,
)
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2
from shoal.wire.filters import where_from_dict
from shoal.wire.metadata import metadata_to_message
from shoal.wire.vectors import vectors_of
from tests.gateway.cluster import Cluster, add, batch, books, vector

ALL = [
    value_pb2.INCLUDE_DOCUMENTS,
    value_pb2.INCLUDE_METADATAS,
    value_pb2.INCLUDE_VECTORS,
    value_pb2.INCLUDE_URIS,
]

pytestmark = pytest.mark.parametrize("shards", [1, 3])


@pytest.fixture(params=["memory", "disk"])
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster with two workers: such as keep their shards in memory, or the real ones."""
    cluster = Cluster(tmp_path)
    if request.param == "memory":
        await cluster.start(workers=2)
    else:
        await cluster.start(workers=0, expected_workers=2)
        for name in ("first", "second"):
            await cluster.add_real_worker(name)
        assert await cluster.gateway.table.wait_until(lambda: cluster.gateway.table.ready, 5)
    yield cluster
    await cluster.stop()


def ids(count: int) -> list[str]:
    return [f"r{n}" for n in range(count)]


async def test_what_is_added_comes_back_in_order(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    metadatas = [{"n": n} if n % 2 else None for n in range(40)]
    documents = [f"text {n}" for n in range(40)]

    added = await cluster.records.Add(add(ids(40), metadatas=metadatas, documents=documents))
    got = await cluster.records.Get(record_service_pb2.GetRequest(collection=books(), include=ALL))

    assert (added.added, added.ignored) == (40, 0)
    assert list(got.records.ids) == ids(40)
    assert list(got.records.documents.values) == documents
    assert [m.fields["n"].int_value if m.fields else None for m in got.records.metadatas] == [
        n if n % 2 else None for n in range(40)
    ]
    assert vectors_of(got.records.vectors)[:, 0].tolist() == list(range(40))
    assert list(got.records.uris.absent) == list(range(40))
    assert list(got.ordinals) == sorted(set(got.ordinals))
    assert got.next_page_token == ""


async def test_existing_ids_are_left_alone_by_add_and_changed_by_upsert(
    cluster: Cluster, shards: int
) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(10)))

    again = await cluster.records.Add(add(ids(12)))
    upserted = await cluster.records.Upsert(
        record_service_pb2.UpsertRequest(
            collection=books(), records=batch(ids(14), metadatas=[{"a": 1}] * 14)
        )
    )
    updated = await cluster.records.Update(
        record_service_pb2.UpdateRequest(
            collection=books(),
            records=value_pb2.RecordBatch(
                ids=["r1", "unknown"], metadatas=[metadata_to_message({"b": 2})] * 2
            ),
        )
    )

    assert (again.added, again.ignored) == (2, 10)
    assert (upserted.added, upserted.updated) == (2, 12)
    assert (updated.updated, updated.ignored) == (1, 1)


@pytest.mark.parametrize("include", [[], ALL])
async def test_a_walk_by_pages_returns_every_record_once(
    cluster: Cluster, shards: int, include: list[int]
) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(101)))
    found: list[str] = []
    token = ""

    while True:
        page = await cluster.records.Get(
            record_service_pb2.GetRequest(
                collection=books(),
                limit=7,
                page_token=token,
                include=include,  # type: ignore[arg-type]
            )
        )
        found += page.records.ids
        assert len(page.records.ids) == 7 or not page.next_page_token
        token = page.next_page_token
        if not token:
            break

    assert found == ids(101)


@pytest.mark.parametrize(("limit", "offset"), [(5, 0), (5, 17), (1, 99), (5, 98), (5, 200), (0, 3)])
async def test_a_page_begins_at_its_offset(
    cluster: Cluster, shards: int, limit: int, offset: int
) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(100)))

    page = await cluster.records.Get(
        record_service_pb2.GetRequest(collection=books(), limit=limit, offset=offset)
    )

    assert list(page.records.ids) == ids(100)[offset : offset + limit]


async def test_an_offset_counts_from_the_page_token(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(50)))
    get = record_service_pb2.GetRequest(collection=books(), limit=10)

    get.page_token = (await cluster.records.Get(get)).next_page_token
    get.offset = 5
    page = await cluster.records.Get(get)

    assert list(page.records.ids) == ids(50)[15:25]


async def test_a_page_token_belongs_to_its_filters(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(50)))
    token = (
        await cluster.records.Get(record_service_pb2.GetRequest(collection=books(), limit=10))
    ).next_page_token
    other = record_service_pb2.GetRequest(
        collection=books(), limit=10, page_token=token, where=where_from_dict({"a": 1})
    )

    with pytest.raises(ShoalError, match="page_token belongs to another request"):
        await cluster.records.Get(other)


async def test_records_are_got_by_id_and_filter_in_order(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(30), metadatas=[{"n": n} for n in range(30)]))

    got = await cluster.records.Get(
        record_service_pb2.GetRequest(
            collection=books(),
            ids=value_pb2.IdList(values=["r20", "r3", "missing", "r7"]),
            where=where_from_dict({"n": {"$gt": 5}}),
        )
    )

    assert list(got.records.ids) == ["r7", "r20"]


async def test_ids_are_listed_by_prefix(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(30)))
    request = record_service_pb2.ListIdsRequest(collection=books(), prefix="r2", limit=6)

    first = await cluster.records.ListIds(request)
    request.page_token = first.next_page_token
    second = await cluster.records.ListIds(request)

    assert list(first.ids) == ["r2", *(f"r2{n}" for n in range(5))]
    assert list(second.ids) == [f"r2{n}" for n in range(5, 10)]
    assert second.next_page_token == ""


async def test_records_are_counted(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(30), metadatas=[{"n": n} for n in range(30)]))

    everything = await cluster.records.Count(record_service_pb2.CountRequest(collection=books()))
    some = await cluster.records.Count(
        record_service_pb2.CountRequest(collection=books(), where=where_from_dict({"n": 3}))
    )

    assert (everything.count, some.count) == (30, 1)


async def test_the_nearest_come_first_and_ties_in_order_of_insertion(
    cluster: Cluster, shards: int
) -> None:
    await cluster.create(shards=shards)
    vectors = np.zeros((60, 4), np.float32)
    vectors[:, 0] = np.arange(60) // 3
    await cluster.records.Add(add(ids(60), vectors))

    answer = await cluster.records.Query(
        record_service_pb2.QueryRequest(
            collection=books(),
            query_vectors=value_pb2.VectorBlock(
                dimension=4, values=np.array([[5, 0, 0, 0], [0, 0, 0, 0]], "<f4").tobytes()
            ),
            n_results=4,
            include=[value_pb2.INCLUDE_DISTANCES, value_pb2.INCLUDE_VECTORS],
            explain=True,
        )
    )

    assert list(answer.match_counts) == [4, 4]
    assert list(answer.records.ids) == ["r15", "r16", "r17", "r12", "r0", "r1", "r2", "r3"]
    assert list(answer.distances) == [0, 0, 0, 1, 0, 0, 0, 1]
    assert vectors_of(answer.records.vectors)[:, 0].tolist() == [5, 5, 5, 4, 0, 0, 0, 1]
    assert len(answer.plan.shards) == shards
    owners = [answer.plan.shards[place].shard_id for place in answer.plan.match_shards]
    route = cluster.gateway.table.collection_named("default_tenant", "default_database", "books")
    assert route is not None
    assert owners == [
        route.shards[owner].shard_id for owner in route.owners_of(list(answer.records.ids))
    ]


async def test_a_query_is_restricted_to_ids_and_searches_by_stored_records(
    cluster: Cluster, shards: int
) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(30)))
    query = record_service_pb2.QueryRequest(
        collection=books(),
        query_ids=value_pb2.IdList(values=["r20", "r5", "r20"]),
        n_results=2,
        ids=value_pb2.IdList(values=["r4", "r9", "r25", "missing"]),
    )

    answer = await cluster.records.Query(query)

    assert list(answer.match_counts) == [2, 2, 2]
    assert list(answer.records.ids) == ["r25", "r9", "r4", "r9", "r25", "r9"]


async def test_a_query_by_an_unknown_record_names_it(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(3)))
    query = record_service_pb2.QueryRequest(
        collection=books(), query_ids=value_pb2.IdList(values=["r1", "nobody"]), n_results=1
    )

    with pytest.raises(NotFoundError, match="nobody"):
        await cluster.records.Query(query)


async def test_an_empty_collection_gives_empty_lists(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    query = record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(1, 2, 3), n_results=5
    )

    answer = await cluster.records.Query(query)

    assert list(answer.match_counts) == [0]


async def test_another_dimension_is_refused(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(3)))

    with pytest.raises(DimensionMismatchError, match="holds vectors of dimension 4, got 3"):
        await cluster.records.Add(add(["new"], np.ones((1, 3), np.float32)))
    query = record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(1, 2, 3), n_results=5
    )
    with pytest.raises(DimensionMismatchError):
        await cluster.records.Query(query)


async def test_deletion_counts_what_was_there(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(20), metadatas=[{"even": n % 2 == 0} for n in range(20)]))
    by_id = record_service_pb2.DeleteRequest(
        collection=books(), ids=value_pb2.IdList(values=["r1", "r2", "nobody"])
    )
    first = record_service_pb2.DeleteRequest(
        collection=books(), where=where_from_dict({"even": True}), limit=4
    )

    deleted = await cluster.records.Delete(by_id)
    limited = await cluster.records.Delete(first)
    left = await cluster.records.Get(record_service_pb2.GetRequest(collection=books()))

    assert (deleted.deleted, limited.deleted) == (2, 4)
    assert list(left.records.ids) == [
        i for i in ids(20) if i not in ("r1", "r2", "r0", "r4", "r6", "r8")
    ]


async def test_metadata_is_set_where_it_matches(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)
    await cluster.records.Add(add(ids(20), metadatas=[{"n": n} for n in range(20)]))
    request = record_service_pb2.UpdateWhereRequest(
        collection=books(),
        where=where_from_dict({"n": {"$lt": 5}}),
        metadata=metadata_to_message({"few": True}),
        dry_run=True,
    )

    dry = await cluster.records.UpdateWhere(request)
    request.dry_run = False
    done = await cluster.records.UpdateWhere(request)
    few = await cluster.records.Count(
        record_service_pb2.CountRequest(collection=books(), where=where_from_dict({"few": True}))
    )

    assert (dry.matched, dry.updated, done.matched, done.updated, few.count) == (5, 0, 5, 5, 5)


async def test_an_unknown_collection_is_not_found(cluster: Cluster, shards: int) -> None:
    await cluster.create(shards=shards)

    with pytest.raises(CollectionNotFoundError, match="'films'"):
        await cluster.records.Count(record_service_pb2.CountRequest(collection=books("films")))
    by_id = collection_pb2.CollectionReference(id="7f8b1a1e-0000-4000-8000-000000000000")
    with pytest.raises(CollectionNotFoundError, match="7f8b1a1e"):
        await cluster.records.Count(record_service_pb2.CountRequest(collection=by_id))


async def test_a_write_is_ordered_after_what_its_session_has_seen(
    cluster: Cluster, shards: int
) -> None:
    await cluster.create(shards=shards)
    other = await cluster.add_gateway()
    del other
    token = (await cluster.records.Add(add(["first"]))).session_token

    request = add(["second"])
    request.session_token = token
    later = await cluster.records.Add(request)

    assert later.session_token > token
