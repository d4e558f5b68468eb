"""API keys by RPC: made here, so that the key itself never goes further than to its creator."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shoal.internal.v1 import catalog_service_pb2
from shoal.server.keys import ID_PATTERN, ApiKey
from shoal.server.rpc import CallContext
from shoal.server.scopes import check_scope, scope_of
from shoal.v1 import admin_service_pb2
from shoal.wire.validation import invalid, shown
from shoal_gateway import tokens
from shoal_gateway.access import Caller
from shoal_gateway.collections import MAX_PAGE
from shoal_gateway.coordinator import ask
from shoal_gateway.rights import ADMIN
from shoal_gateway.table import RoutingTable

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["ApiKeys"]

_MAX_NAME_CHARACTERS: Final = 256
_MAX_GRANTS: Final = 100
"""Of one key: each is looked at in every call."""

_RIGHTS: Final = (
    admin_service_pb2.RIGHT_READ,
    admin_service_pb2.RIGHT_WRITE,
    admin_service_pb2.RIGHT_ADMIN,
)


class ApiKeys:
    """Creates, lists and revokes API keys. Whether the caller may was decided before.

    Args:
        table: The watched table.
        catalog: The coordinator's.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        table: RoutingTable,
        catalog: CatalogServiceAsyncStub,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._catalog = catalog
        self._now = now

    async def create(
        self, request: admin_service_pb2.CreateApiKeyRequest, context: CallContext
    ) -> admin_service_pb2.CreateApiKeyResponse:
        """Make a key, and have the coordinator take it in.

        Raises:
            InvalidArgumentError: It would grant nothing, or what is no right or no scope.
        """
        if len(request.name) > _MAX_NAME_CHARACTERS or not request.name.isprintable():
            raise invalid(
                "name", f"name must be at most {_MAX_NAME_CHARACTERS} printable characters"
            )
        if not 1 <= len(request.grants) <= _MAX_GRANTS:
            raise invalid(
                "grants",
                f"{len(request.grants)} grants are given: 1 to {_MAX_GRANTS} would be right",
            )
        if request.HasField("expires_at"):
            self._check_end(request)
        key = ApiKey.generate()
        description = admin_service_pb2.ApiKey(
            id=key.key_id,
            name=request.name,
            grants=[_checked(g, f"grants[{n}]") for n, g in enumerate(request.grants)],
            expires_at=request.expires_at if request.HasField("expires_at") else None,
        )
        context.check()
        creation = catalog_service_pb2.CreateApiKeyRequest(
            description=description, secret_sha256=key.digest
        )
        answer = await ask(self._catalog.CreateApiKey, creation, context)
        return admin_service_pb2.CreateApiKeyResponse(
            key=key.text, description=answer.entry.description
        )

    async def list(
        self, request: admin_service_pb2.ListApiKeysRequest, context: CallContext
    ) -> admin_service_pb2.ListApiKeysResponse:
        """List the keys that the caller could revoke."""
        limit = min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE
        belongs_to = tokens.digest([b"list_api_keys"])
        start = tokens.decode_page(request.page_token, belongs_to)
        found = [
            entry
            for entry in self._table.api_keys()
            if (start is None or entry.creation_number > start.ordinal)
            and _may_manage(context.caller, entry.description)
        ]
        page = found[:limit]
        next_page_token = ""
        if page and len(found) > limit:
            last = tokens.Page(page[-1].creation_number, page[-1].description.id)
            next_page_token = tokens.encode_page(last, belongs_to)
        return admin_service_pb2.ListApiKeysResponse(
            api_keys=[entry.description for entry in page], next_page_token=next_page_token
        )

    async def revoke(
        self, request: admin_service_pb2.RevokeApiKeyRequest, context: CallContext
    ) -> admin_service_pb2.RevokeApiKeyResponse:
        """Have the coordinator remove a key.

        Raises:
            InvalidArgumentError: That is no key's ID; perhaps the key itself, which is not repeated
                in the message.
            NotFoundError: There is no such key.
        """
        if not ID_PATTERN.fullmatch(request.id):
            raise invalid(
                "id",
                "id is not the ID of an API key: the 16 characters between `shoal_` and the next "
                "`_` of the key would be right",
            )
        revocation = catalog_service_pb2.RevokeApiKeyRequest(id=request.id)
        await ask(self._catalog.RevokeApiKey, revocation, context)
        return admin_service_pb2.RevokeApiKeyResponse()

    def _check_end(self, request: admin_service_pb2.CreateApiKeyRequest) -> None:
        end = request.expires_at
        if not 0 <= end.nanos < 1_000_000_000 or end.seconds > 253_402_300_799:
            raise invalid("expires_at", "expires_at is no time")
        if end.seconds + end.nanos / 1e9 <= self._now():
            raise invalid("expires_at", "expires_at has passed: a time to come would be right")


def _checked(grant: admin_service_pb2.Grant, field: str) -> admin_service_pb2.Grant:
    rights = list(grant.rights)
    if not rights or len(set(rights)) != len(rights) or not set(rights) <= set(_RIGHTS):
        raise invalid(
            f"{field}.rights",
            f"{field}.rights is {shown(str(rights))}: at least one of RIGHT_READ, RIGHT_WRITE and "
            "RIGHT_ADMIN, each once, would be right",
        )
    return admin_service_pb2.Grant(scope=check_scope(grant.scope, f"{field}.scope"), rights=rights)


def _may_manage(caller: object, description: admin_service_pb2.ApiKey) -> bool:
    """Whether a caller has the right on all that a key is for; without authentication, all may."""
    if not isinstance(caller, Caller):
        return caller is None
    return all(caller.may(ADMIN, scope_of(grant.scope)) for grant in description.grants)
