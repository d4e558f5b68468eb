"""One shard without gateway and sockets, spoken to as a gateway would; raw USearch beside it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from usearch.index import Index

from benchmarks.data import Vectors
from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.calls import context_for
from shoal.v1 import value_pb2
from shoal.v1.collection_pb2 import Quantization, Space
from shoal.wire.metadata import metadata_to_message
from shoal_worker.building import Need, need_of
from shoal_worker.columns import Column
from shoal_worker.matching import Selection
from shoal_worker.search import Search, search
from shoal_worker.shard import Shard
from shoal_worker.worker import Worker

LIMIT: Final = 10
WRITE_BATCH: Final = 1_000
EF: Final = 100
_TIMEOUT_S: Final = 600.0


class ShardUnderTest:
    """A worker in this process with one shard, spoken to as a gateway would."""

    def __init__(self, worker: Worker, reference: pb.ShardReference) -> None:
        self.worker = worker
        self.reference = reference

    @staticmethod
    async def start(path: Path) -> Worker:
        """Start a worker on a directory."""
        worker = Worker(path)
        await worker.start()
        worker.directory.join(uuid.UUID(int=1))
        return worker

    @staticmethod
    async def create(worker: Worker, threads: int) -> ShardUnderTest:
        """Create a shard for cosine distances in bfloat16."""
        shard_id, collection_id = str(uuid.uuid4()), str(uuid.uuid4())
        entry = catalog_pb2.CollectionEntry(
            shards=[
                catalog_pb2.ShardEntry(shard_id=shard_id, worker_id=str(worker.worker_id), epoch=1)
            ],
            table_version=1,
        )
        entry.collection.id = collection_id
        hnsw = entry.collection.configuration.hnsw
        hnsw.space = Space.SPACE_COSINE
        hnsw.quantization = Quantization.QUANTIZATION_BF16
        hnsw.num_threads = threads
        await worker.control_service.create_shard(
            pb.CreateShardRequest(
                cluster_id=str(worker.cluster_id),
                worker_id=str(worker.worker_id),
                shard_id=shard_id,
                entry=entry,
            ),
            context_for(_TIMEOUT_S),
        )
        reference = pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
        return ShardUnderTest(worker, reference)

    @property
    def open(self) -> Shard:
        """The shard itself; it must have been used."""
        reference = self.reference
        holding = self.worker.held.find(reference.collection_id, reference.shard_id, 1)
        assert holding.shard is not None
        return holding.shard

    def put(self, first: int, vectors: Vectors) -> pb.WriteShardRequest:
        """Make a batch with documents of 250 characters and four metadata keys."""
        numbers = range(first, first + len(vectors))
        request = pb.WriteShardRequest(
            shard=self.reference,
            write_id=uuid.uuid4().bytes,
            first_ordinal=self.worker.clock.reserve(len(vectors)),
            dimension=vectors.shape[1],
        )
        request.put.kind = pb.WRITE_KIND_ADD
        records = request.put.records
        records.ids.extend(f"id-{n}" for n in numbers)
        records.vectors.CopyFrom(
            value_pb2.VectorBlock(dimension=vectors.shape[1], values=vectors.tobytes())
        )
        records.metadatas.extend(
            metadata_to_message(
                {"number": n, "even": n % 2 == 0, "share": n / 7, "group": f"g{n % 50}"}
            ).SerializeToString()
            for n in numbers
        )
        records.documents.values.extend(
            f"The document of record {n}, which says little. " * 5 for n in numbers
        )
        return request

    async def send(self, request: pb.WriteShardRequest) -> None:
        """Write a batch, durably."""
        await self.worker.data_service.write_shard(request, context_for(_TIMEOUT_S))

    async def write(self, base: Vectors) -> list[pb.WriteShardRequest]:
        """Write everything, batch by batch, without waiting for the graph."""
        requests = list(self.puts(base))
        for request in requests:
            await self.send(request)
        return requests

    def puts(self, base: Vectors) -> Iterator[pb.WriteShardRequest]:
        """Make all batches of some vectors."""
        for first in range(0, len(base), WRITE_BATCH):
            yield self.put(first, base[first : first + WRITE_BATCH])

    async def built(self, count: int) -> int:
        """Wait until all is in the graph that is worth a build, and give what stays outside."""
        while True:
            shard, state = self.open, self.open.newest
            if (
                state.graph is not None
                and state.meta.record_count == count
                and need_of(state, shard.configuration) is Need.NOTHING
            ):
                return state.fresh.pending_count
            await asyncio.sleep(0.005)

    def request(self, queries: Vectors) -> pb.SearchShardsRequest:
        """Ask for IDs, distances and metadata."""
        block = np.atleast_2d(queries)
        return pb.SearchShardsRequest(
            shards=[self.reference],
            queries=value_pb2.VectorBlock(dimension=block.shape[1], values=block.tobytes()),
            limit=LIMIT,
            include=[value_pb2.Include.INCLUDE_METADATAS],
        )

    def in_shard(self, queries: Vectors, threads: int) -> list[list[str]]:
        """Search the pinned shard, without messages."""
        shard = self.open
        sought = Search(
            np.atleast_2d(queries),
            LIMIT,
            Selection(),
            frozenset([Column.METADATAS]),
            1 << 30,
            threads,
            lambda: None,
        )
        with shard.pin() as pinned:
            found = search(pinned, shard.configuration.fit.space, sought)
        ends = np.cumsum(found.counts).tolist()
        ids = found.columns.ids
        return [ids[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    async def by_service(self, request: bytes) -> bytes:
        """Search through the service, from serialised request to serialised answer."""
        decoded = pb.SearchShardsRequest.FromString(request)
        response = await self.worker.data_service.search_shards(decoded, context_for(_TIMEOUT_S))
        return response.SerializeToString()


def raw_index(base: Vectors) -> Index:
    """USearch itself: bfloat16, inner product of normalised vectors."""
    return Index(
        ndim=base.shape[1],
        metric="ip",
        dtype="bf16",
        connectivity=16,
        expansion_add=EF,
        expansion_search=EF,
    )


def set_effort(index: Index, ef: int) -> None:
    """Set how many candidates a search of raw USearch considers."""
    index.expansion_search = ef  # type: ignore[misc] # its stub does not know the setter


def keys_of(base: Vectors) -> npt.NDArray[np.uint64]:
    """Give the keys of raw USearch."""
    return np.arange(len(base), dtype=np.uint64)


async def warm_builder(worker: Worker) -> None:
    """Have the builder process started: a worker starts it once."""
    scratch = await ShardUnderTest.create(worker, 1)
    random = np.random.default_rng(1).standard_normal((2_500, 8)).astype(np.float32)
    await scratch.write(random)
    await scratch.built(len(random))
