"""Who calls, and whether he may: before a request is read, and before it is served.

Keys are checked against the routing table alone, so that this works while the coordinator is down,
and a revoked key is refused as soon as the table says so. A refusal never depends on whether what
the request names exists: see `shoal_gateway.rights`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from shoal.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from shoal.internal.v1 import catalog_pb2
from shoal.server import metrics
from shoal.server.calls import Call
from shoal.server.keys import ApiKey, digest_matches
from shoal.server.scopes import Scope, covers, scope_of
from shoal_gateway.rights import RULES, Requirement
from shoal_gateway.table import RoutingTable

__all__ = ["Access", "Caller"]

_MAX_CREDENTIAL_CHARACTERS: Final = 256
_NO_DIGEST: Final = bytes(32)
"""What the secret of an unknown key is compared with, so that it takes as long as another."""

_failures: Final = metrics.counter(
    "shoal_gateway_access_failures",
    "Calls refused for their API key: missing, invalid, expired, or without the right.",
    ("why",),
)
_denied: Final = _failures.labels("denied")
_missing: Final = _failures.labels("missing")
_invalid: Final = _failures.labels("invalid")
_expired: Final = _failures.labels("expired")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, by his key.

    Attributes:
        key_id: Of the key.
        grants: Scopes, with the rights on them.
    """

    key_id: str
    grants: tuple[tuple[Scope, frozenset[int]], ...]

    @classmethod
    def of(cls, description: Any) -> Caller:
        """Prepare the description of a key (`shoal.v1.ApiKey`)."""
        return cls(
            description.id,
            tuple((scope_of(g.scope), frozenset(g.rights)) for g in description.grants),
        )

    def may(self, right: int, scope: Scope) -> bool:
        """Whether he has a right on all of a scope."""
        return any(right in rights and covers(outer, scope) for outer, rights in self.grants)

    def meets(self, requirement: Requirement) -> bool:
        """Whether he has one of the rights on one of the scopes."""
        if requirement.scopes is None:
            return any(r in rights for r in requirement.rights for _, rights in self.grants)
        if any(self.may(r, s) for r in requirement.rights for s in requirement.scopes):
            return True
        return requirement.or_within and any(
            covers(scope, inner) and not rights.isdisjoint(requirement.rights)
            for inner, rights in self.grants
            for scope in requirement.scopes
        )


class Access:
    """The guard of the public services where API keys are asked for.

    Args:
        table: Holds the keys.
        now: Seconds since 1970.
    """

    def __init__(self, table: RoutingTable, now: Callable[[], float] = time.time) -> None:
        self._table = table
        self._now = now
        # Prepared grants, by the entry that they are of: entries are replaced, never changed.
        self._callers: dict[str, tuple[catalog_pb2.ApiKeyEntry, Caller]] = {}

    def admit(self, method: str, call: Call) -> None:
        """Find out who calls; before the request is read.

        Raises:
            UnauthenticatedError: No valid key came with the call.
            UnavailableError: This gateway has no table yet.
        """
        if not self._table.version:
            raise UnavailableError(
                "this gateway has not reached the coordinator yet, and knows no API keys",
                retry_after_s=0.1,
            )
        call.caller = self._authenticate(call)

    def check(self, method: str, request: Message, call: Call) -> None:
        """Make sure that the caller may do this.

        Raises:
            PermissionDeniedError: He may not.
        """
        caller, rule = call.caller, RULES.get(method)
        if (
            rule is None
            or not isinstance(caller, Caller)
            or not all(caller.meets(needed) for needed in rule(request, self._table))
        ):
            _denied.inc()
            raise PermissionDeniedError(
                f"the API key does not allow {method} on what the request names",
                metadata={"method": method},
            )

    def _authenticate(self, call: Call) -> Caller:
        given = _credentials(call)
        if not given:
            _missing.inc()
            raise UnauthenticatedError(
                "this server asks for an API key, and none came with the call: send it as metadata "
                "`authorization: Bearer KEY` or `api-key: KEY`"
            )
        key = ApiKey.parse(given[0]) if len(given) == 1 else None
        entry = None if key is None else self._table.api_key(key.key_id)
        is_right = key is not None and digest_matches(
            key, _NO_DIGEST if entry is None else entry.secret_sha256
        )
        if entry is None or not is_right:
            _invalid.inc()
            raise UnauthenticatedError(
                "the API key is not valid"
                if len(given) == 1
                else "more than one API key came with the call: send one"
            )
        description = entry.description
        if description.HasField("expires_at") and (
            description.expires_at.ToMicroseconds() <= self._now() * 1e6
        ):
            _expired.inc()
            raise UnauthenticatedError("the API key has expired")
        return self._caller(entry)

    def _caller(self, entry: catalog_pb2.ApiKeyEntry) -> Caller:
        known = self._callers.get(entry.description.id)
        if known is None or known[0] is not entry:
            if len(self._callers) > 2 * self._table.api_key_count:
                self._callers.clear()  # most of it is of revoked keys
            known = self._callers[entry.description.id] = (entry, Caller.of(entry.description))
        return known[1]


def _credentials(call: Call) -> Sequence[str]:
    """Give the different credentials that came with a call; one that cannot be a key is as it is.

    Two are refused rather than one of them chosen: something between the client and here added one,
    and whose call it is would depend on the order.
    """
    found = [_bearer(value) for value in call.values("authorization")]
    found += call.values("api-key")
    return list(dict.fromkeys(value[:_MAX_CREDENTIAL_CHARACTERS] for value in found))


def _bearer(value: str) -> str:
    scheme, _, credential = value.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""
