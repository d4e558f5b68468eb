"""API keys and quotas, as the client takes and gives them.

A scope is the cluster, or a part of it by name: ``{}`` is everything, ``{"tenant": "acme"}`` a
tenant, ``{"database": "shop"}`` a database of the default tenant, ``{"collection": "books"}`` a
collection of the default database.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict

from shoal._defaults import DEFAULT_DATABASE, DEFAULT_TENANT
from shoal._requests import checked_name
from shoal.v1 import admin_service_pb2
from shoal.wire.validation import invalid

__all__ = ["ApiKeyInfo", "CreatedApiKey", "Grant", "QuotaInfo", "QuotaLimits", "Right", "Scope"]

Right: TypeAlias = Literal["read", "write", "admin"]
"""What a key may do with what it is for; none includes another."""


class Scope(TypedDict, total=False):
    """A part of the cluster, by names; without any, all of it."""

    tenant: str
    database: str
    collection: str


class Grant(Scope):
    """Rights on a scope."""

    rights: Sequence[Right]


class ApiKeyInfo(TypedDict):
    """An API key as the server knows it, without its secret.

    Attributes:
        id: Names the key; not secret.
        name: What its creator calls it.
        grants: What it may do; the sum of all.
        created_at: When it was created.
        expires_at: From when on it is refused; None: never.
        bootstrap: Whether it is the key that the coordinator was started with.
    """

    id: str
    name: str
    grants: list[Grant]
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    bootstrap: bool


class CreatedApiKey(ApiKeyInfo):
    """A key that was just created.

    Attributes:
        key: The key itself, which the server does not keep: this is the only time that it is told.
    """

    key: str


class QuotaLimits(TypedDict, total=False):
    """What a quota allows; what is not stated is not limited, 0 allows nothing.

    Attributes:
        requests_per_second: Calls, over all gateways.
        records_per_second: Records that are sent to be written.
        max_collections: Collections.
        max_records: Records that are stored.
        max_bytes: Bytes of files.
        max_snapshots: Snapshots.
    """

    requests_per_second: float
    records_per_second: float
    max_collections: int
    max_records: int
    max_bytes: int
    max_snapshots: int


class QuotaInfo(TypedDict):
    """A quota.

    Attributes:
        scope: Whose it is; None for an API key's.
        api_key_id: The key whose it is; None for a scope's.
        limits: What it allows.
        usage: What is used of it, as far as it is known, by ``collections``, ``records``, ``bytes``
            and ``snapshots``; None where nothing is counted.
    """

    scope: Scope | None
    api_key_id: str | None
    limits: QuotaLimits
    usage: dict[str, int] | None


_RIGHTS: Final[Mapping[str, admin_service_pb2.Right.ValueType]] = {
    "read": admin_service_pb2.RIGHT_READ,
    "write": admin_service_pb2.RIGHT_WRITE,
    "admin": admin_service_pb2.RIGHT_ADMIN,
}
_RIGHT_NAMES: Final[Mapping[int, Right]] = {
    admin_service_pb2.RIGHT_READ: "read",
    admin_service_pb2.RIGHT_WRITE: "write",
    admin_service_pb2.RIGHT_ADMIN: "admin",
}
_RATES: Final = ("requests_per_second", "records_per_second")
_TOTALS: Final = ("max_collections", "max_records", "max_bytes", "max_snapshots")
_USAGE: Final = ("collections", "records", "bytes", "snapshots")
_UINT64_MAX: Final = 2**64 - 1


def scope_message(names: Mapping[str, Any], field: str) -> admin_service_pb2.Scope:
    """Make the message of a scope; an outer name that is left out is the default.

    Raises:
        InvalidArgumentError: There is an unknown name, or one that is no name.
    """
    unknown = names.keys() - {"tenant", "database", "collection"}
    if unknown:
        raise invalid(
            field, f"{field} has {min(unknown)!r}: tenant, database, collection are known"
        )
    given = {key: value for key, value in names.items() if value is not None}
    tenant = given.get("tenant", DEFAULT_TENANT)
    database = given.get("database", DEFAULT_DATABASE)
    if "collection" in given:
        return admin_service_pb2.Scope(
            level=admin_service_pb2.SCOPE_LEVEL_COLLECTION,
            tenant=checked_name("tenant", tenant),
            database=checked_name("database", database),
            collection=checked_name("collection", given["collection"]),
        )
    if "database" in given:
        return admin_service_pb2.Scope(
            level=admin_service_pb2.SCOPE_LEVEL_DATABASE,
            tenant=checked_name("tenant", tenant),
            database=checked_name("database", database),
        )
    if "tenant" in given:
        return admin_service_pb2.Scope(
            level=admin_service_pb2.SCOPE_LEVEL_TENANT, tenant=checked_name("tenant", tenant)
        )
    return admin_service_pb2.Scope(level=admin_service_pb2.SCOPE_LEVEL_CLUSTER)


def _scope(message: admin_service_pb2.Scope) -> Scope:
    scope: Scope = {}
    if message.tenant:
        scope["tenant"] = message.tenant
    if message.database:
        scope["database"] = message.database
    if message.collection:
        scope["collection"] = message.collection
    return scope


def grant_messages(grants: Any) -> list[admin_service_pb2.Grant]:
    """Make the messages of grants.

    Raises:
        InvalidArgumentError: One has no rights, or one that is unknown, or a wrong scope.
    """
    if isinstance(grants, Mapping):
        grants = [grants]
    if not isinstance(grants, Sequence) or isinstance(grants, str) or not grants:
        raise invalid("grants", "grants must be a list of dicts, each with its rights")
    made = []
    for position, grant in enumerate(grants):
        field = f"grants[{position}]"
        if not isinstance(grant, Mapping):
            raise invalid(field, f"{field} must be a dict, got {type(grant).__name__}")
        rights = grant.get("rights")
        if isinstance(rights, str):
            rights = [rights]
        if not isinstance(rights, Sequence) or not rights or not set(rights) <= _RIGHTS.keys():
            raise invalid(
                f"{field}.rights",
                f"{field}['rights'] is {rights!r}: at least one of 'read', 'write' and 'admin' "
                "would be right",
            )
        names = {key: value for key, value in grant.items() if key != "rights"}
        made.append(
            admin_service_pb2.Grant(
                scope=scope_message(names, field), rights=[_RIGHTS[right] for right in rights]
            )
        )
    return made


def api_key_info(message: admin_service_pb2.ApiKey) -> ApiKeyInfo:
    """Describe a key."""
    utc = datetime.UTC
    return {
        "id": message.id,
        "name": message.name,
        "grants": [
            {**_scope(grant.scope), "rights": [_RIGHT_NAMES[right] for right in grant.rights]}
            for grant in message.grants
        ],
        "created_at": message.created_at.ToDatetime(tzinfo=utc),
        "expires_at": (
            message.expires_at.ToDatetime(tzinfo=utc) if message.HasField("expires_at") else None
        ),
        "bootstrap": message.bootstrap,
    }


def set_end(request: admin_service_pb2.CreateApiKeyRequest, expires_at: object) -> None:
    """Put the time from which on a key is refused into a request.

    Raises:
        InvalidArgumentError: It is no time, or one without a zone, which could be any.
    """
    if expires_at is None:
        return
    if not isinstance(expires_at, datetime.datetime) or expires_at.tzinfo is None:
        raise invalid(
            "expires_at", f"expires_at must be a datetime with a time zone, got {expires_at!r}"
        )
    request.expires_at.FromDatetime(expires_at)


def subject_message(
    scope: Mapping[str, Any] | None, api_key_id: str | None
) -> admin_service_pb2.QuotaSubject:
    """Make the message of whose a quota is.

    Raises:
        InvalidArgumentError: Neither or both are given.
    """
    if (scope is None) == (api_key_id is None):
        raise invalid("scope", "exactly one of scope and api_key_id is needed; scope={} is all")
    if scope is None:
        return admin_service_pb2.QuotaSubject(api_key_id=str(api_key_id))
    return admin_service_pb2.QuotaSubject(scope=scope_message(scope, "scope"))


def limits_message(limits: Any) -> admin_service_pb2.QuotaLimits:
    """Make the message of a quota's limits.

    Raises:
        InvalidArgumentError: There are none, or one is unknown, or not a number from 0 on.
    """
    if not isinstance(limits, Mapping) or not limits:
        raise invalid("limits", "limits must be a dict with at least one limit")
    message = admin_service_pb2.QuotaLimits()
    for name, value in limits.items():
        if name not in (*_RATES, *_TOTALS):
            known = ", ".join((*_RATES, *_TOTALS))
            raise invalid("limits", f"limits has {name!r}: {known} are known")
        kinds = (int, float) if name in _RATES else (int,)
        if type(value) not in kinds or not 0 <= value <= _UINT64_MAX:
            raise invalid(
                f"limits.{name}", f"limits[{name!r}] is {value!r}: a number from 0 on is right"
            )
        setattr(message, name, value)
    return message


def quota_info(message: admin_service_pb2.Quota) -> QuotaInfo:
    """Describe a quota."""
    is_of_key = message.subject.WhichOneof("subject") == "api_key_id"
    limits: Any = {
        name: getattr(message.limits, name)
        for name in (*_RATES, *_TOTALS)
        if message.limits.HasField(name)
    }
    return {
        "scope": None if is_of_key else _scope(message.subject.scope),
        "api_key_id": message.subject.api_key_id if is_of_key else None,
        "limits": limits,
        "usage": (
            {name: getattr(message.usage, name) for name in _USAGE}
            if message.HasField("usage")
            else None
        ),
    }
