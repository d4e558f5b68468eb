"""The right that every public method needs: one table, and nothing of it anywhere else.

A rule turns a request into requirements, all of which the caller's key must meet. It reads the
request and the routing table, and never asks anybody: what it decides must not depend on whether
what the request names exists, or an answer would tell a stranger so.

A collection is named, or given by its UUID. By UUID it is allowed to who has the right on the
collection of that UUID, and to who has it on the whole of the tenant or database that the request
states besides: in that case the service answers NOT_FOUND for a UUID that is not in there, be it
nobody's or another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shoal.server.scopes import CLUSTER, Scope, scope_of
from shoal.v1 import admin_service_pb2, collection_pb2
from shoal_gateway.routing import DEFAULT_DATABASE, DEFAULT_TENANT
from shoal_gateway.table import RoutingTable

__all__ = ["RULES", "Requirement", "Rule"]

READ: Final = int(admin_service_pb2.RIGHT_READ)
WRITE: Final = int(admin_service_pb2.RIGHT_WRITE)
ADMIN: Final = int(admin_service_pb2.RIGHT_ADMIN)
ANY: Final = (READ, WRITE, ADMIN)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of these rights on one of these scopes.

    Attributes:
        rights: Any of them is enough.
        scopes: Any of them is enough; None: anywhere.
        or_within: Whether a right on a part of one is enough, too: then the service answers with
            that part.
    """

    rights: tuple[int, ...]
    scopes: tuple[Scope, ...] | None
    or_within: bool = False


Rule: TypeAlias = Callable[[Any, RoutingTable], Iterator[Requirement]]


