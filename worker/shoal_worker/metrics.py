"""The worker's metrics. Labels are bounded: none is a shard, a collection or an ID."""

from __future__ import annotations

from typing import Final

from shoal.server.metrics import counter, gauge, histogram

SEARCH_SECONDS: Final = histogram(
    "shoal_search_seconds", "Searches of one shard, by how they found what they found.", ("method",)
)
COMMIT_SECONDS: Final = histogram(
    "shoal_commit_seconds", "Group commits of a shard: resolving, writing and syncing."
)
SYNC_SECONDS: Final = histogram(
    "shoal_sync_seconds", "What the disk took to write and sync a transaction, of a commit."
)
COMMITTED_WRITES: Final = counter("shoal_committed_writes", "Writes that were committed.")
FAILED_COMMITS: Final = counter(
    "shoal_failed_commits", "Group commits that failed; the shard was opened anew."
)
REFUSED_CHECKPOINTS: Final = counter(
    "shoal_refused_checkpoints",
    "Checkpoints that could not be used and are built again, by why.",
    ("reason",),
)
BUILD_SECONDS: Final = histogram(
    "shoal_graph_build_seconds",
    "Graph builds, from the first vector sent to the published graph.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
FAILED_BUILDS: Final = counter("shoal_failed_graph_builds", "Graph builds that failed.")
INDEX_STEP_SECONDS: Final = histogram(
    "shoal_index_step_seconds",
    "Steps that take changes of a shard into its indexes, from the first read to the commit.",
)
FAILED_INDEX_STEPS: Final = counter(
    "shoal_failed_index_steps", "Steps of indexing that failed; they are tried again."
)
DROPPED_INDEXES: Final = counter(
    "shoal_dropped_indexes",
    "Indexes that were missing, damaged or of another format, and are built again.",
    ("index",),
)
COMPACTIONS: Final = counter(
    "shoal_compactions",
    "Compactions of a shard's records, by why: for room, or to erase what was deleted.",
    ("reason",),
)
COMPACTION_GATE_SECONDS: Final = histogram(
    "shoal_compaction_gate_seconds", "How long a shard's writers waited for its compaction."
)
COMPACTED_BYTES: Final = counter(
    "shoal_compacted_bytes", "Bytes that compactions gave back to the disk."
)
FAILED_COMPACTIONS: Final = counter(
    "shoal_failed_compactions", "Compactions that were given up; they are tried again."
)
OPEN_SHARDS: Final = gauge("shoal_open_shards", "Shards whose files are open.")
HELD_SHARDS: Final = gauge("shoal_held_shards", "Shards that workers of this process hold.")
LOST_SHARDS: Final = gauge(
    "shoal_lost_shards", "Shards that this worker must hold and that are gone or damaged."
)
FRESH_VECTORS: Final = gauge(
    "shoal_fresh_vectors", "Vectors of open shards that no graph holds yet."
)
UNINDEXED_CHANGES: Final = gauge(
    "shoal_unindexed_changes",
    "Changes of open shards that some index has not taken in yet: filters look at these records.",
)
QUEUED_WRITES: Final = gauge(
    "shoal_queued_writes", "Writes that wait for their commit, of open shards."
)
FULLEST_BACKLOG: Final = gauge(
    "shoal_fullest_backlog_ratio",
    "How much of its bound the largest backlog of an open shard takes: vectors that no graph holds"
    " yet, or changes that some index has not taken in. At 1 writes to that shard are refused.",
)
SHARD_RECORDS: Final = gauge("shoal_shard_records", "Records of open shards.")
COPIED_BYTES: Final = counter(
    "shoal_copied_shard_bytes", "Bytes of local copies of shards, written for snapshots."
)
STORED_BYTES: Final = counter(
    "shoal_stored_copy_bytes", "Bytes of copies of shards put into the snapshot store."
)
REUSED_COPIES: Final = counter(
    "shoal_reused_copies",
    "Copies of shards that the snapshot store had already, because nothing was written since.",
)
FILLED_RECORDS: Final = counter(
    "shoal_filled_records", "Records taken into new shards from copies in the snapshot store."
)
