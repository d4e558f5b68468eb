"""Directories that are gone, old, copied or foreign: an error, never an empty answer (law 11)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal import errors
from shoal.v1 import collection_service_pb2
from tests.cluster.running import RunningCluster, vectors_of, wait_for

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]

_IDS = [f"r{n}" for n in range(100)]
_LOST = (errors.DataLossError, errors.UnavailableError)


def _shard_directories(data: Path) -> list[Path]:
    return sorted(path.parent for path in data.glob("worker-*/**/identity"))


def _check_that_nothing_is_hidden(cluster: RunningCluster) -> None:
    """Every read of the collection fails, or says which shards are missing."""
    collection = cluster.create("held")
    with pytest.raises(_LOST):
        collection.count()
    with pytest.raises(_LOST):
        collection.read()
    with pytest.raises(_LOST):
        collection.query(vectors_of(["r1"], 1))
    partial = collection.query(vectors_of(["r1"], 1), n_results=100, allow_partial=True)
    assert partial.unsearched_shards
    assert 0 < len(partial.records.ids) < len(_IDS)
    assert {shard.reason for shard in partial.unsearched_shards} <= {"DATA_LOSS", "UNAVAILABLE"}
    with pytest.raises((*_LOST, errors.PartialWriteError)):
        collection.upsert(_IDS, version=2)


def test_a_worker_without_its_directory_is_never_empty(start: Start) -> None:
    cluster = start()
    cluster.create("held").upsert(_IDS, version=1)
    cluster.stop()
    shutil.rmtree(cluster.data / "worker-1")
    again = start()
    _check_that_nothing_is_hidden(again)
    # New collections go to workers that are there.
    assert again.create("new").upsert(_IDS).added == len(_IDS)
    assert again.create("new").count() == len(_IDS)


def test_a_shard_without_its_directory_is_data_loss(start: Start) -> None:
    cluster = start()
    cluster.create("held").upsert(_IDS, version=1)
    cluster.stop()
    lost = _shard_directories(cluster.data)[0]
    shutil.rmtree(lost)
    again = start()
    _check_that_nothing_is_hidden(again)
    assert not lost.exists()
    unavailable = [shard for shard in again.status().shards if not shard.available]
    assert len(unavailable) == 1
    assert unavailable[0].message


@pytest.mark.long
def test_a_lost_catalog_is_refused_by_the_workers_and_rebuilt_on_demand(start: Start) -> None:
    cluster = start()
    cluster.create("held").upsert(_IDS, version=1)
    cluster.stop()
    before = _shard_directories(cluster.data)
    shutil.rmtree(cluster.data / "coordinator")

    refused = start(wait=False)
    assert refused.process.wait(240) == 1
    assert "cluster" in refused.logged()
    assert "ready" not in refused.printed
    assert _shard_directories(cluster.data) == before

    shutil.rmtree(cluster.data / "coordinator")
    rebuilt = start(arguments=["--set=coordinator.recover_catalog=true"])
    assert rebuilt.create("held").read() == dict.fromkeys(_IDS, 1)
    rebuilt.create("held").upsert(_IDS, version=2)
    rebuilt.stop()
    assert start().create("held").read() == dict.fromkeys(_IDS, 2)


@pytest.mark.long
def test_an_old_catalog_deletes_nothing(start: Start) -> None:
    cluster = start()
    cluster.create("older").upsert(_IDS, version=1)
    cluster.stop()
    shutil.copytree(cluster.data / "coordinator", cluster.data / "backup")
    cluster = start()
    cluster.create("newer").upsert(_IDS, version=2)
    cluster.stop()
    before = _shard_directories(cluster.data)
    assert len(before) == 8
    shutil.rmtree(cluster.data / "coordinator")
    shutil.copytree(cluster.data / "backup", cluster.data / "coordinator")

    old = start()
    assert old.create("older").read() == dict.fromkeys(_IDS, 1)
    old.stop()
    assert _shard_directories(cluster.data) == before

    recovered = start(arguments=["--set=coordinator.recover_catalog=true"])
    assert recovered.create("older").read() == dict.fromkeys(_IDS, 1)
    assert recovered.create("newer").read() == dict.fromkeys(_IDS, 2)


@pytest.mark.long
def test_a_copy_of_a_worker_s_directory_is_refused(start: Start, tmp_path: Path) -> None:
    cluster = start()
    cluster.create("held").upsert(_IDS, version=1)
    copy = tmp_path / "copy"
    shutil.copytree(cluster.data / "worker-1", copy)
    second = subprocess.run(
        [
            *(sys.executable, "-m", "shoal_worker", f"--data-dir={copy}"),
            f"--coordinator=127.0.0.1:{cluster.role('coordinator')['port']}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert cluster.create("held").read() == dict.fromkeys(_IDS, 1)


@pytest.mark.long
def test_a_foreign_cluster_s_worker_is_refused(start: Start, tmp_path: Path) -> None:
    ours = start(tmp_path / "ours", workers=1)
    theirs = start(tmp_path / "theirs", workers=1)
    theirs.create("held").upsert(_IDS, version=1)
    theirs.stop()
    second = subprocess.run(
        [
            *(sys.executable, "-m", "shoal_worker", f"--data-dir={theirs.data / 'worker-1'}"),
            f"--coordinator=127.0.0.1:{ours.role('coordinator')['port']}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert second.returncode == 1
    assert "cluster" in second.stderr
    assert start(tmp_path / "theirs", workers=1).create("held").read() == dict.fromkeys(_IDS, 1)


@pytest.mark.long
def test_a_deleted_collection_is_deleted_by_a_worker_that_was_away(start: Start) -> None:
    cluster = start()
    collection = cluster.create("gone")
    collection.upsert(_IDS)
    assert len(_shard_directories(cluster.data)) == 4
    cluster.kill("worker-1")
    cluster.call(
        "collections",
        "DeleteCollection",
        collection_service_pb2.DeleteCollectionRequest(collection=collection.reference),
    )
    with pytest.raises(errors.CollectionNotFoundError):
        collection.count()
    wait_for(lambda: not _shard_directories(cluster.data))
