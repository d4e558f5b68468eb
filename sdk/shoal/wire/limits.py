"""The bounds of what a request may hold and an answer may return."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound that a user can meet, with its default.

    They are settings of the gateway, and stated by ``AdminService.GetLimits``. Each refusal names
    the limit and the value.

    Attributes:
        max_batch_records: Records in one write.
        max_message_bytes: Bytes of one request message.
        max_answer_bytes: Bytes of one answer.
        max_dimension: Numbers in a vector.
        max_id_bytes: Bytes of a record ID in UTF-8.
        max_document_bytes: Bytes of a document in UTF-8.
        max_uri_bytes: Bytes of a URI in UTF-8.
        max_metadata_key_bytes: Bytes of a metadata key in UTF-8.
        max_metadata_keys: Keys of a record's metadata.
        max_metadata_bytes: Bytes of a record's metadata, keys and values.
        max_n_results: Matches wanted of one query.
        max_queries: Queries in one call.
        max_query_results: Queries times matches wanted, in one call.
        max_filter_depth: Depth of a filter; a lone condition is 1 deep.
        max_filter_clauses: Conditions and combinations in a filter.
        max_shards: Shards of a collection.
        max_page_records: Records in one page; also IDs given to one get or delete.
        default_timeout_s: Deadline of a call that sets none, seconds.
    """

    max_batch_records: int = 10_000
    max_message_bytes: int = 64 * MEBIBYTE
    max_answer_bytes: int = 64 * MEBIBYTE
    max_dimension: int = 16_384
    max_id_bytes: int = 1_024
    max_document_bytes: int = MEBIBYTE
    max_uri_bytes: int = 64 * 1024
    max_metadata_key_bytes: int = 256
    max_metadata_keys: int = 256
    max_metadata_bytes: int = 64 * 1024
    max_n_results: int = 16_384
    max_queries: int = 1_024
    max_query_results: int = 1_000_000
    max_filter_depth: int = 32
    max_filter_clauses: int = 1_024
    max_shards: int = 256
    max_page_records: int = 10_000
    default_timeout_s: float = 60.0


DEFAULT_LIMITS = Limits()
