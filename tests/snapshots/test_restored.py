"""What is restored or cloned is what was there, in any shards, space and quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import AdminClient, errors
from tests.snapshots.waiting import backup_ended, files, files_become, gone, ready

COUNT = 600
DIMENSION = 12


def fill(collection: shoal.Collection) -> None:
    """Write records of every kind, and change and delete some."""
    chance = np.random.default_rng(11)
    ids = [f"record-{n}" for n in range(COUNT)]
    collection.add(
        ids=ids,
        embeddings=chance.standard_normal((COUNT, DIMENSION), dtype=np.float32),
        documents=[None if n % 5 == 0 else f"document {n} ü" for n in range(COUNT)],
        metadatas=[
            None
            if n % 7 == 0
            else {"n": n, "half": n / 2, "even": n % 2 == 0, "tags": ["a", f"{n}"]}
            for n in range(COUNT)
        ],
        uris=[None if n % 3 else f"file:///{n}" for n in range(COUNT)],
    )
    collection.delete(ids=ids[10:60])
    collection.upsert(
        ids=ids[5:15],
        embeddings=chance.standard_normal((10, DIMENSION), dtype=np.float32),
        documents=["changed"] * 10,
    )
    collection.update(ids=ids[100:120], metadatas=[{"n": -n} for n in range(1, 21)])


def everything(collection: shoal.Collection, where: Any = None) -> shoal.GetResult:
    return collection.get(where=where, include=["embeddings", "metadatas", "documents", "uris"])


def assert_same(one: shoal.GetResult, other: shoal.GetResult) -> None:
    assert one["ids"] == other["ids"]
    assert one["documents"] == other["documents"]
    assert one["metadatas"] == other["metadatas"]
    assert one["uris"] == other["uris"]
    left, right = one["embeddings"], other["embeddings"]
    assert left is not None
    assert right is not None
    assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def source(client: shoal.Client, shards: int = 3) -> shoal.Collection:
    collection = client.create_collection(
        "books",
        configuration={"hnsw": {"shards": shards, "space": "l2", "ef_search": 77}},
        metadata={"owner": "tests"},
        embedding_function=None,
    )
    fill(collection)
    return collection


@pytest.mark.parametrize(
    "hnsw",
    [
        {},
        {"shards": 1},
        {"shards": 5, "space": "cosine", "quantization": "i8"},
        {"shards": 2, "space": "ip", "quantization": "f32", "max_neighbors": 8},
    ],
    ids=str,
)
def test_a_restored_collection_is_the_source_as_it_was(
    embedded: shoal.PersistentClient, hnsw: dict[str, Any]
) -> None:
    collection = source(embedded)
    before = everything(collection)
    embedded.create_snapshot("nightly", "books")
    collection.add(ids=["later"], embeddings=np.zeros((1, DIMENSION), np.float32))
    collection.delete(ids=["record-0"])
    snapshot = ready(embedded, "nightly")

    restored = embedded.restore_snapshot("nightly", "again", {"hnsw": hnsw} if hnsw else None)

    assert_same(everything(restored), before)
    assert restored.metadata == {"owner": "tests"}
    in_force = restored.configuration["hnsw"]
    assert {key: in_force[key] for key in hnsw} == hnsw
    assert in_force["ef_search"] == 77
    assert (snapshot.vector_count, snapshot.dimension, snapshot.space) == (
        len(before["ids"]),
        DIMENSION,
        "l2",
    )
    assert snapshot.source == "books"
    # It is a collection as any other: searched, filtered, written to, at the end of its order.
    vectors = before["embeddings"]
    assert vectors is not None
    if in_force["space"] != "ip":  # by which the nearest is not the vector itself
        found = restored.query(query_embeddings=vectors[17], n_results=1)
        assert found["ids"] == [[before["ids"][17]]]
    assert restored.get(where={"n": 400})["ids"] == collection.get(where={"n": 400})["ids"]
    assert restored.get(where_document={"$contains": "changed"})["ids"] == [
        f"record-{n}" for n in [*range(5, 10)]
    ] + [f"record-{n}" for n in range(10, 15)]
    restored.add(ids=["new"], embeddings=np.ones((1, DIMENSION), np.float32))
    assert restored.get()["ids"][-1] == "new"


def test_a_snapshot_outlives_its_collection_and_the_process(tmp_path: Path) -> None:
    with shoal.PersistentClient(tmp_path / "data") as client:
        before = everything(source(client))
        client.create_snapshot("nightly", "books")
        ready(client, "nightly")
        client.delete_collection("books")
    with shoal.PersistentClient(tmp_path / "data") as client:
        assert [s.name for s in client.list_snapshots()] == ["nightly"]
        assert_same(everything(client.restore_snapshot("nightly", "books")), before)
        client.delete_snapshot("nightly")
        gone(client, "nightly")
        assert files(tmp_path / "data") == []
        with pytest.raises(errors.SnapshotNotFoundError):
            client.describe_snapshot("nightly")


def test_an_empty_collection_can_be_restored(embedded: shoal.PersistentClient) -> None:
    embedded.create_collection("books", embedding_function=None)
    embedded.create_snapshot("nightly", "books")
    assert ready(embedded, "nightly").dimension is None
    restored = embedded.restore_snapshot("nightly", "again", {"hnsw": {"shards": 3}})
    assert restored.count() == 0
    restored.add(ids=["a"], embeddings=[[1.0, 2.0]])
    assert restored.count() == 1


def test_what_cannot_be_restored_is_refused(
    embedded: shoal.PersistentClient, tmp_path: Path
) -> None:
    collection = source(embedded)
    embedded.create_snapshot("nightly", "books")
    ready(embedded, "nightly")
    with pytest.raises(errors.CollectionExistsError):
        embedded.restore_snapshot("nightly", "books")
    with pytest.raises(errors.DimensionMismatchError):
        embedded.restore_snapshot("nightly", "again", {"hnsw": {"dimension": DIMENSION + 1}})
    with pytest.raises(errors.InvalidArgumentError, match="i8"):
        embedded.restore_snapshot("nightly", "again", {"hnsw": {"quantization": "i8"}})
    with pytest.raises(errors.SnapshotNotFoundError):
        embedded.restore_snapshot("weekly", "again")
    for name in ("", "-a", "a-", "A", "a" * 46, "a_b"):
        with pytest.raises(errors.InvalidArgumentError, match="lowercase"):
            embedded.create_snapshot(name, "books")
    with pytest.raises(errors.SnapshotExistsError):
        embedded.create_snapshot("nightly", "books")
    with pytest.raises(errors.CollectionNotFoundError):
        embedded.create_snapshot("weekly", "films")
    file = next((tmp_path / "data" / "snapshots").rglob("records-*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    with pytest.raises(errors.DataLossError, match=r"snapshot 'nightly'.*records-"):
        embedded.restore_snapshot("nightly", "again")
    assert not embedded.has_collection("again")
    file.unlink()
    with pytest.raises(errors.DataLossError, match=r"snapshot 'nightly'.*missing"):
        embedded.restore_snapshot("nightly", "again")
    assert [c.name for c in embedded.list_collections()] == [collection.name]


def test_a_clone_is_the_part_that_matches(embedded: shoal.PersistentClient, tmp_path: Path) -> None:
    collection = source(embedded)
    where = {"$and": [{"n": {"$gte": 200}}, {"even": True}]}
    clone = collection.clone(
        "part",
        {"hnsw": {"shards": 4, "space": "cosine"}},
        where=where,
        where_document={"$contains": "1"},
    )
    expected = collection.get(
        where=where,
        where_document={"$contains": "1"},
        include=["embeddings", "metadatas", "documents", "uris"],
    )
    assert len(expected["ids"]) > 10
    assert_same(everything(clone), expected)
    assert_same(everything(collection.clone("whole")), everything(collection))
    assert embedded.list_snapshots() == []
    files_become(tmp_path / "data", [])
    with pytest.raises(errors.CollectionExistsError):
        collection.clone("part")


def test_snapshots_share_what_has_not_changed(
    embedded: shoal.PersistentClient, tmp_path: Path
) -> None:
    collection = source(embedded)
    embedded.create_snapshot("one", "books")
    ready(embedded, "one")
    first = files(tmp_path / "data")
    embedded.create_snapshot("two", "books")
    ready(embedded, "two")
    # Its manifest, and nothing else.
    assert len(files(tmp_path / "data")) == len(first) + 1
    collection.add(ids=["another"], embeddings=np.ones((1, DIMENSION), np.float32))
    embedded.create_snapshot("three", "books")
    ready(embedded, "three")
    assert len(files(tmp_path / "data")) == len(first) + 3
    embedded.delete_snapshot("one")
    embedded.delete_snapshot("three")
    gone(embedded, "one")
    gone(embedded, "three")
    assert len(files(tmp_path / "data")) == len(first)
    assert embedded.restore_snapshot("two", "again").count() == collection.count() - 1


def test_a_backup_is_restored_into_another_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with shoal.PersistentClient(data) as client, AdminClient(path=data) as admin:
        before = everything(source(client))
        admin.create_tenant("acme")
        admin.create_database("main", "acme")
        with shoal.PersistentClient(data, tenant="acme", database="main") as other:
            other.create_collection("films", embedding_function=None).add(
                ids=["a"], embeddings=[[1.0]]
            )
        collection_id = client.get_collection("books").id
        admin.create_backup("nightly")
        backup = backup_ended(admin, "nightly")
        assert (backup.status, backup.collection_count) == ("Ready", 2), backup.failure
        with pytest.raises(errors.FailedPreconditionError, match="has 2 collections"):
            admin.restore_backup("nightly")
        database = admin.get_database("main", "acme")
    moved = tmp_path / "moved"
    with AdminClient(path=moved) as admin, shoal.PersistentClient(moved) as client:
        with pytest.raises(errors.BackupNotFoundError):
            admin.restore_backup("nightly")
        assert admin.restore_backup("nightly", store=str(data / "snapshots")) == 2
        restored = client.get_collection("books")
        assert restored.id == collection_id
        assert_same(everything(restored), before)
        assert admin.get_database("main", "acme") == database
        with shoal.PersistentClient(moved, tenant="acme", database="main") as other:
            assert other.get_collection("films").count() == 1
        restored.add(ids=["new"], embeddings=np.ones((1, DIMENSION), np.float32))
        assert restored.get()["ids"][-1] == "new"
    with AdminClient(path=data) as admin:
        admin.delete_backup("nightly")
        files_become(data, [])
