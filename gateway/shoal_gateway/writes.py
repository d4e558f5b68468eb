"""Writing: check the whole of it, split it among the shards, put together what they did.

Everything that can be known of a write before a shard sees it is checked here, so that a batch
refused for what it contains changes nothing anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import xxhash

from shoal.errors import DimensionMismatchError, FieldViolation
from shoal.internal.v1 import catalog_service_pb2, worker_service_pb2
from shoal.server.clock import HybridClock
from shoal.server.rpc import CallContext
from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import (
    check_column_length,
    check_documents,
    check_metadata,
    check_record_ids,
    check_sparse_keys,
    check_uris,
    check_write_id,
    invalid,
)
from shoal.wire.vectors import decode_vectors
from shoal_gateway.columns import take
from shoal_gateway.coordinator import ask
from shoal_gateway.fanout import FanOut, WriteFailure
from shoal_gateway.filters import Filters, Wanted
from shoal_gateway.outcomes import Part, Written, summed
from shoal_gateway.routing import Router
from shoal_gateway.selection import Selection
from shoal_gateway.table import CollectionRoute, ShardRoute

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["Writer", "check_records"]

PutRequest: TypeAlias = (
    record_service_pb2.AddRequest
    | record_service_pb2.UpsertRequest
    | record_service_pb2.UpdateRequest
)
_Request: TypeAlias = (
    PutRequest | record_service_pb2.DeleteRequest | record_service_pb2.UpdateWhereRequest
)

_DIGEST_VERSION: Final = b"\x01"
"""1: XXH3-128 over the name of the request, the collection's UUID and the fields, each serialised
deterministically and preceded by its length."""

_BATCH_ID_BYTES: Final = 16

_UPDATE: Final = worker_service_pb2.WRITE_KIND_UPDATE


def check_records(
    records: value_pb2.RecordBatch, limits: Limits, *, vectors_required: bool
) -> bool:
    """Check a batch from outside, all but what depends on its collection.

    Returns:
        Whether its metadata holds a sparse vector.

    Raises:
        InvalidArgumentError: Names the first offender.
    """
    check_record_ids(records.ids, limits)
    count = len(records.ids)
    if records.HasField("vectors"):
        decode_vectors(records.vectors, count, limits)
    elif vectors_required:
        raise invalid("records.vectors", "records.vectors is missing; a new record needs a vector")
    has_sparse = False
    if records.metadatas:
        check_column_length("metadatas", len(records.metadatas), count)
        for position, metadata in enumerate(records.metadatas):
            has_sparse |= check_metadata(metadata, limits, f"records.metadatas[{position}]")
    if records.HasField("documents"):
        check_documents(records.documents, count, limits)
    if records.HasField("uris"):
        check_uris(records.uris, count, limits)
    return has_sparse


def check_dimension(route: CollectionRoute, got: int, field: str) -> None:
    """Check vectors against their collection.

    Raises:
        DimensionMismatchError: They have another dimension.
    """
    if got != route.dimension:
        message = (
            f"collection {route.name!r} holds vectors of dimension {route.dimension}, got {got}"
        )
        raise DimensionMismatchError(
            message,
            metadata={"expected": str(route.dimension), "actual": str(got)},
            violations=[FieldViolation(field, message)],
        )


class Writer:
    """Writes records.

    Args:
        router: Finds collections.
        fan_out: Calls workers.
        catalog: The coordinator's: fixes dimensions.
        clock: Gives ordinals.
        limits: The bounds.
        selection: Finds the first matches of a filter, for a deletion with a limit.
    """

    def __init__(
        self,
        router: Router,
        fan_out: FanOut,
        catalog: CatalogServiceAsyncStub,
        clock: HybridClock,
        limits: Limits,
        selection: Selection,
    ) -> None:
        self._router = router
        self._fan_out = fan_out
        self._catalog = catalog
        self._clock = clock
        self._limits = limits
        self._selection = selection

    async def put(
        self,
        kind: worker_service_pb2.WriteKind.ValueType,
        request: PutRequest,
        context: CallContext,
    ) -> Written:
        """Add, upsert or update records.

        Raises:
            ShoalError: Nothing was written, or, if `PartialWriteError`, not all.
        """
        check_write_id(request.write_id)
        has_sparse = check_records(request.records, self._limits, vectors_required=kind != _UPDATE)
        route = await self._router.find(request.collection, context)
        if has_sparse or route.sparse_vectors:
            for position, metadata in enumerate(request.records.metadatas):
                check_sparse_keys(metadata, route.sparse_vectors, f"records.metadatas[{position}]")
        if request.records.HasField("vectors"):
            route = await self._with_dimension(
                route, request.records.vectors.dimension, kind, context
            )
        # The same bytes: the metadata of each record is carried on as it came.
        content = request.records.SerializeToString(deterministic=True)
        batch = worker_service_pb2.RecordBatch.FromString(content)
        first_ordinal = self._clock.reserve(len(batch.ids))
        digest = _digest(request, route, content)
        owners = route.owners_of(batch.ids)
        writes: list[tuple[ShardRoute, worker_service_pb2.WriteShardRequest]] = []
        positions_of: list[Sequence[int]] = []
        for owner in np.unique(owners).tolist():
            whole = len(route.shards) == 1
            positions = range(len(batch.ids)) if whole else np.flatnonzero(owners == owner).tolist()
            shard_request = self._request(route, owner, request, digest)
            shard_request.first_ordinal = first_ordinal
            shard_request.put.kind = kind
            shard_request.put.records.CopyFrom(batch if whole else take(batch, positions))
            if not whole:
                shard_request.put.positions.extend(positions)
            writes.append((route.shards[owner], shard_request))
            positions_of.append(positions)
        return await self._write(route, writes, positions_of, context)

    async def update_where(
        self, request: record_service_pb2.UpdateWhereRequest, context: CallContext
    ) -> Written:
        """Set metadata on what matches.

        Raises:
            ShoalError: Nothing was written, or, if `PartialWriteError`, not in all shards.
        """
        check_write_id(request.write_id)
        filters = Filters.of(request, self._limits)
        if not filters:
            raise invalid("where", "where or where_document is needed")
        if not request.metadata.fields:
            raise invalid("metadata", "metadata has no keys: name at least one to set or remove")
        has_sparse = check_metadata(request.metadata, self._limits, "metadata")
        route = await self._router.find(request.collection, context)
        filters.check_keys(route)
        if has_sparse or route.sparse_vectors:
            check_sparse_keys(request.metadata, route.sparse_vectors, "metadata")
        if request.dry_run:
            return Written(matched=await self._selection.count(route, filters, context))
        digest = _digest(
            request,
            route,
            *filters.digest_parts(),
            request.metadata.SerializeToString(deterministic=True),
        )
        writes = []
        for owner, shard in enumerate(route.shards):
            shard_request = self._request(route, owner, request, digest)
            shard_request.first_ordinal = self._clock.reserve(1)
            filters.put_into(shard_request.patch)
            shard_request.patch.metadata.CopyFrom(request.metadata)
            writes.append((shard, shard_request))
        return await self._write(route, writes, [()] * len(writes), context)

    async def delete(
        self, request: record_service_pb2.DeleteRequest, context: CallContext
    ) -> Written:
        """Delete records by ID, by filter, or those in both.

        Raises:
            ShoalError: Nothing was deleted, or, if `PartialWriteError`, not in all shards.
        """
        check_write_id(request.write_id)
        filters = Filters.of(request, self._limits)
        limit = request.limit if request.HasField("limit") else None
        if not filters and not request.HasField("ids"):
            raise invalid("ids", "ids, where or where_document is needed")
        if limit is not None and not filters:
            raise invalid("limit", "limit is only allowed with where or where_document")
        ids = None
        if request.HasField("ids"):
            ids = request.ids.values
            check_record_ids(ids, self._limits, "ids", maximum=self._limits.max_page_records)
        route = await self._router.find(request.collection, context)
        filters.check_keys(route)
        if limit == 0:
            return Written()
        digest = _digest(
            request,
            route,
            *filters.digest_parts(),
            request.ids.SerializeToString() if ids is not None else b"",
            b"" if limit is None else str(limit).encode(),
        )
        if limit is not None and len(route.shards) > 1:
            return await self._delete_first(route, request, filters, limit, digest, context)
        wanted = _by_owner(route, ids)
        writes = []
        positions_of: list[Sequence[int]] = []
        for owner, positions in wanted:
            shard_request = self._request(route, owner, request, digest)
            filters.put_into(shard_request.delete)
            if ids is not None:
                shard_request.delete.ids.values.extend([ids[p] for p in positions])
            if limit is not None:
                shard_request.delete.limit = limit
            writes.append((route.shards[owner], shard_request))
            positions_of.append(positions)
        return await self._write(route, writes, positions_of, context)

    async def _delete_first(
        self,
        route: CollectionRoute,
        request: record_service_pb2.DeleteRequest,
        filters: Filters,
        limit: int,
        digest: bytes,
        context: CallContext,
    ) -> Written:
        """Delete the first matches in the order of all shards.

        One shard after another, so that a repeat of a deletion that came half way finds which
        shards have done their part: those say how much it was, and what is left of the limit goes
        to the others, whose first matches are the same as then. With a write ID every shard is
        asked, also one that has no match (any more).
        """
        parts: list[Part] = []
        shards = list(enumerate(route.shards))
        ids = request.ids.values if request.HasField("ids") else None
        wanted = Wanted.of(route, filters, ids)
        left = limit
        shares: dict[str, int] | None = None
        batch: _BatchName | None = None
        while shards:
            if shares is None:
                rest = {shard.shard_id for _, shard in shards}
                remaining = [shard for shard in wanted.shards if shard.shard_id in rest]
                shares = (
                    await self._selection.shares(
                        route, replace(wanted, shards=remaining), left, context
                    )
                    if remaining and left
                    else {}
                )
            owner, shard = shards.pop(0)
            if batch is None:
                batch = _BatchName(
                    [s.shard_id for s in route.shards if request.write_id or shares.get(s.shard_id)]
                )
            share = shares.get(shard.shard_id, 0)
            if not share and not request.write_id:
                continue
            shard_request = self._request(route, owner, request, digest)
            filters.put_into(shard_request.delete)
            if wanted.ids_of is not None:
                shard_request.delete.ids.values.extend(wanted.ids_of.get(shard.shard_id, ()))
                shard_request.delete.ids.SetInParent()
            shard_request.delete.limit = share
            batch.put_into(shard_request)
            (outcome,) = await self._fan_out.write(route, [(shard, shard_request)], context)
            parts.append(Part(shard.shard_id, (), outcome))
            if isinstance(outcome, WriteFailure):
                break
            left -= min(left, outcome.deleted)
            if outcome.repeated:
                shares = None
        return summed(parts)

    def _request(
        self, route: CollectionRoute, owner: int, request: _Request, digest: bytes
    ) -> worker_service_pb2.WriteShardRequest:
        return worker_service_pb2.WriteShardRequest(
            shard=route.shards[owner].reference,
            write_id=request.write_id,
            digest=digest,
            first_ordinal=self._clock.now(),
            dimension=route.dimension,
        )

    async def _write(
        self,
        route: CollectionRoute,
        writes: Sequence[tuple[ShardRoute, worker_service_pb2.WriteShardRequest]],
        positions_of: Sequence[Sequence[int]],
        context: CallContext,
    ) -> Written:
        context.check()
        batch = _BatchName([shard.shard_id for shard, _ in writes])
        for _, shard_request in writes:
            batch.put_into(shard_request)
        outcomes = await self._fan_out.write(route, writes, context)
        return summed(
            [
                Part(shard.shard_id, positions, outcome)
                for (shard, _), positions, outcome in zip(
                    writes, positions_of, outcomes, strict=True
                )
            ]
        )

    async def _with_dimension(
        self,
        route: CollectionRoute,
        dimension: int,
        kind: worker_service_pb2.WriteKind.ValueType,
        context: CallContext,
    ) -> CollectionRoute:
        """Give a route whose dimension is that of the vectors, fixing it if they are the first.

        An update adds nothing, and so fixes nothing.
        """
        if not route.dimension and kind != _UPDATE:
            request = catalog_service_pb2.FixDimensionRequest(
                collection_id=route.collection_id, dimension=dimension
            )
            answer = await ask(self._catalog.FixDimension, request, context)
            route = self._router.learn(answer.entry)
        if route.dimension:
            check_dimension(route, dimension, "records.vectors.dimension")
        return route


class _BatchName:
    """Names one attempt to write a batch, if it goes to several shards.

    By it they know its parts, so that no cut over them has only some.
    """

    def __init__(self, shard_ids: Sequence[str]) -> None:
        self._shard_ids = shard_ids
        self._id = os.urandom(_BATCH_ID_BYTES) if len(shard_ids) > 1 else b""

    def put_into(self, request: worker_service_pb2.WriteShardRequest) -> None:
        """Put it into the request to one of the shards."""
        if self._id:
            request.batch_id = self._id
            request.batch_shard_ids.extend(self._shard_ids)


def _by_owner(route: CollectionRoute, ids: Sequence[str] | None) -> list[tuple[int, Sequence[int]]]:
    """Give the shards that are concerned, each with the positions of its IDs."""
    if ids is None:
        return [(owner, ()) for owner in range(len(route.shards))]
    owners = route.owners_of(ids)
    return [
        (owner, np.flatnonzero(owners == owner).tolist()) for owner in np.unique(owners).tolist()
    ]


def _digest(request: _Request, route: CollectionRoute, *parts: bytes) -> bytes:
    """Digest what a write with a write ID asks for; empty without one."""
    if not request.write_id:
        return b""
    state = xxhash.xxh3_128()
    for part in (type(request).__name__.encode(), route.collection_id.encode(), *parts):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return _DIGEST_VERSION + state.digest()
