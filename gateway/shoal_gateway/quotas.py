"""Quotas by RPC."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from shoal.errors import NotFoundError
from shoal.internal.v1 import catalog_pb2, catalog_service_pb2
from shoal.server.keys import ID_PATTERN
from shoal.server.rpc import CallContext
from shoal.server.scopes import CLUSTER, check_scope, scope_of
from shoal.v1 import admin_service_pb2
from shoal.wire.validation import invalid
from shoal_gateway import tokens
from shoal_gateway.access import Caller
from shoal_gateway.collections import MAX_PAGE
from shoal_gateway.coordinator import ask
from shoal_gateway.rights import ADMIN
from shoal_gateway.table import RoutingTable
from shoal_gateway.throttle import quota_id_of_key, quota_id_of_scope

if TYPE_CHECKING:
    from shoal.internal.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub

__all__ = ["Quotas"]

_RATES: Final = ("requests_per_second", "records_per_second")
_TOTALS: Final = ("max_collections", "max_records", "max_bytes", "max_snapshots")


class Quotas:
    """Sets and gives quotas. Whether the caller may was decided before.

    Args:
        table: The watched table.
        catalog: The coordinator's.
    """

    def __init__(self, table: RoutingTable, catalog: CatalogServiceAsyncStub) -> None:
        self._table = table
        self._catalog = catalog

    async def set(
        self, request: admin_service_pb2.SetQuotaRequest, context: CallContext
    ) -> admin_service_pb2.SetQuotaResponse:
        """Have the coordinator take in a quota.

        Raises:
            InvalidArgumentError: A limit makes no sense, or not for that subject.
            NotFoundError: The key does not exist.
        """
        quota_id, subject = _checked(request.subject)
        limits = request.limits
        for name in _RATES:
            value: float = getattr(limits, name)
            if not (math.isfinite(value) and value >= 0):
                raise invalid(f"limits.{name}", f"limits.{name} is {value}: 0 or more is right")
        if subject.WhichOneof("subject") == "api_key_id":
            for name in _TOTALS:
                if limits.HasField(name):  # type: ignore[arg-type]
                    raise invalid(
                        f"limits.{name}",
                        f"{name} cannot be limited for an API key, which nothing belongs to: limit "
                        "a tenant, a database or a collection",
                    )
        change = catalog_service_pb2.SetQuotaRequest(
            quota_id=quota_id, subject=subject, limits=limits
        )
        await ask(self._catalog.SetQuota, change, context)
        quota = admin_service_pb2.Quota(subject=subject, limits=limits)
        return admin_service_pb2.SetQuotaResponse(quota=quota)

    async def get(
        self, request: admin_service_pb2.GetQuotaRequest, _context: CallContext
    ) -> admin_service_pb2.GetQuotaResponse:
        """Give a quota.

        Raises:
            NotFoundError: There is none.
        """
        quota_id, _ = _checked(request.subject)
        entry = self._table.quota(quota_id)
        if entry is None:
            raise NotFoundError(f"there is no quota for {quota_id}")
        return admin_service_pb2.GetQuotaResponse(quota=self._described(entry))

    async def list(
        self, request: admin_service_pb2.ListQuotasRequest, context: CallContext
    ) -> admin_service_pb2.ListQuotasResponse:
        """List the quotas that the caller could get."""
        limit = min(request.limit, MAX_PAGE) if request.HasField("limit") else MAX_PAGE
        belongs_to = tokens.digest([b"list_quotas"])
        start = tokens.decode_page(request.page_token, belongs_to)
        found = [
            entry
            for entry in self._table.quotas()
            if (start is None or entry.creation_number > start.ordinal)
            and _may_see(context.caller, entry)
        ]
        page = found[:limit]
        next_page_token = ""
        if page and len(found) > limit:
            last = tokens.Page(page[-1].creation_number, page[-1].quota_id)
            next_page_token = tokens.encode_page(last, belongs_to)
        return admin_service_pb2.ListQuotasResponse(
            quotas=[self._described(entry) for entry in page], next_page_token=next_page_token
        )

    def _described(self, entry: catalog_pb2.QuotaEntry) -> admin_service_pb2.Quota:
        return admin_service_pb2.Quota(
            subject=entry.subject,
            limits=entry.limits,
            usage=self._table.quota_usage(entry.quota_id),
        )


def _checked(
    subject: admin_service_pb2.QuotaSubject,
) -> tuple[str, admin_service_pb2.QuotaSubject]:
    """Give the ID of a subject's quota, and the subject with its defaults filled in."""
    kind = subject.WhichOneof("subject")
    if kind == "scope":
        scope = check_scope(subject.scope, "subject.scope")
        return quota_id_of_scope(scope_of(scope)), admin_service_pb2.QuotaSubject(scope=scope)
    if kind == "api_key_id":
        if not ID_PATTERN.fullmatch(subject.api_key_id):
            raise invalid("subject.api_key_id", "subject.api_key_id is not the ID of an API key")
        return quota_id_of_key(subject.api_key_id), subject
    raise invalid("subject", "subject is empty: set its scope or its api_key_id")


def _may_see(caller: object, entry: catalog_pb2.QuotaEntry) -> bool:
    if not isinstance(caller, Caller):
        return caller is None
    is_of_scope = entry.subject.WhichOneof("subject") == "scope"
    return caller.may(ADMIN, scope_of(entry.subject.scope) if is_of_scope else CLUSTER)
