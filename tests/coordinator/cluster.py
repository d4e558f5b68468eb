"""A coordinator with workers in this process, for tests.

The workers are not the real ones: each keeps its shards as files in a directory (so that what a
restart finds is what was made durable), follows the protocol of `ShardControlService`, and can be
unreachable, failing, or stand still until it may go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    ShoalError,
    UnavailableError,
    UnimplementedError,
)
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1 import membership_service_pb2 as membership_api
from shoal.internal.v1 import routing_service_pb2 as routing_api
from shoal.internal.v1 import worker_service_pb2 as worker_api
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.server.rpc import CallContext, context_for, local_stub
from shoal.v1.collection_pb2 import CollectionConfiguration, CollectionReference
from shoal_coordinator.coordinator import Coordinator
from shoal_coordinator.state import DEFAULT_DATABASE, DEFAULT_TENANT

CONTROL = "shoal.internal.v1.ShardControlService"


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that nobody announces."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class FakeWorker:
    """A `ShardControlService` over a directory with one file for each shard."""

    def __init__(self, directory: Path, address: str, worker_id: str | None = None) -> None:
        self.directory = directory
        self.address = address
        self.process_id = str(uuid.uuid4())
        directory.mkdir(parents=True, exist_ok=True)
        self._id_file = directory / "worker_id"
        if not self._id_file.exists():
            self._id_file.write_text(worker_id or str(uuid.uuid4()))
        self.worker_id = self._id_file.read_text()
        self.reachable = True
        self.refuse: Callable[[str], ShoalError | None] = lambda method: None
        self.may_go_on = asyncio.Event()
        self.held_up: tuple[str, ...] = ()
        self.calls: list[str] = []

    def restart(self, address: str | None = None) -> FakeWorker:
        """The worker's next process, on the same directory."""
        self.reachable = False
        return FakeWorker(self.directory, address or self.address)

    @property
    def cluster_id(self) -> str:
        file = self.directory / "cluster_id"
        return file.read_text() if file.exists() else ""

    @property
    def shards(self) -> dict[str, CollectionEntry]:
        return {
            file.stem: CollectionEntry.FromString(file.read_bytes())
            for file in self.directory.glob("*.shard")
        }

    def held(self) -> list[membership_api.HeldShard]:
        return [
            membership_api.HeldShard(shard_id=shard_id, epoch=1, entry=entry)
            for shard_id, entry in self.shards.items()
        ]

    async def register(self, coordinator: Coordinator) -> None:
        if not self.cluster_id:
            # A new worker is told its cluster first, and then comes again.
            await self.introduce(coordinator)
        await self.introduce(coordinator)

    async def introduce(self, coordinator: Coordinator) -> None:
        response = await coordinator.membership_service.register_worker(
            membership_api.RegisterWorkerRequest(
                worker_id=self.worker_id,
                process_id=self.process_id,
                address=self.address,
                cluster_id=self.cluster_id,
                shards=self.held(),
            ),
            context_for(240),
        )
        (self.directory / "cluster_id").write_text(response.cluster_id)

    async def heartbeat(self, coordinator: Coordinator) -> None:
        await coordinator.membership_service.heartbeat_worker(
            membership_api.HeartbeatWorkerRequest(
                worker_id=self.worker_id, process_id=self.process_id
            ),
            context_for(240),
        )

    async def _enter(self, method: str) -> None:
        self.calls.append(method)
        if method in self.held_up:
            await self.may_go_on.wait()
        error = self.refuse(method)
        if error is not None:
            raise error

    def _check(self, request: Any) -> None:
        if request.worker_id != self.worker_id or request.cluster_id != self.cluster_id:
            raise FailedPreconditionError("another worker, or another cluster, is meant")

    async def create_shard(
        self, request: worker_api.CreateShardRequest, context: CallContext
    ) -> worker_api.CreateShardResponse:
        await self._enter("create")
        self._check(request)
        if (self.directory / f"{request.shard_id}.deleted").exists():
            raise FailedPreconditionError("the shard was deleted: a shard's UUID is used once")
        file = self.directory / f"{request.shard_id}.shard"
        file.write_bytes(request.entry.SerializeToString())
        return worker_api.CreateShardResponse()

    async def update_shard(
        self, request: worker_api.UpdateShardRequest, context: CallContext
    ) -> worker_api.UpdateShardResponse:
        await self._enter("update")
        self._check(request)
        file = self.directory / f"{request.shard_id}.shard"
        if not file.exists():
            raise DataLossError("the shard is gone")
        stored = CollectionEntry.FromString(file.read_bytes())
        if request.entry.table_version > stored.table_version:
            file.write_bytes(request.entry.SerializeToString())
        return worker_api.UpdateShardResponse()

    async def delete_shard(
        self, request: worker_api.DeleteShardRequest, context: CallContext
    ) -> worker_api.DeleteShardResponse:
        await self._enter("delete")
        self._check(request)
        # For ever: its creation may still be on the way.
        (self.directory / f"{request.deletion.shard_id}.deleted").touch()
        (self.directory / f"{request.deletion.shard_id}.shard").unlink(missing_ok=True)
        return worker_api.DeleteShardResponse()

    async def describe_worker(
        self, request: worker_api.DescribeWorkerRequest, context: CallContext
    ) -> worker_api.DescribeWorkerResponse:
        await self._enter("describe")
        return worker_api.DescribeWorkerResponse(
            worker_id=self.worker_id, process_id=self.process_id, cluster_id=self.cluster_id
        )

    async def _refuse_copying(self, request: Any, context: CallContext) -> Any:
        raise UnimplementedError("these workers have nothing to copy")

    hold_shards = cut_shards = release_cut = store_cut = fill_shard = _refuse_copying


