"""``shoal.internal.v1.SnapshotCatalogService``: decode, call, encode."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable
from typing import TypeVar

from google.protobuf.message import Message

from shoal.errors import FailedPreconditionError, ShoalError
from shoal.internal.v1 import snapshot_service_pb2 as api
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.internal.v1.snapshot_pb2 import SnapshotManifest
from shoal.server.rpc import CallContext
from shoal.v1.snapshot_service_pb2 import SNAPSHOT_STATUS_READY, SnapshotStatus
from shoal_coordinator import metrics
from shoal_coordinator.backup_restoring import BackupRestorer
from shoal_coordinator.backups import Backups
from shoal_coordinator.entries import not_found
from shoal_coordinator.operations import Operations, Progress
from shoal_coordinator.restoring import Filters, Restoration, Restorer
from shoal_coordinator.snapshots import Snapshots
from shoal_coordinator.stores import SnapshotStore
from shoal_coordinator.table import RoutingTable

_Result = TypeVar("_Result")


class SnapshotCatalogService:
    """Snapshots, clones and backups, for gateways."""

    def __init__(
        self,
        table: RoutingTable,
        store: SnapshotStore,
        snapshots: Snapshots,
        backups: Backups,
        restorer: Restorer,
        backup_restorer: BackupRestorer,
        operations: Operations,
    ) -> None:
        self._table = table
        self._store = store
        self._snapshots = snapshots
        self._backups = backups
        self._restorer = restorer
        self._backup_restorer = backup_restorer
        self._operations = operations

    async def create_snapshot(
        self, request: api.CreateSnapshotRequest, context: CallContext
    ) -> api.CreateSnapshotResponse:
        snapshot = await self._snapshots.create(request.collection_id, request.name)
        return api.CreateSnapshotResponse(snapshot=snapshot)

    async def get_snapshot(
        self, request: api.GetSnapshotRequest, context: CallContext
    ) -> api.GetSnapshotResponse:
        wanted = request.snapshot
        manifest = self._snapshots.get(wanted.tenant, wanted.database, wanted.name)
        return api.GetSnapshotResponse(snapshot=manifest.description)

    async def list_snapshots(
        self, request: api.ListSnapshotsRequest, context: CallContext
    ) -> api.ListSnapshotsResponse:
        found, more = self._snapshots.list(
            request.tenant, request.database, after=request.after, limit=request.limit
        )
        return api.ListSnapshotsResponse(
            snapshots=[manifest.description for manifest in found],
            next_after=found[-1].creation_number if more and found else 0,
        )

    async def delete_snapshot(
        self, request: api.DeleteSnapshotRequest, context: CallContext
    ) -> api.DeleteSnapshotResponse:
        wanted = request.snapshot
        await self._snapshots.delete(wanted.tenant, wanted.database, wanted.name)
        return api.DeleteSnapshotResponse()

    async def restore_snapshot(
        self, request: api.RestoreSnapshotRequest, context: CallContext
    ) -> api.RestoreSnapshotResponse:
        wanted = request.snapshot
        manifest = self._snapshots.get(wanted.tenant, wanted.database, wanted.name)

        async def restore(operation_id: bytes, progress: Progress) -> CollectionEntry:
            made = self._restorer.made_by(operation_id, manifest.database_id, request.into)
            if made is not None:
                return made
            _check_ready(manifest)
            with self._snapshots.restoring(manifest.description.id):
                return await _measured(
                    "restore",
                    self._restorer.restore(
                        Restoration(
                            what=f"snapshot {wanted.name!r}",
                            operation_id=operation_id,
                            source=manifest.entry,
                            shards=manifest.shards,
                            store=self._store.url,
                            into=request.into,
                            overrides=request.configuration,
                        ),
                        progress,
                    ),
                )

        entry, progress = await self._operations.run(
            request.operation_id, _digest(request), restore, context.time_remaining()
        )
        return api.RestoreSnapshotResponse(
            entry=entry, restored_count=progress.done_count, total_count=progress.total_count
        )

    async def clone_collection(
        self, request: api.CloneCollectionRequest, context: CallContext
    ) -> api.CloneCollectionResponse:
        async def clone(operation_id: bytes, progress: Progress) -> CollectionEntry:
            state = self._table.state
            source = state.active(request.collection_id)
            if source is None:
                raise not_found(request.collection_id)
            made = self._restorer.made_by(operation_id, source.database_id, request.into)
            if made is not None:
                return made
            # What would be refused in the end is refused before anything is copied.
            self._restorer.check(state, source, request.into)
            self._restorer.resolve(source.collection, request.configuration)
            return await _measured("clone", self._clone(request, operation_id, progress))

        entry, progress = await self._operations.run(
            request.operation_id, _digest(request), clone, context.time_remaining()
        )
        return api.CloneCollectionResponse(
            entry=entry, restored_count=progress.done_count, total_count=progress.total_count
        )

    async def _clone(
        self, request: api.CloneCollectionRequest, operation_id: bytes, progress: Progress
    ) -> CollectionEntry:
        async with self._snapshots.source(request.collection_id) as manifest:
            return await self._restorer.restore(
                Restoration(
                    what=f"collection {manifest.entry.collection.name!r}",
                    operation_id=operation_id,
                    source=manifest.entry,
                    shards=manifest.shards,
                    store=self._store.url,
                    into=request.into,
                    overrides=request.configuration,
                    filters=Filters(
                        request.where if request.HasField("where") else None,
                        request.where_document if request.HasField("where_document") else None,
                    ),
                ),
                progress,
            )

    async def create_backup(
        self, request: api.CreateBackupRequest, context: CallContext
    ) -> api.CreateBackupResponse:
        return api.CreateBackupResponse(backup=await self._backups.create(request.name))

    async def get_backup(
        self, request: api.GetBackupRequest, context: CallContext
    ) -> api.GetBackupResponse:
        return api.GetBackupResponse(backup=self._backups.get(request.name).description)

    async def list_backups(
        self, request: api.ListBackupsRequest, context: CallContext
    ) -> api.ListBackupsResponse:
        found, more = self._backups.list(after=request.after, limit=request.limit)
        return api.ListBackupsResponse(
            backups=[manifest.description for manifest in found],
            next_after=found[-1].creation_number if more and found else 0,
        )

    async def delete_backup(
        self, request: api.DeleteBackupRequest, context: CallContext
    ) -> api.DeleteBackupResponse:
        await self._backups.delete(request.name)
        return api.DeleteBackupResponse()

    async def restore_backup(
        self, request: api.RestoreBackupRequest, context: CallContext
    ) -> api.RestoreBackupResponse:
        async def restore(operation_id: bytes, progress: Progress) -> int:
            return await _measured(
                "backup_restore",
                self._backup_restorer.restore(
                    request.name, request.cluster_id, request.store, operation_id, progress
                ),
            )

        count, progress = await self._operations.run(
            request.operation_id, _digest(request), restore, context.time_remaining()
        )
        return api.RestoreBackupResponse(
            done=count is not None,
            collection_count=progress.collection_count if count is None else count,
            restored_count=progress.done_count,
            total_count=progress.total_count,
        )


async def _measured(kind: str, work: Awaitable[_Result]) -> _Result:
    begun_at_s = time.monotonic()
    try:
        with metrics.SNAPSHOT_OPERATIONS.labels(kind).track_inprogress():
            result = await work
    except ShoalError:
        metrics.SNAPSHOT_FAILURES.labels(kind).inc()
        raise
    seconds = time.monotonic() - begun_at_s
    metrics.SNAPSHOT_OPERATION_SECONDS.labels(kind).observe(seconds)
    return result


def _check_ready(manifest: SnapshotManifest) -> None:
    description = manifest.description
    if description.status == SNAPSHOT_STATUS_READY:
        return
    status = SnapshotStatus.Name(description.status).removeprefix("SNAPSHOT_STATUS_").capitalize()
    reason = f": {description.failure}" if description.failure else ""
    raise FailedPreconditionError(
        f"snapshot {description.name!r} cannot be restored, it is {status}{reason}",
        metadata={"snapshot": description.name, "status": status},
    )


def _digest(request: Message) -> bytes:
    """Of all that a request says."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
