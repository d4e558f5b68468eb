"""shoal.v1.CollectionService: checked in form here, decided by the coordinator.

Lists and descriptions come from the table, so that they need no coordinator. What this gateway has
changed itself it knows at once, ahead of its watch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from shoal.errors import UnavailableError
from shoal.internal.v1 import catalog_service_pb2
from shoal.server.rpc import CallContext
from shoal.v1 import collection_pb2, collection_service_pb2
from shoal.wire.limits import Limits
from shoal.wire.validation import check_collection_metadata, check_name, invalid
from shoal_gateway import tokens
from shoal_gateway.access import Caller
from shoal_gateway.coordinator import ASK_TIMEOUT_S, ask
from shoal_gateway.rights import ANY
from shoal_gateway.routing import DEFAULT_DATABASE, DEFAULT_TENANT, Router
from shoal_gateway.table import CollectionRoute, RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["MAX_PAGE", "CollectionService", "check_configuration"]

MAX_PAGE: Final = 1_000
"""Collections, or databases, in one page of a list."""

_LAG_S: Final = 2.0
"""How long a change may take to reach this gateway's table before it says that it does not know."""

_MAX_FUNCTION_BYTES: Final = 64 * 1024
"""Of an embedding function's name and configuration: they travel with every description."""


class CollectionService:
    """Creates, describes, changes and deletes collections.

    Args:
        table: The watched table.
        router: Finds collections.
        catalog: The coordinator's.
        limits: The bounds.
    """

    def __init__(
        self, table: RoutingTable, router: Router, catalog: CatalogServiceAsyncStub, limits: Limits
    ) -> None:
        self._table = table
        self._router = router
        self._catalog = catalog
        self._limits = limits

    async def create_collection(
        self, request: collection_service_pb2.CreateCollectionRequest, context: CallContext
    ) -> collection_service_pb2.CreateCollectionResponse:
        tenant, database = _home(request)
        check_name("collection", request.name)
        check_configuration(request.configuration)
        check_collection_metadata(request.metadata, self._limits)
        creation = catalog_service_pb2.CreateCollectionRequest(
            tenant=tenant,
            database=database,
            name=request.name,
            configuration=request.configuration,
            metadata=request.metadata,
            get_or_create=request.get_or_create,
        )
        context.check()
        answer = await ask(self._catalog.CreateCollection, creation, context)
        self._table.learn(answer.entry)
        return collection_service_pb2.CreateCollectionResponse(
            collection=answer.entry.collection, created=answer.created
        )

    async def get_collection(
        self, request: collection_service_pb2.GetCollectionRequest, context: CallContext
    ) -> collection_service_pb2.GetCollectionResponse:
        route = await self._router.find(request.collection, context)
        return collection_service_pb2.GetCollectionResponse(collection=route.entry.collection)

    async def list_collections(
        self, request: collection_service_pb2.ListCollectionsRequest, context: CallContext
    ) -> collection_service_pb2.ListCollectionsResponse:
        tenant, database = _home(request)
        limit = min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE
        belongs_to = tokens.digest([b"list_collections", tenant.encode(), database.encode()])
        start = tokens.decode_page(request.page_token, belongs_to)
        found = [
            route.entry
            for route in await self._visible(tenant, database, context)
            if start is None or route.entry.creation_number > start.ordinal
        ][request.offset :]
        page = found[:limit]
        next_page_token = ""
        if page and len(found) > limit:
            last = tokens.Page(page[-1].creation_number, page[-1].collection.id)
            next_page_token = tokens.encode_page(last, belongs_to)
        return collection_service_pb2.ListCollectionsResponse(
            collections=[entry.collection for entry in page], next_page_token=next_page_token
        )

    async def count_collections(
        self, request: collection_service_pb2.CountCollectionsRequest, context: CallContext
    ) -> collection_service_pb2.CountCollectionsResponse:
        tenant, database = _home(request)
        return collection_service_pb2.CountCollectionsResponse(
            count=len(await self._visible(tenant, database, context))
        )

    async def update_collection(
        self, request: collection_service_pb2.UpdateCollectionRequest, context: CallContext
    ) -> collection_service_pb2.UpdateCollectionResponse:
        update = catalog_service_pb2.UpdateCollectionRequest()
        if request.HasField("new_name"):
            check_name("collection", request.new_name, "new_name")
            update.new_name = request.new_name
        if request.HasField("new_metadata"):
            check_collection_metadata(request.new_metadata, self._limits, "new_metadata")
            update.new_metadata.CopyFrom(request.new_metadata)
        if request.HasField("new_hnsw"):
            _check_hnsw(request.new_hnsw, "new_hnsw")
            update.new_hnsw.CopyFrom(request.new_hnsw)
        if request.HasField("new_embedding_function"):
            _check_embedding_function(request.new_embedding_function, "new_embedding_function")
            update.new_embedding_function.CopyFrom(request.new_embedding_function)
        route = await self._router.find(request.collection, context)
        update.collection_id = route.collection_id
        context.check()
        answer = await ask(self._catalog.UpdateCollection, update, context)
        self._table.learn(answer.entry)
        return collection_service_pb2.UpdateCollectionResponse(collection=answer.entry.collection)

    async def delete_collection(
        self, request: collection_service_pb2.DeleteCollectionRequest, context: CallContext
    ) -> collection_service_pb2.DeleteCollectionResponse:
        route = await self._router.find(request.collection, context)
        deletion = catalog_service_pb2.DeleteCollectionRequest(collection_id=route.collection_id)
        context.check()
        await ask(self._catalog.DeleteCollection, deletion, context)
        self._table.forget(route.collection_id)
        return collection_service_pb2.DeleteCollectionResponse()

    async def _visible(
        self, tenant: str, database: str, context: CallContext
    ) -> Sequence[CollectionRoute]:
        """Give the collections of a database that the caller has any right on.

        Who has one on the whole database is told if it does not exist. Who has one on some names in
        it is not: to him it is empty.
        """
        caller = context.caller
        if not isinstance(caller, Caller) or any(
            caller.may(right, (tenant, database)) for right in ANY
        ):
            await self._check_database(tenant, database, context)
            return self._table.collections_in(tenant, database)
        return [
            route
            for route in self._table.collections_in(tenant, database)
            if any(caller.may(right, (tenant, database, route.name)) for right in ANY)
        ]

    async def _check_database(self, tenant: str, database: str, context: CallContext) -> None:
        """Make sure that a database exists, and that the table knows it.

        Raises:
            NotFoundError: The database or its tenant does not exist.
            UnavailableError: The table does not know it, and the coordinator cannot be asked, or
                the table does not catch up.
        """
        if self._table.database(tenant, database) is not None:
            return
        request = catalog_service_pb2.GetDatabaseRequest(tenant=tenant, name=database)
        await ask(self._catalog.GetDatabase, request, context, longest_s=ASK_TIMEOUT_S)
        if not await self._table.wait_until(
            lambda: self._table.database(tenant, database) is not None,
            min(_LAG_S, context.time_remaining() / 2),
        ):
            raise UnavailableError(
                f"database {database!r} of tenant {tenant!r} is newer than this gateway's table; "
                "repeat the call"
            )


