"""Which records a call is about: filters, IDs, a prefix, and the shards that may hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np

from shoal.internal.v1 import worker_service_pb2
from shoal.v1 import filter_pb2, value_pb2
from shoal.wire.filters import check_where, check_where_document, check_where_keys
from shoal.wire.limits import Limits
from shoal_gateway.table import CollectionRoute, ShardRoute

__all__ = ["NO_FILTERS", "Filters", "Wanted"]


class _Filtered(Protocol):
    """A request with both filters."""

    @property
    def where(self) -> filter_pb2.Where: ...
    @property
    def where_document(self) -> filter_pb2.WhereDocument: ...
    def HasField(self, field_name: Any, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class Filters:
    """Checked filters, passed on as they came; true if there is one.

    Attributes:
        where: On metadata, or None.
        where_document: On documents, or None.
    """

    where: filter_pb2.Where | None = None
    where_document: filter_pb2.WhereDocument | None = None

    @classmethod
    def of(cls, request: _Filtered, limits: Limits) -> Filters:
        """Take the filters of a request.

        Raises:
            InvalidArgumentError: One of them breaks the rules.
        """
        where = request.where if request.HasField("where") else None
        where_document = request.where_document if request.HasField("where_document") else None
        if where is None and where_document is None:
            return NO_FILTERS
        if where is not None:
            check_where(where, limits)
        if where_document is not None:
            check_where_document(where_document, limits)
        return cls(where, where_document)

    def check_keys(self, route: CollectionRoute) -> None:
        """Check what is compared against what the collection's keys hold.

        Raises:
            InvalidArgumentError: A sparse vector is compared with something.
        """
        if self.where is not None and route.sparse_vectors:
            check_where_keys(self.where, route.sparse_vectors)

    def __bool__(self) -> bool:
        return self.where is not None or self.where_document is not None

    def put_into(self, message: _Filtered) -> None:
        """Set the filters of a message that has none yet."""
        if self.where is not None:
            message.where.CopyFrom(self.where)
        if self.where_document is not None:
            message.where_document.CopyFrom(self.where_document)

    def digest_parts(self) -> list[bytes]:
        """Give what tells these filters from others."""
        return [
            b"" if f is None else f.SerializeToString(deterministic=True)
            for f in (self.where, self.where_document)
        ]


NO_FILTERS: Final = Filters()
"""What `Filters.of` gives of a request without one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Records of a collection, and where they may be.

    Attributes:
        shards: Those that may hold some; at least one.
        filters: What they must match.
        ids_of: Only these, by shard; None: any.
        id_prefix: How their IDs begin.
    """

    shards: Sequence[ShardRoute]
    filters: Filters = NO_FILTERS
    ids_of: dict[str, list[str]] | None = None
    id_prefix: str = ""

    @classmethod
    def of(
        cls, route: CollectionRoute, filters: Filters, ids: Sequence[str] | None, prefix: str = ""
    ) -> Self:
        """Find the shards that may hold records: all, or the owners of the IDs.

        Raises:
            InvalidArgumentError: A filter does not fit the collection.
        """
        if filters is not NO_FILTERS:
            filters.check_keys(route)
        if ids is None:
            return cls(route.shards, filters, None, prefix)
        if len(route.shards) == 1:
            return cls(route.shards, filters, {route.shards[0].shard_id: list(ids)}, prefix)
        owners = route.owners_of(ids)
        shards = [route.shards[owner] for owner in np.unique(owners).tolist()]
        ids_of: dict[str, list[str]] = {shard.shard_id: [] for shard in shards}
        for record_id, owner in zip(ids, owners.tolist(), strict=True):
            ids_of[route.shards[owner].shard_id].append(record_id)
        return cls(shards, filters, ids_of, prefix)

    def ids(self, shards: Sequence[ShardRoute]) -> value_pb2.IdList | None:
        """Give the IDs that some shards are to look for; None: any."""
        if self.ids_of is None:
            return None
        return value_pb2.IdList(values=[i for s in shards for i in self.ids_of[s.shard_id]])

    def get_request(
        self,
        shards: Sequence[ShardRoute],
        clock: int,
        *,
        limit: int,
        after: worker_service_pb2.OrderPosition | None = None,
        offset: int = 0,
        max_bytes: int = 0,
        include: Sequence[value_pb2.Include.ValueType] = (),
        ordinals_only: bool = False,
    ) -> worker_service_pb2.GetFromShardsRequest:
        """Make the request for what some shards hold of it."""
        request = worker_service_pb2.GetFromShardsRequest(
            shards=[shard.reference for shard in shards],
            ids=self.ids(shards),
            id_prefix=self.id_prefix,
            after=after,
            offset=offset,
            limit=limit,
            max_bytes=max_bytes,
            include=include,
            ordinals_only=ordinals_only,
            clock=clock,
        )
        self.filters.put_into(request)
        return request
