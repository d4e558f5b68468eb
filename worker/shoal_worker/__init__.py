"""The worker: holds shards, each a log with its records in LMDB and an index in USearch."""
