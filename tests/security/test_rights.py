"""Rights: every public method needs one, and no answer tells what exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory

from shoal.errors import PermissionDeniedError, ShoalError
from shoal.internal.v1 import catalog_pb2, routing_service_pb2
from shoal.server.calls import Call
from shoal.server.methods import find_service
from shoal.server.scopes import Scope
from shoal.v1 import admin_service_pb2, collection_pb2
from shoal_gateway.access import Access, Caller
from shoal_gateway.rights import ADMIN, READ, RULES, WRITE
from shoal_gateway.table import RoutingTable
from tests.gateway.cluster import Cluster

PUBLIC = (
    "shoal.v1.RecordService",
    "shoal.v1.CollectionService",
    "shoal.v1.AdminService",
    "shoal.v1.SnapshotService",
)
RIGHTS = frozenset({READ, WRITE, ADMIN})
CLUSTER: Scope = ()
TENANT: Scope = ("acme",)
DATABASE: Scope = ("acme", "main")
BOOKS: Scope = ("acme", "main", "books")
KEY = "0123456789abcdef"
BOOKS_ID = "7f8b1a1e-0000-4000-8000-000000000001"
OTHER_ID = "7f8b1a1e-0000-4000-8000-000000000002"
NO_ID = "7f8b1a1e-0000-4000-8000-000000000003"

# To who has a right on a part, that part.
ANSWERED_IN_PART = frozenset(
    {"CollectionService/ListCollections", "CollectionService/CountCollections"}
)

# What each method needs, said a second time: the rights (one of each set), and on what.
NEEDED: dict[str, tuple[tuple[set[int], ...], Scope | None]] = {
    "RecordService/Add": (({WRITE},), BOOKS),
    "RecordService/Upsert": (({WRITE},), BOOKS),
    "RecordService/Update": (({WRITE},), BOOKS),
    "RecordService/UpdateWhere": (({READ}, {WRITE}), BOOKS),
    "RecordService/Delete": (({WRITE},), BOOKS),
    "RecordService/Get": (({READ},), BOOKS),
    "RecordService/Count": (({READ},), BOOKS),
    "RecordService/ListIds": (({READ},), BOOKS),
    "RecordService/Query": (({READ},), BOOKS),
    "RecordService/Search": (({READ},), BOOKS),
    "CollectionService/CreateCollection": (({ADMIN},), BOOKS),
    "CollectionService/GetCollection": (({READ, WRITE, ADMIN},), BOOKS),
    "CollectionService/ListCollections": (({READ, WRITE, ADMIN},), DATABASE),
    "CollectionService/CountCollections": (({READ, WRITE, ADMIN},), DATABASE),
    "CollectionService/UpdateCollection": (({ADMIN},), BOOKS),
    "CollectionService/DeleteCollection": (({ADMIN},), BOOKS),
    "AdminService/Heartbeat": ((), None),
    "AdminService/GetVersion": ((), None),
    "AdminService/GetLimits": ((), None),
    "AdminService/GetStatus": (({READ, ADMIN},), CLUSTER),
    "AdminService/Reset": (({ADMIN},), CLUSTER),
    "AdminService/CreateTenant": (({ADMIN},), TENANT),
    "AdminService/GetTenant": (({READ, WRITE, ADMIN},), TENANT),
    "AdminService/CreateDatabase": (({ADMIN},), DATABASE),
    "AdminService/GetDatabase": (({READ, WRITE, ADMIN},), DATABASE),
    "AdminService/ListDatabases": (({READ, WRITE, ADMIN},), TENANT),
    "AdminService/DeleteDatabase": (({ADMIN},), DATABASE),
    "AdminService/CreateApiKey": (({ADMIN}, {READ}), BOOKS),
    "AdminService/ListApiKeys": (({ADMIN},), None),
    "AdminService/RevokeApiKey": (({ADMIN},), BOOKS),
    # That of BOOKS: nobody sets his own.
    "AdminService/SetQuota": (({ADMIN},), DATABASE),
    "AdminService/GetQuota": (({ADMIN},), BOOKS),
    "AdminService/ListQuotas": (({ADMIN},), None),
    "SnapshotService/CreateSnapshot": (({ADMIN},), BOOKS),
    "SnapshotService/GetSnapshot": (({READ, WRITE, ADMIN},), DATABASE),
    "SnapshotService/ListSnapshots": (({READ, WRITE, ADMIN},), DATABASE),
    "SnapshotService/DeleteSnapshot": (({ADMIN},), DATABASE),
    "SnapshotService/RestoreSnapshot": (({ADMIN},), DATABASE),
    "SnapshotService/CloneCollection": (({ADMIN},), DATABASE),
    "SnapshotService/CreateBackup": (({ADMIN},), CLUSTER),
    "SnapshotService/GetBackup": (({ADMIN},), CLUSTER),
    "SnapshotService/ListBackups": (({ADMIN},), CLUSTER),
    "SnapshotService/DeleteBackup": (({ADMIN},), CLUSTER),
    "SnapshotService/RestoreBackup": (({ADMIN},), CLUSTER),
}


def all_methods() -> dict[str, Any]:
    """The descriptors of all public methods, by full name."""
    return {
        f"{service}/{method.name}": method
        for service in PUBLIC
        for method in find_service(service).methods
    }


def grant(scope: Scope, *rights: int) -> admin_service_pb2.Grant:
    levels = (
        admin_service_pb2.SCOPE_LEVEL_CLUSTER,
        admin_service_pb2.SCOPE_LEVEL_TENANT,
        admin_service_pb2.SCOPE_LEVEL_DATABASE,
        admin_service_pb2.SCOPE_LEVEL_COLLECTION,
    )
    names = dict(zip(("tenant", "database", "collection"), scope, strict=False))
    return admin_service_pb2.Grant(
        scope=admin_service_pb2.Scope(level=levels[len(scope)], **names),
        rights=list(rights),  # type: ignore[arg-type]
    )


def table() -> RoutingTable:
    """A table with two collections and a key for one of them."""

    def entry(collection_id: str, scope: Scope) -> catalog_pb2.CollectionEntry:
        tenant, database, name = scope
        collection = collection_pb2.Collection(
            id=collection_id, tenant=tenant, database=database, name=name
        )
        return catalog_pb2.CollectionEntry(collection=collection)

    made = RoutingTable()
    key = admin_service_pb2.ApiKey(id=KEY, grants=[grant(BOOKS, READ)])
    made.apply(
        [
            routing_service_pb2.WatchTableResponse(
                version=1,
                collections=[entry(BOOKS_ID, BOOKS), entry(OTHER_ID, ("other", "main", "x"))],
                api_keys=[catalog_pb2.ApiKeyEntry(description=key)],
            )
        ]
    )
    return made


def request_for(method: str) -> Any:
    """A request about BOOKS, its database, or its tenant, as the method has it."""
    request: Any = message_factory.GetMessageClass(all_methods()[method].input_type)()
    fields = {field.name for field in request.DESCRIPTOR.fields}
    if "collection" in fields:
        request.collection.tenant, request.collection.database, request.collection.name = BOOKS
    if "source" in fields:
        request.source.tenant, request.source.database, request.source.name = BOOKS
    if "snapshot" in fields:
        request.snapshot.tenant, request.snapshot.database = DATABASE
    if "tenant" in fields:
        request.tenant = "acme"
    if "database" in fields:
        request.database = "main"
    if method.endswith("CreateCollection"):
        request.name = "books"
    if method.endswith("Tenant"):
        request.name = "acme"
    if method.endswith("Database"):
        request.name = "main"
    if method.endswith("CreateApiKey"):
        request.grants.append(grant(BOOKS, READ))
    if method.endswith(("SetQuota", "GetQuota")):
        request.subject.scope.CopyFrom(grant(BOOKS, READ).scope)
    if method.endswith("RevokeApiKey"):
        request.id = KEY
    return request


def may(method: str, request: Any, *grants: tuple[Scope, set[int]]) -> bool:
    call = Call(1)
    call.caller = Caller("k", tuple((scope, frozenset(rights)) for scope, rights in grants))
    try:
        Access(table()).check(method, request, call)
    except PermissionDeniedError:
        return False
    return True


def test_every_public_method_has_a_rule_and_nothing_else_has() -> None:
    assert set(RULES) == set(all_methods())
    assert {f"shoal.v1.{name}" for name in NEEDED} == set(all_methods())


@pytest.mark.parametrize("method", ["ListCollections", "CountCollections"])
def test_who_has_a_right_in_a_database_may_list_what_he_may_see(method: str) -> None:
    name = f"shoal.v1.CollectionService/{method}"
    request = request_for(name)
    assert may(name, request, (BOOKS, {READ}))
    assert may(name, request, ((*DATABASE, "not there"), {WRITE}))
    assert not may(name, request, (("acme", "other", "books"), {READ}))
    assert not may(name, request, (("other", "main"), {READ, WRITE, ADMIN}))
    # Other methods are not for parts.
    assert not may("shoal.v1.AdminService/GetDatabase", request_for(
        "shoal.v1.AdminService/GetDatabase"), (BOOKS, {READ}))  # fmt: skip


async def test_the_gateway_serves_no_other_service(cluster: Cluster) -> None:
    assert set(cluster.gateway.services) == set(PUBLIC)


@pytest.mark.parametrize("method", sorted(all_methods()))
def test_no_public_method_is_a_stream_which_no_guard_could_check(method: str) -> None:
    descriptor = all_methods()[method]
    assert not descriptor.client_streaming
    assert not descriptor.server_streaming


def outer_scopes(scope: Scope) -> Iterator[Scope]:
    for count in range(len(scope) + 1):
        yield scope[:count]


@pytest.mark.parametrize("method", sorted(NEEDED))
def test_a_method_needs_its_right_and_no_other(method: str) -> None:
    full_name = f"shoal.v1.{method}"
    needed, scope = NEEDED[method]
    request = request_for(full_name)
    assert may(full_name, request) == (not needed), "a key without grants"
    if not needed:
        return
    enough: set[int] = {min(one) for one in needed}
    for outer in outer_scopes(BOOKS if scope is None else scope):
        assert may(full_name, request, (outer, enough)), outer
        for one in needed:
            assert not may(full_name, request, (outer, set(RIGHTS - one))), (outer, one)
    if scope:
        beside = (*scope[:-1], "another")
        beneath = (*scope, "beneath")
        assert not may(full_name, request, (beside, set(RIGHTS)))
        assert may(full_name, request, (beneath, set(RIGHTS))) == (method in ANSWERED_IN_PART)
    if scope == CLUSTER:
        assert not may(full_name, request, (TENANT, set(RIGHTS)))


def test_rights_on_several_scopes_do_not_mix() -> None:
    request = request_for("shoal.v1.RecordService/UpdateWhere")
    other = ("acme", "main", "films")
    method = "shoal.v1.RecordService/UpdateWhere"
    assert not may(method, request, (BOOKS, {READ}), (other, {WRITE}))
    assert may(method, request, (BOOKS, {READ}), (DATABASE, {WRITE}))


def test_the_defaults_are_those_of_the_service() -> None:
    method = "shoal.v1.RecordService/Get"
    request = request_for(method)
    request.collection.tenant = request.collection.database = ""
    assert not may(method, request, (BOOKS, {READ}))
    assert may(method, request, (("default_tenant", "default_database", "books"), {READ}))


def test_a_method_without_a_rule_is_refused_to_everybody() -> None:
    assert not may("shoal.v1.RecordService/NewInTheNextRelease", None, (CLUSTER, set(RIGHTS)))


def test_a_collection_can_be_renamed_only_within_what_the_key_is_for() -> None:
    method = "shoal.v1.CollectionService/UpdateCollection"
    request = request_for(method)
    request.new_name = "films"
    films = ("acme", "main", "films")
    for by_id in (False, True):
        if by_id:
            request.collection.Clear()
            request.collection.id = BOOKS_ID
        assert not may(method, request, (BOOKS, {ADMIN}))
        assert not may(method, request, (films, {ADMIN}))
        assert may(method, request, (BOOKS, {ADMIN}), (films, {ADMIN}))
        assert may(method, request, (DATABASE, {ADMIN}))


def test_nobody_creates_a_key_that_may_more_than_his_own() -> None:
    method = "shoal.v1.AdminService/CreateApiKey"
    request = request_for(method)
    request.grants.append(grant(DATABASE, READ))
    assert not may(method, request, (BOOKS, set(RIGHTS)))
    assert not may(method, request, (DATABASE, {READ})), "without the right on keys"
    assert not may(method, request, (DATABASE, {ADMIN})), "a right that he has not"
    assert may(method, request, (DATABASE, {READ, ADMIN}))
    request.grants.add().rights.append(admin_service_pb2.RIGHT_READ)
    assert not may(method, request, (TENANT, set(RIGHTS))), "a scope of no level is everything"
    assert may(method, request, (CLUSTER, set(RIGHTS)))


def test_quotas_of_keys_and_of_everything_are_a_matter_of_the_cluster() -> None:
    for method in ("SetQuota", "GetQuota"):
        request = request_for(f"shoal.v1.AdminService/{method}")
        for subject in (
            admin_service_pb2.QuotaSubject(api_key_id=KEY),
            admin_service_pb2.QuotaSubject(scope=grant(CLUSTER, READ).scope),
            admin_service_pb2.QuotaSubject(),
        ):
            request.subject.CopyFrom(subject)
            assert not may(f"shoal.v1.AdminService/{method}", request, (TENANT, set(RIGHTS)))
            assert may(f"shoal.v1.AdminService/{method}", request, (CLUSTER, {ADMIN}))


def test_a_key_that_is_not_known_can_be_revoked_by_who_may_revoke_all() -> None:
    method = "shoal.v1.AdminService/RevokeApiKey"
    request = admin_service_pb2.RevokeApiKeyRequest(id="f" * 16)
    assert not may(method, request, (TENANT, set(RIGHTS)))
    assert may(method, request, (CLUSTER, {ADMIN}))


class TestByID:
    method = "shoal.v1.RecordService/Get"

    def request(self, collection_id: str, tenant: str = "", database: str = "") -> Any:
        request = request_for(self.method)
        request.collection.Clear()
        request.collection.id = collection_id
        request.collection.tenant, request.collection.database = tenant, database
        return request

    def test_a_key_for_one_collection_reaches_it_by_its_id(self) -> None:
        assert may(self.method, self.request(BOOKS_ID), (BOOKS, {READ}))
        assert may(self.method, self.request(BOOKS_ID, "acme", "main"), (BOOKS, {READ}))

    @pytest.mark.parametrize("stated", [(), ("acme",), ("acme", "main"), ("other",), ("x", "y")])
    def test_another_collection_is_refused_like_one_that_does_not_exist(
        self, stated: tuple[str, ...]
    ) -> None:
        for held in (BOOKS, DATABASE, TENANT):
            another = may(self.method, self.request(OTHER_ID, *stated), (held, {READ}))
            nobodys = may(self.method, self.request(NO_ID, *stated), (held, {READ}))
            assert another == nobodys, held

    def test_what_is_stated_must_be_what_the_key_is_for(self) -> None:
        # The service then says that it is not found there, for this one and for any other.
        assert may(self.method, self.request(OTHER_ID, "acme", "main"), (DATABASE, {READ}))
        assert not may(self.method, self.request(OTHER_ID, "other"), (DATABASE, {READ}))
        assert not may(self.method, self.request(OTHER_ID, "", "main"), (DATABASE, {READ}))

    def test_an_id_in_another_spelling_reaches_no_further(self) -> None:
        for spelling in (OTHER_ID.upper(), "{" + OTHER_ID + "}", f"urn:uuid:{OTHER_ID}"):
            assert not may(self.method, self.request(spelling), (BOOKS, {READ}), (TENANT, {READ}))


def test_a_refusal_is_the_same_whatever_exists() -> None:
    caller = Caller("k", ((BOOKS, RIGHTS),))
    answers = set()
    for name in ("x", "nothing", "books2", "\udcff"):
        for tenant in ("other", "nobody"):
            request = request_for("shoal.v1.RecordService/Get")
            request.collection.tenant = tenant
            if name.isascii():
                request.collection.name = name
            call = Call(1)
            call.caller = caller
            with pytest.raises(ShoalError) as caught:
                Access(table()).check("shoal.v1.RecordService/Get", request, call)
            error = caught.value
            answers.add((error.code, error.reason, error.message, str(error.metadata)))
    assert len(answers) == 1
