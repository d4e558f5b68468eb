"""Quotas, held against calls: rates by token buckets, totals by what the coordinator has told.

A rate is for the whole cluster. Each gateway takes its part, the rate divided by the gateways that
follow the coordinator, and fills a bucket with it that holds what comes in one second. A call is
let in as long as the bucket is not empty, and may empty it beyond: so a batch larger than the
bucket passes, and is paid for by waiting afterwards. Clients that do not spread over the gateways
get less than the rate; while gateways come or go, it may be more for about a second.

Whether totals are reached is known a second or two late; what comes in that time goes beyond them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from shoal.errors import QuotaExceededError
from shoal.internal.v1 import catalog_pb2
from shoal.server import metrics
from shoal.server.calls import Call
from shoal.server.methods import Guard
from shoal.server.scopes import Scope
from shoal_gateway.access import Caller
from shoal_gateway.routing import DEFAULT_DATABASE, DEFAULT_TENANT
from shoal_gateway.table import RoutingTable

__all__ = ["Throttle", "quota_id_of_key", "quota_id_of_scope"]

_BURST_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0
"""What a caller is told to wait at most: rates change, and he may ask again."""

_WRITES: Final = frozenset(
    f"shoal.v1.RecordService/{name}" for name in ("Add", "Upsert", "Update", "UpdateWhere")
)
_ADDING: Final = frozenset(f"shoal.v1.RecordService/{name}" for name in ("Add", "Upsert"))

_refusals: Final = metrics.counter(
    "shoal_gateway_quota_refusals", "Calls refused for a quota, by its limit.", ("limit",)
)
_refused_for: Final = {
    limit: _refusals.labels(limit)
    for limit in ("requests_per_second", "records_per_second", "max_records", "max_bytes")
}


def quota_id_of_key(key_id: str) -> str:
    """Name the quota of an API key."""
    return f"key/{key_id}"


def quota_id_of_scope(scope: Scope) -> str:
    """Name the quota of a scope."""
    return "/".join(("scope", *scope))


@dataclass(slots=True)
class _Bucket:
    """What is left to take; below 0 after a call that took more than there was."""

    tokens: float
    filled_at: float

    def fill(self, rate: float, now: float) -> None:
        # At least one token, or a rate below one a second would never let anything in.
        most = max(1.0, rate * _BURST_S)
        self.tokens = min(most, self.tokens + (now - self.filled_at) * rate)
        self.filled_at = now


class Throttle:
    """The guard that holds quotas against calls, behind the one that knows who calls.

    Args:
        table: Holds the quotas.
        inner: Asked first; None where nobody is asked who he is.
        clock: Monotonic, seconds.
    """

    def __init__(
        self,
        table: RoutingTable,
        inner: Guard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._inner = inner
        self._clock = clock
        # By quota and limit.
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def admit(self, method: str, call: Call) -> None:
        if self._inner is not None:
            self._inner.admit(method, call)

    def check(self, method: str, request: Message, call: Call) -> None:
        """Take what the call costs from the quotas that it is under.

        Raises:
            QuotaExceededError: One of them does not allow it; then nothing is taken.
            PermissionDeniedError: The guard before has refused it.
        """
        if self._inner is not None:
            self._inner.check(method, request, call)
        if not self._table.has_quotas:
            return
        caller = call.caller.key_id if isinstance(call.caller, Caller) else None
        quotas = list(self._applying(self._scope(request), caller))
        record_count = float(_record_count(method, request))
        now = self._clock()
        taken: list[tuple[_Bucket, float]] = []
        for quota in quotas:
            self._check_totals(method, quota)
            for limit, cost in (("requests_per_second", 1.0), ("records_per_second", record_count)):
                if cost and quota.limits.HasField(limit):  # type: ignore[arg-type]
                    taken.append((self._open_bucket(quota, limit, now), cost))
        for bucket, cost in taken:
            bucket.tokens -= cost

    def _applying(self, scope: Scope, caller: str | None) -> Iterator[catalog_pb2.QuotaEntry]:
        ids = [quota_id_of_scope(scope[:length]) for length in range(len(scope) + 1)]
        if caller is not None:
            ids.append(quota_id_of_key(caller))
        for quota_id in ids:
            quota = self._table.quota(quota_id)
            if quota is not None:
                yield quota

    def _scope(self, request: Any) -> Scope:
        """What a request is about, as far as it says: its collection, database, tenant."""
        fields = request.DESCRIPTOR.fields_by_name
        if "snapshot" in fields:
            snapshot = request.snapshot
            return snapshot.tenant or DEFAULT_TENANT, snapshot.database or DEFAULT_DATABASE
        named = next((field for field in ("collection", "source") if field in fields), None)
        reference = request if named is None else getattr(request, named)
        if "id" in reference.DESCRIPTOR.fields_by_name and reference.id:
            route = self._table.collection(reference.id)
            if route is None:
                return ()
            known = route.entry.collection
            return known.tenant, known.database, known.name
        if "tenant" not in reference.DESCRIPTOR.fields_by_name:
            return ()
        tenant = reference.tenant or DEFAULT_TENANT
        if "database" not in reference.DESCRIPTOR.fields_by_name:
            return (tenant,)
        scope = (tenant, reference.database or DEFAULT_DATABASE)
        if "name" not in reference.DESCRIPTOR.fields_by_name or not reference.name:
            return scope
        return (*scope, reference.name)

    def _check_totals(self, method: str, quota: catalog_pb2.QuotaEntry) -> None:
        usage = self._table.quota_usage(quota.quota_id)
        if usage is None or method not in _WRITES:
            return
        for limit, used in (("max_records", usage.records), ("max_bytes", usage.bytes)):
            if not quota.limits.HasField(limit):  # type: ignore[arg-type]
                continue
            if limit == "max_records" and method not in _ADDING:
                continue
            allowed = getattr(quota.limits, limit)
            if used >= allowed:
                _refused_for[limit].inc()
                raise QuotaExceededError(
                    f"the quota of {_shown(quota)} is {allowed} {limit.removeprefix('max_')}, and "
                    f"{used} are used: delete some, or have it raised",
                    metadata={"limit": limit, "value": str(allowed), "used": str(used)},
                )

    def _open_bucket(self, quota: catalog_pb2.QuotaEntry, limit: str, now: float) -> _Bucket:
        """Give a bucket from which something can be taken.

        Raises:
            QuotaExceededError: It is empty.
        """
        allowed: float = getattr(quota.limits, limit)
        rate = allowed / self._table.gateway_count
        key = (quota.quota_id, limit)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) > 4 * len(self._table.quotas()):
                self._buckets.clear()  # most are of quotas that are gone
            bucket = self._buckets[key] = _Bucket(max(1.0, rate * _BURST_S), now)
        bucket.fill(rate, now)
        if rate <= 0 or bucket.tokens < 1:
            _refused_for[limit].inc()
            wait_s = _LONGEST_WAIT_S
            if rate > 0:
                wait_s = min(wait_s, (1 - bucket.tokens) / rate)
            raise QuotaExceededError(
                f"the quota of {_shown(quota)} is {allowed:g} {limit.replace('_per_', ' a ')}: "
                f"repeat in {wait_s:.2g} s, or have it raised",
                metadata={"limit": limit, "value": f"{allowed:g}"},
                retry_after_s=wait_s if rate > 0 else None,
            )
        return bucket


def _record_count(method: str, request: Any) -> int:
    """How many records are sent to be written."""
    if method not in _WRITES or "records" not in request.DESCRIPTOR.fields_by_name:
        return 0
    return len(request.records.ids)


def _shown(quota: catalog_pb2.QuotaEntry) -> str:
    kind, _, names = quota.quota_id.partition("/")
    return f"API key {names}" if kind == "key" else names or "the cluster"