class FakeClock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class SimulatedCrashError(BaseException):
    """Passes through everything that handles errors, as the end of a process would."""


class Cluster:
    """A coordinator's directory, the coordinator on it, and workers by address."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.watch = FakeClock()
        self.workers: dict[str, FakeWorker] = {}
        self.coordinator: Coordinator
        self._running = False

    def stub(self, address: str) -> Any:
        worker = self.workers.get(address)
        if worker is None or not worker.reachable:
            return local_stub(CONTROL, _Nobody(address))
        return local_stub(CONTROL, worker)

    async def start(self, *, catalog: str = "coordinator", **options: Any) -> Coordinator:
        self.coordinator = Coordinator(
            self.directory / catalog,
            worker_stub=self.stub,
            clock=self.clock,
            watch=self.watch,
            **{"expected_workers": 1, "cores": 2, **options},
        )
        await self.coordinator.start()
        self._running = True
        return self.coordinator

    async def stop(self) -> None:
        if self._running:
            self._running = False
            await self.coordinator.close()

    async def restart(self, **options: Any) -> Coordinator:
        """Stop the coordinator without any farewell, start one on the same directory."""
        await self.stop()
        coordinator = await self.start(**options)
        for worker in self.workers.values():
            if worker.reachable:
                await worker.register(coordinator)
        return coordinator

    def hold_up(self, *methods: str) -> None:
        """Have calls of workers stand still, until `go_on`."""
        for worker in self.workers.values():
            worker.held_up = methods

    async def called(self, method: str) -> None:
        """Wait until some worker has been called."""
        await eventually(lambda: any(method in w.calls for w in self.workers.values()))

    def go_on(self) -> None:
        """Let the workers answer that were held up."""
        for worker in self.workers.values():
            worker.may_go_on.set()

    async def settled(self) -> None:
        """Wait until no deletion is unconfirmed."""
        await eventually(lambda: not self.coordinator.table.state.deletions)

    def make_worker(self, name: str, **options: Any) -> FakeWorker:
        worker = FakeWorker(self.directory / name, f"{name}:1", **options)
        self.workers[worker.address] = worker
        return worker

    async def add_worker(self, name: str) -> FakeWorker:
        worker = self.make_worker(name)
        await worker.register(self.coordinator)
        return worker

    async def create(
        self,
        name: str,
        *,
        shards: int = 1,
        get_or_create: bool = False,
        database: str = DEFAULT_DATABASE,
        configuration: CollectionConfiguration | None = None,
    ) -> CollectionEntry:
        configuration = configuration or CollectionConfiguration()
        configuration.hnsw.shards = shards
        response = await self.coordinator.catalog_service.create_collection(
            catalog_api.CreateCollectionRequest(
                tenant=DEFAULT_TENANT,
                database=database,
                name=name,
                configuration=configuration,
                get_or_create=get_or_create,
            ),
            context_for(240),
        )
        return response.entry

    async def get(self, name: str) -> CollectionEntry:
        reference = CollectionReference(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, name=name)
        response = await self.coordinator.catalog_service.get_collection(
            catalog_api.GetCollectionRequest(collection=reference), context_for(240)
        )
        return response.entry

    async def delete(self, entry: CollectionEntry) -> None:
        await self.coordinator.catalog_service.delete_collection(
            catalog_api.DeleteCollectionRequest(collection_id=entry.collection.id),
            context_for(240),
        )

    async def update(self, entry: CollectionEntry, **fields: Any) -> CollectionEntry:
        response = await self.coordinator.catalog_service.update_collection(
            catalog_api.UpdateCollectionRequest(collection_id=entry.collection.id, **fields),
            context_for(240),
        )
        return response.entry


class _Nobody:
    """What answers where no process listens."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def _refuse(self, request: Any, context: CallContext) -> Any:
        raise UnavailableError(f"{self._address} cannot be reached")

    create_shard = update_shard = delete_shard = describe_worker = _refuse
    hold_shards = cut_shards = release_cut = store_cut = fill_shard = _refuse


