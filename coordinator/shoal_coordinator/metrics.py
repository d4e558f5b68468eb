"""The coordinator's metrics. Labels are bounded: none is an ID or a name."""

from __future__ import annotations

from typing import Final

from shoal.server.metrics import counter, gauge, histogram

COMMIT_SECONDS: Final = histogram(
    "shoal_catalog_commit_seconds", "Time to make one transaction of the catalog durable."
)
FAILED_COMMITS: Final = counter(
    "shoal_catalog_failed_commits", "Transactions of the catalog that failed; it was reopened."
)
TABLE_VERSION: Final = gauge("shoal_table_version", "Version of the routing table.")
COLLECTIONS: Final = gauge("shoal_catalog_collections", "Collections in the catalog.")
SHARDS: Final = gauge("shoal_catalog_shards", "Shards in the catalog.")
DELETIONS: Final = gauge(
    "shoal_catalog_unconfirmed_deletions", "Shards whose holder has not confirmed their deletion."
)
WORKERS: Final = gauge("shoal_workers", "Workers in the catalog.", ("live",))
UNAVAILABLE_SHARDS: Final = gauge(
    "shoal_unavailable_shards", "Shards whose worker is not heard from."
)
UNKNOWN_SHARDS: Final = gauge(
    "shoal_unknown_shards",
    "Shards that workers hold and the catalog does not know; they are kept.",
)
MISSING_SHARDS: Final = gauge(
    "shoal_missing_shards",
    "Shards that the catalog assigns to a worker which reported not to have them.",
)
STALE_COPIES: Final = gauge(
    "shoal_stale_entry_copies", "Shards whose copy of the catalog entry is not up to date yet."
)
WATCHES: Final = gauge("shoal_table_watches", "Gateways that follow the routing table.")
SNAPSHOTS: Final = counter(
    "shoal_table_snapshots", "Times the whole table was sent instead of what had changed."
)
UNCONFIRMED_VERSIONS: Final = counter(
    "shoal_table_confirmation_timeouts",
    "Changes that were answered before every gateway had confirmed them.",
)
REGISTRATIONS: Final = counter(
    "shoal_worker_registrations", "Registrations of workers.", ("outcome",)
)
EXPIRED_LEASES: Final = counter(
    "shoal_worker_expired_leases", "Times that a worker was not heard from for too long."
)
