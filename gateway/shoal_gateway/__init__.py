"""The gateway: serves the public API by validating, routing, fanning out and merging."""
