"""Creation, change and deletion of collections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Iterator

import pytest

from shoal.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidArgumentError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.server.rpc import context_for
from shoal.v1.collection_pb2 import (
    SPACE_COSINE,
    SPACE_L2,
    CollectionConfiguration,
    EmbeddingFunction,
    HnswConfiguration,
)
from shoal.v1.value_pb2 import Metadata, Value
from shoal_coordinator import lifecycle
from tests.coordinator.cluster import Cluster, eventually


async def test_a_collection_is_created_with_its_shards(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    held = [set(worker.shards) for worker in two_workers.workers.values()]
    assert [len(shards) for shards in held] == [2, 2]
    assert set.union(*held) == {shard.shard_id for shard in entry.shards}
    assert (await two_workers.get("books")) == entry


async def test_a_taken_name_is_refused(two_workers: Cluster) -> None:
    await two_workers.create("books")

    with pytest.raises(CollectionExistsError, match="'books' exists already"):
        await two_workers.create("books")


async def test_of_concurrent_creations_one_wins(two_workers: Cluster) -> None:
    answers = await asyncio.gather(
        *(two_workers.create("books") for _ in range(5)), return_exceptions=True
    )

    assert sum(isinstance(answer, CollectionExistsError) for answer in answers) == 4
    assert sum(len(worker.shards) for worker in two_workers.workers.values()) == 1


async def test_concurrent_get_or_create_gives_all_the_same(two_workers: Cluster) -> None:
    entries = await asyncio.gather(
        *(two_workers.create("books", get_or_create=True) for _ in range(5))
    )

    assert len({entry.collection.id for entry in entries}) == 1


async def test_no_worker_no_collection(cluster: Cluster) -> None:
    with pytest.raises(UnavailableError, match="no worker is registered"):
        await cluster.create("books")


async def test_a_failed_creation_leaves_nothing(two_workers: Cluster) -> None:
    two_workers.workers["b:1"].refuse = lambda method: (
        UnavailableError("the disk is gone") if method == "create" else None
    )
    with pytest.raises(UnavailableError, match="'books' was not created: the disk is gone"):
        await two_workers.create("books", shards=4)

    two_workers.workers["b:1"].refuse = lambda method: None
    entry = await two_workers.create("books", shards=4)
    await two_workers.settled()
    shards = {s for worker in two_workers.workers.values() for s in worker.shards}
    assert shards == {shard.shard_id for shard in entry.shards}


async def test_a_deleted_collection_is_gone(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    await two_workers.delete(entry)

    assert not any(worker.shards for worker in two_workers.workers.values())
    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("books")
    with pytest.raises(CollectionNotFoundError):
        await two_workers.delete(entry)
    assert not two_workers.coordinator.table.state.deletions


async def test_everything_survives_a_restart(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=4)

    await two_workers.restart()

    assert (await two_workers.get("books")) == entry


@contextlib.contextmanager
def limited_file_size(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def fix_dimension(cluster: Cluster, entry: CollectionEntry, dimension: int) -> int:
    response = await cluster.coordinator.catalog_service.fix_dimension(
        catalog_api.FixDimensionRequest(collection_id=entry.collection.id, dimension=dimension),
        context_for(240),
    )
    assert response.entry.collection.configuration.hnsw.dimension == (
        response.entry.collection.dimension
    )
    return response.entry.collection.dimension


async def test_of_two_first_dimensions_one_wins(two_workers: Cluster) -> None:
    entry = await two_workers.create("books")

    answers = await asyncio.gather(
        *(fix_dimension(two_workers, entry, dimension) for dimension in (3, 4, 5))
    )

    assert answers == [3, 3, 3]
    await two_workers.restart()
    assert await fix_dimension(two_workers, entry, 9) == 3


async def test_the_dimension_reaches_the_copies_beside_the_shards(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=2)
    await fix_dimension(two_workers, entry, 3)

    await eventually(
        lambda: all(
            copy.collection.dimension == 3
            for worker in two_workers.workers.values()
            for copy in worker.shards.values()
        )
    )


async def test_an_impossible_dimension_is_refused(two_workers: Cluster) -> None:
    entry = await two_workers.create("books")
    with pytest.raises(InvalidArgumentError, match="dimension is 16385"):
        await fix_dimension(two_workers, entry, 16_385)


async def test_get_or_create_leaves_the_existing_one_as_it_is(two_workers: Cluster) -> None:
    entry = await two_workers.create(
        "books", configuration=CollectionConfiguration(hnsw=HnswConfiguration(space=SPACE_COSINE))
    )

    again = await two_workers.create(
        "books",
        get_or_create=True,
        configuration=CollectionConfiguration(hnsw=HnswConfiguration(ef_search=7)),
    )
    assert again == entry
    with pytest.raises(InvalidArgumentError, match="'books' has space cosine, got l2"):
        await two_workers.create(
            "books",
            get_or_create=True,
            configuration=CollectionConfiguration(hnsw=HnswConfiguration(space=SPACE_L2)),
        )


async def test_get_or_create_waits_for_a_creation_that_fails(two_workers: Cluster) -> None:
    """The second caller gets the collection, although the one it found first came to nothing."""
    failures = iter([UnavailableError("once")])
    two_workers.hold_up("create")
    for worker in two_workers.workers.values():
        worker.refuse = lambda method: next(failures, None) if method == "create" else None

    first = asyncio.create_task(two_workers.create("books", get_or_create=True))
    await two_workers.called("create")
    second = asyncio.create_task(two_workers.create("books", get_or_create=True))
    await asyncio.sleep(0)  # so that it has looked, and found the first one's
    two_workers.go_on()

    with pytest.raises(UnavailableError):
        await first
    assert isinstance(await second, CollectionEntry)


async def test_an_update_reaches_the_workers_and_the_disk(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=2)
    metadata = Metadata(fields={"k": Value(int_value=1)})

    updated = await two_workers.update(
        entry, new_name="novels", new_metadata=metadata, new_hnsw=HnswConfiguration(ef_search=7)
    )

    assert updated.collection.configuration.hnsw.ef_search == 7
    assert updated.collection.metadata == metadata
    assert updated.table_version > entry.table_version
    for worker in two_workers.workers.values():
        assert list(worker.shards.values()) == [updated]
    await two_workers.restart()
    assert await two_workers.get("novels") == updated
    with pytest.raises(CollectionNotFoundError):
        await two_workers.get("books")


async def test_an_update_can_be_repeated(two_workers: Cluster) -> None:
    entry = await two_workers.create("books")
    updated = await two_workers.update(entry, new_name="novels")

    assert await two_workers.update(entry, new_name="novels") == updated


async def test_a_rename_to_a_taken_name_is_refused(two_workers: Cluster) -> None:
    books, novels = await two_workers.create("books"), await two_workers.create("novels")
    with pytest.raises(CollectionExistsError, match="'novels' exists already"):
        await two_workers.update(books, new_name="novels")

    await two_workers.delete(novels)
    await two_workers.update(books, new_name="novels")
    # And the former name is free.
    await two_workers.create("books")


async def test_metadata_can_be_removed(two_workers: Cluster) -> None:
    entry = await two_workers.create("books")
    entry = await two_workers.update(entry, new_metadata=Metadata(fields={"k": Value(int_value=1)}))

    assert (await two_workers.update(entry, new_metadata=Metadata())).collection.metadata == (
        Metadata()
    )


async def test_an_update_with_a_worker_away_is_answered_and_made_up_for(
    two_workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await two_workers.create("books", shards=2)
    worker = two_workers.workers["b:1"]
    worker.refuse = lambda method: UnavailableError("busy") if method == "update" else None
    monkeypatch.setattr(lifecycle, "CONFIRM_S", 0.3)

    begin = time.monotonic()
    await two_workers.update(entry, new_name="novels")
    assert time.monotonic() - begin > 0.29

    worker.refuse = lambda method: None
    await eventually(lambda: [e.collection.name for e in worker.shards.values()] == ["novels"])


async def test_a_cancelled_caller_leaves_nothing_half_made(two_workers: Cluster) -> None:
    two_workers.hold_up("create")
    creation = asyncio.create_task(two_workers.create("books", shards=4))
    await two_workers.called("create")
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    two_workers.go_on()

    entry = await two_workers.create("books", get_or_create=True)

    assert len(entry.shards) == 4
    assert sum(len(worker.shards) for worker in two_workers.workers.values()) == 4


async def test_a_new_collection_of_a_deleted_name_is_another(two_workers: Cluster) -> None:
    first = await two_workers.create("books")
    await two_workers.delete(first)
    second = await two_workers.create("books")

    assert first.collection.id != second.collection.id
    assert first.shards[0].shard_id != second.shards[0].shard_id
    assert first.creation_number < second.creation_number


async def test_a_full_disk_refuses_changes_and_leaves_the_rest(
    two_workers: Cluster,
) -> None:
    """Growing files is forbidden by a resource limit, as a full disk would."""
    kept = await two_workers.create("kept")
    file = two_workers.directory / "coordinator" / "catalog.mdb"
    large = CollectionConfiguration(embedding_function=EmbeddingFunction(name="f"))
    large.embedding_function.config.update({"text": "x" * 60_000})
    with limited_file_size(file.stat().st_size):
        for number in range(2):
            with pytest.raises(UnavailableError, match="could not be written"):
                await two_workers.create(f"books{number}", configuration=large)
        assert (await two_workers.get("kept")).collection.id == kept.collection.id

    # There is room again, and no name is reserved for what could not be written.
    await two_workers.create("books0")
    entry = await two_workers.create("books")
    await two_workers.restart()
    assert await two_workers.get("books") == entry


async def test_a_creation_is_undone_when_the_disk_has_room_again(
    two_workers: Cluster,
) -> None:
    """A creation that failed, and whose failure cannot be recorded, either."""
    file = two_workers.directory / "coordinator" / "catalog.mdb"
    limit = contextlib.ExitStack()
    for worker in two_workers.workers.values():

        def refuse(method: str) -> UnavailableError | None:
            if method != "create":
                return None
            limit.enter_context(limited_file_size(file.stat().st_size // 2))
            return UnavailableError("the worker is full, too")

        worker.refuse = refuse
    with limit:
        with pytest.raises(UnavailableError, match="the worker is full, too"):
            await two_workers.create("books")
        with pytest.raises(UnavailableError, match="failed and is being undone"):
            await two_workers.create("books", get_or_create=True)

    for worker in two_workers.workers.values():
        worker.refuse = lambda method: None
    await eventually(lambda: not two_workers.coordinator.table.state.collections)
    await two_workers.create("books")
