"""Snapshots in the catalog and in the store: taken, shared, restored, deleted, interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.errors import (
    BackupExistsError,
    BackupNotFoundError,
    CollectionExistsError,
    CollectionNotFoundError,
    DataLossError,
    DimensionMismatchError,
    FailedPreconditionError,
    InvalidArgumentError,
    QuotaExceededError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1 import membership_service_pb2 as membership_api
from shoal.internal.v1 import snapshot_service_pb2 as api
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.server.rpc import context_for
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1.collection_pb2 import QUANTIZATION_I8, SPACE_COSINE, CollectionConfiguration
from shoal.v1.snapshot_service_pb2 import (
    SNAPSHOT_STATUS_FAILED,
    SNAPSHOT_STATUS_READY,
    SNAPSHOT_STATUS_TERMINATING,
)
from tests.coordinator.cluster import SimulatedCrashError, eventually
from tests.coordinator.copying import SnapshotCluster
from tests.coordinator.test_crashes import crash_at, shards_on_workers


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[SnapshotCluster]:
    """A coordinator, a store, and two workers."""
    cluster = SnapshotCluster(tmp_path)
    await cluster.start()
    for name in "ab":
        await cluster.add_worker(name)
    yield cluster
    await cluster.stop()


async def filled(cluster: SnapshotCluster, name: str = "books", shards: int = 2) -> CollectionEntry:
    entry = await cluster.create(name, shards=shards)
    for _ in range(10):
        await cluster.write(entry)
    return entry


async def taken(cluster: SnapshotCluster, entry: CollectionEntry, name: str = "nightly") -> None:
    await cluster.snapshot(entry, name)
    assert (await cluster.ended(name)).status == SNAPSHOT_STATUS_READY


async def test_a_snapshot_describes_the_collection_as_it_was(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    count = len(cluster.records(entry))
    await taken(cluster, entry)
    await cluster.write(entry)
    await cluster.delete(entry)

    found = await cluster.described()

    assert (found.source.name, found.vector_count) == ("books", count)
    assert found.size_bytes > 0
    assert found.source.configuration.hnsw.shards == 2
    listed = await cluster.service.list_snapshots(
        api.ListSnapshotsRequest(tenant="default_tenant", database="default_database", limit=9),
        context_for(240),
    )
    assert list(listed.snapshots) == [found]
    assert listed.next_after == 0


async def test_names_are_unique_and_sources_must_exist(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    with pytest.raises(SnapshotExistsError):
        await cluster.snapshot(entry)
    with pytest.raises(SnapshotNotFoundError):
        await cluster.described("other")
    await cluster.delete(entry)
    with pytest.raises(CollectionNotFoundError):
        await cluster.snapshot(entry, "other")


async def test_without_a_store_it_is_said_which_setting_is_missing(tmp_path: Path) -> None:
    cluster = SnapshotCluster(tmp_path)
    await cluster.start(snapshot_store=None)
    await cluster.add_worker("a")
    entry = await cluster.create("books")
    with pytest.raises(FailedPreconditionError, match="--snapshot-store"):
        await cluster.snapshot(entry)
    await cluster.stop()


async def test_snapshots_are_counted_against_the_quota_as_collections_are(
    cluster: SnapshotCluster,
) -> None:
    entry = await filled(cluster)
    scope = admin.Scope(level=admin.SCOPE_LEVEL_TENANT, tenant="default_tenant")
    await cluster.coordinator.catalog_service.set_quota(
        catalog_api.SetQuotaRequest(
            quota_id="scope/default_tenant",
            subject=admin.QuotaSubject(scope=scope),
            limits=admin.QuotaLimits(max_snapshots=2),
        ),
        context_for(240),
    )
    results = await asyncio.gather(
        *(cluster.snapshot(entry, f"s{i}") for i in range(5)), return_exceptions=True
    )
    assert sum(isinstance(r, QuotaExceededError) for r in results) == 3
    await cluster.ended("s0")
    # A clone's source is nobody's snapshot.
    clone = await cluster.service.clone_collection(
        api.CloneCollectionRequest(collection_id=entry.collection.id, into="clone"),
        context_for(240),
    )
    assert cluster.records(clone.entry) == cluster.records(entry)


@pytest.mark.parametrize("way", ["clone", "restore"])
@pytest.mark.parametrize("limit", ["max_records", "max_bytes"])
async def test_a_copy_is_held_against_the_quotas_that_its_records_come_under(
    cluster: SnapshotCluster, way: str, limit: str
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    count = len(cluster.records(entry))
    for number, shard in enumerate(entry.shards):
        holder = cluster.holder(shard.worker_id)
        used = membership_api.ShardUsage(
            shard_id=shard.shard_id, record_count=0 if number else count, disk_bytes=500
        )
        beat = membership_api.HeartbeatWorkerRequest(
            worker_id=holder.worker_id, process_id=holder.process_id, usages=[used]
        )
        await cluster.coordinator.membership_service.heartbeat_worker(beat, context_for(240))

    async def allow(allowed: int) -> None:
        scope = admin.Scope(level=admin.SCOPE_LEVEL_TENANT, tenant="default_tenant")
        await cluster.coordinator.catalog_service.set_quota(
            catalog_api.SetQuotaRequest(
                quota_id="scope/default_tenant",
                subject=admin.QuotaSubject(scope=scope),
                limits=admin.QuotaLimits(**{limit: allowed}),
            ),
            context_for(240),
        )

    async def copy() -> CollectionEntry:
        if way == "restore":
            return await cluster.restore(into="copied")
        answer = await cluster.service.clone_collection(
            api.CloneCollectionRequest(collection_id=entry.collection.id, into="copied"),
            context_for(240),
        )
        found: CollectionEntry = answer.entry
        return found

    enough = 2 * count if limit == "max_records" else 1001
    await allow(enough - 1)
    with pytest.raises(QuotaExceededError) as caught:
        await copy()
    assert caught.value.metadata["limit"] == limit
    await allow(enough)
    assert cluster.records(await copy()) == cluster.records(entry)


async def test_what_has_not_changed_is_not_stored_again(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry, "one")
    await taken(cluster, entry, "two")
    objects = [key for key in cluster.files() if "/objects/" in key]
    assert len(objects) == 2

    await cluster.delete_snapshot("one")
    await eventually(lambda: len(cluster.coordinator.table.state.snapshots) == 1)
    assert [key for key in cluster.files() if "/objects/" in key] == objects
    restored = await cluster.restore("again", "two")
    assert cluster.records(restored) == cluster.records(entry)

    await cluster.delete_snapshot("two")
    await cluster.no_snapshots()
    assert cluster.files() == []


@pytest.mark.parametrize("shards", [1, 2, 5])
async def test_a_restored_collection_has_the_same_records_in_any_number_of_shards(
    cluster: SnapshotCluster, shards: int
) -> None:
    entry = await filled(cluster)
    records = cluster.records(entry)
    await taken(cluster, entry)
    await cluster.write(entry)

    restored = await cluster.restore("again", shards=shards)

    assert cluster.records(restored) == records
    assert len(restored.shards) == shards
    assert (await cluster.get("again")) == restored
    assert restored.collection.id != entry.collection.id
    copies = [copy for w in cluster.workers.values() for copy in w.shards.values()]
    assert [c for c in copies if c.collection.name == "again"] == [restored] * shards


async def test_a_restoration_into_a_taken_name_is_refused(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    with pytest.raises(CollectionExistsError):
        await cluster.restore("books")


async def test_a_configuration_that_the_records_do_not_fit_is_refused(
    cluster: SnapshotCluster,
) -> None:
    configuration = CollectionConfiguration()
    configuration.hnsw.dimension = 3
    entry = await cluster.create("books", configuration=configuration)
    await taken(cluster, entry)
    wrong = CollectionConfiguration()
    wrong.hnsw.dimension = 4
    with pytest.raises(DimensionMismatchError):
        await cluster.restore("again", configuration=wrong)
    wrong = CollectionConfiguration()
    wrong.hnsw.quantization = QUANTIZATION_I8
    with pytest.raises(InvalidArgumentError, match="only possible with space cosine"):
        await cluster.restore("again", configuration=wrong)
    wrong.hnsw.space = SPACE_COSINE
    restored = await cluster.restore("again", configuration=wrong)
    assert restored.collection.dimension == 3
    assert restored.collection.configuration.hnsw.quantization == QUANTIZATION_I8


@pytest.mark.parametrize("damage", ["missing", "damaged"])
async def test_a_damaged_snapshot_is_refused_by_name_and_leaves_nothing(
    cluster: SnapshotCluster, damage: str
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    kept = shards_on_workers(cluster)
    file = next(path for path in (cluster.store).rglob("records-*"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b" ")

    with pytest.raises(DataLossError, match=r"snapshot 'nightly'.*records-"):
        await cluster.restore("again", shards=3)

    await cluster.settled()
    assert shards_on_workers(cluster) == kept
    with pytest.raises(CollectionNotFoundError):
        await cluster.get("again")


async def test_while_a_restoration_goes_on_its_name_is_taken_and_its_snapshot_kept(
    cluster: SnapshotCluster,
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    cluster.hold_up("create", "fill")
    restoring = asyncio.create_task(cluster.restore("again"))
    await eventually(lambda: len(cluster.coordinator.table.state.collections) == 2)
    with pytest.raises(CollectionExistsError):
        await cluster.create("again")
    with pytest.raises(UnavailableError, match="is being restored"):
        await cluster.create("again", get_or_create=True)
    with pytest.raises(FailedPreconditionError, match="is being restored"):
        await cluster.delete_snapshot()
    cluster.go_on()
    await restoring
    await cluster.delete_snapshot()


async def test_a_repeated_request_waits_for_the_same_restoration(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    operation_id = uuid.uuid4().bytes
    first, second = await asyncio.gather(
        cluster.restore("again", operation_id=operation_id),
        cluster.restore("again", operation_id=operation_id),
    )
    assert first == second == await cluster.restore("again", operation_id=operation_id)
    with pytest.raises(InvalidArgumentError, match="operation_id"):
        await cluster.restore("other", operation_id=operation_id)
    # Also after a restart of the coordinator, which has forgotten the operation itself.
    await cluster.restart()
    assert (await cluster.restore("again", operation_id=operation_id)) == first
    with pytest.raises(CollectionExistsError):
        await cluster.restore("again", operation_id=uuid.uuid4().bytes)


@pytest.mark.parametrize(
    "point",
    [
        "snapshot_recorded",
        "all_shards_held",
        "all_shards_cut",
        "snapshot_cut",
        "cut_stored",
        "manifest_written",
    ],
)
async def test_a_snapshot_that_was_interrupted_has_failed_and_leaves_no_files(
    cluster: SnapshotCluster, point: str
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry, "before")
    await cluster.write(entry)
    files = cluster.files()
    await cluster.restart(crash_point=crash_at(point))
    try:
        await cluster.snapshot(entry)
    except SimulatedCrashError:
        assert point == "snapshot_recorded"
    await cluster.restart()

    failed = await cluster.ended()
    assert failed.status == SNAPSHOT_STATUS_FAILED
    assert "restarted" in failed.failure
    await eventually(lambda: cluster.files() == files)
    with pytest.raises(FailedPreconditionError, match="it is Failed: the coordinator"):
        await cluster.restore("again")
    await cluster.restore("again", "before")
    async with asyncio.timeout(60):
        await cluster.write(entry)
    await cluster.delete_snapshot()
    await eventually(lambda: len(cluster.coordinator.table.state.snapshots) == 1)
    await taken(cluster, entry)


@pytest.mark.parametrize("point", ["snapshot_terminating", "snapshot_files_removed"])
async def test_a_deletion_that_was_interrupted_goes_on(
    cluster: SnapshotCluster, point: str
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    await cluster.restart(crash_point=crash_at(point))
    with contextlib.suppress(SimulatedCrashError):
        await cluster.delete_snapshot()
    await eventually(lambda: not cluster.coordinator._snapshots._under_way._ending)
    assert (await cluster.described()).status == SNAPSHOT_STATUS_TERMINATING

    await cluster.restart()

    await cluster.no_snapshots()
    assert cluster.files() == []


@pytest.mark.parametrize(
    "point", ["restore_reserved", "shard_created", "restore_shards_created", "restore_filled"]
)
async def test_a_restoration_that_was_interrupted_leaves_nothing(
    cluster: SnapshotCluster, point: str
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    kept = shards_on_workers(cluster)
    await cluster.restart(crash_point=crash_at(point))
    with pytest.raises(SimulatedCrashError):
        await cluster.restore("again", shards=3)

    await cluster.restart()
    await cluster.settled()

    assert shards_on_workers(cluster) == kept
    await cluster.restore("again")


async def test_half_of_a_restored_collection_is_not_taken_into_a_catalog_made_anew(
    cluster: SnapshotCluster,
) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    await cluster.restart(crash_point=crash_at("restore_filled"))
    with pytest.raises(SimulatedCrashError):
        await cluster.restore("again")
    await cluster.stop()

    await cluster.restart(catalog="anew", recover=True)

    names = [e.collection.name for e in cluster.coordinator.table.state.collections.values()]
    assert names == ["books"]


async def test_a_clone_that_was_interrupted_leaves_nothing(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    kept = shards_on_workers(cluster)
    for point in ("clone_recorded", "snapshot_cut", "cut_stored", "restore_filled"):
        await cluster.restart(crash_point=crash_at(point))
        with pytest.raises(SimulatedCrashError):
            await cluster.service.clone_collection(
                api.CloneCollectionRequest(collection_id=entry.collection.id, into="clone"),
                context_for(240),
            )
        await cluster.restart()
        await cluster.settled()
        await cluster.no_snapshots()
        assert cluster.files() == []
        assert shards_on_workers(cluster) == kept


async def test_a_clone_leaves_no_trace_of_its_source(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    response = await cluster.service.clone_collection(
        api.CloneCollectionRequest(collection_id=entry.collection.id, into="clone"),
        context_for(240),
    )
    assert cluster.records(response.entry) == cluster.records(entry)
    await cluster.no_snapshots()
    assert cluster.files() == []


async def test_the_snapshots_of_a_database_go_with_it(cluster: SnapshotCluster) -> None:
    await cluster.coordinator.catalog_service.create_database(
        catalog_api.CreateDatabaseRequest(tenant="default_tenant", name="other"), context_for(240)
    )
    entry = await cluster.create("books", database="other", shards=2)
    await cluster.write(entry)
    kept = await filled(cluster)
    await taken(cluster, kept)
    files = cluster.files()
    await cluster.snapshot(entry, "gone")
    await cluster.ended()
    await cluster.coordinator.catalog_service.delete_database(
        catalog_api.DeleteDatabaseRequest(tenant="default_tenant", name="other"), context_for(240)
    )
    await eventually(lambda: len(cluster.coordinator.table.state.snapshots) == 1)
    assert cluster.files() == files


async def test_snapshots_that_a_catalog_has_forgotten_are_taken_in_again(
    cluster: SnapshotCluster, tmp_path: Path
) -> None:
    entry = await filled(cluster)
    await cluster.stop()
    shutil.copytree(tmp_path / "coordinator", tmp_path / "older")
    await cluster.restart()
    await taken(cluster, entry)
    await cluster.stop()

    await cluster.restart(catalog="older")

    await eventually(lambda: bool(cluster.coordinator.table.state.snapshots))
    restored = await cluster.restore("again")
    assert cluster.records(restored) == cluster.records(entry)
    await cluster.delete_snapshot()
    await cluster.no_snapshots()
    assert cluster.files() == []


async def test_garbage_is_removed_when_it_is_old(cluster: SnapshotCluster) -> None:
    entry = await filled(cluster)
    await taken(cluster, entry)
    files = cluster.files()
    shard = entry.shards[0].shard_id
    directory = cluster.store / cluster.coordinator.table.state.cluster_id / "objects"
    (directory / shard / "records-99-left").write_bytes(b"left")
    (directory / str(uuid.uuid4())).mkdir()
    await cluster.restart()
    await asyncio.sleep(0.2)
    assert len(cluster.files()) == len(files) + 1
    await cluster.restart(now=lambda: time.time() + 7200)
    await eventually(lambda: cluster.files() == files)


async def backed_up(cluster: SnapshotCluster, name: str = "nightly") -> None:
    await cluster.service.create_backup(api.CreateBackupRequest(name=name), context_for(240))
    await eventually(lambda: not cluster.coordinator._backups._under_way._taking)
    response = await cluster.service.get_backup(api.GetBackupRequest(name=name), context_for(240))
    assert response.backup.status == SNAPSHOT_STATUS_READY, response.backup.failure


async def restored_backup(cluster: SnapshotCluster, store: str = "") -> api.RestoreBackupResponse:
    response: api.RestoreBackupResponse = await cluster.service.restore_backup(
        api.RestoreBackupRequest(name="nightly", store=store), context_for(240)
    )
    return response


async def test_a_backup_is_restored_into_another_cluster_of_another_size(
    cluster: SnapshotCluster, tmp_path: Path
) -> None:
    await cluster.coordinator.catalog_service.create_tenant(
        catalog_api.CreateTenantRequest(name="acme"), context_for(240)
    )
    await cluster.coordinator.catalog_service.create_database(
        catalog_api.CreateDatabaseRequest(tenant="acme", name="main"), context_for(240)
    )
    books = await filled(cluster, "books", shards=3)
    films = await filled(cluster, "films", shards=1)
    await cluster.create("empty")
    await backed_up(cluster)
    with pytest.raises(FailedPreconditionError, match="has 3 collections"):
        await restored_backup(cluster)
    with pytest.raises(BackupExistsError):
        await cluster.service.create_backup(api.CreateBackupRequest(name="nightly"), context_for(9))

    other = SnapshotCluster(tmp_path / "other")
    await other.start()
    for name in "xyz":
        await other.add_worker(name)
    with pytest.raises(BackupNotFoundError):
        await restored_backup(other)
    answer = await restored_backup(other, store=str(cluster.store))

    assert (answer.done, answer.collection_count) == (True, 3)
    state = other.coordinator.table.state
    assert state.database("acme", "main").name == "main"
    for before in (books, films):
        after = await other.get(before.collection.name)
        assert after.collection == before.collection
        assert other.records(after) == cluster.records(before)
        assert not {s.shard_id for s in after.shards} & {s.shard_id for s in before.shards}
    assert [e.collection.name for e in state.collections.values()] == ["books", "films", "empty"]
    await other.create("new")
    await other.stop()


async def test_a_damaged_backup_restores_nothing(cluster: SnapshotCluster, tmp_path: Path) -> None:
    await filled(cluster, "books", shards=3)
    await filled(cluster, "films")
    await backed_up(cluster)
    next(cluster.store.rglob("records-*")).unlink()
    other = SnapshotCluster(tmp_path / "other")
    await other.start()
    await other.add_worker("x")
    with pytest.raises(DataLossError, match="backup 'nightly'"):
        await restored_backup(other, store=str(cluster.store))
    await other.settled()
    assert not other.coordinator.table.state.collections
    assert not shards_on_workers(other)
    manifest = next(path for path in cluster.store.rglob("backups/nightly"))
    manifest.write_bytes(manifest.read_bytes()[:-5])
    with pytest.raises(DataLossError, match=r"manifest .*backups/nightly"):
        await restored_backup(other, store=str(cluster.store))
    await other.stop()


@pytest.mark.parametrize(
    "point", ["backup_recorded", "backup_cut", "cut_stored", "backup_manifest_written"]
)
async def test_a_backup_that_was_interrupted_has_failed_and_leaves_no_files(
    cluster: SnapshotCluster, point: str
) -> None:
    await filled(cluster, "books", shards=3)
    await cluster.restart(crash_point=crash_at(point))
    try:
        await cluster.service.create_backup(api.CreateBackupRequest(name="nightly"), context_for(9))
    except SimulatedCrashError:
        assert point == "backup_recorded"
    await eventually(lambda: not cluster.coordinator._backups._under_way._taking)
    await cluster.restart()
    response = await cluster.service.get_backup(
        api.GetBackupRequest(name="nightly"), context_for(240)
    )
    assert response.backup.status == SNAPSHOT_STATUS_FAILED
    await eventually(lambda: cluster.files() == [])
    await cluster.service.delete_backup(api.DeleteBackupRequest(name="nightly"), context_for(240))
    await eventually(lambda: not cluster.coordinator.table.state.backups)
    await backed_up(cluster)
    await cluster.service.delete_backup(api.DeleteBackupRequest(name="nightly"), context_for(240))
    await eventually(lambda: not cluster.coordinator.table.state.backups)
    assert cluster.files() == []


async def test_a_backup_is_of_one_moment_while_collections_come_and_go(
    cluster: SnapshotCluster, tmp_path: Path
) -> None:
    books = await filled(cluster, "books", shards=3)
    stop = asyncio.Event()

    async def churn() -> None:
        while not stop.is_set():
            entry = await cluster.create("passing", shards=2)
            await cluster.write(entry)
            await cluster.delete(entry)

    churning = asyncio.create_task(churn())
    for number in range(5):
        await cluster.service.create_backup(
            api.CreateBackupRequest(name=f"b{number}"), context_for(240)
        )
        await eventually(lambda: not cluster.coordinator._backups._under_way._taking)
    stop.set()
    await churning
    ready = [
        b
        for b in cluster.coordinator.table.state.backups.values()
        if b.description.status == SNAPSHOT_STATUS_READY
    ]
    assert ready
    for backup in ready:
        ids = [c.entry.collection.id for c in backup.collections]
        assert books.collection.id in ids
        assert all(len(c.shards) == len(c.entry.shards) for c in backup.collections)
