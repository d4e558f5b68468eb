"""The catalog on disk."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import lmdb
import pytest

from shoal.errors import DataDirectoryLockedError, DataLossError, FailedPreconditionError
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    CollectionEntry,
    ShardDeletion,
    ShardEntry,
    TenantEntry,
    WorkerEntry,
)
from shoal.v1.collection_pb2 import Collection
from shoal.v1.value_pb2 import Metadata, Value
from shoal_coordinator.catalog import Catalog
from shoal_coordinator.state import CatalogState, Change


def entry(name: str, number: int, *, padding: int = 0) -> CollectionEntry:
    metadata = Metadata(fields={"k": Value(string_value="x" * padding)})
    return CollectionEntry(
        collection=Collection(id=str(uuid.uuid4()), name=name, metadata=metadata),
        database_id="d",
        creation_number=number,
        shards=[ShardEntry(shard_id=str(uuid.uuid4()), worker_id="w", epoch=1)],
        state=COLLECTION_STATE_ACTIVE,
    )


def commit(catalog: Catalog, state: CatalogState, *changes: Change) -> None:
    for change in changes:
        state.apply(change)
    catalog.commit(changes, state)


def test_what_was_committed_is_loaded(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    state = catalog.load()
    second, first = entry("b", 20), entry("a", 10)
    commit(
        catalog,
        state,
        Change(
            tenants=(TenantEntry(name="t" * 512, creation_number=3),),
            collections=(second, first),
            workers=(WorkerEntry(worker_id="w", address="h:1"),),
            deletions=(ShardDeletion(shard_id="s", worker_id="w"),),
        ),
    )
    catalog.close()

    reopened = Catalog(tmp_path)
    loaded = reopened.load()
    reopened.close()

    assert list(loaded.collections.values()) == [first, second]
    loaded.collections = state.collections
    assert loaded == state
    assert loaded.version == 1
    assert loaded.creation_number == 20


def test_a_new_catalog_has_a_cluster_and_the_defaults(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    state = catalog.load()
    catalog.close()

    assert str(uuid.UUID(state.cluster_id)) == state.cluster_id
    assert list(state.tenants) == ["default_tenant"]
    assert list(state.database_ids) == [("default_tenant", "default_database")]


def test_numbers_are_not_given_again_after_a_restart(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    state = catalog.load()
    only = entry("a", 10)
    commit(catalog, state, Change(collections=(only,)))
    commit(catalog, state, Change(removed_collections=(only.collection.id,)))
    catalog.close()

    reopened = Catalog(tmp_path)
    loaded = reopened.load()
    reopened.close()

    assert loaded.next_creation_number == 11
    assert loaded.version == 2


def test_the_map_grows_by_itself(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, map_bytes=128 << 10)
    state = catalog.load()
    entries = [entry(f"c{n}", n, padding=10_000) for n in range(200)]
    for one in entries[:100]:
        commit(catalog, state, Change(collections=(one,)))
    # More than twice the map in one transaction.
    commit(catalog, state, Change(collections=tuple(entries[100:])))
    catalog.close()

    reopened = Catalog(tmp_path, map_bytes=128 << 10)
    assert list(reopened.load().collections.values()) == entries
    reopened.close()


def test_a_directory_has_one_coordinator(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    with pytest.raises(DataDirectoryLockedError, match=str(tmp_path)):
        Catalog(tmp_path)
    catalog.close()

    Catalog(tmp_path).close()


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_coordinator.catalog.FORMAT", 2)
    Catalog(tmp_path).close()
    monkeypatch.undo()

    with pytest.raises(FailedPreconditionError, match="has format 2, this Shoal reads up to 1"):
        Catalog(tmp_path)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    state = catalog.load()
    damaged = entry("a", 10)
    commit(catalog, state, Change(collections=(damaged,)))
    catalog.close()
    with lmdb.open(
        str(tmp_path / "catalog.mdb"), subdir=False, max_dbs=6, map_size=1 << 26, lock=False
    ) as env:
        db = env.open_db(b"collections")
        with env.begin(write=True) as txn:
            key = damaged.collection.id.encode()
            value = bytearray(txn.get(key, db=db) or b"")
            value[20] ^= 1
            txn.put(key, bytes(value), db=db)

    reopened = Catalog(tmp_path)
    with pytest.raises(DataLossError, match=damaged.collection.id):
        reopened.load()
    reopened.close()


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog.mdb").write_bytes(b"no catalog" * 1000)
    with pytest.raises(DataLossError, match="cannot be opened as a catalog"):
        Catalog(tmp_path)
    # And the directory is free again.
    (tmp_path / "catalog.mdb").unlink()
    Catalog(tmp_path).close()


def test_a_catalog_cut_short_is_refused(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    commit(catalog, catalog.load(), Change(collections=(entry("long", 9, padding=100_000),)))
    catalog.close()
    path = tmp_path / "catalog.mdb"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataLossError, match=r"catalog\.mdb was cut short"):
        Catalog(tmp_path)


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match="cannot be used"):
        Catalog(tmp_path / "file")
    (tmp_path / "coordinator.lock").mkdir()
    with pytest.raises(FailedPreconditionError, match="cannot be used"):
        Catalog(tmp_path)
