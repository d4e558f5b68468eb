"""shoal.v1.AdminService: the cluster itself, its tenants and databases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shoal.errors import ShoalError, UnavailableError
from shoal.internal.v1 import catalog_pb2, catalog_service_pb2, worker_service_pb2
from shoal.server.rpc import CallContext, call
from shoal.v1 import admin_service_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import check_name
from shoal_gateway import tokens
from shoal_gateway.api_keys import ApiKeys
from shoal_gateway.collections import MAX_PAGE
from shoal_gateway.coordinator import ASK_TIMEOUT_S, ask
from shoal_gateway.deadlines import within
from shoal_gateway.quotas import Quotas
from shoal_gateway.routing import DEFAULT_TENANT
from shoal_gateway.table import CollectionRoute, RoutingTable, ShardRoute
from shoal_gateway.workers import WorkerStubs

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["AdminService"]

_DESCRIBE_TIMEOUT_S: Final = 2.0
"""How long a worker may take to describe its shards: a status that hangs is no status."""

_Description = worker_service_pb2.DescribeWorkerResponse | str


class AdminService:
    """Describes the cluster; creates and deletes what collections are in.

    Args:
        table: The watched table.
        is_watch_alive: Whether the coordinator answers.
        catalog: The coordinator's.
        stubs: Leads to the workers.
        limits: The bounds that are stated.
        version: The server's.
    """

    def __init__(
        self,
        table: RoutingTable,
        is_watch_alive: Callable[[], bool],
        catalog: CatalogServiceAsyncStub,
        stubs: WorkerStubs,
        limits: Limits,
        version: str,
    ) -> None:
        self._table = table
        self._is_watch_alive = is_watch_alive
        self._catalog = catalog
        self._stubs = stubs
        self._limits = limits
        self._version = version
        self._api_keys = ApiKeys(table, catalog)
        self._quotas = Quotas(table, catalog)

    async def heartbeat(
        self, _request: admin_service_pb2.HeartbeatRequest, _context: CallContext
    ) -> admin_service_pb2.HeartbeatResponse:
        table = self._table
        if not table.version:
            raise UnavailableError(
                "the cluster is not ready: this gateway has not reached the coordinator yet",
                retry_after_s=0.1,
            )
        if not table.ready:
            live = sum(worker.live for worker in table.workers())
            raise UnavailableError(
                f"the cluster is not ready: {live} of {table.expected_workers} workers have "
                "registered",
                retry_after_s=0.1,
            )
        return admin_service_pb2.HeartbeatResponse(nanoseconds=time.time_ns())

    async def get_version(
        self, _request: admin_service_pb2.GetVersionRequest, _context: CallContext
    ) -> admin_service_pb2.GetVersionResponse:
        return admin_service_pb2.GetVersionResponse(version=self._version)

    async def get_limits(
        self, _request: admin_service_pb2.GetLimitsRequest, _context: CallContext
    ) -> admin_service_pb2.GetLimitsResponse:
        limits = self._limits
        return admin_service_pb2.GetLimitsResponse(
            max_batch_records=limits.max_batch_records,
            max_message_bytes=limits.max_message_bytes,
            max_answer_bytes=limits.max_answer_bytes,
            max_dimension=limits.max_dimension,
            max_id_bytes=limits.max_id_bytes,
            max_document_bytes=limits.max_document_bytes,
            max_uri_bytes=limits.max_uri_bytes,
            max_metadata_key_bytes=limits.max_metadata_key_bytes,
            max_metadata_keys=limits.max_metadata_keys,
            max_metadata_bytes=limits.max_metadata_bytes,
            max_n_results=limits.max_n_results,
            max_queries=limits.max_queries,
            max_query_results=limits.max_query_results,
            max_filter_depth=limits.max_filter_depth,
            max_filter_clauses=limits.max_filter_clauses,
            max_shards=limits.max_shards,
            max_page_records=limits.max_page_records,
            default_timeout_seconds=limits.default_timeout_s,
        )

    async def get_status(
        self, _request: admin_service_pb2.GetStatusRequest, context: CallContext
    ) -> admin_service_pb2.GetStatusResponse:
        workers = self._table.workers()
        answers = await asyncio.gather(*(self._describe(worker, context) for worker in workers))
        described = {
            worker.worker_id: answer for worker, answer in zip(workers, answers, strict=True)
        }
        shards = [
            (route, shard)
            for route in sorted(self._table.collections(), key=lambda r: r.entry.creation_number)
            for shard in route.shards
        ]
        counts = {worker.worker_id: 0 for worker in workers}
        for _, shard in shards:
            counts[shard.worker_id] = counts.get(shard.worker_id, 0) + 1
        known = {
            (worker_id, shard.shard_id): shard
            for worker_id, answer in described.items()
            if not isinstance(answer, str)
            for shard in answer.shards
        }
        return admin_service_pb2.GetStatusResponse(
            cluster_id=self._table.cluster_id,
            table_version=self._table.version,
            coordinator_reachable=self._is_watch_alive(),
            workers=[
                admin_service_pb2.WorkerStatus(
                    worker_id=worker_id,
                    address=worker.address if (worker := self._table.worker(worker_id)) else "",
                    live=worker is not None and worker.live,
                    shard_count=count,
                )
                for worker_id, count in counts.items()
            ],
            shards=[
                _shard_status(route, shard, described.get(shard.worker_id), known)
                for route, shard in shards
            ],
            expected_workers=self._table.expected_workers,
        )

    async def _describe(
        self, worker: catalog_pb2.WorkerEntry, context: CallContext
    ) -> _Description:
        """Give what a worker says of itself, or why there is nothing."""
        if worker.replaced_by:
            return (
                f"the data directory of worker {worker.worker_id} is gone or was replaced: worker "
                f"{worker.replaced_by} answers at {worker.address} now"
            )
        try:
            answer = await call(
                self._stubs.control(worker).DescribeWorker,
                worker_service_pb2.DescribeWorkerRequest(with_shards=True),
                timeout_s=min(_DESCRIBE_TIMEOUT_S, within(context.time_remaining())),
            )
        except ShoalError as error:
            return f"worker {worker.worker_id}: {error.message}"
        if answer.worker_id != worker.worker_id:
            return f"worker {answer.worker_id} answers at {worker.address} now"
        return answer

    async def reset(
        self, _request: admin_service_pb2.ResetRequest, context: CallContext
    ) -> admin_service_pb2.ResetResponse:
        known = [route.collection_id for route in self._table.collections()]
        await ask(self._catalog.Reset, catalog_service_pb2.ResetRequest(), context)
        for collection_id in known:
            self._table.forget(collection_id)
        return admin_service_pb2.ResetResponse()

    async def create_tenant(
        self, request: admin_service_pb2.CreateTenantRequest, context: CallContext
    ) -> admin_service_pb2.CreateTenantResponse:
        check_name("tenant", request.name)
        creation = catalog_service_pb2.CreateTenantRequest(name=request.name)
        answer = await ask(self._catalog.CreateTenant, creation, context)
        return admin_service_pb2.CreateTenantResponse(
            tenant=admin_service_pb2.Tenant(name=answer.entry.name)
        )

    async def get_tenant(
        self, request: admin_service_pb2.GetTenantRequest, context: CallContext
    ) -> admin_service_pb2.GetTenantResponse:
        check_name("tenant", request.name)
        entry = self._table.tenant(request.name)
        if entry is None:
            entry = await self._ask_for_tenant(request.name, context)
        return admin_service_pb2.GetTenantResponse(tenant=admin_service_pb2.Tenant(name=entry.name))

    async def create_database(
        self, request: admin_service_pb2.CreateDatabaseRequest, context: CallContext
    ) -> admin_service_pb2.CreateDatabaseResponse:
        tenant = _tenant(request.tenant)
        check_name("database", request.name)
        creation = catalog_service_pb2.CreateDatabaseRequest(name=request.name, tenant=tenant)
        answer = await ask(self._catalog.CreateDatabase, creation, context)
        return admin_service_pb2.CreateDatabaseResponse(database=_database(answer.entry))

    async def get_database(
        self, request: admin_service_pb2.GetDatabaseRequest, context: CallContext
    ) -> admin_service_pb2.GetDatabaseResponse:
        tenant = _tenant(request.tenant)
        check_name("database", request.name)
        entry = self._table.database(tenant, request.name)
        if entry is None:
            question = catalog_service_pb2.GetDatabaseRequest(name=request.name, tenant=tenant)
            answer = await ask(
                self._catalog.GetDatabase, question, context, longest_s=ASK_TIMEOUT_S
            )
            entry = answer.entry
        return admin_service_pb2.GetDatabaseResponse(database=_database(entry))

    async def list_databases(
        self, request: admin_service_pb2.ListDatabasesRequest, context: CallContext
    ) -> admin_service_pb2.ListDatabasesResponse:
        tenant = _tenant(request.tenant)
        limit = min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE
        belongs_to = tokens.digest([b"list_databases", tenant.encode()])
        start = tokens.decode_page(request.page_token, belongs_to)
        if self._table.tenant(tenant) is None:
            await self._ask_for_tenant(tenant, context)
        found = [
            entry
            for entry in self._table.databases_of(tenant)
            if start is None or entry.creation_number > start.ordinal
        ][request.offset :]
        page = found[:limit]
        next_page_token = ""
        if page and len(found) > limit:
            last = tokens.Page(page[-1].creation_number, page[-1].database_id)
            next_page_token = tokens.encode_page(last, belongs_to)
        return admin_service_pb2.ListDatabasesResponse(
            databases=[_database(entry) for entry in page], next_page_token=next_page_token
        )

    async def delete_database(
        self, request: admin_service_pb2.DeleteDatabaseRequest, context: CallContext
    ) -> admin_service_pb2.DeleteDatabaseResponse:
        tenant = _tenant(request.tenant)
        check_name("database", request.name)
        known = self._table.collections_in(tenant, request.name)
        deletion = catalog_service_pb2.DeleteDatabaseRequest(name=request.name, tenant=tenant)
        await ask(self._catalog.DeleteDatabase, deletion, context)
        for route in known:
            self._table.forget(route.collection_id)
        return admin_service_pb2.DeleteDatabaseResponse()

    async def create_api_key(
        self, request: admin_service_pb2.CreateApiKeyRequest, context: CallContext
    ) -> admin_service_pb2.CreateApiKeyResponse:
        return await self._api_keys.create(request, context)

    async def list_api_keys(
        self, request: admin_service_pb2.ListApiKeysRequest, context: CallContext
    ) -> admin_service_pb2.ListApiKeysResponse:
        return await self._api_keys.list(request, context)

    async def revoke_api_key(
        self, request: admin_service_pb2.RevokeApiKeyRequest, context: CallContext
    ) -> admin_service_pb2.RevokeApiKeyResponse:
        return await self._api_keys.revoke(request, context)

    async def set_quota(
        self, request: admin_service_pb2.SetQuotaRequest, context: CallContext
    ) -> admin_service_pb2.SetQuotaResponse:
        return await self._quotas.set(request, context)

    async def get_quota(
        self, request: admin_service_pb2.GetQuotaRequest, context: CallContext
    ) -> admin_service_pb2.GetQuotaResponse:
        return await self._quotas.get(request, context)

    async def list_quotas(
        self, request: admin_service_pb2.ListQuotasRequest, context: CallContext
    ) -> admin_service_pb2.ListQuotasResponse:
        return await self._quotas.list(request, context)

    async def _ask_for_tenant(self, name: str, context: CallContext) -> catalog_pb2.TenantEntry:
        question = catalog_service_pb2.GetTenantRequest(name=name)
        answer = await ask(self._catalog.GetTenant, question, context, longest_s=ASK_TIMEOUT_S)
        return answer.entry


def _tenant(name: str) -> str:
    check_name("tenant", name or DEFAULT_TENANT, "tenant")
    return name or DEFAULT_TENANT


def _database(entry: catalog_pb2.DatabaseEntry) -> admin_service_pb2.Database:
    return admin_service_pb2.Database(id=entry.database_id, name=entry.name, tenant=entry.tenant)


def _shard_status(
    route: CollectionRoute,
    shard: ShardRoute,
    worker: _Description | None,
    known: dict[tuple[str, str], worker_service_pb2.ShardDescription],
) -> admin_service_pb2.ShardStatus:
    status = admin_service_pb2.ShardStatus(
        shard_id=shard.shard_id,
        collection_id=route.collection_id,
        collection_name=route.name,
        worker_id=shard.worker_id,
        epoch=shard.epoch,
    )
    description = known.get((shard.worker_id, shard.shard_id))
    if worker is None:
        status.message = f"worker {shard.worker_id} is not in the routing table"
    elif isinstance(worker, str):
        status.message = worker
    elif description is None:
        status.message = f"worker {shard.worker_id} does not hold this shard"
    elif description.HasField("error"):
        status.message = description.error.message
    elif description.epoch != shard.epoch:
        status.message = (
            f"worker {shard.worker_id} holds this shard at epoch {description.epoch}, not "
            f"{shard.epoch}"
        )
    else:
        status.available = True
        status.record_count = description.record_count
        status.fresh_count = description.fresh_count
        status.sequence = description.sequence
        status.disk_bytes = description.disk_bytes
    return status