class FakeGateway:
    """Follows the table as a gateway does, and confirms."""

    def __init__(self, coordinator: Coordinator, *, confirms: bool = True) -> None:
        self._coordinator = coordinator
        self._confirms = confirms
        self._requests: asyncio.Queue[routing_api.WatchTableRequest | None] = asyncio.Queue()
        self.version = 0
        self.cluster_id = ""
        self.collections: dict[str, CollectionEntry] = {}
        self.workers: dict[str, Any] = {}
        self.databases: dict[str, Any] = {}
        self.pages: list[routing_api.WatchTableResponse] = []
        self.snapshots = 0
        self.ready = False
        self._applied = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        await self._requests.put(None)
        if self._task is not None:
            await asyncio.wait_for(self._task, 60)

    async def reached(self, version: int) -> None:
        async with asyncio.timeout(60):
            while self.version < version:
                await self._applied.wait()

    async def requests(self) -> AsyncIterator[routing_api.WatchTableRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _follow(self) -> None:
        await self._requests.put(
            routing_api.WatchTableRequest(
                gateway_id="g", cluster_id=self.cluster_id, version=self.version
            )
        )
        answers = self._coordinator.routing_service.watch_table(self.requests(), context_for(600))
        async with contextlib.aclosing(answers):  # type: ignore[type-var]
            async for page in answers:
                self.apply(page)
                if not page.more and self._confirms:
                    await self._requests.put(
                        routing_api.WatchTableRequest(gateway_id="g", version=page.version)
                    )

    def apply(self, page: routing_api.WatchTableResponse) -> None:
        self.pages.append(page)
        if page.snapshot_start:
            self.snapshots += 1
            self.collections.clear()
            self.workers.clear()
            self.databases.clear()
        for collection_id in page.removed_collection_ids:
            self.collections.pop(collection_id, None)
        for worker_id in page.removed_worker_ids:
            self.workers.pop(worker_id, None)
        for database_id in page.removed_database_ids:
            self.databases.pop(database_id, None)
        self.collections.update({e.collection.id: e for e in page.collections})
        self.workers.update({w.worker_id: w for w in page.workers})
        self.databases.update({d.database_id: d for d in page.databases})
        self.cluster_id, self.ready = page.cluster_id, page.ready
        if not page.more:
            self.version = page.version
            self._applied.set()
            self._applied = asyncio.Event()
