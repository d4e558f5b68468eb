"""Law 11: absence is never an instruction."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import (
    DataDirectoryLockedError,
    DataLossError,
    FailedPreconditionError,
    StaleRouteError,
)
from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal_worker.layout import DataDirectory
from shoal_worker.worker import Worker
from tests.worker.single import CLUSTER, SingleShard, collection_entry, plain, started


def create_request(worker: Worker, shard_id: str, collection_id: str) -> pb.CreateShardRequest:
    return pb.CreateShardRequest(
        cluster_id=str(worker.cluster_id),
        worker_id=str(worker.worker_id),
        shard_id=shard_id,
        entry=collection_entry(worker, shard_id, collection_id),
    )


def delete_request(shard: SingleShard, epoch: int = 1) -> pb.DeleteShardRequest:
    return pb.DeleteShardRequest(
        cluster_id=str(shard.worker.cluster_id),
        worker_id=str(shard.worker.worker_id),
        deletion=catalog_pb2.ShardDeletion(
            shard_id=shard.reference.shard_id,
            collection_id=shard.reference.collection_id,
            worker_id=str(shard.worker.worker_id),
            epoch=epoch,
        ),
    )


def test_a_second_process_is_locked_out(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom shoal.errors import DataDirectoryLockedError\n"
        "from shoal_worker.layout import DataDirectory\n"
        "try:\n    DataDirectory(Path(sys.argv[1]))\n"
        "except DataDirectoryLockedError:\n    sys.exit(7)\n"
    )

    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)

    assert ended.returncode == 7
    with pytest.raises(DataDirectoryLockedError):
        DataDirectory(tmp_path)
    directory.close()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(FailedPreconditionError, match="cannot be used"):
        DataDirectory(tmp_path)


async def test_a_worker_keeps_its_uuid_and_its_cluster(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    worker_id = worker.worker_id
    await worker.close()

    worker = Worker(tmp_path)
    await worker.start()

    assert (worker.worker_id, worker.cluster_id) == (worker_id, CLUSTER)
    with pytest.raises(FailedPreconditionError, match="belongs to cluster"):
        worker.directory.join(uuid.uuid4())
    await worker.close()


async def test_a_shard_is_created_once_and_the_call_can_be_repeated(worker: Worker) -> None:
    shard = await SingleShard.create(worker)
    await shard.add(["a"], [[1]])
    request = create_request(worker, shard.reference.shard_id, shard.reference.collection_id)

    await worker.control_service.create_shard(request, context_for(240))

    assert await shard.count() == 1


async def test_shards_are_counted_while_others_come_and_go(shard: SingleShard) -> None:
    await shard.add(["a"], [[1.0]])
    held = shard.worker.held
    holding = held.find(shard.reference.collection_id, shard.reference.shard_id, 1)

    def come_and_go() -> None:
        for turn in range(20_000):
            held._holdings[f"other-{turn}"] = holding
            held._holdings.pop(f"other-{turn - 100}", None)

    others = threading.Thread(target=come_and_go)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        others.start()
        while others.is_alive():
            held._count()
    finally:
        sys.setswitchinterval(usual)
        others.join()
    for turn in range(20_000):
        held._holdings.pop(f"other-{turn}", None)
    held._count()
    assert [one.shard_id for one in held.all()] == [uuid.UUID(shard.reference.shard_id)]


async def test_a_missing_directory_is_data_loss_and_is_never_made_again(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a"], [[1]])
    directory = shard.directory
    await worker.close()
    shutil.rmtree(directory)

    worker = await started(tmp_path)
    shard = shard.on(worker)

    with pytest.raises(DataLossError, match="is gone"):
        await shard.add(["b"], [[1]])
    assert (await shard.get()).error.reason == "DATA_LOSS"
    request = create_request(worker, shard.reference.shard_id, shard.reference.collection_id)
    with pytest.raises(DataLossError):
        await worker.control_service.create_shard(request, context_for(240))
    assert not directory.exists()
    description = await worker.control_service.describe_worker(
        pb.DescribeWorkerRequest(with_shards=True), context_for(240)
    )
    assert [s.error.reason for s in description.shards] == ["DATA_LOSS"]
    await worker.close()


async def test_missing_records_are_data_loss(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await worker.close()
    (tmp_path / "shards" / shard.reference.shard_id / "records.mdb").unlink()

    worker = await started(tmp_path)

    assert (await shard.on(worker).get()).error.reason == "DATA_LOSS"
    assert not (tmp_path / "shards" / shard.reference.shard_id / "records.mdb").exists()
    await worker.close()


async def test_records_cut_short_are_data_loss_and_end_nobody(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard, other = await SingleShard.create(worker), await SingleShard.create(worker)
    ids = [f"r{number}" for number in range(500)]
    for written in (shard, other):
        await written.add(ids, np.ones((500, 16)))
    records = shard.directory / "records.mdb"
    await worker.close()
    os.truncate(records, records.stat().st_size // 2)

    worker = await started(tmp_path)

    error = (await shard.on(worker).get()).error
    assert error.reason == "DATA_LOSS"
    assert "cut short" in error.message
    assert len((await other.on(worker).get()).records.ids) == 500
    await worker.close()


async def test_a_damaged_identity_is_data_loss(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    identity = shard.directory / "identity"
    await worker.close()
    content = bytearray(identity.read_bytes())
    content[len(content) // 2] ^= 1
    identity.write_bytes(content)

    worker = await started(tmp_path)

    assert (await shard.on(worker).get()).error.reason == "DATA_LOSS"
    await worker.close()


async def test_the_records_of_another_shard_are_not_served(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    one, two = await SingleShard.create(worker), await SingleShard.create(worker)
    await one.add(["a"], [[1]])
    directories = one.directory, two.directory
    await worker.close()
    shutil.copy(directories[0] / "records.mdb", directories[1] / "records.mdb")

    worker = await started(tmp_path)

    assert (await two.on(worker).get()).error.reason == "DATA_LOSS"
    await worker.close()


async def test_a_deleted_shard_is_gone_and_its_uuid_used_up(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a"], [[1]])
    directory = shard.directory

    for _ in range(2):
        await worker.control_service.delete_shard(delete_request(shard), context_for(240))

    assert not directory.exists()
    with pytest.raises(StaleRouteError):
        await shard.add(["b"], [[1]])
    await worker.close()
    worker = await started(tmp_path)
    request = create_request(worker, shard.reference.shard_id, shard.reference.collection_id)
    with pytest.raises(FailedPreconditionError, match="was deleted"):
        await worker.control_service.create_shard(request, context_for(240))
    await worker.close()


async def test_a_lost_shard_can_be_deleted(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    directory = shard.directory
    await worker.close()
    shutil.rmtree(directory)
    worker = await started(tmp_path)

    await worker.control_service.delete_shard(delete_request(shard.on(worker)), context_for(240))

    assert worker.held.all() == []
    await worker.close()


async def test_a_deletion_of_an_older_epoch_is_refused(shard: SingleShard) -> None:
    entry = collection_entry(shard.worker, shard.reference.shard_id, shard.reference.collection_id)
    entry.table_version = 2
    entry.shards[0].epoch = 3
    update = pb.UpdateShardRequest(
        cluster_id=str(CLUSTER),
        worker_id=str(shard.worker.worker_id),
        shard_id=shard.reference.shard_id,
        entry=entry,
    )
    await shard.worker.control_service.update_shard(update, context_for(240))

    with pytest.raises(StaleRouteError):
        await shard.worker.control_service.delete_shard(delete_request(shard, 2), context_for(240))
    with pytest.raises(StaleRouteError):
        await shard.add(["a"], [[1]])
    shard.reference.epoch = 3
    await shard.add(["a"], [[1]])


async def test_calls_meant_for_another_worker_or_cluster_are_refused(worker: Worker) -> None:
    request = create_request(worker, str(uuid.uuid4()), str(uuid.uuid4()))
    request.worker_id = str(uuid.uuid4())

    with pytest.raises(FailedPreconditionError, match="meant for worker"):
        await worker.control_service.create_shard(request, context_for(240))


def test_shards_without_the_workers_identity_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()

    with pytest.raises(DataLossError, match=r"worker\.json"):
        DataDirectory(tmp_path)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()

    with pytest.raises(FailedPreconditionError, match="photos"):
        DataDirectory(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    identity = tmp_path / "worker.json"
    content = json.loads(identity.read_text())
    identity.write_text(json.dumps(content | {"format": 2}))

    with pytest.raises(FailedPreconditionError, match="format 2"):
        DataDirectory(tmp_path)


async def test_a_foreign_shard_directory_is_refused(tmp_path: Path) -> None:
    one = await started(tmp_path / "one")
    shard = await SingleShard.create(one)
    directory = shard.directory
    await one.close()
    two = await started(tmp_path / "two")
    await two.close()
    shutil.copytree(directory, tmp_path / "two" / "shards" / directory.name)

    with pytest.raises(FailedPreconditionError, match="belongs to worker"):
        await started(tmp_path / "two")


async def test_a_whole_shard_that_the_manifest_does_not_know_yet_is_adopted(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    await shard.add(["a"], [[1]])
    await worker.close()
    (tmp_path / "manifest.mdb").unlink()

    worker = await started(tmp_path)

    assert list(plain(await shard.on(worker).get())) == ["a"]
    await worker.close()


async def test_what_was_left_half_made_is_removed(tmp_path: Path) -> None:
    worker = await started(tmp_path)
    await worker.close()
    for name in (".creating-x", ".deleting-y"):
        (tmp_path / "shards" / name).mkdir()
        (tmp_path / "shards" / name / "records.mdb").write_bytes(b"x")

    worker = await started(tmp_path)

    assert list((tmp_path / "shards").iterdir()) == []
    await worker.close()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "worker_id": "x"}'])
def test_a_damaged_identity_of_the_worker_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "worker.json").write_text(content)

    with pytest.raises(DataLossError, match="is damaged"):
        DataDirectory(tmp_path)


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    (tmp_path / "manifest.mdb").write_bytes(b"x" * 10_000)

    with pytest.raises(DataLossError, match="cannot be opened"):
        DataDirectory(tmp_path)


def test_something_else_among_the_shards_is_refused(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    (tmp_path / "shards" / "photos").mkdir()

    with pytest.raises(FailedPreconditionError, match="photos"):
        DataDirectory(tmp_path)
