"""The worker's services: decode, call, encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidArgumentError, ShoalError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.server.rpc import CallContext
from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal.v1.record_service_pb2 import SearchMethod, ShardPlan
from shoal.v1.value_pb2 import IdList, Include, StringColumn, VectorBlock
from shoal.wire.vectors import decode_vectors
from shoal_worker import metrics
from shoal_worker.columns import Column, Columns, packed_ordinals
from shoal_worker.matching import Selection
from shoal_worker.reading import PageRequest, count, page
from shoal_worker.search import Matches, Method, Search, search
from shoal_worker.shard import Shard
from shoal_worker.writes import Deletion, Patch, Put, PutKind, Write

if TYPE_CHECKING:
    from shoal_worker.worker import Worker

__all__ = ["ShardControlService", "ShardDataService"]

_T = TypeVar("_T")

_INLINE_SEARCH_US: Final = 1000.0
"""A search that is estimated to take less runs on the event loop."""

_GRAPH_US_PER_CANDIDATE: Final = 2.0
_SCAN_US_PER_CELL: Final = 0.0003
"""What a search costs: 200 µs for a walk with 100 candidates, and 0.3 ns for a number of the fresh
set."""

_KINDS: Final = {
    pb.WRITE_KIND_ADD: PutKind.ADD,
    pb.WRITE_KIND_UPSERT: PutKind.UPSERT,
    pb.WRITE_KIND_UPDATE: PutKind.UPDATE,
}
_COLUMNS: Final = {
    Include.INCLUDE_DOCUMENTS: Column.DOCUMENTS,
    Include.INCLUDE_METADATAS: Column.METADATAS,
    Include.INCLUDE_VECTORS: Column.VECTORS,
    Include.INCLUDE_URIS: Column.URIS,
}
_METHODS: Final = {
    Method.NOTHING: SearchMethod.SEARCH_METHOD_NOTHING,
    Method.EXACT: SearchMethod.SEARCH_METHOD_EXACT,
    Method.GRAPH: SearchMethod.SEARCH_METHOD_GRAPH,
}


_SECONDS: Final = {m: metrics.SEARCH_SECONDS.labels(m.name.lower()) for m in Method}


class ShardDataService:
    """``shoal.internal.v1.ShardDataService``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def write_shard(
        self, request: pb.WriteShardRequest, context: CallContext
    ) -> pb.WriteShardResponse:
        """Apply one shard's part of a write."""
        context.check()
        return await self._worker.write(request.shard, _decode_write(request))

    async def search_shards(
        self, request: pb.SearchShardsRequest, context: CallContext
    ) -> pb.SearchShardsResponse:
        """Search shards of this worker."""
        self._worker.clock.merge(request.clock)
        queries = decode_vectors(request.queries, None, field="queries")
        include = _decode_include(request.include)
        selection = _decode_selection(request)

        def run(shard: Shard) -> pb.ShardMatches:
            begin = time.perf_counter()
            sought = Search(
                queries,
                request.limit,
                selection,
                include,
                self._worker.settings.max_answer_bytes,
                shard.configuration.num_threads,
                context.check,
            )
            with shard.pin() as pinned:
                matches = search(pinned, shard.configuration.fit.space, sought)
                state = pinned.state
            seconds = time.perf_counter() - begin
            _SECONDS[matches.method].observe(seconds)
            plan = ShardPlan(
                shard_id=shard.shard_id,
                worker_id=str(self._worker.worker_id),
                method=_METHODS[matches.method],
                record_count=state.meta.record_count,
                matching_count=matches.matching_count,
                fresh_count=state.fresh.live_count,
                candidate_count=matches.candidate_count,
                seconds=seconds,
                sequence=state.meta.sequence,
            )
            return _encode_matches(matches, queries.shape[1], plan)

        def is_cheap(shard: Shard) -> bool:
            if not selection.is_everything:
                return False
            state = shard.newest
            walk = _GRAPH_US_PER_CANDIDATE * max(request.limit, shard.configuration.ef_search)
            scan = _SCAN_US_PER_CELL * state.fresh.size * queries.shape[1]
            each = scan + (walk if state.graph is not None else 0.0) + 5.0 * request.limit
            return bool(each * len(queries) < _INLINE_SEARCH_US)

        shards = await self._read_all(
            request.shards, run, is_cheap, lambda error: pb.ShardMatches(error=error)
        )
        return pb.SearchShardsResponse(shards=shards, clock=self._worker.clock.now())

    async def get_from_shards(
        self, request: pb.GetFromShardsRequest, context: CallContext
    ) -> pb.GetFromShardsResponse:
        """Read records in order of insertion."""
        self._worker.clock.merge(request.clock)
        page_request = PageRequest(
            selection=_decode_selection(request, request.id_prefix),
            after=(
                (request.after.ordinal, request.after.id) if request.HasField("after") else None
            ),
            offset=request.offset,
            limit=request.limit,
            max_bytes=request.max_bytes or self._worker.settings.max_answer_bytes,
            include=_decode_include(request.include),
            ordinals_only=request.ordinals_only,
            check=context.check,
        )

        def run(shard: Shard) -> pb.ShardRecords:
            with shard.pin() as pinned:
                found = page(pinned, page_request)
                dimension = pinned.state.meta.dimension
            return pb.ShardRecords(
                records=_encode_columns(found.columns, dimension),
                ordinals=packed_ordinals(found.columns.ordinals),
                more=found.more,
                sequence=found.sequence,
            )

        shards = await self._read_all(
            request.shards, run, lambda _: False, lambda error: pb.ShardRecords(error=error)
        )
        return pb.GetFromShardsResponse(shards=shards, clock=self._worker.clock.now())

    async def count_shards(
        self, request: pb.CountShardsRequest, context: CallContext
    ) -> pb.CountShardsResponse:
        """Count records."""
        self._worker.clock.merge(request.clock)
        selection = Selection(None, *_decode_filters(request))

        def run(shard: Shard) -> pb.ShardCount:
            with shard.pin() as pinned:
                found = count(pinned, selection, context.check)
                return pb.ShardCount(count=found, sequence=pinned.state.meta.sequence)

        shards = await self._read_all(
            request.shards,
            run,
            lambda _: selection.is_everything,
            lambda error: pb.ShardCount(error=error),
        )
        return pb.CountShardsResponse(shards=shards, clock=self._worker.clock.now())

    async def _read_all(
        self,
        references: Sequence[pb.ShardReference],
        run: Callable[[Shard], _T],
        is_cheap: Callable[[Shard], bool],
        failed: Callable[[pb.ShardError], _T],
    ) -> list[_T]:
        """Read every shard of a call; one that cannot answer gives its error in its place."""

        async def one(reference: pb.ShardReference) -> _T:
            try:
                return await self._worker.read(reference, run, is_cheap)
            except InvalidArgumentError:
                # The request's fault, whichever shard noticed.
                raise
            except ShoalError as error:
                return failed(
                    pb.ShardError(
                        code=error.code,
                        reason=error.reason,
                        message=error.message,
                        metadata=error.metadata,
                    )
                )

        if len(references) == 1:
            return [await one(references[0])]
        return list(await asyncio.gather(*(one(reference) for reference in references)))


