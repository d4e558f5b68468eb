"""The walk: each step asks one thing of the server, and prints what came of it."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any, Final

import grpc
from shoal.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    filter_pb2,
    record_service_pb2,
    record_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    value_pb2,
)

from shoal_walk.connection import connect
from shoal_walk.failures import refused
from shoal_walk.messages import (
    all_of,
    column,
    column_values,
    condition,
    document,
    metadata,
    negation,
    pack,
    show,
    slices,
    unpack,
)

DATA: Final = Path(__file__).parents[2] / "data"
BATCH: Final = 25
METADATA: Final = (
    *("section", "installed_kb", "checksum", "size_mb", "team"),
    *("tags", "sentence_lengths", "projection", "flags"),
)


def read_lines(name: str) -> list[dict[str, Any]]:
    """Read a file of examples/data."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def packages() -> list[dict[str, Any]]:
    """Read the records. Empty lists are left out: metadata cannot hold them."""
    lines = read_lines("packages.jsonl")
    for line in lines:
        # A string in the file, as JSON's readers lose integers beyond 2^53.
        line["checksum"] = int(line["checksum"])
        line["metadata"] = {key: line[key] for key in METADATA if line[key] != []}
    return lines


def batch(records: list[dict[str, Any]]) -> value_pb2.RecordBatch:
    """Turn rows into columns."""
    return value_pb2.RecordBatch(
        ids=[record["id"] for record in records],
        vectors=pack([record["vector"] for record in records]),
        metadatas=[metadata(record["metadata"]) for record in records],
        documents=column([record["document"] for record in records]),
        uris=column([record["uri"] for record in records]),
    )


