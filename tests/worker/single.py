"""One worker with shards of its own, for tests: no coordinator, no sockets."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal.v1 import value_pb2
from shoal.v1.collection_pb2 import Quantization, Space
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal.wire.metadata import metadata_from_message, metadata_to_message
from shoal_worker.checkpoint_files import checkpoints_in, vector_files_in
from shoal_worker.settings import WorkerSettings
from shoal_worker.shard import Shard
from shoal_worker.worker import Worker

CLUSTER = uuid.UUID("00000000-0000-4000-8000-000000000001")
TIMEOUT_S = 240.0


async def started(
    data_dir: Path, *, cluster: uuid.UUID = CLUSTER, settings: WorkerSettings | None = None
) -> Worker:
    """Start a worker that belongs to a cluster."""
    worker = Worker(data_dir, settings=settings)
    await worker.start()
    worker.directory.join(cluster)
    return worker


def collection_entry(
    worker: Worker, shard_id: str, collection_id: str, **hnsw: Any
) -> catalog_pb2.CollectionEntry:
    """Make a catalog entry of a collection with one shard."""
    shard = catalog_pb2.ShardEntry(shard_id=shard_id, worker_id=str(worker.worker_id), epoch=1)
    entry = catalog_pb2.CollectionEntry(shards=[shard], table_version=1)
    entry.collection.id = collection_id
    configuration = entry.collection.configuration.hnsw
    for name, value in hnsw.items():
        setattr(configuration, name, value)
    return entry


@dataclass
class SingleShard:
    """A shard of a worker, spoken to as a gateway would."""

    worker: Worker
    reference: pb.ShardReference

    @staticmethod
    async def create(
        worker: Worker,
        *,
        space: Space.ValueType = Space.SPACE_L2,
        quantization: Quantization.ValueType = Quantization.QUANTIZATION_BF16,
        language: str = "",
        sparse_keys: Sequence[str] = (),
        **hnsw: Any,
    ) -> SingleShard:
        shard_id, collection_id = str(uuid.uuid4()), str(uuid.uuid4())
        entry = collection_entry(
            worker, shard_id, collection_id, space=space, quantization=quantization, **hnsw
        )
        configuration = entry.collection.configuration
        configuration.documents.language = language
        for key in sparse_keys:
            configuration.sparse_vectors[key].SetInParent()
        request = pb.CreateShardRequest(
            cluster_id=str(worker.cluster_id),
            worker_id=str(worker.worker_id),
            shard_id=shard_id,
            entry=entry,
        )
        await worker.control_service.create_shard(request, context_for(TIMEOUT_S))
        reference = pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
        return SingleShard(worker, reference)

    def on(self, worker: Worker) -> SingleShard:
        """The same shard, of a worker started anew."""
        return SingleShard(worker, self.reference)

    @property
    def directory(self) -> Path:
        return self.worker.directory.shard_path(uuid.UUID(self.reference.shard_id))

    @property
    def open(self) -> Shard:
        """The shard itself; it must have been used."""
        holding = self.worker.held.find(
            self.reference.collection_id, self.reference.shard_id, self.reference.epoch
        )
        assert holding.shard is not None
        return holding.shard

    def put_request(
        self,
        kind: pb.WriteKind.ValueType,
        ids: Sequence[str],
        vectors: npt.ArrayLike | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        documents: Sequence[str | None] | None = None,
        uris: Sequence[str | None] | None = None,
        *,
        write_id: bytes = b"",
        digest: bytes = b"",
        first_ordinal: int | None = None,
        dimension: int = 0,
    ) -> pb.WriteShardRequest:
        request = pb.WriteShardRequest(
            shard=self.reference,
            write_id=write_id,
            digest=digest,
            first_ordinal=(
                self.worker.clock.reserve(len(ids)) if first_ordinal is None else first_ordinal
            ),
            dimension=dimension,
        )
        request.put.kind = kind
        records = request.put.records
        records.ids.extend(ids)
        if vectors is not None:
            block = np.asarray(vectors, "<f4")
            records.vectors.dimension = block.shape[1]
            records.vectors.values = block.tobytes()
        if metadatas is not None:
            records.metadatas.extend(
                metadata_to_message(m, null=True).SerializeToString() if m else b""
                for m in metadatas
            )
        for column, values in ((records.documents, documents), (records.uris, uris)):
            if values is not None:
                column.values.extend(value or "" for value in values)
                column.absent.extend(i for i, value in enumerate(values) if value is None)
                column.SetInParent()
        return request

    async def send(self, request: pb.WriteShardRequest) -> pb.WriteShardResponse:
        return await self.worker.data_service.write_shard(request, context_for(TIMEOUT_S))

    async def add(self, ids: Sequence[str], *columns: Any, **rest: Any) -> pb.WriteShardResponse:
        return await self.send(self.put_request(pb.WRITE_KIND_ADD, ids, *columns, **rest))

    async def upsert(self, ids: Sequence[str], *columns: Any, **rest: Any) -> pb.WriteShardResponse:
        return await self.send(self.put_request(pb.WRITE_KIND_UPSERT, ids, *columns, **rest))

    async def update(self, ids: Sequence[str], *columns: Any, **rest: Any) -> pb.WriteShardResponse:
        return await self.send(self.put_request(pb.WRITE_KIND_UPDATE, ids, *columns, **rest))

    async def delete(
        self,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        write_id: bytes = b"",
        where_document: Mapping[str, Any] | None = None,
    ) -> pb.WriteShardResponse:
        request = pb.WriteShardRequest(shard=self.reference, write_id=write_id)
        request.delete.SetInParent()
        if where_document is not None:
            request.delete.where_document.CopyFrom(where_document_from_dict(where_document))
        if ids is not None:
            request.delete.ids.values.extend(ids)
            request.delete.ids.SetInParent()
        if where is not None:
            request.delete.where.CopyFrom(where_from_dict(where))
        if limit is not None:
            request.delete.limit = limit
        return await self.send(request)

    async def patch(
        self, where: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> pb.WriteShardResponse:
        request = pb.WriteShardRequest(shard=self.reference)
        request.patch.where.CopyFrom(where_from_dict(where))
        request.patch.metadata.CopyFrom(metadata_to_message(metadata, null=True))
        return await self.send(request)

    async def get(self, **given: Any) -> pb.ShardRecords:
        request = pb.GetFromShardsRequest(
            shards=[self.reference],
            limit=given.pop("limit", 100_000),
            include=given.pop("include", [1, 2, 3, 4]),
        )
        _fill(request, given)
        response = await self.worker.data_service.get_from_shards(request, context_for(TIMEOUT_S))
        return response.shards[0]

    async def count(self, **given: Any) -> int:
        request = pb.CountShardsRequest(shards=[self.reference])
        _fill(request, given)
        response = await self.worker.data_service.count_shards(request, context_for(TIMEOUT_S))
        assert not response.shards[0].HasField("error"), response.shards[0].error
        return response.shards[0].count

    async def search(
        self, queries: npt.ArrayLike, limit: int, *, include: Sequence[int] = (), **given: Any
    ) -> pb.ShardMatches:
        block = np.atleast_2d(np.asarray(queries, "<f4"))
        request = pb.SearchShardsRequest(
            shards=[self.reference],
            queries=value_pb2.VectorBlock(dimension=block.shape[1], values=block.tobytes()),
            limit=limit,
            include=include,  # type: ignore[arg-type]
        )
        _fill(request, given)
        response = await self.worker.data_service.search_shards(request, context_for(TIMEOUT_S))
        return response.shards[0]


def _fill(request: Any, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name == "where":
            request.where.CopyFrom(where_from_dict(value))
        elif name == "where_document":
            request.where_document.CopyFrom(where_document_from_dict(value))
        elif name == "ids":
            request.ids.values.extend(value)
            request.ids.SetInParent()
        elif name == "after":
            request.after.ordinal, request.after.id = value
        else:
            setattr(request, name, value)


@dataclass
class Answer:
    """A search's answer, readable."""

    ids: list[list[str]]
    distances: list[npt.NDArray[np.float64]]