def _home(request: Any) -> tuple[str, str]:
    """Give the tenant and database of a request.

    Raises:
        InvalidArgumentError: One of them is no name.
    """
    tenant = request.tenant or DEFAULT_TENANT
    database = request.database or DEFAULT_DATABASE
    check_name("tenant", tenant, "tenant")
    check_name("database", database, "database")
    return tenant, database


def check_configuration(configuration: collection_pb2.CollectionConfiguration) -> None:
    """Check a configuration, as far as this server has words for it.

    Raises:
        InvalidArgumentError: It holds what is not known here, or too much.
    """
    _check_hnsw(configuration.hnsw, "configuration.hnsw")
    if configuration.HasField("embedding_function"):
        _check_embedding_function(
            configuration.embedding_function, "configuration.embedding_function"
        )


def _check_hnsw(configuration: collection_pb2.HnswConfiguration, field: str) -> None:
    """Refuse what this server has no word for; the coordinator knows what the values may be."""
    if configuration.space not in collection_pb2.Space.values():
        raise invalid(f"{field}.space", f"space {configuration.space} is not known to this server")
    if configuration.quantization not in collection_pb2.Quantization.values():
        raise invalid(
            f"{field}.quantization",
            f"quantization {configuration.quantization} is not known to this server",
        )


def _check_embedding_function(function: collection_pb2.EmbeddingFunction, field: str) -> None:
    if not function.name:
        raise invalid(f"{field}.name", f"{field} has no name")
    if function.default_space not in collection_pb2.Space.values():
        raise invalid(
            f"{field}.default_space", f"space {function.default_space} is not known to this server"
        )
    size = function.ByteSize()
    if size > _MAX_FUNCTION_BYTES:
        raise invalid(field, f"{field} has {size} bytes; at most {_MAX_FUNCTION_BYTES} are allowed")
