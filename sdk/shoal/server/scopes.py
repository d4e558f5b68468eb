"""Scopes: parts of what the cluster holds, by names; what API keys and quotas are about.

A scope is the tuple of its names, from the tenant down: ``()`` is the whole cluster, ``("a",)`` a
tenant, ``("a", "b")`` a database, ``("a", "b", "c")`` a collection. One covers another if it is the
beginning of it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from shoal.v1 import admin_service_pb2
from shoal.wire.validation import check_name, invalid

__all__ = ["CLUSTER", "Scope", "check_scope", "covers", "scope_of"]

Scope: TypeAlias = tuple[str, ...]

CLUSTER: Final[Scope] = ()
"""Everything."""

_NAMES: Final = ("tenant", "database", "collection")
_DEFAULTS: Final = ("default_tenant", "default_database", "")
_NAME_COUNTS: Final = {
    admin_service_pb2.SCOPE_LEVEL_CLUSTER: 0,
    admin_service_pb2.SCOPE_LEVEL_TENANT: 1,
    admin_service_pb2.SCOPE_LEVEL_DATABASE: 2,
    admin_service_pb2.SCOPE_LEVEL_COLLECTION: 3,
}


def covers(outer: Scope, inner: Scope) -> bool:
    """Whether everything in `inner` is in `outer`."""
    return inner[: len(outer)] == outer


def scope_of(message: admin_service_pb2.Scope) -> Scope:
    """Read a scope; one of no known level is the whole cluster, which the fewest may touch."""
    count = _NAME_COUNTS.get(message.level, 0)
    names = (message.tenant, message.database, message.collection)
    return tuple(name or default for name, default in zip(names, _DEFAULTS, strict=True))[:count]


def check_scope(message: admin_service_pb2.Scope, field: str) -> admin_service_pb2.Scope:
    """Check a scope, and give it with its defaults filled in.

    Raises:
        InvalidArgumentError: It has no level, a name too many, or one that is no name.
    """
    if message.level not in _NAME_COUNTS:
        raise invalid(
            f"{field}.level",
            f"{field}.level is {message.level}: SCOPE_LEVEL_CLUSTER, SCOPE_LEVEL_TENANT, "
            "SCOPE_LEVEL_DATABASE or SCOPE_LEVEL_COLLECTION would be right",
        )
    scope = scope_of(message)
    for name in _NAMES[len(scope) :]:
        if getattr(message, name):
            raise invalid(
                f"{field}.{name}",
                f"{field}.{name} is set, but "
                f"{admin_service_pb2.ScopeLevel.Name(message.level)} has no {name}",
            )
    for name, value in zip(_NAMES, scope, strict=False):
        check_name(name, value, f"{field}.{name}")
    return admin_service_pb2.Scope(
        level=message.level,
        **dict(zip(_NAMES, scope, strict=False)),
    )
