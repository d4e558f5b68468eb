# Generated from sdk/shoal/_async/admin.py by tools/generate_sync.py; do not edit.
"""The client for tenants, databases, API keys, quotas and backups."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from shoal import _requests, access
from shoal._defaults import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_TENANT, DEFAULT_TIMEOUT_S
from shoal._methods import (
    CREATE_API_KEY,
    CREATE_BACKUP,
    CREATE_DATABASE,
    CREATE_TENANT,
    DELETE_BACKUP,
    DELETE_DATABASE,
    GET_BACKUP,
    GET_DATABASE,
    GET_QUOTA,
    GET_TENANT,
    LIST_API_KEYS,
    LIST_BACKUPS,
    LIST_DATABASES,
    LIST_QUOTAS,
    RESTORE_BACKUP,
    REVOKE_API_KEY,
    SET_QUOTA,
)
from shoal._sync import opening, operations
from shoal.access import ApiKeyInfo, CreatedApiKey, Grant, QuotaInfo, QuotaLimits, Scope
from shoal.snapshots import Backup, backup_from_message
from shoal.types import DatabaseInfo, TenantInfo
from shoal.v1 import admin_service_pb2, snapshot_service_pb2


class AdminClient:
    """Creates, describes and deletes tenants, databases, API keys and quotas; takes and restores
    backups.

    Args:
        host: Where the server is; name or IP address.
        port: Its port.
        path: Instead of a server, a store's directory, as of a persistent client.
        api_key: Sent with every call.
        ssl: Whether to use TLS with the system's authorities; or the file with the certificates of
            the authorities to trust (PEM); or gRPC credentials.
        timeout: Seconds that a call may take, with its repetitions.
        allow_reset: Of a store in this process; must be that of its other clients.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        path: str | PathLike[str] | None = None,
        api_key: str | None = None,
        ssl: bool | str | Path | grpc.ChannelCredentials = False,
        timeout: float = DEFAULT_TIMEOUT_S,
        allow_reset: bool = False,
    ) -> None:
        if path is None:
            self._session = opening.with_server(host, port, api_key, ssl, timeout)
        else:
            self._session = opening.with_store(path, timeout, allow_reset=allow_reset)

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

    def create_tenant(self, name: str) -> TenantInfo:
        """Create a tenant.

        Raises:
            TenantExistsError: The name is taken.
        """
        request = admin_service_pb2.CreateTenantRequest(name=_requests.checked_name("tenant", name))
        response = self._session.call(CREATE_TENANT, request)
        return {"name": response.tenant.name}

    def get_tenant(self, name: str) -> TenantInfo:
        """Describe a tenant.

        Raises:
            TenantNotFoundError: There is none of this name.
        """
        request = admin_service_pb2.GetTenantRequest(name=_requests.checked_name("tenant", name))
        response = self._session.call(GET_TENANT, request)
        return {"name": response.tenant.name}

    def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> DatabaseInfo:
        """Create a database.

        Raises:
            DatabaseExistsError: The tenant has one of this name.
            TenantNotFoundError: There is no such tenant.
        """
        request = admin_service_pb2.CreateDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        response = self._session.call(CREATE_DATABASE, request)
        return _described(response.database)

    def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> DatabaseInfo:
        """Describe a database.

        Raises:
            DatabaseNotFoundError: The tenant has none of this name.
        """
        request = admin_service_pb2.GetDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        response = self._session.call(GET_DATABASE, request)
        return _described(response.database)

    def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Delete a database with all its collections.

        Raises:
            DatabaseNotFoundError: The tenant has none of this name.
        """
        request = admin_service_pb2.DeleteDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        self._session.call(DELETE_DATABASE, request)

    def list_databases(
        self, limit: int | None = None, offset: int | None = None, tenant: str = DEFAULT_TENANT
    ) -> list[DatabaseInfo]:
        """List a tenant's databases in order of creation.

        Args:
            limit: At most so many; None: all.
            offset: How many to pass over.
            tenant: Whose.

        Raises:
            TenantNotFoundError: There is no such tenant.
        """
        wanted = _requests.check_optional_count("limit", limit)
        request = admin_service_pb2.ListDatabasesRequest(
            tenant=_requests.checked_name("tenant", tenant),
            offset=_requests.check_offset(offset),
        )
        found: list[DatabaseInfo] = []
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(found))
            response = self._session.call(LIST_DATABASES, request)
            found += map(_described, response.databases)
            if not response.next_page_token or (wanted is not None and len(found) >= wanted):
                return found
            request.page_token = response.next_page_token
            request.offset = 0

    def create_api_key(
        self,
        grants: Grant | Sequence[Grant],
        name: str = "",
        expires_at: datetime.datetime | None = None,
    ) -> CreatedApiKey:
        """Create an API key, which is told this once.

        Args:
            grants: What it may do, for example ``{"rights": ["read"], "collection": "books"}``;
                without names on the whole cluster.
            name: What to call it, at most 256 characters.
            expires_at: From when on it is refused, with a time zone; None: never.

        Raises:
            PermissionDeniedError: The caller's own key has not the right to admin, and each right
                that is granted, on what it is granted on.
            UnavailableError: The outcome is unknown: the key may exist, and nobody has it. Look for
                it with `list_api_keys`, revoke it, and create another.
        """
        request = admin_service_pb2.CreateApiKeyRequest(
            name=_requests.check_text("name", name), grants=access.grant_messages(grants)
        )
        access.set_end(request, expires_at)
        response = self._session.call(CREATE_API_KEY, request)
        return {**access.api_key_info(response.description), "key": response.key}

    def list_api_keys(self) -> list[ApiKeyInfo]:
        """List the API keys in order of creation, without their secrets.

        Those of which the caller has the right to admin on every scope.
        """
        request = admin_service_pb2.ListApiKeysRequest()
        found: list[ApiKeyInfo] = []
        while True:
            response = self._session.call(LIST_API_KEYS, request)
            found += map(access.api_key_info, response.api_keys)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def revoke_api_key(self, api_key_id: str) -> None:
        """Revoke an API key: when this returns, every gateway refuses it.

        Args:
            api_key_id: The key's ID, not the key.

        Raises:
            NotFoundError: There is no such key.
            FailedPreconditionError: It is the key that the coordinator was started with.
        """
        request = admin_service_pb2.RevokeApiKeyRequest(
            id=_requests.check_text("api_key_id", api_key_id)
        )
        self._session.call(REVOKE_API_KEY, request)

    def set_quota(
        self, limits: QuotaLimits, *, scope: Scope | None = None, api_key_id: str | None = None
    ) -> QuotaInfo:
        """Set the quota of a scope or a key, in place of the one that it had.

        Args:
            limits: What it allows, for example ``{"max_records": 1_000_000}``.
            scope: Of these names; ``{}`` for the whole cluster.
            api_key_id: Or of this key.

        Raises:
            PermissionDeniedError: Nobody sets his own: it takes admin on what is around the scope.
            NotFoundError: There is no such key.
        """
        request = admin_service_pb2.SetQuotaRequest(
            subject=access.subject_message(scope, api_key_id),
            limits=access.limits_message(limits),
        )
        return access.quota_info((self._session.call(SET_QUOTA, request)).quota)

    def get_quota(self, *, scope: Scope | None = None, api_key_id: str | None = None) -> QuotaInfo:
        """Describe the quota of a scope or a key, with what is used of it.

        Raises:
            NotFoundError: It has none.
        """
        request = admin_service_pb2.GetQuotaRequest(
            subject=access.subject_message(scope, api_key_id)
        )
        return access.quota_info((self._session.call(GET_QUOTA, request)).quota)

    def list_quotas(self) -> list[QuotaInfo]:
        """List the quotas that the caller may see, in order of creation."""
        request = admin_service_pb2.ListQuotasRequest()
        found: list[QuotaInfo] = []
        while True:
            response = self._session.call(LIST_QUOTAS, request)
            found += map(access.quota_info, response.quotas)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def remove_quota(self, *, scope: Scope | None = None, api_key_id: str | None = None) -> None:
        """Remove the quota of a scope or a key, if it has one."""
        request = admin_service_pb2.SetQuotaRequest(
            subject=access.subject_message(scope, api_key_id)
        )
        self._session.call(SET_QUOTA, request)

    def create_backup(self, name: str) -> Backup:
        """Take a backup of the whole cluster while it serves: all collections at one point in time.

        Tenants, databases, API keys and quotas are in it. Returns when that point is fixed; the
        copying goes on until `describe_backup` says ``Ready``.

        Args:
            name: 1 to 45 lowercase letters, digits and hyphens, first and last no hyphen.

        Raises:
            BackupExistsError: The name is taken.
            FailedPreconditionError: The server has no snapshot store.
        """
        request = snapshot_service_pb2.CreateBackupRequest(
            name=_requests.checked_snapshot_name("backup", name)
        )
        response = self._session.call(CREATE_BACKUP, request)
        return backup_from_message(response.backup)

    def describe_backup(self, name: str) -> Backup:
        """Describe a backup as it is now.

        Raises:
            BackupNotFoundError: There is none of this name.
        """
        request = snapshot_service_pb2.GetBackupRequest(
            name=_requests.checked_snapshot_name("backup", name)
        )
        return backup_from_message((self._session.call(GET_BACKUP, request)).backup)

    def list_backups(self, limit: int | None = None) -> list[Backup]:
        """List the cluster's backups in order of creation.

        Args:
            limit: At most so many; None: all.
        """
        wanted = _requests.check_optional_count("limit", limit)
        request = snapshot_service_pb2.ListBackupsRequest()
        found: list[Backup] = []
        while True:
            if wanted is not None:
                request.limit = _requests.fits_uint32(wanted - len(found))
            response = self._session.call(LIST_BACKUPS, request)
            found += map(backup_from_message, response.backups)
            if not response.next_page_token or (wanted is not None and len(found) >= wanted):
                return found
            request.page_token = response.next_page_token

    def delete_backup(self, name: str) -> None:
        """Delete a backup. Its name is free when its files are gone, a moment later.

        Raises:
            BackupNotFoundError: There is none of this name.
            FailedPreconditionError: It is being restored.
        """
        request = snapshot_service_pb2.DeleteBackupRequest(
            name=_requests.checked_snapshot_name("backup", name)
        )
        self._session.call(DELETE_BACKUP, request)

    def restore_backup(
        self,
        name: str,
        *,
        cluster_id: str = "",
        store: str = "",
        progress: bool = False,
    ) -> int:
        """Restore a backup, of any cluster, into this one, which must have no collections.

        Collections keep their names, UUIDs and order; tenants, databases, API keys and quotas are
        restored with them. The number of workers need not be the same. Takes as long as it takes;
        `timeout` is that of each call. All is there when it returns, and nothing if it fails.

        Args:
            name: Of the backup.
            cluster_id: The cluster that took it, if the store holds several of this name.
            store: URL of the snapshot store in which it lies, if that is not this cluster's own.
            progress: Whether to show a progress bar.

        Returns:
            How many collections were restored.

        Raises:
            BackupNotFoundError: There is none of this name.
            FailedPreconditionError: The cluster has collections.
            DataLossError: The backup's files are damaged or incomplete.
        """
        request = snapshot_service_pb2.RestoreBackupRequest(
            operation_id=operations.new_operation_id(),
            name=_requests.checked_snapshot_name("backup", name),
            cluster_id=_requests.check_text("cluster_id", cluster_id),
            store=_requests.check_text("store", store),
        )
        response = operations.finish(
            self._session, RESTORE_BACKUP, request, f"restoring {name}", progress=progress
        )
        return response.collection_count


def _described(database: admin_service_pb2.Database) -> DatabaseInfo:
    return {"id": database.id, "name": database.name, "tenant": database.tenant}
