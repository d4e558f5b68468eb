"""A cluster in the test's process: the real coordinator, workers, gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UnavailableError
from shoal.internal.v1 import membership_service_pb2
from shoal.server.rpc import context_for, local_stub
from shoal.v1 import collection_pb2, collection_service_pb2, record_service_pb2, value_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal.wire.metadata import metadata_to_message
from shoal.wire.vectors import encode_vectors
from shoal_coordinator.coordinator import Coordinator
from shoal_gateway.gateway import Gateway
from shoal_worker.settings import WorkerSettings
from shoal_worker.worker import Worker
from tests.gateway.memory_worker import MemoryWorker

DIMENSION = 4


class Cluster:
    """A coordinator, some workers, and a gateway."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.workers: list[MemoryWorker] = []
        self.gateways: list[Gateway] = []
        self._real_workers: list[Worker] = []
        self._services: dict[str, tuple[object, object]] = {}  # data, control, by address
        self.coordinator: Coordinator
        self.coordinator_is_down = False

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    @property
    def records(self) -> Any:
        return local_stub("shoal.v1.RecordService", self.gateway.record_service)

    @property
    def collections(self) -> Any:
        return local_stub("shoal.v1.CollectionService", self.gateway.collection_service)

    @property
    def admin(self) -> Any:
        return local_stub("shoal.v1.AdminService", self.gateway.admin_service)

    async def start(self, workers: int, *, expected_workers: int | None = None) -> None:
        self.coordinator = Coordinator(
            self._directory / "coordinator",
            expected_workers=workers if expected_workers is None else expected_workers,
            allow_reset=True,
            worker_stub=self._control_at,
        )
        await self.coordinator.start()
        for number in range(workers):
            await self.add_worker(f"worker-{number}:1")
        await self.add_gateway()

    async def add_worker(self, address: str) -> MemoryWorker:
        worker = MemoryWorker(address)
        self.workers.append(worker)
        self._services[address] = (worker, worker)
        request = membership_service_pb2.RegisterWorkerRequest(
            worker_id=worker.worker_id, process_id=worker.process_id, address=address
        )
        register = self.coordinator.membership_service.register_worker
        # A new worker is told its cluster first, and is a member when it comes again with it.
        request.cluster_id = (await register(request, context_for(60))).cluster_id
        await register(request, context_for(60))
        return worker

    async def add_gateway(self, limits: Limits = DEFAULT_LIMITS) -> Gateway:
        gateway = Gateway(
            catalog_stub=_Breakable(
                self,
                local_stub("shoal.internal.v1.CatalogService", self.coordinator.catalog_service),
            ),  # type: ignore[arg-type]
            routing_stub=local_stub(
                "shoal.internal.v1.RoutingService", self.coordinator.routing_service
            ),
            worker_stub=lambda _, address: local_stub(
                "shoal.internal.v1.ShardDataService", self._services[address][0]
            ),
            control_stub=lambda _, address: self._control_at(address),
            limits=limits,
        )
        await gateway.start()
        await asyncio.wait_for(gateway.wait_for_table(), 60)
        self.gateways.append(gateway)
        return gateway

    async def add_real_worker(self, name: str) -> None:
        """Add a worker with shards on disk."""
        worker = Worker(self._directory / name, settings=WorkerSettings())
        await worker.start()
        self._services[name] = (worker.data_service, worker.control_service)
        membership = local_stub(
            "shoal.internal.v1.MembershipService", self.coordinator.membership_service
        )
        worker.join(membership, name)
        await worker.joined()
        self._real_workers.append(worker)

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.close()
        for worker in self._real_workers:
            await worker.close()
        await self.coordinator.close()

    async def create(self, name: str = "books", shards: int = 1, dimension: int = 0) -> str:
        """Create a collection through the gateway, and give its ID."""
        hnsw = collection_pb2.HnswConfiguration(shards=shards)
        if dimension:
            hnsw.dimension = dimension
        answer = await self.collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(
                name=name, configuration=collection_pb2.CollectionConfiguration(hnsw=hnsw)
            )
        )
        collection_id: str = answer.collection.id
        return collection_id

    def worker_of(self, shard_id: str) -> MemoryWorker:
        return next(worker for worker in self.workers if shard_id in worker.shards)

    def _control_at(self, address: str) -> Any:
        return local_stub("shoal.internal.v1.ShardControlService", self._services[address][1])


class _Breakable:
    """A stub of the coordinator that cannot be reached while the coordinator is down."""

    def __init__(self, cluster: Cluster, stub: Any) -> None:
        self._cluster = cluster
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        if self._cluster.coordinator_is_down:
            return self._refuse
        return getattr(self._stub, name)

    async def _refuse(self, _request: Any, **_options: Any) -> Any:
        raise UnavailableError("nobody listens there", metadata={"address": "nowhere:1"})


def books(name: str = "books") -> collection_pb2.CollectionReference:
    return collection_pb2.CollectionReference(name=name)


def batch(
    ids: Sequence[str],
    vectors: Any = None,
    *,
    metadatas: Sequence[dict[str, Any] | None] | None = None,
    documents: Sequence[str] | None = None,
) -> value_pb2.RecordBatch:
    """A batch; without vectors, record n gets (n, 0, 0, …)."""
    if vectors is None:
        vectors = np.zeros((len(ids), DIMENSION), np.float32)
        vectors[:, 0] = np.arange(len(ids))
    records = value_pb2.RecordBatch(ids=ids, vectors=encode_vectors(vectors))
    if metadatas is not None:
        records.metadatas.extend(
            value_pb2.Metadata() if m is None else metadata_to_message(m) for m in metadatas
        )
    if documents is not None:
        records.documents.values.extend(documents)
    return records


def add(ids: Sequence[str], *args: Any, **columns: Any) -> record_service_pb2.AddRequest:
    return record_service_pb2.AddRequest(collection=books(), records=batch(ids, *args, **columns))


def vector(*numbers: float) -> value_pb2.VectorBlock:
    return encode_vectors(np.array([numbers], np.float32))
