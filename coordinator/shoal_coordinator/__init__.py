"""The coordinator: owns the catalog, decides which worker holds which shard, publishes the table.

```
gateway ─CatalogService─▶ lifecycle · namespaces ─decide─▶ changes ─one transaction─▶ catalog (LMDB)
                             │ CreateShard                    └─publish─▶ table─RoutingService─▶
                             ▼
worker ─MembershipService─▶ membership · recovery · delivery ─UpdateShard, DeleteShard─▶ workers
```

Every change of the catalog takes one way: a pure decision against `state`, one synced
transaction of `catalog`, then `table`, which gateways follow. It is never on the data path: with
the coordinator down, searches and writes to existing collections go on.

Entries (`CollectionEntry`, `ShardDeletion`, ...) are the protobuf messages of
``shoal/internal/v1/catalog.proto`` throughout, not types of our own: the catalog stores them, the
table publishes them and workers keep copies of them, byte for byte the same, and a second set of
types would only be a mirror to keep clean. Once handed to a `Change` an entry is never modified;
whoever changes one changes a copy.
"""
