"""shoal.v1.SnapshotService: checked in form here, carried out by the coordinator.

Nothing of it stands in the routing table, for serving needs none of it: every call asks the
coordinator, and fails while that is down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from shoal.errors import UnavailableError
from shoal.internal.v1 import snapshot_service_pb2 as internal
from shoal.server.rpc import CallContext
from shoal.v1 import snapshot_service_pb2 as public
from shoal.wire.limits import Limits
from shoal.wire.validation import check_name, check_snapshot_name, invalid
from shoal_gateway import tokens
from shoal_gateway.collections import MAX_PAGE, check_configuration
from shoal_gateway.coordinator import ask
from shoal_gateway.filters import Filters
from shoal_gateway.routing import DEFAULT_DATABASE, DEFAULT_TENANT, Router
from shoal_gateway.table import RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.snapshot_service_pb2_grpc import SnapshotCatalogServiceAsyncStub

__all__ = ["SnapshotService"]

_MadeResponse = TypeVar(
    "_MadeResponse", public.RestoreSnapshotResponse, public.CloneCollectionResponse
)

_OPERATION_ID_BYTES: Final = 16

MAX_STORE_CHARACTERS: Final = 2_048
"""Of the URL of a snapshot store."""


class SnapshotService:
    """Takes, describes, restores and deletes snapshots and backups; clones collections.

    Args:
        table: The watched table.
        router: Finds collections.
        catalog: The coordinator's.
        limits: The bounds.
    """

    def __init__(
        self,
        table: RoutingTable,
        router: Router,
        catalog: SnapshotCatalogServiceAsyncStub | None,
        limits: Limits,
    ) -> None:
        self._table = table
        self._router = router
        self._stub = catalog
        self._limits = limits

    @property
    def _catalog(self) -> SnapshotCatalogServiceAsyncStub:
        if self._stub is None:
            raise UnavailableError("this gateway was started without a way to take snapshots")
        return self._stub

    async def create_snapshot(
        self, request: public.CreateSnapshotRequest, context: CallContext
    ) -> public.CreateSnapshotResponse:
        check_snapshot_name(request.name)
        route = await self._router.find(request.source, context)
        creation = internal.CreateSnapshotRequest(
            name=request.name, collection_id=route.collection_id
        )
        context.check()
        answer = await ask(self._catalog.CreateSnapshot, creation, context)
        return public.CreateSnapshotResponse(snapshot=answer.snapshot)

    async def get_snapshot(
        self, request: public.GetSnapshotRequest, context: CallContext
    ) -> public.GetSnapshotResponse:
        question = internal.GetSnapshotRequest(snapshot=_reference(request.snapshot))
        answer = await ask(self._catalog.GetSnapshot, question, context)
        return public.GetSnapshotResponse(snapshot=answer.snapshot)

    async def list_snapshots(
        self, request: public.ListSnapshotsRequest, context: CallContext
    ) -> public.ListSnapshotsResponse:
        tenant = request.tenant or DEFAULT_TENANT
        database = request.database or DEFAULT_DATABASE
        check_name("tenant", tenant, "tenant")
        check_name("database", database, "database")
        belongs_to = tokens.digest([b"list_snapshots", tenant.encode(), database.encode()])
        start = tokens.decode_page(request.page_token, belongs_to)
        question = internal.ListSnapshotsRequest(
            tenant=tenant,
            database=database,
            limit=min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE,
            after=0 if start is None else start.ordinal,
        )
        answer = await ask(self._catalog.ListSnapshots, question, context)
        return public.ListSnapshotsResponse(
            snapshots=answer.snapshots, next_page_token=_token(answer.next_after, belongs_to)
        )

    async def delete_snapshot(
        self, request: public.DeleteSnapshotRequest, context: CallContext
    ) -> public.DeleteSnapshotResponse:
        deletion = internal.DeleteSnapshotRequest(snapshot=_reference(request.snapshot))
        context.check()
        await ask(self._catalog.DeleteSnapshot, deletion, context)
        return public.DeleteSnapshotResponse()

    async def restore_snapshot(
        self, request: public.RestoreSnapshotRequest, context: CallContext
    ) -> public.RestoreSnapshotResponse:
        _check_operation_id(request.operation_id)
        check_name("collection", request.into, "into")
        check_configuration(request.configuration)
        restoration = internal.RestoreSnapshotRequest(
            operation_id=request.operation_id,
            snapshot=_reference(request.snapshot),
            into=request.into,
            configuration=request.configuration,
        )
        context.check()
        answer = await ask(self._catalog.RestoreSnapshot, restoration, context)
        return self._learnt(answer, public.RestoreSnapshotResponse())

    async def clone_collection(
        self, request: public.CloneCollectionRequest, context: CallContext
    ) -> public.CloneCollectionResponse:
        _check_operation_id(request.operation_id)
        check_name("collection", request.into, "into")
        check_configuration(request.configuration)
        filters = Filters.of(request, self._limits)
        route = await self._router.find(request.source, context)
        filters.check_keys(route)
        clone = internal.CloneCollectionRequest(
            operation_id=request.operation_id,
            collection_id=route.collection_id,
            into=request.into,
            configuration=request.configuration,
        )
        filters.put_into(clone)
        context.check()
        answer = await ask(self._catalog.CloneCollection, clone, context)
        return self._learnt(answer, public.CloneCollectionResponse())

    def _learnt(
        self,
        answer: internal.RestoreSnapshotResponse | internal.CloneCollectionResponse,
        response: _MadeResponse,
    ) -> _MadeResponse:
        """Say how far a new collection is, and route to it when it is there."""
        response.restored_count = answer.restored_count
        response.total_count = answer.total_count
        if answer.HasField("entry"):
            self._table.learn(answer.entry)
            response.done = True
            response.collection.CopyFrom(answer.entry.collection)
        return response

    async def create_backup(
        self, request: public.CreateBackupRequest, context: CallContext
    ) -> public.CreateBackupResponse:
        check_snapshot_name(request.name)
        context.check()
        creation = internal.CreateBackupRequest(name=request.name)
        answer = await ask(self._catalog.CreateBackup, creation, context)
        return public.CreateBackupResponse(backup=answer.backup)

    async def get_backup(
        self, request: public.GetBackupRequest, context: CallContext
    ) -> public.GetBackupResponse:
        check_snapshot_name(request.name)
        question = internal.GetBackupRequest(name=request.name)
        answer = await ask(self._catalog.GetBackup, question, context)
        return public.GetBackupResponse(backup=answer.backup)

    async def list_backups(
        self, request: public.ListBackupsRequest, context: CallContext
    ) -> public.ListBackupsResponse:
        belongs_to = tokens.digest([b"list_backups"])
        start = tokens.decode_page(request.page_token, belongs_to)
        question = internal.ListBackupsRequest(
            limit=min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE,
            after=0 if start is None else start.ordinal,
        )
        answer = await ask(self._catalog.ListBackups, question, context)
        return public.ListBackupsResponse(
            backups=answer.backups, next_page_token=_token(answer.next_after, belongs_to)
        )

    async def delete_backup(
        self, request: public.DeleteBackupRequest, context: CallContext
    ) -> public.DeleteBackupResponse:
        check_snapshot_name(request.name)
        context.check()
        deletion = internal.DeleteBackupRequest(name=request.name)
        await ask(self._catalog.DeleteBackup, deletion, context)
        return public.DeleteBackupResponse()

    async def restore_backup(
        self, request: public.RestoreBackupRequest, context: CallContext
    ) -> public.RestoreBackupResponse:
        _check_operation_id(request.operation_id)
        check_snapshot_name(request.name)
        if len(request.store) > MAX_STORE_CHARACTERS:
            raise invalid("store", f"store has more than {MAX_STORE_CHARACTERS:,} characters")
        restoration = internal.RestoreBackupRequest(
            operation_id=request.operation_id,
            name=request.name,
            cluster_id=request.cluster_id,
            store=request.store,
        )
        context.check()
        answer = await ask(self._catalog.RestoreBackup, restoration, context)
        return public.RestoreBackupResponse(
            done=answer.done,
            collection_count=answer.collection_count,
            restored_count=answer.restored_count,
            total_count=answer.total_count,
        )


def _check_operation_id(operation_id: bytes) -> None:
    if operation_id and len(operation_id) != _OPERATION_ID_BYTES:
        raise invalid(
            "operation_id",
            f"operation_id has {len(operation_id)} bytes; it must have {_OPERATION_ID_BYTES}, or"
            " be empty",
        )


def _reference(reference: public.SnapshotReference) -> public.SnapshotReference:
    """Give a reference with its defaults filled in.

    Raises:
        InvalidArgumentError: A name in it is none.
    """
    tenant = reference.tenant or DEFAULT_TENANT
    database = reference.database or DEFAULT_DATABASE
    check_name("tenant", tenant, "snapshot.tenant")
    check_name("database", database, "snapshot.database")
    check_snapshot_name(reference.name, "snapshot.name")
    return public.SnapshotReference(tenant=tenant, database=database, name=reference.name)


def _token(next_after: int, belongs_to: bytes) -> str:
    return tokens.encode_page(tokens.Page(next_after, ""), belongs_to) if next_after else ""