class Walk:
    """The steps, in order. Keeps the newest session token: each call sees what the last one did."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
        self.records = record_service_pb2_grpc.RecordServiceStub(channel)
        self.snapshots = snapshot_service_pb2_grpc.SnapshotServiceStub(channel)
        self.name = f"walk-{secrets.token_hex(8)}"
        self.packages = packages()
        self.queries = read_lines("queries.jsonl")
        self.collection = collection_pb2.CollectionReference(name=self.name)
        self.session_token = b""

    def run(self) -> None:
        self.connect()
        self.create()
        try:
            self.add()
            self.query()
            self.get()
            self.change()
            self.modify()
            self.snapshot()
            self.delete()
        finally:
            self.drop()

    def connect(self) -> None:
        # A deadline of its own; the other calls have those of the service config.
        self.admin.Heartbeat(admin_service_pb2.HeartbeatRequest(), timeout=5)
        print("connected: the cluster is ready")
        limits = self.admin.GetLimits(admin_service_pb2.GetLimitsRequest())
        print(f"limits: {limits.max_batch_records} records a write")

    def create(self) -> None:
        request = collection_service_pb2.CreateCollectionRequest(
            name=self.name,
            configuration=collection_pb2.CollectionConfiguration(
                hnsw=collection_pb2.HnswConfiguration(
                    space=collection_pb2.SPACE_COSINE,
                    dimension=len(self.packages[0]["vector"]),
                    max_neighbors=24,
                    ef_construction=200,
                    ef_search=80,
                    shards=2,
                )
            ),
        )
        collection = self.collections.CreateCollection(request).collection
        hnsw = collection.configuration.hnsw
        print(
            f"created: {collection_pb2.Space.Name(hnsw.space)}, dimension {hnsw.dimension}, "
            f"max_neighbors {hnsw.max_neighbors}, ef_search {hnsw.ef_search}, shards {hnsw.shards}"
        )
        # By ID: if the name is deleted and used again, nothing of ours gets into the wrong one.
        self.collection = collection_pb2.CollectionReference(id=collection.id)
        with refused():
            self.collections.CreateCollection(request)

    def add(self) -> None:
        request = record_service_pb2.AddRequest()
        for start in range(0, len(self.packages), BATCH):
            request = record_service_pb2.AddRequest(
                collection=self.collection,
                records=batch(self.packages[start : start + BATCH]),
                # With it, a write can be sent again after any failure, also by gRPC itself.
                write_id=secrets.token_bytes(16),
                session_token=self.session_token,
            )
            answer = self.records.Add(request)
            self.session_token = answer.session_token
            print(f"added: {answer.added} new, {answer.ignored} known")
        again = self.records.Add(request)
        print(f"repeated: {again.added} new, {again.ignored} known")
        request.write_id = secrets.token_bytes(16)
        request.records.CopyFrom(
            value_pb2.RecordBatch(ids=["short"], vectors=pack([[0.1, 0.2, 0.3]]))
        )
        with refused("expected", "actual"):
            self.records.Add(request)

    def query(self) -> None:
        self.print_matches(self.queries[:1], record_service_pb2.QueryRequest(n_results=3))
        # Many queries in one call, and only among what matches both filters.
        self.print_matches(
            self.queries,
            record_service_pb2.QueryRequest(
                n_results=2,
                where=all_of(
                    condition(
                        "section", filter_pb2.WHERE_OPERATOR_IN, ["libs", "utils", "science"]
                    ),
                    condition("installed_kb", filter_pb2.WHERE_OPERATOR_GTE, 100),
                    negation(
                        condition("tags", filter_pb2.WHERE_OPERATOR_CONTAINS, "role::plugin"),
                    ),
                ),
                where_document=document(filter_pb2.DOCUMENT_OPERATOR_CONTAINS, "library"),
            ),
        )

    def print_matches(
        self, queries: list[dict[str, Any]], request: record_service_pb2.QueryRequest
    ) -> None:
        request.collection.CopyFrom(self.collection)
        request.query_vectors.CopyFrom(pack([query["vector"] for query in queries]))
        request.include.extend([value_pb2.INCLUDE_METADATAS, value_pb2.INCLUDE_DISTANCES])
        request.session_token = self.session_token
        answer = self.records.Query(request)
        for query, positions in zip(queries, slices(answer.match_counts), strict=True):
            print(f"nearest to: {query['text']}")
            for n in positions:
                section = answer.records.metadatas[n].fields["section"].string_value
                print(f"  {answer.distances[n]:.4f} {answer.records.ids[n]} ({section})")

    def get(self) -> None:
        request = record_service_pb2.GetRequest(
            collection=self.collection,
            where=condition("section", filter_pb2.WHERE_OPERATOR_EQ, "libs"),
            limit=10,
            session_token=self.session_token,
        )
        page = 0
        while page == 0 or request.page_token:
            answer = self.records.Get(request)
            page += 1
            ids = answer.records.ids
            print(f"page {page}: {len(ids)} records, {ids[0]} to {ids[-1]}")
            request.page_token = answer.next_page_token
        self.print_record(self.packages[0])

    def print_record(self, expected: dict[str, Any]) -> None:
        answer = self.records.Get(
            record_service_pb2.GetRequest(
                collection=self.collection,
                ids=value_pb2.IdList(values=[expected["id"]]),
                include=[
                    *(value_pb2.INCLUDE_METADATAS, value_pb2.INCLUDE_DOCUMENTS),
                    *(value_pb2.INCLUDE_VECTORS, value_pb2.INCLUDE_URIS),
                ],
                session_token=self.session_token,
            )
        )
        found = answer.records
        print(f"record: {found.ids[0]}")
        for name, held in (("document", found.documents), ("uri", found.uris)):
            text = column_values(held)[0]
            print(f"  {name}: {'absent' if text is None else text}")
        is_same = unpack(found.vectors) == unpack(pack([expected["vector"]]))
        print(f"  vector: {'as it was sent' if is_same else 'another'}")
        for key, kept in sorted(found.metadatas[0].fields.items()):
            print(f"  {key}: {show(kept)}")

    def change(self) -> None:
        first, second, third = self.packages[:3]
        updated = self.records.Update(
            record_service_pb2.UpdateRequest(
                collection=self.collection,
                records=value_pb2.RecordBatch(
                    ids=[first["id"], second["id"], "deb:unknown"],
                    # Keys are merged; a null removes one; no metadata leaves all as it is.
                    metadatas=[
                        metadata({"reviewed": True, "projection": None, "flags": None}),
                        metadata({"reviewed": False}),
                        metadata({}),
                    ],
                    documents=column(["A library for optimisation.", None, None]),
                ),
                write_id=secrets.token_bytes(16),
                session_token=self.session_token,
            )
        )
        self.session_token = updated.session_token
        print(f"updated: {updated.updated} known, {updated.ignored} unknown")

        mean = [(a + b) / 2 for a, b in zip(second["vector"], third["vector"], strict=True)]
        between = {"vector": mean, "document": None, "uri": None, "metadata": {"reviewed": True}}
        upserted = self.records.Upsert(
            record_service_pb2.UpsertRequest(
                collection=self.collection,
                records=batch([{**between, "id": second["id"]}, {**between, "id": "mean"}]),
                write_id=secrets.token_bytes(16),
                session_token=self.session_token,
            )
        )
        self.session_token = upserted.session_token
        print(f"upserted: {upserted.added} new, {upserted.updated} known")
        self.print_record(first)
        self.print_record({**between, "id": "mean"})

        changed = self.records.UpdateWhere(
            record_service_pb2.UpdateWhereRequest(
                collection=self.collection,
                where=condition("section", filter_pb2.WHERE_OPERATOR_EQ, "games"),
                metadata=metadata({"reviewed": True}),
                write_id=secrets.token_bytes(16),
                session_token=self.session_token,
            )
        )
        self.session_token = changed.session_token
        print(f"updated where: {changed.matched} matched, {changed.updated} changed")

    def modify(self) -> None:
        collection = self.collections.UpdateCollection(
            collection_service_pb2.UpdateCollectionRequest(
                collection=self.collection,
                new_hnsw=collection_pb2.HnswConfiguration(ef_search=160),
                new_metadata=metadata({"owner": "examples"}),
            )
        ).collection
        owner = show(collection.metadata.fields["owner"])
        print(f"modified: ef_search {collection.configuration.hnsw.ef_search}, owner {owner}")

        request = collection_service_pb2.ListCollectionsRequest(limit=100)
        names: list[str] = []
        while not names or request.page_token:
            answer = self.collections.ListCollections(request)
            names += [listed.name for listed in answer.collections]
            request.page_token = answer.next_page_token
        print(f"listed: {'found' if self.name in names else 'missing'}")
        ids = self.records.ListIds(
            record_service_pb2.ListIdsRequest(
                collection=self.collection, prefix="deb:lib", session_token=self.session_token
            )
        ).ids
        print(f"IDs that begin with deb:lib: {len(ids)}, first {ids[0]}")
        print(f"count: {self.count(None)}")
        reviewed = condition("reviewed", filter_pb2.WHERE_OPERATOR_EXISTS, True)
        print(f"count of reviewed: {self.count(reviewed)}")

    def count(self, where: filter_pb2.Where | None) -> int:
        return self.records.Count(
            record_service_pb2.CountRequest(
                collection=self.collection, where=where, session_token=self.session_token
            )
        ).count

    def snapshot(self) -> None:
        request = snapshot_service_pb2.CreateSnapshotRequest(name=self.name, source=self.collection)
        snapshot = self.snapshots.CreateSnapshot(request).snapshot
        with refused():
            self.snapshots.CreateSnapshot(request)
        reference = snapshot_service_pb2.SnapshotReference(name=self.name)
        # What lies at the point in time that the answer told of is copied behind it.
        while snapshot.status == snapshot_service_pb2.SNAPSHOT_STATUS_INITIALIZING:
            time.sleep(0.1)
            answer = self.snapshots.GetSnapshot(
                snapshot_service_pb2.GetSnapshotRequest(snapshot=reference)
            )
            snapshot = answer.snapshot
        status = snapshot_service_pb2.SnapshotStatus.Name(snapshot.status)
        print(f"snapshot: {status}, {snapshot.vector_count} records")

        restore = snapshot_service_pb2.RestoreSnapshotRequest(
            # Names the restoration: while it takes long, the same request goes on waiting.
            operation_id=secrets.token_bytes(16),
            snapshot=reference,
            into=f"{self.name}-restored",
            configuration=collection_pb2.CollectionConfiguration(
                hnsw=collection_pb2.HnswConfiguration(shards=3)
            ),
        )
        restored = self.snapshots.RestoreSnapshot(restore)
        while not restored.done:
            restored = self.snapshots.RestoreSnapshot(restore)
        target = collection_pb2.CollectionReference(id=restored.collection.id)
        counted = self.records.Count(record_service_pb2.CountRequest(collection=target)).count
        shards = restored.collection.configuration.hnsw.shards
        print(f"restored: {counted} records, shards {shards}")
        self.collections.DeleteCollection(
            collection_service_pb2.DeleteCollectionRequest(collection=target)
        )
        self.snapshots.DeleteSnapshot(
            snapshot_service_pb2.DeleteSnapshotRequest(snapshot=reference)
        )
        print("deleted the snapshot")

    def delete(self) -> None:
        by_filter = self.records.Delete(
            record_service_pb2.DeleteRequest(
                collection=self.collection,
                where=condition("section", filter_pb2.WHERE_OPERATOR_EQ, "doc"),
                limit=5,
                write_id=secrets.token_bytes(16),
                session_token=self.session_token,
            )
        )
        print(f"deleted by filter: {by_filter.deleted}")
        by_id = self.records.Delete(
            record_service_pb2.DeleteRequest(
                collection=self.collection,
                ids=value_pb2.IdList(values=["mean", self.packages[0]["id"], "deb:unknown"]),
                write_id=secrets.token_bytes(16),
                session_token=by_filter.session_token,
            )
        )
        self.session_token = by_id.session_token
        print(f"deleted by ID: {by_id.deleted}")
        print(f"count: {self.count(None)}")

    def drop(self) -> None:
        request = collection_service_pb2.DeleteCollectionRequest(collection=self.collection)
        self.collections.DeleteCollection(request)
        print("deleted the collection")
        with refused():
            self.count(None)


if __name__ == "__main__":
    with connect() as open_channel:
        Walk(open_channel).run()
