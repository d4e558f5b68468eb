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
CUT_SECONDS: Final = histogram(
    "shoal_cut_seconds", "Time of an attempt to fix one point in time over all shards concerned."
)
VOID_CUTS: Final = counter(
    "shoal_cut_void_attempts", "Attempts to fix a point in time that were void, and repeated."
)
SNAPSHOTS_BY_STATUS: Final = gauge("shoal_snapshots", "Snapshots in the catalog.", ("status",))
BACKUPS_BY_STATUS: Final = gauge("shoal_backups", "Backups in the catalog.", ("status",))
SNAPSHOT_AGE_SECONDS: Final = gauge(
    "shoal_snapshot_age_seconds", "Age of the newest ready snapshot; NaN if there is none."
)
BACKUP_AGE_SECONDS: Final = gauge(
    "shoal_backup_age_seconds", "Age of the newest ready backup; NaN if there is none."
)
SNAPSHOT_STORE_BYTES: Final = gauge(
    "shoal_snapshot_store_bytes",
    "Bytes of the copies that ready snapshots and backups name, each counted once.",
)
SNAPSHOT_OPERATIONS: Final = gauge(
    "shoal_snapshot_operations", "Operations with snapshots under way.", ("kind",)
)
SNAPSHOT_OPERATION_SECONDS: Final = histogram(
    "shoal_snapshot_operation_seconds",
    "Time of operations with snapshots that succeeded.",
    ("kind",),
    (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400),
)
SNAPSHOT_FAILURES: Final = counter(
    "shoal_snapshot_operation_failures", "Operations with snapshots that failed.", ("kind",)
)
for _kind in ("snapshot", "backup", "restore", "clone", "backup_restore"):
    # Told from the start, so that a first failure is an increase.
    SNAPSHOT_OPERATIONS.labels(_kind)
    SNAPSHOT_FAILURES.labels(_kind)
REMOVED_OBJECTS: Final = counter(
    "shoal_snapshot_store_garbage",
    "Objects in the snapshot store that an interrupted operation had left, and that were removed.",
)
