"""What a public call costs, in queries for ten matches: weights for `shoal.server.admission`.

Measured on 100,000 records of 384 dimensions, and rounded: what is under way is bounded by the time
that it takes altogether, so these have to be right only relative to each other.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

__all__ = ["NEVER_SHED", "cost_of"]

NEVER_SHED: Final = frozenset({"shoal.v1.AdminService"})
"""Services whose calls go on when there is too much to do."""

_BYTES_PER_UNIT: Final = 8 * 1024
"""Of a request: what vectors, documents and metadata cost to check, send on, and store."""

_MATCHES_PER_UNIT: Final = 20
"""Queries times matches wanted, beyond the first ten."""

_RECORDS_PER_UNIT: Final = 100
"""Of a page."""

_PAGE: Final = 1_000
"""What a page is taken for that sets no limit."""

_ID_BYTES: Final = 16
"""Of a record whose vector is the query, roughly."""

_QUERY: Final = "shoal.v1.RecordService/Query"
_GET: Final = frozenset({"shoal.v1.RecordService/Get", "shoal.v1.RecordService/ListIds"})


def cost_of(method: str, request: Message, size: int) -> float:
    """Weigh a call.

    Args:
        method: Its full name.
        request: Parsed, and not checked.
        size: Of the request, bytes.
    """
    asked: Any = request
    cost = 1.0 + size / _BYTES_PER_UNIT
    if method == _QUERY:
        # Queries are what a request is made of: looking at each part of it would cost more than
        # this has to be exact.
        count = max(1, size // (4 * asked.query_vectors.dimension or _ID_BYTES))
        # As much as may be asked for at all: what is refused for asking more costs nothing.
        cost += min(count * asked.n_results, 1_000_000) / _MATCHES_PER_UNIT
    elif method in _GET:
        limit = asked.limit if asked.HasField("limit") else _PAGE
        cost += min(limit, _PAGE) / _RECORDS_PER_UNIT
    return cost
