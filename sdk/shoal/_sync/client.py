# Generated from sdk/shoal/_async/client.py by tools/generate_sync.py; do not edit.
"""The client: where collections are made, found and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import grpc

from shoal import _definitions, _requests
from shoal._defaults import (
    DEFAULT_DATABASE,
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_TENANT,
    DEFAULT_TIMEOUT_S,
)
from shoal._embedder import Choice, CreateChoice, GetChoice
from shoal._methods import (
    COUNT_COLLECTIONS,
    CREATE_COLLECTION,
    CREATE_SNAPSHOT,
    DELETE_COLLECTION,
    DELETE_SNAPSHOT,
    GET_COLLECTION,
    GET_OR_CREATE_COLLECTION,
    GET_SNAPSHOT,
    GET_VERSION,
    HEARTBEAT,
    LIST_COLLECTIONS,
    LIST_SNAPSHOTS,
    RESET,
    RESTORE_SNAPSHOT,
)
from shoal._sync import opening, operations
from shoal._sync.collection import Collection
from shoal.configuration import HNSWConfiguration
from shoal.errors import CollectionNotFoundError
from shoal.snapshots import Snapshot, snapshot_from_message
from shoal.v1 import (
    admin_service_pb2,
    collection_pb2,
    collection_service_pb2,
    snapshot_service_pb2,
)
from shoal.wire.validation import invalid


class Client:
    """A client of a Shoal server, bound to one database.

    Nothing is sent before the first call. Can be used by several tasks at a time.

    Args:
        host: Where the server is; name or IP address.
        port: Its port.
        tenant: Whose database.
        database: The database in which its collections are.
        api_key: Sent with every call.
        ssl: Whether to use TLS with the system's authorities; or the file with the certificates of
            the authorities to trust (PEM); or gRPC credentials.
        timeout: Seconds that a call may take, with its repetitions. Large writes and reads are
            several calls.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        api_key: str | None = None,
        ssl: bool | str | Path | grpc.ChannelCredentials = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._bind(tenant, database)
        self._session = opening.with_server(host, port, api_key, ssl, timeout)

    def _bind(self, tenant: str, database: str) -> None:
        self._tenant = _requests.checked_name("tenant", tenant)
        self._database = _requests.checked_name("database", database)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tenant={self._tenant!r}, database={self._database!r})"

    @property
    def tenant(self) -> str:
        """The tenant of its database."""
        return self._tenant

    @property
    def database(self) -> str:
        """The database in which its collections are."""
        return self._database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, or the store if nobody else in this process uses it."""
        self._session.close()

    def heartbeat(self) -> int:
        """Return the server's time in nanoseconds since 1970, when the cluster can serve."""
        response = self._session.call(HEARTBEAT, admin_service_pb2.HeartbeatRequest())
        return response.nanoseconds

    def get_version(self) -> str:
        """Return the server's version."""
        response = self._session.call(GET_VERSION, admin_service_pb2.GetVersionRequest())
        return response.version

    def get_max_batch_size(self) -> int:
        """Return how many records one request may write. Larger writes are split by the client."""
        return (self._session.limits()).max_batch_records

    def reset(self) -> bool:
        """Delete every collection, database and tenant.

        Raises:
            PermissionDeniedError: The server's settings do not allow it (`allow_reset`).
        """
        self._session.call(RESET, admin_service_pb2.ResetRequest())
        return True

    def create_collection(
        self,
        name: str,
        configuration: HNSWConfiguration | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        embedding_function: CreateChoice = Choice.DEFAULT,
        get_or_create: bool = False,
    ) -> Collection:
        """Create a collection.

        Args:
            name: 3 to 512 characters of ``[a-zA-Z0-9._-]``.
            configuration: ``{"hnsw": {...}, "embedding_function": {"name": ..., "config": ...}}``,
                or an `HNSWConfiguration`; what is not set takes its default.
            metadata: The user's own, not empty.
            embedding_function: Turns documents and query texts into vectors. By default the one
                that Shoal brings; None: the collection takes vectors only.
            get_or_create: Return the existing collection of this name, if there is one, as it is.

        Raises:
            CollectionExistsError: The name is taken.
            InvalidArgumentError: An argument is not allowed, or contradicts another, or the
                existing collection.
        """
        definition = _definitions.define(
            self._tenant,
            self._database,
            name,
            configuration,
            metadata,
            embedding_function,
            get_or_create=get_or_create,
        )
        return self._create(definition)

    def _create(self, definition: _definitions.Definition) -> Collection:
        """Create what has been defined; also for collections that are copied here."""
        is_repeatable = definition.request.get_or_create
        method = GET_OR_CREATE_COLLECTION if is_repeatable else CREATE_COLLECTION
        response = self._session.call(method, definition.request)
        collection = response.collection
        return Collection(self._session, collection, definition.embedder(collection))

    def get_or_create_collection(
        self,
        name: str,
        configuration: HNSWConfiguration | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        embedding_function: CreateChoice = Choice.DEFAULT,
    ) -> Collection:
        """Return the collection of this name as it is, or create it; as `create_collection`."""
        return self.create_collection(
            name, configuration, metadata, embedding_function, get_or_create=True
        )

    def get_collection(
        self, name: str, embedding_function: GetChoice = Choice.STORED
    ) -> Collection:
        """Return a collection.

        Args:
            name: Its name.
            embedding_function: By default the one that the collection was created with, which a
                callable that is not registered must be passed for. None: embed nothing.

        Raises:
            CollectionNotFoundError: There is none of this name.
            InvalidArgumentError: The function is not the one that it was created with.
        """
        # A name that none can have is that of none: only its type is checked here.
        checked = _requests.check_text("name", name)
        reference = _requests.by_name(self._tenant, self._database, checked)
        return self._get_collection(reference, embedding_function)

    def get_collection_by_id(
        self,
        id: str | UUID,  # noqa: A002 (what it is called everywhere)
        embedding_function: GetChoice = Choice.STORED,
    ) -> Collection:
        """Return a collection by its UUID; as `get_collection`."""
        try:
            checked = str(UUID(str(id)))
        except ValueError:
            raise invalid("id", f"id must be a UUID, got {id!r}") from None
        reference = collection_pb2.CollectionReference(
            tenant=self._tenant, database=self._database, id=checked
        )
        return self._get_collection(reference, embedding_function)

    def _get_collection(
        self, reference: collection_pb2.CollectionReference, embedding_function: GetChoice
    ) -> Collection:
        request = collection_service_pb2.GetCollectionRequest(collection=reference)
        response = self._session.call(GET_COLLECTION, request)
        embedder = _definitions.embedder_of(response.collection, embedding_function)
        return Collection(self._session, response.collection, embedder)

    def has_collection(self, name: str) -> bool:
        """Return whether there is a collection of this name."""
        checked = _requests.check_text("name", name)
        reference = _requests.by_name(self._tenant, self._database, checked)
        request = collection_service_pb2.GetCollectionRequest(collection=reference)
        try:
            self._session.call(GET_COLLECTION, request)
        except CollectionNotFoundError:
            return False
        return True

    def delete_collection(self, name: str) -> None:
        """Delete a collection with all its records.

        Raises:
            CollectionNotFoundError: There is none of this name.
        """
        checked = _requests.check_text("name", name)
        reference = _requests.by_name(self._tenant, self._database, checked)
        request = collection_service_pb2.DeleteCollectionRequest(collection=reference)
        self._session.call(DELETE_COLLECTION, request)

    def list_collections(
        self, limit: int | None = None, offset: int | None = None
    ) -> list[Collection]:
        """List the collections of the database in order of creation.

        Args:
            limit: At most so many; None: all.
            offset: How many to pass over.
        """
        wanted = _requests.check_optional_count("limit", limit)
        request = collection_service_pb2.ListCollectionsRequest(
            tenant=self._tenant,
            database=self._database,
            offset=_requests.check_offset(offset),
        )
        found: list[Collection] = []
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(found))
            response = self._session.call(LIST_COLLECTIONS, request)
            for collection in response.collections:
                embedder = _definitions.embedder_of(collection, Choice.STORED)
                found.append(Collection(self._session, collection, embedder))
            if not response.next_page_token or (wanted is not None and len(found) >= wanted):
                return found
            request.page_token = response.next_page_token
            request.offset = 0

    def count_collections(self) -> int:
        """Return how many collections the database has."""
        request = collection_service_pb2.CountCollectionsRequest(
            tenant=self._tenant, database=self._database
        )
        return (self._session.call(COUNT_COLLECTIONS, request)).count

    def create_snapshot(self, name: str, source: str) -> Snapshot:
        """Take a snapshot of a collection while it serves.

        All its shards are taken at one point in time: what was written before this call is in, what
        is written after it returns is not, and no write is in by half. Returns when that point is
        fixed; the copying goes on until `describe_snapshot` says ``Ready``.

        Args:
            name: 1 to 45 lowercase letters, digits and hyphens, first and last no hyphen.
            source: The collection's name.

        Raises:
            SnapshotExistsError: The name is taken.
            CollectionNotFoundError: There is no such collection.
            QuotaExceededError: There may be no more snapshots.
            FailedPreconditionError: The server has no snapshot store.
        """
        request = snapshot_service_pb2.CreateSnapshotRequest(
            name=_requests.checked_snapshot_name("snapshot", name),
            source=_requests.by_name(
                self._tenant, self._database, _requests.check_text("source", source)
            ),
        )
        response = self._session.call(CREATE_SNAPSHOT, request)
        return snapshot_from_message(response.snapshot)

    def describe_snapshot(self, name: str) -> Snapshot:
        """Describe a snapshot as it is now.

        Raises:
            SnapshotNotFoundError: There is none of this name.
        """
        request = snapshot_service_pb2.GetSnapshotRequest(snapshot=self._snapshot(name))
        response = self._session.call(GET_SNAPSHOT, request)
        return snapshot_from_message(response.snapshot)

    def list_snapshots(self, limit: int | None = None) -> list[Snapshot]:
        """List the snapshots of the database in order of creation.

        Args:
            limit: At most so many; None: all.
        """
        wanted = _requests.check_optional_count("limit", limit)
        request = snapshot_service_pb2.ListSnapshotsRequest(
            tenant=self._tenant, database=self._database
        )
        found: list[Snapshot] = []
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(found))
            response = self._session.call(LIST_SNAPSHOTS, request)
            found += map(snapshot_from_message, response.snapshots)
            if not response.next_page_token or (wanted is not None and len(found) >= wanted):
                return found
            request.page_token = response.next_page_token

    def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot. Its name is free when its files are gone, a moment later.

        Raises:
            SnapshotNotFoundError: There is none of this name.
            FailedPreconditionError: It is being restored.
        """
        request = snapshot_service_pb2.DeleteSnapshotRequest(snapshot=self._snapshot(name))
        self._session.call(DELETE_SNAPSHOT, request)

    def restore_snapshot(
        self,
        name: str,
        into: str,
        configuration: HNSWConfiguration | Mapping[str, Any] | None = None,
        *,
        progress: bool = False,
    ) -> Collection:
        """Make a new collection of a snapshot: the same records in the same order.

        Takes as long as it takes; `timeout` is that of each call. All is there when it returns,
        and nothing if it fails.

        Args:
            name: Of the snapshot.
            into: Name of the new collection.
            configuration: What is to be otherwise than in the source: space, quantization, shards
                and the rest; the dimension cannot differ.
            progress: Whether to show a progress bar.

        Raises:
            SnapshotNotFoundError: There is none of this name.
            CollectionExistsError: The collection's name is taken.
            FailedPreconditionError: The snapshot is not ready.
            DataLossError: Its files are damaged or incomplete.
            InvalidArgumentError: The records do not fit the configuration.
        """
        overrides, function = _definitions.define_overrides(configuration)
        request = snapshot_service_pb2.RestoreSnapshotRequest(
            operation_id=operations.new_operation_id(),
            snapshot=self._snapshot(name),
            into=_requests.checked_name("collection", into),
            configuration=overrides,
        )
        response = operations.finish(
            self._session, RESTORE_SNAPSHOT, request, f"restoring {name}", progress=progress
        )
        embedder = _definitions.embedder_of(response.collection, function)
        return Collection(self._session, response.collection, embedder)

    def _snapshot(self, name: str) -> snapshot_service_pb2.SnapshotReference:
        return snapshot_service_pb2.SnapshotReference(
            tenant=self._tenant,
            database=self._database,
            name=_requests.checked_snapshot_name("snapshot", name),
        )


class PersistentClient(Client):
    """A client of a store in this process, kept in a directory.

    Needs ``shoal[server]``. Clients of one directory in one process share the store, which is
    closed with the last of them; they must agree on `allow_reset`.

    Args:
        path: The store's directory; made if it is not there.
        tenant: Whose database.
        database: The database in which its collections are.
        allow_reset: Whether `reset` may empty everything.
        timeout: Seconds that a call may take.

    Raises:
        DataDirectoryLockedError: Another process uses the directory.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        allow_reset: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._bind(tenant, database)
        self._session = opening.with_store(path, timeout, allow_reset=allow_reset)


class EphemeralClient(Client):
    """A client of a store of its own in this process, which is gone when it is closed.

    Needs ``shoal[server]``.

    Args:
        tenant: Whose database.
        database: The database in which its collections are.
        allow_reset: Whether `reset` may empty everything.
        timeout: Seconds that a call may take.
    """

    def __init__(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        database: str = DEFAULT_DATABASE,
        allow_reset: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._bind(tenant, database)
        self._session = opening.with_store(None, timeout, allow_reset=allow_reset)