def _with_a_key() -> Rule:
    """Every valid key may."""

    def rule(_request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        yield from ()

    return rule


def _anywhere(*rights: int) -> Rule:
    def rule(_request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        yield Requirement(rights, None)

    return rule


def _on_cluster(*rights: int) -> Rule:
    def rule(_request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        yield Requirement(rights, (CLUSTER,))

    return rule


def _on_tenant_named(field: str, *rights: int) -> Rule:
    def rule(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        yield Requirement(rights, ((getattr(request, field) or DEFAULT_TENANT,),))

    return rule


def _on_database_named(field: str, *rights: int) -> Rule:
    def rule(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        database = getattr(request, field) or DEFAULT_DATABASE
        yield Requirement(rights, ((request.tenant or DEFAULT_TENANT, database),))

    return rule


def _in_database(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
    """Any right on the database, or on something in it."""
    tenant, database = request.tenant or DEFAULT_TENANT, request.database or DEFAULT_DATABASE
    yield Requirement(ANY, ((tenant, database),), or_within=True)


def _on_new_collection(*rights: int) -> Rule:
    def rule(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        tenant, database = request.tenant or DEFAULT_TENANT, request.database or DEFAULT_DATABASE
        yield Requirement(rights, ((tenant, database, request.name),))

    return rule


def _on_collection(*each: tuple[int, ...]) -> Rule:
    """One of each tuple of rights, on the collection that the request refers to."""

    def rule(request: Any, table: RoutingTable) -> Iterator[Requirement]:
        scopes = _scopes(request.collection, table)
        for rights in each:
            yield Requirement(rights, scopes)

    return rule


def _on_snapshot(*rights: int) -> Rule:
    """One of these rights on the database of the snapshot that the request refers to."""

    def rule(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
        reference = request.snapshot
        database = reference.database or DEFAULT_DATABASE
        yield Requirement(rights, ((reference.tenant or DEFAULT_TENANT, database),))

    return rule


def _to_create_snapshot(request: Any, table: RoutingTable) -> Iterator[Requirement]:
    yield Requirement((ADMIN,), _scopes(request.source, table))


def _to_clone(request: Any, table: RoutingTable) -> Iterator[Requirement]:
    """The right on the database, as for any restoration."""
    yield Requirement((ADMIN,), tuple(scope[:2] for scope in _scopes(request.source, table)))


def _to_update_collection(request: Any, table: RoutingTable) -> Iterator[Requirement]:
    """The right on the collection, and also on the name that it is to have."""
    yield Requirement((ADMIN,), _scopes(request.collection, table))
    if request.HasField("new_name"):
        yield Requirement((ADMIN,), _scopes(request.collection, table, request.new_name))


def _to_create_key(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
    """Nobody gives what he has not: a key never leads to one that may do more."""
    for grant in request.grants:
        scopes = (scope_of(grant.scope),)
        yield Requirement((ADMIN,), scopes)
        for right in grant.rights:
            yield Requirement((right,), scopes)
    if not request.grants:
        yield Requirement((ADMIN,), None)


def _to_revoke_key(request: Any, table: RoutingTable) -> Iterator[Requirement]:
    """The right on all that the key is for; on everything for a key that is not known."""
    key = table.api_key(request.id)
    grants = () if key is None else key.description.grants
    for grant in grants:
        yield Requirement((ADMIN,), (scope_of(grant.scope),))
    if not grants:
        yield Requirement((ADMIN,), (CLUSTER,))


def _scope_of_quota(request: Any) -> Scope | None:
    """The scope of a quota; None for that of a key."""
    if request.subject.WhichOneof("subject") == "scope":
        return scope_of(request.subject.scope)
    return None


def _to_set_quota(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
    """The right on what is around: nobody allows himself more than he was given."""
    scope = _scope_of_quota(request)
    yield Requirement((ADMIN,), (scope[:-1] if scope else CLUSTER,))


def _to_get_quota(request: Any, _table: RoutingTable) -> Iterator[Requirement]:
    yield Requirement((ADMIN,), (_scope_of_quota(request) or CLUSTER,))


def _scopes(
    reference: collection_pb2.CollectionReference, table: RoutingTable, new_name: str | None = None
) -> tuple[Scope, ...]:
    """Where a right gives a right on the collection that is referred to.

    Args:
        reference: To the collection.
        table: Tells whose UUID it is.
        new_name: Instead of the collection's own.
    """
    if reference.WhichOneof("target") != "id":
        tenant = reference.tenant or DEFAULT_TENANT
        database = reference.database or DEFAULT_DATABASE
        return ((tenant, database, reference.name if new_name is None else new_name),)
    # Only what is stated: the service holds a UUID against that, and not against defaults.
    stated = ((reference.tenant,) if reference.tenant else ()) + (
        (reference.database,) if reference.tenant and reference.database else ()
    )
    route = table.collection(reference.id)
    if route is None:
        return (stated,)
    known = route.entry.collection
    return (stated, (known.tenant, known.database, known.name if new_name is None else new_name))


_READ_RECORDS: Final = _on_collection((READ,))
_WRITE_RECORDS: Final = _on_collection((WRITE,))

RULES: Final[Mapping[str, Rule]] = {
    "shoal.v1.RecordService/Add": _WRITE_RECORDS,
    "shoal.v1.RecordService/Upsert": _WRITE_RECORDS,
    "shoal.v1.RecordService/Update": _WRITE_RECORDS,
    # Its dry run tells how many records match, and so what they hold.
    "shoal.v1.RecordService/UpdateWhere": _on_collection((READ,), (WRITE,)),
    "shoal.v1.RecordService/Delete": _WRITE_RECORDS,
    "shoal.v1.RecordService/Get": _READ_RECORDS,
    "shoal.v1.RecordService/Count": _READ_RECORDS,
    "shoal.v1.RecordService/ListIds": _READ_RECORDS,
    "shoal.v1.RecordService/Query": _READ_RECORDS,
    "shoal.v1.RecordService/Search": _READ_RECORDS,
    "shoal.v1.CollectionService/CreateCollection": _on_new_collection(ADMIN),
    "shoal.v1.CollectionService/GetCollection": _on_collection(ANY),
    # Those that the caller has no right on are left out.
    "shoal.v1.CollectionService/ListCollections": _in_database,
    "shoal.v1.CollectionService/CountCollections": _in_database,
    "shoal.v1.CollectionService/UpdateCollection": _to_update_collection,
    "shoal.v1.CollectionService/DeleteCollection": _on_collection((ADMIN,)),
    "shoal.v1.AdminService/Heartbeat": _with_a_key(),
    "shoal.v1.AdminService/GetVersion": _with_a_key(),
    "shoal.v1.AdminService/GetLimits": _with_a_key(),
    # Names every collection, and every worker.
    "shoal.v1.AdminService/GetStatus": _on_cluster(READ, ADMIN),
    "shoal.v1.AdminService/Reset": _on_cluster(ADMIN),
    "shoal.v1.AdminService/CreateTenant": _on_tenant_named("name", ADMIN),
    "shoal.v1.AdminService/GetTenant": _on_tenant_named("name", *ANY),
    "shoal.v1.AdminService/CreateDatabase": _on_database_named("name", ADMIN),
    "shoal.v1.AdminService/GetDatabase": _on_database_named("name", *ANY),
    "shoal.v1.AdminService/ListDatabases": _on_tenant_named("tenant", *ANY),
    "shoal.v1.AdminService/DeleteDatabase": _on_database_named("name", ADMIN),
    "shoal.v1.AdminService/CreateApiKey": _to_create_key,
    # Those that the caller has no right on are left out.
    "shoal.v1.AdminService/ListApiKeys": _anywhere(ADMIN),
    "shoal.v1.AdminService/RevokeApiKey": _to_revoke_key,
    "shoal.v1.AdminService/SetQuota": _to_set_quota,
    "shoal.v1.AdminService/GetQuota": _to_get_quota,
    "shoal.v1.AdminService/ListQuotas": _anywhere(ADMIN),
    "shoal.v1.SnapshotService/CreateSnapshot": _to_create_snapshot,
    "shoal.v1.SnapshotService/GetSnapshot": _on_snapshot(*ANY),
    "shoal.v1.SnapshotService/ListSnapshots": _on_database_named("database", *ANY),
    "shoal.v1.SnapshotService/DeleteSnapshot": _on_snapshot(ADMIN),
    "shoal.v1.SnapshotService/RestoreSnapshot": _on_snapshot(ADMIN),
    "shoal.v1.SnapshotService/CloneCollection": _to_clone,
    # A backup holds everything, keys and quotas too.
    "shoal.v1.SnapshotService/CreateBackup": _on_cluster(ADMIN),
    "shoal.v1.SnapshotService/GetBackup": _on_cluster(ADMIN),
    "shoal.v1.SnapshotService/ListBackups": _on_cluster(ADMIN),
    "shoal.v1.SnapshotService/DeleteBackup": _on_cluster(ADMIN),
    "shoal.v1.SnapshotService/RestoreBackup": _on_cluster(ADMIN),
}
"""By the method's full name. A method that is missing is refused to everybody."""
