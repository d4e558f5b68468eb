"""The client for tenants and databases."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from shoal import _requests
from shoal._async import opening
from shoal._defaults import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_TENANT, DEFAULT_TIMEOUT_S
from shoal._methods import (
    CREATE_DATABASE,
    CREATE_TENANT,
    DELETE_DATABASE,
    GET_DATABASE,
    GET_TENANT,
    LIST_DATABASES,
)
from shoal.types import DatabaseInfo, TenantInfo
from shoal.v1 import admin_service_pb2


class AsyncAdminClient:
    """Creates, describes and deletes tenants and databases.

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, or the store if nobody else in this process uses it."""
        await self._session.close()

    async def create_tenant(self, name: str) -> TenantInfo:
        """Create a tenant.

        Raises:
            TenantExistsError: The name is taken.
        """
        request = admin_service_pb2.CreateTenantRequest(name=_requests.checked_name("tenant", name))
        response = await self._session.call(CREATE_TENANT, request)
        return {"name": response.tenant.name}

    async def get_tenant(self, name: str) -> TenantInfo:
        """Describe a tenant.

        Raises:
            TenantNotFoundError: There is none of this name.
        """
        request = admin_service_pb2.GetTenantRequest(name=_requests.checked_name("tenant", name))
        response = await self._session.call(GET_TENANT, request)
        return {"name": response.tenant.name}

    async def create_database(self, name: str, tenant: str = DEFAULT_TENANT) -> DatabaseInfo:
        """Create a database.

        Raises:
            DatabaseExistsError: The tenant has one of this name.
            TenantNotFoundError: There is no such tenant.
        """
        request = admin_service_pb2.CreateDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        response = await self._session.call(CREATE_DATABASE, request)
        return _described(response.database)

    async def get_database(self, name: str, tenant: str = DEFAULT_TENANT) -> DatabaseInfo:
        """Describe a database.

        Raises:
            DatabaseNotFoundError: The tenant has none of this name.
        """
        request = admin_service_pb2.GetDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        response = await self._session.call(GET_DATABASE, request)
        return _described(response.database)

    async def delete_database(self, name: str, tenant: str = DEFAULT_TENANT) -> None:
        """Delete a database with all its collections.

        Raises:
            DatabaseNotFoundError: The tenant has none of this name.
        """
        request = admin_service_pb2.DeleteDatabaseRequest(
            name=_requests.checked_name("database", name),
            tenant=_requests.checked_name("tenant", tenant),
        )
        await self._session.call(DELETE_DATABASE, request)

    async def list_databases(
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
            response = await self._session.call(LIST_DATABASES, request)
            found += map(_described, response.databases)
            if not response.next_page_token or (wanted is not None and len(found) >= wanted):
                return found
            request.page_token = response.next_page_token
            request.offset = 0


def _described(database: admin_service_pb2.Database) -> DatabaseInfo:
    return {"id": database.id, "name": database.name, "tenant": database.tenant}
