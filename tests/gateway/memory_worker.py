"""A worker that keeps its shards in memory: the internal services, honestly, without disk or graph.

What a test can do to it: `down` (nobody answers), `hang_s` (it answers late), `refuse` (writes are
refused), `moved` (it does not hold a shard any more).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.errors import ShoalError, StaleRouteError, UnavailableError, UnimplementedError
from shoal.internal.v1 import catalog_pb2, worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire.vectors import vectors_of
from shoal_worker.filters import compile_document, compile_where, fields_of


@dataclass
class Record:
    id: str
    ordinal: int
    vector: Any
    metadata: bytes = b""
    document: str | None = None
    uri: str | None = None


@dataclass
class Shard:
    entry: catalog_pb2.CollectionEntry
    epoch: int
    records: dict[str, Record] = field(default_factory=dict)
    last_ordinal: int = 0
    sequence: int = 0
    answers: dict[bytes, tuple[bytes, worker_service_pb2.WriteShardResponse]] = field(
        default_factory=dict
    )

    def in_order(self, request: Any) -> list[Record]:
        has_ids = "ids" in request.DESCRIPTOR.fields_by_name and request.HasField("ids")
        ids = set(request.ids.values) if has_ids else None
        where = compile_where(request.where) if request.HasField("where") else None
        document = (
            compile_document(request.where_document) if request.HasField("where_document") else None
        )
        found = [
            record
            for record in self.records.values()
            if (ids is None or record.id in ids)
            and (where is None or where(fields_of(record.metadata)))
            and (
                document is None
                or document(None if record.document is None else record.document.encode())
            )
        ]
        return sorted(found, key=lambda record: record.ordinal)


class MemoryWorker:
    """Serves shard data and shard control."""

    def __init__(self, address: str) -> None:
        self.worker_id = str(uuid.uuid4())
        self.process_id = str(uuid.uuid4())
        self.address = address
        self.shards: dict[str, Shard] = {}
        self.clock = HybridClock()
        self.down = False
        self.hang_s = 0.0
        self.refuse: ShoalError | None = None
        self.lose_answers = False
        self.calls: list[str] = []
        self.requests: list[Any] = []

    # Data

    async def write_shard(
        self, request: worker_service_pb2.WriteShardRequest, _context: CallContext
    ) -> worker_service_pb2.WriteShardResponse:
        await self._enter(request)
        shard = self._shard(request.shard)
        if request.write_id in shard.answers:
            digest, answer = shard.answers[request.write_id]
            assert digest == request.digest, "a write ID with other content"
            repeated = worker_service_pb2.WriteShardResponse()
            repeated.CopyFrom(answer)
            repeated.repeated = True
            return repeated
        if self.refuse is not None:
            raise self.refuse
        answer = worker_service_pb2.WriteShardResponse()
        match request.WhichOneof("operation"):
            case "put":
                self._put(shard, request, answer)
            case "delete":
                found = shard.in_order(request.delete)
                if request.delete.HasField("limit"):
                    found = found[: request.delete.limit]
                for record in found:
                    del shard.records[record.id]
                answer.deleted = len(found)
            case "patch":
                found = shard.in_order(request.patch)
                for record in found:
                    record.metadata = merged(record.metadata, request.patch.metadata)
                answer.matched = answer.updated = len(found)
            case None:
                raise AssertionError("a write without an operation")
        shard.sequence += 1
        answer.sequence = shard.sequence
        answer.clock = self.clock.now()
        if request.write_id:
            shard.answers[request.write_id] = (request.digest, answer)
        if self.lose_answers:
            raise UnavailableError("the connection broke")
        return answer

    def _put(
        self,
        shard: Shard,
        request: worker_service_pb2.WriteShardRequest,
        answer: worker_service_pb2.WriteShardResponse,
    ) -> None:
        put, records = request.put, request.put.records
        positions = put.positions or range(len(records.ids))
        vectors = vectors_of(records.vectors) if records.HasField("vectors") else None
        for row, (record_id, position) in enumerate(zip(records.ids, positions, strict=True)):
            known = shard.records.get(record_id)
            left_out = (
                worker_service_pb2.WRITE_KIND_UPDATE
                if known is None
                else worker_service_pb2.WRITE_KIND_ADD
            )
            if put.kind == left_out:
                answer.ignored += 1
                continue
            if known is None:
                ordinal = max(request.first_ordinal + position, shard.last_ordinal + 1)
                self.clock.merge(ordinal)
                shard.last_ordinal = ordinal
                known = shard.records[record_id] = Record(record_id, ordinal, None)
                answer.added += 1
            else:
                answer.updated += 1
            if vectors is not None:
                known.vector = vectors[row].copy()
            if records.metadatas:
                patch = value_pb2.Metadata.FromString(records.metadatas[row])
                known.metadata = merged(known.metadata, patch)
            for name, column in (("document", records.documents), ("uri", records.uris)):
                if column.values and row not in column.absent:
                    setattr(known, name, column.values[row])

    async def search_shards(
        self, request: worker_service_pb2.SearchShardsRequest, _context: CallContext
    ) -> worker_service_pb2.SearchShardsResponse:
        await self._enter(request)
        response = worker_service_pb2.SearchShardsResponse(clock=self.clock.now())
        queries = vectors_of(request.queries).astype(np.float64)
        for reference, matches in self._each(request, response):
            shard = self.shards[reference.shard_id]
            found = shard.in_order(request)
            best: list[Record] = []
            distances: list[float] = []
            for query in queries:
                pairs = [(float(((query - r.vector) ** 2).sum()), r.ordinal, r) for r in found]
                pairs.sort(key=lambda pair: pair[:2])
                pairs = pairs[: request.limit]
                matches.match_counts.append(len(pairs))
                best += [record for _, _, record in pairs]
                distances += [distance for distance, _, _ in pairs]
            matches.records.CopyFrom(columns_of(best, request.include))
            matches.distances = np.array(distances, "<f8").tobytes()
            matches.ordinals = np.array([r.ordinal for r in best], "<u8").tobytes()
            matches.plan.CopyFrom(
                record_service_pb2.ShardPlan(
                    shard_id=reference.shard_id,
                    worker_id=self.worker_id,
                    method=record_service_pb2.SEARCH_METHOD_EXACT,
                    record_count=len(shard.records),
                    matching_count=len(found),
                )
            )
        return response

    async def get_from_shards(
        self, request: worker_service_pb2.GetFromShardsRequest, _context: CallContext
    ) -> worker_service_pb2.GetFromShardsResponse:
        await self._enter(request)
        response = worker_service_pb2.GetFromShardsResponse(clock=self.clock.now())
        for reference, records in self._each(request, response):
            shard = self.shards[reference.shard_id]
            after = (request.after.ordinal, request.after.id)
            found = [
                record
                for record in shard.in_order(request)
                if record.id.startswith(request.id_prefix)
                and (not request.HasField("after") or (record.ordinal, record.id) > after)
            ][request.offset :]
            page: list[Record] = []
            size = 0
            for record in found[: request.limit]:
                size += size_of(record, request.include)
                if page and request.max_bytes and size > request.max_bytes:
                    break
                page.append(record)
            records.more = len(page) < len(found)
            records.sequence = shard.sequence
            records.ordinals = np.array([r.ordinal for r in page], "<u8").tobytes()
            if not request.ordinals_only:
                records.records.CopyFrom(columns_of(page, request.include))
        return response

    async def count_shards(
        self, request: worker_service_pb2.CountShardsRequest, _context: CallContext
    ) -> worker_service_pb2.CountShardsResponse:
        await self._enter(request)
        response = worker_service_pb2.CountShardsResponse(clock=self.clock.now())
        for reference, counted in self._each(request, response):
            shard = self.shards[reference.shard_id]
            where = compile_where(request.where) if request.HasField("where") else None
            counted.count = sum(
                where is None or where(fields_of(r.metadata)) for r in shard.records.values()
            )
        return response

    def _each(self, request: Any, response: Any) -> Iterator[tuple[Any, Any]]:
        """Give each shard of a read with its part of the answer, or put in why there is none."""
        for reference in request.shards:
            part = response.shards.add()
            try:
                self._shard(reference)
            except ShoalError as error:
                part.error.code, part.error.reason = error.code, error.reason
                part.error.message = error.message
            else:
                yield reference, part

    def _shard(self, reference: worker_service_pb2.ShardReference) -> Shard:
        shard = self.shards.get(reference.shard_id)
        if shard is None or shard.epoch != reference.epoch:
            raise StaleRouteError(
                f"worker {self.worker_id} does not hold shard {reference.shard_id} at epoch "
                f"{reference.epoch}"
            )
        return shard

    # What ranks texts is tested over the real worker: it needs its indexes.

    async def measure_text(
        self, _request: worker_service_pb2.MeasureTextRequest, _context: CallContext
    ) -> worker_service_pb2.MeasureTextResponse:
        raise UnimplementedError("a worker in memory measures no texts")

    async def rank_text(
        self, _request: worker_service_pb2.RankTextRequest, _context: CallContext
    ) -> worker_service_pb2.RankTextResponse:
        raise UnimplementedError("a worker in memory ranks no texts")

    async def refuse_sparse(self, _request: Any, _context: CallContext) -> Any:
        raise UnimplementedError("a worker in memory has no sparse vectors")

    measure_sparse = rank_sparse = refuse_sparse

    async def _enter(self, request: Any) -> None:
        self.calls.append(type(request).__name__)
        self.requests.append(request)
        if self.hang_s:
            await asyncio.sleep(self.hang_s)
        if self.down:
            raise UnavailableError("nobody listens there")

    # Control

    async def create_shard(
        self, request: worker_service_pb2.CreateShardRequest, _context: CallContext
    ) -> worker_service_pb2.CreateShardResponse:
        epoch = next(s.epoch for s in request.entry.shards if s.shard_id == request.shard_id)
        self.shards[request.shard_id] = Shard(request.entry, epoch)
        return worker_service_pb2.CreateShardResponse()

    async def update_shard(
        self, request: worker_service_pb2.UpdateShardRequest, _context: CallContext
    ) -> worker_service_pb2.UpdateShardResponse:
        self.shards[request.shard_id].entry = request.entry
        return worker_service_pb2.UpdateShardResponse()

    async def delete_shard(
        self, request: worker_service_pb2.DeleteShardRequest, _context: CallContext
    ) -> worker_service_pb2.DeleteShardResponse:
        self.shards.pop(request.deletion.shard_id, None)
        return worker_service_pb2.DeleteShardResponse()

    async def refuse_copying(self, request: Any, context: CallContext) -> Any:
        raise UnimplementedError("a worker in memory has nothing to copy")

    hold_shards = cut_shards = release_cut = store_cut = fill_shard = refuse_copying

    async def describe_worker(
        self, request: worker_service_pb2.DescribeWorkerRequest, _context: CallContext
    ) -> worker_service_pb2.DescribeWorkerResponse:
        if self.down:
            raise UnavailableError("nobody listens there")
        return worker_service_pb2.DescribeWorkerResponse(
            worker_id=self.worker_id,
            process_id=self.process_id,
            shards=[
                worker_service_pb2.ShardDescription(
                    shard_id=shard_id,
                    collection_id=shard.entry.collection.id,
                    epoch=shard.epoch,
                    record_count=len(shard.records),
                    sequence=shard.sequence,
                )
                for shard_id, shard in self.shards.items()
                if request.with_shards
            ],
        )


def merged(stored: bytes, patch: value_pb2.Metadata) -> bytes:
    metadata = value_pb2.Metadata.FromString(stored)
    for key, value in patch.fields.items():
        if value.WhichOneof("kind") == "null_value":
            metadata.fields.pop(key, None)
        else:
            metadata.fields[key].CopyFrom(value)
    return metadata.SerializeToString(deterministic=True)


def columns_of(
    records: Sequence[Record], include: Sequence[int]
) -> worker_service_pb2.RecordColumns:
    columns = worker_service_pb2.RecordColumns(ids=[record.id for record in records])
    if value_pb2.INCLUDE_METADATAS in include:
        columns.metadatas.extend(record.metadata for record in records)
    if value_pb2.INCLUDE_VECTORS in include:
        columns.vectors.SetInParent()
        if records:
            columns.vectors.dimension = len(records[0].vector)
            columns.vectors.values = np.stack([r.vector for r in records]).tobytes()
    if value_pb2.INCLUDE_DOCUMENTS in include:
        columns.documents.CopyFrom(strings_of([record.document for record in records]))
    if value_pb2.INCLUDE_URIS in include:
        columns.uris.CopyFrom(strings_of([record.uri for record in records]))
    return columns


def strings_of(texts: Sequence[str | None]) -> value_pb2.StringColumn:
    return value_pb2.StringColumn(
        values=[text or "" for text in texts],
        absent=[place for place, text in enumerate(texts) if text is None],
    )


def size_of(record: Record, include: Sequence[int]) -> int:
    size = len(record.id)
    if value_pb2.INCLUDE_DOCUMENTS in include:
        size += len(record.document or "")
    if value_pb2.INCLUDE_VECTORS in include:
        size += 4 * len(record.vector)
    return size
