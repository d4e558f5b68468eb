"""Serialised requests, for clients that send bytes: see `open_loop`."""

from __future__ import annotations

from typing import Final

from benchmarks.data import Dataset
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2

QUERY_PATH: Final = "/shoal.v1.RecordService/Query"
UPSERT_PATH: Final = "/shoal.v1.RecordService/Upsert"

_MESSAGES: Final = 200
_UPSERTS: Final = 20


def query_messages(collection: str, dataset: Dataset, n_results: int, each: int) -> list[str]:
    """Make requests in hexadecimal: `each` queries a call, with their distances."""
    return [
        record_service_pb2.QueryRequest(
            collection=collection_pb2.CollectionReference(name=collection),
            query_vectors=value_pb2.VectorBlock(
                dimension=dataset.base.shape[1],
                values=dataset.queries[n : n + each].astype("<f4").tobytes(),
            ),
            n_results=n_results,
            include=[value_pb2.INCLUDE_DISTANCES],
        )
        .SerializeToString()
        .hex()
        for n in range(0, min(len(dataset.queries) - each, _MESSAGES), each)
    ]


def upsert_messages(collection: str, dataset: Dataset, each: int) -> list[str]:
    """Make requests in hexadecimal: `each` records a call, over and over the same ones."""
    return [
        record_service_pb2.UpsertRequest(
            collection=collection_pb2.CollectionReference(name=collection),
            records=value_pb2.RecordBatch(
                ids=[f"record-{row}" for row in range(n, n + each)],
                vectors=value_pb2.VectorBlock(
                    dimension=dataset.base.shape[1],
                    values=dataset.base[n : n + each].astype("<f4").tobytes(),
                ),
            ),
        )
        .SerializeToString()
        .hex()
        for n in range(0, _UPSERTS * each, each)
    ]
