"""What callers with and without rights are answered, by the services themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shoal.errors import (
    CollectionNotFoundError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ShoalError,
    UnauthenticatedError,
)
from shoal.server.keys import ApiKey
from shoal.server.rpc import LocalService
from shoal.v1 import admin_service_pb2, collection_service_pb2, record_service_pb2
from shoal_coordinator.api_keys import ApiKeys
from shoal_gateway.access import Access
from tests.gateway.cluster import Cluster
from tests.security.test_rights import grant

READ, WRITE, ADMIN = (
    admin_service_pb2.RIGHT_READ,
    admin_service_pb2.RIGHT_WRITE,
    admin_service_pb2.RIGHT_ADMIN,
)
HOME = ("default_tenant", "default_database")
BOOKS = (*HOME, "books")


class Caller:
    """Calls a cluster's gateway with a key."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        gateway = cluster.gateway
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        access = Access(gateway.table)
        self._services = {
            name.rpartition(".")[2]: LocalService(name, instance, guard=access)
            for name, instance in gateway.services.items()
        }

    async def __call__(self, method: str, request: Any) -> Any:
        service, _, name = method.partition("/")
        return await getattr(self._services[service], name)(request, metadata=self._metadata)

    async def refusal(self, method: str, request: Any) -> tuple[str, str, str, dict[str, str]]:
        with pytest.raises(ShoalError) as caught:
            await self(method, request)
        return caught.value.code, caught.value.reason, caught.value.message, caught.value.metadata

    async def create_key(self, *grants: admin_service_pb2.Grant, name: str = "") -> str:
        request = admin_service_pb2.CreateApiKeyRequest(name=name, grants=grants)
        key: str = (await self("AdminService/CreateApiKey", request)).key
        return key

    async def list_keys(self) -> Sequence[str]:
        answer = await self("AdminService/ListApiKeys", admin_service_pb2.ListApiKeysRequest())
        return [key.name for key in answer.api_keys]


async def administrator(cluster: Cluster) -> Caller:
    """A caller with the bootstrap key."""
    key = ApiKey.generate()
    api_keys: ApiKeys = cluster.coordinator.catalog_service._api_keys
    await api_keys.set_bootstrap(key)
    await cluster.gateway.table.wait_until(
        lambda: cluster.gateway.table.api_key(key.key_id) is not None, 5
    )
    return Caller(cluster, key.text)


def count(name: str = "", collection_id: str = "") -> record_service_pb2.CountRequest:
    request = record_service_pb2.CountRequest()
    if collection_id:
        request.collection.id = collection_id
    else:
        request.collection.name = name
    return request


async def test_nobody_gets_in_without_a_key(cluster: Cluster) -> None:
    await administrator(cluster)
    await cluster.create("books")
    for key in ("", "junk", ApiKey.generate().text):
        with pytest.raises(UnauthenticatedError):
            await Caller(cluster, key)("RecordService/Count", count("books"))


async def test_a_strangers_request_is_not_even_read(cluster: Cluster) -> None:
    service = LocalService(
        "shoal.v1.RecordService",
        cluster.gateway.record_service,
        guard=Access(cluster.gateway.table),
    )
    with pytest.raises(UnauthenticatedError):
        await service.answer_bytes("Count", b"\xff no message", 5)