def answer_of(matches: pb.ShardMatches) -> Answer:
    """Split an answer by query."""
    assert not matches.HasField("error"), matches.error
    distances = np.frombuffer(matches.distances, "<f8")
    ends = np.cumsum(matches.match_counts).tolist()
    starts = [0, *ends[:-1]]
    ids = list(matches.records.ids)
    return Answer(
        [ids[a:b] for a, b in zip(starts, ends, strict=True)],
        [distances[a:b] for a, b in zip(starts, ends, strict=True)],
    )


def plain(records: pb.ShardRecords) -> dict[str, dict[str, Any]]:
    """Give records as plain values by ID, in order."""
    assert not records.HasField("error"), records.error
    columns = records.records
    count = len(columns.ids)
    vectors = np.frombuffer(columns.vectors.values, "<f4").reshape(count, -1 if count else 0)
    metadatas = [metadata_from_message(value_pb2.Metadata.FromString(m)) for m in columns.metadatas]

    def texts(column: value_pb2.StringColumn) -> list[str | None]:
        absent = set(column.absent)
        return [None if i in absent else v for i, v in enumerate(column.values)]

    documents, uris = texts(columns.documents), texts(columns.uris)
    return {
        columns.ids[i]: {
            "vector": np.asarray(vectors[i]).tolist(),
            "metadata": metadatas[i],
            "document": documents[i],
            "uri": uris[i],
        }
        for i in range(count)
    }


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < give_up_at, "waited in vain"
        await asyncio.sleep(0.05)


async def indexed(single: SingleShard) -> None:
    """Wait until nothing lags behind the records."""
    await until(lambda: not single.open.indexes.lag)


async def graph_of(single: SingleShard, at_least: int) -> None:
    """Wait until a graph holds so many vectors, and the files of the one before are gone."""

    def is_there() -> bool:
        graph = single.open.newest.graph
        files = (checkpoints_in(single.directory), vector_files_in(single.directory))
        return graph is not None and graph.vector_count >= at_least and max(map(len, files)) == 1

    await until(is_there)
