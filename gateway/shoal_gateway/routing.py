"""From a caller's reference to a route, and from a stale route to a fresh one.

The table answers first. The coordinator is asked only where the table cannot be trusted to know: a
name that it does not hold, a shard that its worker disowns. If the coordinator cannot be reached
then, the answer is UNAVAILABLE and never NOT_FOUND.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from shoal.errors import (
    CollectionNotFoundError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shoal.internal.v1 import catalog_pb2, catalog_service_pb2
from shoal.server.rpc import CallContext
from shoal.v1 import collection_pb2
from shoal.wire.validation import check_name, invalid, shown
from shoal_gateway.coordinator import ASK_TIMEOUT_S, ask
from shoal_gateway.table import CollectionRoute, RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["DEFAULT_DATABASE", "DEFAULT_TENANT", "Router"]

DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"


_Answer = TypeVar("_Answer")


class Router:
    """Finds collections.

    Args:
        table: The watched table.
        catalog: The coordinator's.
    """

    def __init__(self, table: RoutingTable, catalog: CatalogServiceAsyncStub) -> None:
        self._table = table
        self._catalog = catalog

    def known(self, reference: collection_pb2.CollectionReference) -> CollectionRoute | None:
        """Give the route of a collection by its ID alone, if the table has it under this one.

        That is what `find` gives, without a step of waiting: how most callers refer to it.
        """
        if reference.tenant or reference.database:
            return None
        return self._table.collection(reference.id)

    async def find(
        self, reference: collection_pb2.CollectionReference, context: CallContext
    ) -> CollectionRoute:
        """Find the collection that a caller refers to.

        Raises:
            InvalidArgumentError: The reference names nothing.
            CollectionNotFoundError: There is no such collection.
            UnavailableError: The table does not hold it, and the coordinator cannot be asked.
        """
        target = reference.WhichOneof("target")
        if target == "name":
            return await self._find_by_name(reference, context)
        if target == "id":
            return await self._find_by_id(reference, context)
        raise invalid("collection", "collection names none: set its name or its id")

    async def _find_by_name(
        self, reference: collection_pb2.CollectionReference, context: CallContext
    ) -> CollectionRoute:
        tenant = reference.tenant or DEFAULT_TENANT
        database = reference.database or DEFAULT_DATABASE
        route = self._table.collection_named(tenant, database, reference.name)
        if route is not None:
            return route
        if not reference.name:
            raise invalid("collection.name", "collection.name is empty")
        missing = _not_found(
            f"collection {shown(reference.name)} does not exist in database {shown(database)} of "
            f"tenant {shown(tenant)}",
            reference.name,
        )
        try:
            check_name("collection", reference.name)
            check_name("tenant", tenant)
            check_name("database", database)
        except InvalidArgumentError:
            raise missing from None  # nothing has such a name
        known = collection_pb2.CollectionReference(
            tenant=tenant, database=database, name=reference.name
        )
        return await self._ask(known, missing, context)

    async def _find_by_id(
        self, reference: collection_pb2.CollectionReference, context: CallContext
    ) -> CollectionRoute:
        route = self._table.collection(reference.id)
        if route is None:
            try:
                collection_id = str(uuid.UUID(reference.id))
            except ValueError:
                raise invalid(
                    "collection.id", f"collection.id {shown(reference.id)} is not a UUID"
                ) from None
            known = collection_pb2.CollectionReference(id=collection_id)
            route = self._table.collection(collection_id)
            route = route or await self._ask(known, _unknown_id(reference), context)
        collection = route.entry.collection
        if (reference.tenant and reference.tenant != collection.tenant) or (
            reference.database and reference.database != collection.database
        ):
            raise _unknown_id(reference)
        return route

    async def by_the_name_in_force(
        self,
        reference: collection_pb2.CollectionReference,
        work: Callable[[], Awaitable[_Answer]],
    ) -> _Answer:
        """Do work on a collection by its name, and once more if that is another's by now.

        A table that lags may lead to a collection that was deleted, and whose name was used again;
        who calls it by name means the new one. Nothing was done to the old one, which is gone.
        """
        known = self._known_by_name(reference)
        try:
            return await work()
        except CollectionNotFoundError:
            if known is None or self._known_by_name(reference) is known:
                raise
            return await work()

    def _known_by_name(
        self, reference: collection_pb2.CollectionReference
    ) -> CollectionRoute | None:
        return self._table.collection_named(
            reference.tenant or DEFAULT_TENANT,
            reference.database or DEFAULT_DATABASE,
            reference.name,
        )

    async def refresh(self, route: CollectionRoute, context: CallContext) -> CollectionRoute:
        """Give the collection's route as the coordinator knows it now.

        Raises:
            CollectionNotFoundError: The collection was deleted.
            UnavailableError: The coordinator cannot be asked.
        """
        known = collection_pb2.CollectionReference(id=route.collection_id)
        missing = _not_found(f"collection {shown(route.name)} does not exist any more", route.name)
        return await self._ask(known, missing, context)

    def learn(self, entry: catalog_pb2.CollectionEntry) -> CollectionRoute:
        """Take in what the coordinator has answered about a collection, ahead of the table."""
        return self._table.learn(entry)

    async def _ask(
        self,
        reference: collection_pb2.CollectionReference,
        missing: CollectionNotFoundError,
        context: CallContext,
    ) -> CollectionRoute:
        request = catalog_service_pb2.GetCollectionRequest(collection=reference)
        try:
            answer = await ask(
                self._catalog.GetCollection, request, context, longest_s=ASK_TIMEOUT_S
            )
        except NotFoundError:
            # Its database or tenant may be gone, too: still what was asked for is a collection.
            # The table may still hold what the coordinator has deleted.
            if reference.id:
                self._table.forget(reference.id)
            raise missing from None
        except UnavailableError as error:
            raise UnavailableError(
                f"{missing.message}, as far as this gateway knows, and {error.message}",
                metadata=error.metadata,
            ) from None
        return self._table.learn(answer.entry)


def _unknown_id(reference: collection_pb2.CollectionReference) -> CollectionNotFoundError:
    return _not_found(f"collection with ID {shown(reference.id)} does not exist", reference.id)


def _not_found(message: str, collection: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(message, metadata={"collection": collection[:100]})
