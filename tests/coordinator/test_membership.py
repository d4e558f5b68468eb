"""Who may join, who lives."""

from __future__ import annotations

import shutil

import pytest

from shoal.errors import FailedPreconditionError, NotRegisteredError, UnavailableError
from shoal.internal.v1.membership_service_pb2 import RegisterWorkerRequest
from shoal.server.metrics import REGISTRY
from shoal.server.rpc import context_for
from tests.coordinator.cluster import Cluster, FakeGateway, FakeWorker, eventually


async def test_a_worker_learns_its_cluster(cluster: Cluster) -> None:
    worker = await cluster.add_worker("a")

    assert worker.cluster_id == cluster.coordinator.table.state.cluster_id
    assert cluster.coordinator.table.state.workers[worker.worker_id].live


async def test_a_new_worker_is_a_member_once_its_directory_knows_its_cluster(
    cluster: Cluster,
) -> None:
    worker = cluster.make_worker("a")
    await worker.introduce(cluster.coordinator)

    assert worker.cluster_id == cluster.coordinator.table.state.cluster_id
    assert not cluster.coordinator.table.state.workers
    with pytest.raises(NotRegisteredError):
        await worker.heartbeat(cluster.coordinator)
    await worker.introduce(cluster.coordinator)
    await worker.heartbeat(cluster.coordinator)


async def test_the_cluster_is_ready_when_the_expected_workers_are_there(cluster: Cluster) -> None:
    await cluster.stop()
    await cluster.start(expected_workers=2)
    gateway = FakeGateway(cluster.coordinator)
    await gateway.follow()
    await cluster.add_worker("a")
    await gateway.reached(cluster.coordinator.table.state.version)
    assert not gateway.ready

    await cluster.add_worker("b")
    await gateway.reached(cluster.coordinator.table.state.version)

    assert gateway.ready
    await gateway.close()


async def test_a_foreign_data_directory_is_refused_and_says_what_to_do(cluster: Cluster) -> None:
    request = RegisterWorkerRequest(
        worker_id="w", process_id="p", address="w:1", cluster_id="another"
    )
    with pytest.raises(FailedPreconditionError, match=r"cluster another.*--recover-catalog"):
        await cluster.coordinator.membership_service.register_worker(request, context_for(240))

    assert not cluster.coordinator.table.state.workers


async def test_a_second_live_process_with_one_uuid_is_refused(cluster: Cluster) -> None:
    worker = await cluster.add_worker("a")
    shutil.copytree(worker.directory, cluster.directory / "copy")
    copy = FakeWorker(cluster.directory / "copy", "copy:1")
    cluster.workers["copy:1"] = copy

    with pytest.raises(FailedPreconditionError, match="lives at a:1 already"):
        await copy.register(cluster.coordinator)
    await worker.heartbeat(cluster.coordinator)

    # Also after the coordinator has forgotten the process, and knows the address alone.
    await cluster.stop()
    await cluster.start()
    with pytest.raises(FailedPreconditionError, match="lives at a:1 already"):
        await copy.register(cluster.coordinator)


async def test_a_restarted_worker_is_accepted_at_once(cluster: Cluster) -> None:
    worker = await cluster.add_worker("a")
    again = worker.restart()
    cluster.workers["a:1"] = again

    await again.register(cluster.coordinator)

    with pytest.raises(NotRegisteredError):
        await worker.heartbeat(cluster.coordinator)
    await again.heartbeat(cluster.coordinator)


async def test_a_worker_may_move_to_another_address(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=2)
    moved = two_workers.workers["a:1"].restart("c:1")
    two_workers.workers["c:1"] = moved

    await moved.register(two_workers.coordinator)

    state = two_workers.coordinator.table.state
    assert state.workers[moved.worker_id].address == "c:1"
    assert (await two_workers.get("books")) == entry
    await two_workers.delete(entry)
    assert not moved.shards


async def test_a_worker_without_heartbeats_is_not_live(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=2)
    silent, other = two_workers.workers["a:1"], two_workers.workers["b:1"]
    state = two_workers.coordinator.table.state
    two_workers.clock.now_s += 4
    await other.heartbeat(two_workers.coordinator)
    two_workers.clock.now_s += 2
    await two_workers.coordinator.membership.expire_leases()

    assert not state.workers[silent.worker_id].live
    assert state.workers[other.worker_id].live
    assert REGISTRY.get_sample_value("shoal_unavailable_shards") == 1
    # Its shards stay its own, and new ones go elsewhere.
    assert (await two_workers.get("books")) == entry
    novels = await two_workers.create("novels", shards=4)
    assert {shard.worker_id for shard in novels.shards} == {other.worker_id}

    await silent.heartbeat(two_workers.coordinator)
    assert state.workers[silent.worker_id].live
    assert REGISTRY.get_sample_value("shoal_unavailable_shards") == 0


async def test_leases_expire_by_themselves(cluster: Cluster) -> None:
    await cluster.stop()
    await cluster.start(lease_s=0.1)
    worker = await cluster.add_worker("a")
    cluster.clock.now_s += 1
    await eventually(lambda: not cluster.coordinator.table.state.workers[worker.worker_id].live)


async def test_a_coordinator_that_stood_still_takes_nobody_for_lost(two_workers: Cluster) -> None:
    membership, state = two_workers.coordinator.membership, two_workers.coordinator.table.state
    await membership.expire_leases(0.5)
    two_workers.clock.now_s += 10
    two_workers.watch.now_s += 10
    assert (await two_workers.create("books")).shards
    await membership.expire_leases(0.5)
    assert all(worker.live for worker in state.workers.values())

    two_workers.clock.now_s += 4.6
    await membership.expire_leases(0.5)
    assert not any(worker.live for worker in state.workers.values())


async def test_an_unknown_heartbeat_must_register(cluster: Cluster) -> None:
    with pytest.raises(NotRegisteredError, match="not registered"):
        await cluster.make_worker("a").heartbeat(cluster.coordinator)


async def test_a_restart_of_the_coordinator_shows_no_worker_as_lost(two_workers: Cluster) -> None:
    await two_workers.stop()
    await two_workers.start()

    assert all(w.live for w in two_workers.coordinator.table.state.workers.values())
    # But none of them gets a shard before it has registered.
    with pytest.raises(UnavailableError, match="no worker is registered"):
        await two_workers.create("books")


async def test_another_worker_at_the_address_replaces_the_former(two_workers: Cluster) -> None:
    entry = await two_workers.create("books", shards=2)
    lost = two_workers.workers["a:1"]
    fresh = FakeWorker(two_workers.directory / "fresh", "a:1")
    two_workers.workers["a:1"] = fresh

    await fresh.register(two_workers.coordinator)

    known = two_workers.coordinator.table.state.workers[lost.worker_id]
    assert known.replaced_by == fresh.worker_id
    assert not known.live
    # Absence is no instruction: the shard stays with who held it.
    assert (await two_workers.get("books")) == entry
    # It comes back elsewhere, and is itself again.
    back = lost.restart("d:1")
    two_workers.workers["d:1"] = back
    await back.register(two_workers.coordinator)
    assert two_workers.coordinator.table.state.workers[lost.worker_id].replaced_by == ""


async def test_a_replaced_worker_that_held_nothing_is_forgotten(cluster: Cluster) -> None:
    lost = await cluster.add_worker("a")
    fresh = FakeWorker(cluster.directory / "fresh", "a:1")
    cluster.workers["a:1"] = fresh

    await fresh.register(cluster.coordinator)

    assert lost.worker_id not in cluster.coordinator.table.state.workers
