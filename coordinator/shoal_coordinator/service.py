"""The coordinator's three gRPC services: decode, call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from shoal.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from shoal.internal.v1 import catalog_service_pb2 as catalog_api
from shoal.internal.v1 import membership_service_pb2 as membership_api
from shoal.internal.v1 import routing_service_pb2 as routing_api
from shoal.server.rpc import CallContext
from shoal_coordinator.api_keys import ApiKeys
from shoal_coordinator.changes import Changes
from shoal_coordinator.entries import CollectionUpdate, NewCollection
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.membership import Membership
from shoal_coordinator.namespaces import Namespaces
from shoal_coordinator.quotas import Quotas, Usage
from shoal_coordinator.state import Change
from shoal_coordinator.table import RoutingTable, Watch


class CatalogService:
    """``shoal.internal.v1.CatalogService``."""

    def __init__(
        self, lifecycle: Lifecycle, namespaces: Namespaces, api_keys: ApiKeys, quotas: Quotas
    ) -> None:
        self._lifecycle = lifecycle
        self._namespaces = namespaces
        self._api_keys = api_keys
        self._quotas = quotas

    async def create_collection(
        self, request: catalog_api.CreateCollectionRequest, context: CallContext
    ) -> catalog_api.CreateCollectionResponse:
        entry, created = await self._lifecycle.create(
            NewCollection(
                tenant=request.tenant,
                database=request.database,
                name=request.name,
                configuration=request.configuration,
                metadata=request.metadata,
                get_or_create=request.get_or_create,
            )
        )
        return catalog_api.CreateCollectionResponse(entry=entry, created=created)

    async def get_collection(
        self, request: catalog_api.GetCollectionRequest, context: CallContext
    ) -> catalog_api.GetCollectionResponse:
        wanted = request.collection
        if wanted.WhichOneof("target") == "id":
            entry = self._lifecycle.get(wanted.id)
        else:
            entry = self._lifecycle.get_by_name(wanted.tenant, wanted.database, wanted.name)
        return catalog_api.GetCollectionResponse(entry=entry)

    async def update_collection(
        self, request: catalog_api.UpdateCollectionRequest, context: CallContext
    ) -> catalog_api.UpdateCollectionResponse:
        update = CollectionUpdate(
            new_name=request.new_name if request.HasField("new_name") else None,
            new_metadata=request.new_metadata if request.HasField("new_metadata") else None,
            new_hnsw=request.new_hnsw if request.HasField("new_hnsw") else None,
            new_embedding_function=(
                request.new_embedding_function
                if request.HasField("new_embedding_function")
                else None
            ),
        )
        entry = await self._lifecycle.update(request.collection_id, update)
        return catalog_api.UpdateCollectionResponse(entry=entry)

    async def delete_collection(
        self, request: catalog_api.DeleteCollectionRequest, context: CallContext
    ) -> catalog_api.DeleteCollectionResponse:
        await self._lifecycle.delete(request.collection_id)
        return catalog_api.DeleteCollectionResponse()

    async def fix_dimension(
        self, request: catalog_api.FixDimensionRequest, context: CallContext
    ) -> catalog_api.FixDimensionResponse:
        entry = await self._lifecycle.fix_dimension(request.collection_id, request.dimension)
        return catalog_api.FixDimensionResponse(entry=entry)

    async def create_tenant(
        self, request: catalog_api.CreateTenantRequest, context: CallContext
    ) -> catalog_api.CreateTenantResponse:
        entry = await self._namespaces.create_tenant(request.name)
        return catalog_api.CreateTenantResponse(entry=entry)

    async def get_tenant(
        self, request: catalog_api.GetTenantRequest, context: CallContext
    ) -> catalog_api.GetTenantResponse:
        return catalog_api.GetTenantResponse(entry=self._namespaces.get_tenant(request.name))

    async def create_database(
        self, request: catalog_api.CreateDatabaseRequest, context: CallContext
    ) -> catalog_api.CreateDatabaseResponse:
        entry = await self._namespaces.create_database(request.tenant, request.name)
        return catalog_api.CreateDatabaseResponse(entry=entry)

    async def get_database(
        self, request: catalog_api.GetDatabaseRequest, context: CallContext
    ) -> catalog_api.GetDatabaseResponse:
        entry = self._namespaces.get_database(request.tenant, request.name)
        return catalog_api.GetDatabaseResponse(entry=entry)

    async def delete_database(
        self, request: catalog_api.DeleteDatabaseRequest, context: CallContext
    ) -> catalog_api.DeleteDatabaseResponse:
        await self._namespaces.delete_database(request.tenant, request.name)
        return catalog_api.DeleteDatabaseResponse()

    async def reset(
        self, request: catalog_api.ResetRequest, context: CallContext
    ) -> catalog_api.ResetResponse:
        await self._namespaces.reset()
        return catalog_api.ResetResponse()

    async def create_api_key(
        self, request: catalog_api.CreateApiKeyRequest, context: CallContext
    ) -> catalog_api.CreateApiKeyResponse:
        entry = await self._api_keys.create(request.description, request.secret_sha256)
        return catalog_api.CreateApiKeyResponse(entry=entry)

    async def revoke_api_key(
        self, request: catalog_api.RevokeApiKeyRequest, context: CallContext
    ) -> catalog_api.RevokeApiKeyResponse:
        await self._api_keys.revoke(request.id)
        return catalog_api.RevokeApiKeyResponse()

    async def set_quota(
        self, request: catalog_api.SetQuotaRequest, context: CallContext
    ) -> catalog_api.SetQuotaResponse:
        await self._quotas.set(request.quota_id, request.subject, request.limits)
        return catalog_api.SetQuotaResponse()


class RoutingService:
    """``shoal.internal.v1.RoutingService``."""

    def __init__(self, changes: Changes, table: RoutingTable) -> None:
        self._changes = changes
        self._table = table

    async def watch_table(
        self, requests: AsyncIterator[routing_api.WatchTableRequest], context: CallContext
    ) -> AsyncIterator[routing_api.WatchTableResponse]:
        opening = await anext(requests, None)
        if opening is None:
            raise InvalidArgumentError("a watch begins with a message that opens it")
        watch = self._table.watch(opening.gateway_id, await self._known_version(opening))
        confirmations = asyncio.create_task(_confirm(watch, requests))
        try:
            async for update in watch.updates():
                yield update
            if confirmations.done():
                # What was wrong with a confirmation, if that is why the watch ended.
                confirmations.result()
        finally:
            self._table.unwatch(watch)
            confirmations.cancel()
            await asyncio.wait([confirmations])

    async def _known_version(self, opening: routing_api.WatchTableRequest) -> int:
        """The version from which the gateway can go on; 0 if it needs the whole table."""
        state = self._table.state
        if not state.cluster_id:
            raise UnavailableError("the catalog is being recovered and waits for the first worker")
        if not opening.cluster_id:
            return 0
        if opening.cluster_id != state.cluster_id:
            raise FailedPreconditionError(
                f"the gateway follows cluster {opening.cluster_id}, this coordinator belongs to"
                f" cluster {state.cluster_id}; correct the gateway's coordinator address, or"
                " restart the gateway if the cluster was made anew",
                metadata={"cluster_id": state.cluster_id},
            )
        if opening.version > state.version:
            await self._changes.make(lambda _: (Change(version_above=opening.version), None))
            return 0
        return opening.version


async def _confirm(watch: Watch, requests: AsyncIterator[routing_api.WatchTableRequest]) -> None:
    try:
        async for request in requests:
            watch.confirm(request.version)
    finally:
        watch.close()


class MembershipService:
    """``shoal.internal.v1.MembershipService``."""

    def __init__(self, membership: Membership, usage: Usage) -> None:
        self._membership = membership
        self._usage = usage

    async def register_worker(
        self, request: membership_api.RegisterWorkerRequest, context: CallContext
    ) -> membership_api.RegisterWorkerResponse:
        cluster_id, heartbeat_s = await self._membership.register(
            request.worker_id,
            request.process_id,
            request.address,
            request.cluster_id,
            list(request.shards),
        )
        return membership_api.RegisterWorkerResponse(
            cluster_id=cluster_id, heartbeat_seconds=heartbeat_s
        )

    async def heartbeat_worker(
        self, request: membership_api.HeartbeatWorkerRequest, context: CallContext
    ) -> membership_api.HeartbeatWorkerResponse:
        await self._membership.heartbeat(request.worker_id, request.process_id)
        self._usage.report(request.usages)
        return membership_api.HeartbeatWorkerResponse()