async def test_a_key_for_one_collection_sees_nothing_else(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    books, films = await cluster.create("books"), await cluster.create("films")
    reader = Caller(cluster, await admin.create_key(grant(BOOKS, READ)))
    assert (await reader("RecordService/Count", count("books"))).count == 0
    assert (await reader("RecordService/Count", count(collection_id=books))).count == 0
    refusals = [
        await reader.refusal("RecordService/Count", request)
        for request in (
            count("films"),
            count("nothing"),
            count(collection_id=films),
            count(collection_id="7f8b1a1e-0000-4000-8000-000000000001"),
            count(collection_id="no UUID"),
            record_service_pb2.CountRequest(),
        )
    ]
    assert refusals[0][0] == "PERMISSION_DENIED"
    assert all(refusal == refusals[0] for refusal in refusals)


async def test_a_key_for_a_database_is_not_told_of_collections_elsewhere(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    await cluster.create("books")
    database = admin_service_pb2.CreateDatabaseRequest(name="other")
    await admin("AdminService/CreateDatabase", database)
    creation = collection_service_pb2.CreateCollectionRequest(name="hidden", database="other")
    hidden = await admin("CollectionService/CreateCollection", creation)
    reader = Caller(cluster, await admin.create_key(grant(HOME, READ)))
    answers = []
    for collection_id in (hidden.collection.id, "7f8b1a1e-0000-4000-8000-000000000001"):
        request = count(collection_id=collection_id)
        assert (await reader.refusal("RecordService/Count", request))[0] == "PERMISSION_DENIED"
        request.collection.tenant, request.collection.database = HOME
        with pytest.raises(CollectionNotFoundError) as caught:
            await reader("RecordService/Count", request)
        answers.append(caught.value.message.replace(collection_id, "ID"))
    assert answers[0] == answers[1]


async def test_a_revoked_key_is_refused_when_the_revocation_is_answered(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    key = await admin.create_key(grant((), READ))
    reader = Caller(cluster, key)
    version = admin_service_pb2.GetVersionRequest()
    await reader("AdminService/GetVersion", version)
    revocation = admin_service_pb2.RevokeApiKeyRequest(id=key.split("_")[1])
    await admin("AdminService/RevokeApiKey", revocation)
    with pytest.raises(UnauthenticatedError):
        await reader("AdminService/GetVersion", version)
    with pytest.raises(NotFoundError):
        await admin("AdminService/RevokeApiKey", revocation)


async def test_keys_are_listed_and_revoked_by_who_may_do_all_that_they_are_for(
    cluster: Cluster,
) -> None:
    admin = await administrator(cluster)
    manager = Caller(
        cluster, await admin.create_key(grant(HOME, READ, ADMIN), name="manager of home")
    )
    theirs = await admin.create_key(grant(("acme",), READ), name="acme's")
    both = await admin.create_key(grant(BOOKS, READ), grant(("acme",), READ), name="both")
    own = await manager.create_key(grant(BOOKS, READ), name="of books")
    assert await admin.list_keys() == [
        "bootstrap",
        "manager of home",
        "acme's",
        "both",
        "of books",
    ]
    assert await manager.list_keys() == ["manager of home", "of books"]
    for key in (theirs, both, ApiKey.generate().text):
        request = admin_service_pb2.RevokeApiKeyRequest(id=key.split("_")[1])
        refusal = await manager.refusal("AdminService/RevokeApiKey", request)
        assert refusal[0] == "PERMISSION_DENIED"
    await manager(
        "AdminService/RevokeApiKey", admin_service_pb2.RevokeApiKeyRequest(id=own.split("_")[1])
    )
    with pytest.raises(PermissionDeniedError):
        await manager.create_key(grant(BOOKS, WRITE))
    with pytest.raises(PermissionDeniedError):
        await Caller(cluster, theirs).list_keys()


async def test_no_answer_holds_a_secret_but_that_of_the_creation(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    key = ApiKey.parse(await admin.create_key(grant((), READ)))
    assert key is not None
    listed = await admin("AdminService/ListApiKeys", admin_service_pb2.ListApiKeysRequest())
    told = listed.SerializeToString()
    assert key.key_id.encode() in told
    assert key.secret.hex().encode() not in told
    assert key.secret not in told
    assert key.digest not in told


async def test_keys_are_listed_page_by_page(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    for number in range(4):
        await admin.create_key(grant((), READ), name=str(number))
    names: list[str] = []
    request = admin_service_pb2.ListApiKeysRequest(limit=2)
    while True:
        answer = await admin("AdminService/ListApiKeys", request)
        names += [key.name for key in answer.api_keys]
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert names == ["bootstrap", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_service_pb2.CreateApiKeyRequest(), "grants"),
        (admin_service_pb2.CreateApiKeyRequest(grants=[grant((), READ)] * 101), "grants"),
        (admin_service_pb2.CreateApiKeyRequest(grants=[grant(())]), "grants[0].rights"),
        (admin_service_pb2.CreateApiKeyRequest(grants=[grant((), READ, READ)]), "grants[0].rights"),
        (
            admin_service_pb2.CreateApiKeyRequest(
                grants=[grant((), READ), admin_service_pb2.Grant(rights=[READ])]
            ),
            "grants[1].scope.level",
        ),
        (
            admin_service_pb2.CreateApiKeyRequest(
                grants=[
                    admin_service_pb2.Grant(
                        scope=admin_service_pb2.Scope(
                            level=admin_service_pb2.SCOPE_LEVEL_TENANT, collection="books"
                        ),
                        rights=[READ],
                    )
                ]
            ),
            "grants[0].scope.collection",
        ),
        (
            admin_service_pb2.CreateApiKeyRequest(grants=[grant((*HOME, "../x"), READ)]),
            "grants[0].scope.collection",
        ),
        (
            admin_service_pb2.CreateApiKeyRequest(name="\x1b[31m", grants=[grant((), READ)]),
            "name",
        ),
    ],
    ids=("none", "too many", "no right", "twice", "no level", "beneath", "no name", "control"),
)
async def test_a_key_that_makes_no_sense_is_refused(
    cluster: Cluster, request_: Any, field: str
) -> None:
    admin = await administrator(cluster)
    with pytest.raises(InvalidArgumentError) as caught:
        await admin("AdminService/CreateApiKey", request_)
    assert caught.value.violations[0].field == field


async def test_a_key_may_not_have_ended_before_it_begins(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    request = admin_service_pb2.CreateApiKeyRequest(grants=[grant((), READ)])
    request.expires_at.FromSeconds(1)
    with pytest.raises(InvalidArgumentError, match="has passed"):
        await admin("AdminService/CreateApiKey", request)


async def test_the_bootstrap_key_is_replaced_where_it_stands_and_not_by_rpc(
    cluster: Cluster,
) -> None:
    former = await administrator(cluster)
    admin = await administrator(cluster)
    with pytest.raises(UnauthenticatedError):
        await former.list_keys()
    (listed,) = (
        await admin("AdminService/ListApiKeys", admin_service_pb2.ListApiKeysRequest())
    ).api_keys
    assert listed.bootstrap
    with pytest.raises(FailedPreconditionError):
        await admin(
            "AdminService/RevokeApiKey", admin_service_pb2.RevokeApiKeyRequest(id=listed.id)
        )


async def test_without_authentication_all_may_do_all(cluster: Cluster) -> None:
    request = admin_service_pb2.CreateApiKeyRequest(grants=[grant((), READ)])
    service = LocalService(
        "shoal.v1.AdminService", cluster.gateway.admin_service, guard=cluster.gateway.guard
    )
    await getattr(service, "CreateApiKey")(request)  # noqa: B009 - its methods have no types
    assert len(cluster.gateway.table.api_keys()) == 1
