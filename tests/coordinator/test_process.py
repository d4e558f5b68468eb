"""The coordinator as a process of its own, over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import CollectionNotFoundError, ShoalError, UnavailableError
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1 import membership_service_pb2 as membership_api
from shoal.internal.v1 import routing_service_pb2 as routing_api
from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceStub
from shoal.internal.v1.membership_service_pb2_grpc import MembershipServiceStub
from shoal.internal.v1.routing_service_pb2_grpc import RoutingServiceStub
from shoal.server import rpc
from shoal.v1.collection_pb2 import CollectionConfiguration, CollectionReference, HnswConfiguration
from shoal_coordinator.state import DEFAULT_DATABASE, DEFAULT_TENANT
from tests.coordinator.cluster import CONTROL, FakeWorker, eventually

pytestmark = pytest.mark.cluster


class CoordinatorProcess:
    """`shoal-coordinator` on a directory, at a port that stays."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.channel = rpc.channel(f"127.0.0.1:{port}")
        self.process: asyncio.subprocess.Process

    async def start(self, *, crash_point: str = "") -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shoal_coordinator",
            f"--data-dir={self.directory}",
            f"--port={self.port}",
            env={**os.environ, "SHOAL_CRASH_POINT": crash_point},
        )
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(ShoalError):
                    await self.call("GetTenant", catalog_api.GetTenantRequest(name=DEFAULT_TENANT))
                    return
                await asyncio.sleep(0.05)

    async def call(self, method: str, request: Any) -> Any:
        return await rpc.call(
            getattr(CatalogServiceStub(self.channel), method), request, timeout_s=60
        )

    async def create(self, name: str, shards: int) -> Any:
        return await self.call(
            "CreateCollection",
            catalog_api.CreateCollectionRequest(
                tenant=DEFAULT_TENANT,
                database=DEFAULT_DATABASE,
                name=name,
                configuration=CollectionConfiguration(hnsw=HnswConfiguration(shards=shards)),
            ),
        )

    async def get(self, name: str) -> Any:
        reference = CollectionReference(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, name=name)
        request = catalog_api.GetCollectionRequest(collection=reference)
        return await self.call("GetCollection", request)

    async def register(self, worker: FakeWorker) -> None:
        stub = MembershipServiceStub(self.channel)
        while True:
            first = not worker.cluster_id
            request = membership_api.RegisterWorkerRequest(
                worker_id=worker.worker_id,
                process_id=worker.process_id,
                address=worker.address,
                cluster_id=worker.cluster_id,
                shards=worker.held(),
            )
            response = await rpc.call(stub.RegisterWorker, request, timeout_s=60)
            (worker.directory / "cluster_id").write_text(response.cluster_id)
            if not first:
                return

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[FakeWorker]:
    server = rpc.server()
    worker = FakeWorker(tmp_path / "worker", "")
    rpc.add_service(server, CONTROL, worker)
    worker.address = f"127.0.0.1:{rpc.bind(server, '127.0.0.1', 0)}"
    await server.start()
    yield worker
    await server.stop(None)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[CoordinatorProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    coordinator = CoordinatorProcess(tmp_path / "coordinator", port)
    yield coordinator
    if coordinator.process.returncode is None:
        coordinator.process.kill()
        await coordinator.process.wait()
    await coordinator.channel.close()


@pytest.mark.parametrize("point", ["collection_reserved", "shard_created:2", "shards_created"])
async def test_killed_while_it_creates_a_collection(
    coordinator: CoordinatorProcess, worker: FakeWorker, point: str
) -> None:
    await coordinator.start(crash_point=point)
    await coordinator.register(worker)
    with pytest.raises(UnavailableError):
        await coordinator.create("books", shards=3)
    assert await coordinator.process.wait() == -signal.SIGKILL

    await coordinator.start()
    await coordinator.register(worker)

    with pytest.raises(CollectionNotFoundError):
        await coordinator.get("books")
    await coordinator.create("books", shards=3)
    await eventually(lambda: len(worker.shards) == 3)


async def test_it_stops_at_once_though_gateways_follow_it(
    coordinator: CoordinatorProcess, worker: FakeWorker
) -> None:
    await coordinator.start()
    await coordinator.register(worker)
    confirmations: asyncio.Queue[int] = asyncio.Queue()

    async def requests() -> AsyncIterator[routing_api.WatchTableRequest]:
        yield routing_api.WatchTableRequest(gateway_id="g")
        while True:
            yield routing_api.WatchTableRequest(gateway_id="g", version=await confirmations.get())

    names: list[str] = []

    async def follow() -> None:
        stub = RoutingServiceStub(coordinator.channel)
        async for page in rpc.stream(stub.WatchTable, requests()):
            names.extend(entry.collection.name for entry in page.collections)
            confirmations.put_nowait(page.version)

    following = asyncio.create_task(follow())
    await coordinator.create("books", shards=1)
    await eventually(lambda: bool(names))
    assert names == ["books"]
    async with asyncio.timeout(60):
        assert await coordinator.stop() == 0
        await following
