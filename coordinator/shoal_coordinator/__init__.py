"""The coordinator: owns the catalog and decides which worker holds which shard."""
