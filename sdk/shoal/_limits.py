"""A server's limits, as the client keeps to them."""

from __future__ import annotations

from typing import Final

from shoal._address import MAX_MESSAGE_BYTES
from shoal.v1 import admin_service_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits

MESSAGE_HEADROOM_BYTES: Final = 64 * 1024
"""Of a write's message, what its fields beside the records may take."""


def from_message(message: admin_service_pb2.GetLimitsResponse) -> Limits:
    """Take the limits that a server states.

    A limit that this server does not know yet, which is 0 in its answer, is the default.
    """
    return Limits(
        max_batch_records=message.max_batch_records or DEFAULT_LIMITS.max_batch_records,
        max_message_bytes=min(
            message.max_message_bytes or DEFAULT_LIMITS.max_message_bytes, MAX_MESSAGE_BYTES
        ),
        max_answer_bytes=message.max_answer_bytes or DEFAULT_LIMITS.max_answer_bytes,
        max_dimension=message.max_dimension or DEFAULT_LIMITS.max_dimension,
        max_id_bytes=message.max_id_bytes or DEFAULT_LIMITS.max_id_bytes,
        max_document_bytes=message.max_document_bytes or DEFAULT_LIMITS.max_document_bytes,
        max_uri_bytes=message.max_uri_bytes or DEFAULT_LIMITS.max_uri_bytes,
        max_metadata_key_bytes=(
            message.max_metadata_key_bytes or DEFAULT_LIMITS.max_metadata_key_bytes
        ),
        max_metadata_keys=message.max_metadata_keys or DEFAULT_LIMITS.max_metadata_keys,
        max_metadata_bytes=message.max_metadata_bytes or DEFAULT_LIMITS.max_metadata_bytes,
        max_n_results=message.max_n_results or DEFAULT_LIMITS.max_n_results,
        max_queries=message.max_queries or DEFAULT_LIMITS.max_queries,
        max_query_results=message.max_query_results or DEFAULT_LIMITS.max_query_results,
        max_filter_depth=message.max_filter_depth or DEFAULT_LIMITS.max_filter_depth,
        max_filter_clauses=message.max_filter_clauses or DEFAULT_LIMITS.max_filter_clauses,
        max_shards=message.max_shards or DEFAULT_LIMITS.max_shards,
        max_page_records=message.max_page_records or DEFAULT_LIMITS.max_page_records,
        default_timeout_s=message.default_timeout_seconds or DEFAULT_LIMITS.default_timeout_s,
    )