class ShardControlService:
    """``shoal.internal.v1.ShardControlService``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def create_shard(
        self, request: pb.CreateShardRequest, context: CallContext
    ) -> pb.CreateShardResponse:
        """Create an empty shard."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        shard_id = UUID(request.shard_id)
        await self._worker.off_loop(lambda: self._worker.held.create(shard_id, request.entry))
        return pb.CreateShardResponse()

    async def update_shard(
        self, request: pb.UpdateShardRequest, context: CallContext
    ) -> pb.UpdateShardResponse:
        """Store a newer copy of the catalog entry."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        shard_id = UUID(request.shard_id)
        await self._worker.off_loop(lambda: self._worker.held.update(shard_id, request.entry))
        return pb.UpdateShardResponse()

    async def delete_shard(
        self, request: pb.DeleteShardRequest, context: CallContext
    ) -> pb.DeleteShardResponse:
        """Delete a shard and its directory."""
        self._worker.check_addressed(request.cluster_id, request.worker_id)
        await self._worker.off_loop(lambda: self._worker.held.delete(request.deletion))
        return pb.DeleteShardResponse()

    async def describe_worker(
        self, request: pb.DescribeWorkerRequest, context: CallContext
    ) -> pb.DescribeWorkerResponse:
        """Say who answers here, and what it holds."""
        response = pb.DescribeWorkerResponse(
            worker_id=str(self._worker.worker_id),
            process_id=str(self._worker.process_id),
            cluster_id=str(self._worker.cluster_id or ""),
        )
        if request.with_shards:
            for holding in self._worker.held.all():
                context.check()
                response.shards.append(await self._describe(holding.identity, holding.loss))
        return response

    async def _describe(
        self, identity: ShardIdentity | None, loss: ShoalError | None
    ) -> pb.ShardDescription:
        if identity is None:
            assert loss is not None
            return pb.ShardDescription(
                shard_id=loss.metadata.get("shard_id", ""), error=_encode_error(loss)
            )
        reference = pb.ShardReference(
            collection_id=identity.entry.collection.id,
            shard_id=identity.shard_id,
            epoch=identity.epoch,
        )
        description = pb.ShardDescription(
            shard_id=reference.shard_id,
            collection_id=reference.collection_id,
            epoch=reference.epoch,
        )

        def describe(shard: Shard) -> pb.ShardDescription:
            state = shard.newest
            description.record_count = state.meta.record_count
            description.fresh_count = state.fresh.live_count
            description.sequence = state.meta.sequence
            description.disk_bytes = shard.disk_bytes()
            return description

        try:
            return await self._worker.read(reference, describe, lambda _: False)
        except ShoalError as error:
            description.error.CopyFrom(_encode_error(error))
            return description


# Decoding.


def _decode_write(request: pb.WriteShardRequest) -> Write:
    operation: Put | Deletion | Patch
    match request.WhichOneof("operation"):
        case "put":
            operation = _decode_put(request.put)
        case "delete":
            delete = request.delete
            operation = Deletion(
                list(delete.ids.values) if delete.HasField("ids") else None,
                *_decode_filters(delete),
                delete.limit if delete.HasField("limit") else None,
            )
        case "patch":
            patch = request.patch
            operation = Patch(*_decode_filters(patch), patch.metadata.SerializeToString())
        case _:
            raise InvalidArgumentError("a write has no operation")
    return Write(
        write_id=request.write_id,
        digest=request.digest,
        first_ordinal=request.first_ordinal,
        dimension=request.dimension,
        operation=operation,
        size_bytes=request.ByteSize(),
    )


def _decode_put(put: pb.PutRecords) -> Put:
    records = put.records
    ids = list(records.ids)
    count = len(ids)
    if put.kind not in _KINDS:
        raise InvalidArgumentError(f"the kind of write {put.kind} is not known")
    positions = list(put.positions) or list(range(count))
    metadatas = list(records.metadatas) or None
    for name, length in (
        ("positions", len(positions)),
        ("metadatas", len(metadatas) if metadatas else count),
    ):
        if length != count:
            raise InvalidArgumentError(f"{name} has {length} entries for {count} IDs")
    return Put(
        kind=_KINDS[put.kind],
        ids=ids,
        positions=positions,
        vectors=(decode_vectors(records.vectors, count) if records.HasField("vectors") else None),
        metadatas=metadatas,
        documents=_decode_strings(records.documents, count, "documents")
        if records.HasField("documents")
        else None,
        uris=_decode_strings(records.uris, count, "uris") if records.HasField("uris") else None,
    )


def _decode_strings(column: StringColumn, count: int, name: str) -> list[str | None]:
    values: list[str | None] = list(column.values)
    if len(values) != count:
        raise InvalidArgumentError(f"{name} has {len(values)} entries for {count} IDs")
    for position in column.absent:
        if position >= count:
            raise InvalidArgumentError(f"{name}.absent names position {position} of {count}")
        values[position] = None
    return values


_Filtered = (
    pb.DeleteRecords
    | pb.PatchRecords
    | pb.SearchShardsRequest
    | pb.GetFromShardsRequest
    | pb.CountShardsRequest
)


def _decode_filters(request: _Filtered) -> tuple[Where | None, WhereDocument | None]:
    return (
        request.where if request.HasField("where") else None,
        request.where_document if request.HasField("where_document") else None,
    )


def _decode_selection(
    request: pb.SearchShardsRequest | pb.GetFromShardsRequest, id_prefix: str = ""
) -> Selection:
    ids: IdList | None = request.ids if request.HasField("ids") else None
    where, where_document = _decode_filters(request)
    return Selection(
        list(ids.values) if ids is not None else None, where, where_document, id_prefix
    )


def _decode_include(include: Sequence[Include.ValueType]) -> frozenset[Column]:
    return frozenset(_COLUMNS[i] for i in include if i in _COLUMNS)


# Encoding.


def _encode_error(error: ShoalError) -> pb.ShardError:
    return pb.ShardError(
        code=error.code, reason=error.reason, message=error.message, metadata=error.metadata
    )


def _encode_matches(matches: Matches, dimension: int, plan: ShardPlan) -> pb.ShardMatches:
    distances: npt.NDArray[np.float64] = matches.distances
    return pb.ShardMatches(
        match_counts=matches.counts,
        records=_encode_columns(matches.columns, dimension),
        distances=distances.astype("<f8", copy=False).tobytes(),
        ordinals=packed_ordinals(matches.columns.ordinals),
        plan=plan,
    )


def _encode_columns(columns: Columns, dimension: int) -> pb.RecordColumns:
    encoded = pb.RecordColumns(ids=columns.ids)
    if columns.vectors is not None:
        encoded.vectors.CopyFrom(VectorBlock(dimension=dimension, values=b"".join(columns.vectors)))
    if columns.metadatas is not None:
        encoded.metadatas.extend(columns.metadatas)
    if columns.documents is not None:
        encoded.documents.CopyFrom(_encode_strings(columns.documents))
    if columns.uris is not None:
        encoded.uris.CopyFrom(_encode_strings(columns.uris))
    return encoded


def _encode_strings(values: Sequence[str | None]) -> StringColumn:
    return StringColumn(
        values=[value or "" for value in values],
        absent=[i for i, value in enumerate(values) if value is None],
    )
