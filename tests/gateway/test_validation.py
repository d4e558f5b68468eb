"""What is wrong with a request is said in a typed error, and nothing reaches a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal.errors import (
    BatchTooLargeError,
    DeadlineExceededError,
    DuplicateIDError,
    InvalidArgumentError,
    ShoalError,
)
from shoal.server.rpc import context_for
from shoal.v1 import (
    collection_pb2,
    collection_service_pb2,
    filter_pb2,
    record_service_pb2,
    value_pb2,
)
from shoal.wire.filters import where_from_dict
from tests.gateway.cluster import Cluster, add, batch, books, vector

Add = record_service_pb2.AddRequest
Query = record_service_pb2.QueryRequest
Get = record_service_pb2.GetRequest
Delete = record_service_pb2.DeleteRequest
Patch = record_service_pb2.UpdateWhereRequest
Value = value_pb2.Value


def changed(request: Any, change: Callable[[Any], Any]) -> Any:
    change(request)
    return request


def query(**options: Any) -> Query:
    options.setdefault("query_vectors", vector(0, 0, 0, 0))
    options.setdefault("n_results", 1)
    return Query(collection=books(), **options)


def with_metadata(**fields: Value) -> Add:
    request = add(["a"])
    request.records.metadatas.add()
    for key, value in fields.items():
        request.records.metadatas[0].fields[key].CopyFrom(value)
    return request


def deep(depth: int) -> filter_pb2.Where:
    where = where_from_dict({"a": 1})
    for _ in range(depth - 1):
        where = filter_pb2.Where(negation=where)
    return where


WRONG: dict[str, tuple[Any, type[ShoalError], str]] = {
    "no ids": (add([]), InvalidArgumentError, "at least one ID"),
    "an id twice": (add(["a", "b", "a"]), DuplicateIDError, "'a' .* positions 0 and 2"),
    "an empty id": (add(["a", ""]), InvalidArgumentError, "position 1 is empty"),
    "a long id": (add(["é" * 513]), InvalidArgumentError, "1026 bytes; at most 1024"),
    "too many ids": (
        add([str(n) for n in range(10_001)]),
        BatchTooLargeError,
        "10001 IDs; at most 10000",
    ),
    "no vectors": (
        Add(collection=books(), records=value_pb2.RecordBatch(ids=["a"])),
        InvalidArgumentError,
        "vectors is missing",
    ),
    "too few bytes of vectors": (
        changed(add(["a", "b"]), lambda r: setattr(r.records.vectors, "values", b"\0" * 16)),
        InvalidArgumentError,
        "16 bytes; 2 vectors of dimension 4 have 32",
    ),
    "dimension 0": (
        changed(add(["a"]), lambda r: setattr(r.records.vectors, "dimension", 0)),
        InvalidArgumentError,
        "dimension 0",
    ),
    "an absurd dimension": (
        changed(add(["a"]), lambda r: setattr(r.records.vectors, "dimension", 2**32 - 1)),
        InvalidArgumentError,
        "must be 1 to 16384",
    ),
    "nan": (
        add(["a", "b"], np.array([[1, 2], [3, np.nan]], np.float32)),
        InvalidArgumentError,
        "position 1 is nan at index 1",
    ),
    "a norm beyond float32": (
        add(["a"], np.array([[1e20, 0]], np.float32)),
        InvalidArgumentError,
        "squared norm overflows",
    ),
    "too few metadatas": (
        changed(add(["a", "b"]), lambda r: r.records.metadatas.add()),
        InvalidArgumentError,
        "metadatas has 1 entries for 2 IDs",
    ),
    "a value without a kind": (with_metadata(k=Value()), InvalidArgumentError, "'k'"),
    "an empty list": (
        with_metadata(k=Value(int_list=value_pb2.IntList())),
        InvalidArgumentError,
        "empty list",
    ),
    "an infinite float": (
        with_metadata(k=Value(double_value=float("inf"))),
        InvalidArgumentError,
        "finite",
    ),
    "a reserved key": (
        with_metadata(**{"$k": Value(int_value=1)}),
        InvalidArgumentError,
        "reserved",
    ),
    "an undeclared sparse vector": (
        with_metadata(k=Value(sparse_vector=value_pb2.SparseVector())),
        InvalidArgumentError,
        "sparse",
    ),
    "much metadata": (
        with_metadata(k=Value(string_value="x" * 70_000)),
        InvalidArgumentError,
        "at most 65536",
    ),
    "too few documents": (
        changed(add(["a", "b"]), lambda r: r.records.documents.values.append("x")),
        InvalidArgumentError,
        "documents has 1 entries for 2 IDs",
    ),
    "a large document": (
        add(["a"], documents=["x" * (1024 * 1024 + 1)]),
        InvalidArgumentError,
        "at most 1048576",
    ),
    "absent beyond the end": (
        changed(add(["a"], documents=[""]), lambda r: r.records.documents.absent.append(7)),
        InvalidArgumentError,
        "absent",
    ),
    "a short write ID": (
        changed(add(["a"]), lambda r: setattr(r, "write_id", b"short")),
        InvalidArgumentError,
        "5 bytes; it must be empty or 16",
    ),
    "a foreign session token": (
        changed(add(["a"]), lambda r: setattr(r, "session_token", b"nonsense")),
        InvalidArgumentError,
        "session_token",
    ),
    "no collection": (
        record_service_pb2.CountRequest(),
        InvalidArgumentError,
        "set its name or its id",
    ),
    "an id that is no UUID": (
        record_service_pb2.CountRequest(collection=collection_pb2.CollectionReference(id="7")),
        InvalidArgumentError,
        "not a UUID",
    ),
    "no query": (Query(collection=books(), n_results=1), InvalidArgumentError, "exactly one"),
    "two kinds of queries": (
        query(query_ids=value_pb2.IdList(values=["a"])),
        InvalidArgumentError,
        "exactly one",
    ),
    "too many queries": (
        query(
            query_vectors=value_pb2.VectorBlock(dimension=4, values=b"\0" * 16 * 1025),
        ),
        InvalidArgumentError,
        "1025 queries; 1 to 1024",
    ),
    "less than a query": (
        query(query_vectors=value_pb2.VectorBlock(dimension=4, values=b"\0" * 7)),
        InvalidArgumentError,
        "7 bytes",
    ),
    "a block of no query": (
        query(query_vectors=value_pb2.VectorBlock(dimension=4)),
        InvalidArgumentError,
        "0 bytes",
    ),
    "half a query": (
        query(query_vectors=value_pb2.VectorBlock(dimension=4, values=b"\0" * 17)),
        InvalidArgumentError,
        "17 bytes",
    ),
    "no results": (query(n_results=0), InvalidArgumentError, "it must be 1 to 16384"),
    "too many results": (query(n_results=16_385), InvalidArgumentError, "16385"),
    "too many results in all": (
        query(
            query_vectors=value_pb2.VectorBlock(dimension=4, values=b"\0" * 16 * 100),
            n_results=16_000,
        ),
        InvalidArgumentError,
        "1600000; at most 1000000",
    ),
    "an empty restriction": (
        query(ids=value_pb2.IdList()),
        InvalidArgumentError,
        "ids is empty",
    ),
    "an unknown include": (query(include=[99]), InvalidArgumentError, "99"),
    "no include": (query(include=[0]), InvalidArgumentError, "include holds 0"),
    "distances in get": (
        Get(collection=books(), include=[value_pb2.INCLUDE_DISTANCES]),
        InvalidArgumentError,
        "only in a query",
    ),
    "ids that are none": (
        Get(collection=books(), ids=value_pb2.IdList()),
        InvalidArgumentError,
        "ids is empty",
    ),
    "a malformed page token": (
        Get(collection=books(), page_token="!!"),
        InvalidArgumentError,
        "page_token",
    ),
    "an invented page token": (
        Get(collection=books(), page_token="AAAA"),
        InvalidArgumentError,
        "page_token",
    ),
    "an empty filter": (
        Get(collection=books(), where=filter_pb2.Where()),
        InvalidArgumentError,
        "where",
    ),
    "an unknown operator": (
        Get(
            collection=books(),
            where=filter_pb2.Where(
                condition=filter_pb2.FieldCondition(
                    field="a",
                    operator=77,  # type: ignore[arg-type]
                    operand=Value(int_value=1),
                )
            ),
        ),
        InvalidArgumentError,
        "77",
    ),
    "a deep filter": (Get(collection=books(), where=deep(33)), InvalidArgumentError, "33 deep"),
    "a deletion of nothing": (Delete(collection=books()), InvalidArgumentError, "is needed"),
    "a limit without a filter": (
        Delete(collection=books(), ids=value_pb2.IdList(values=["a"]), limit=1),
        InvalidArgumentError,
        "limit is only allowed with",
    ),
    "a patch of everything": (
        Patch(collection=books(), metadata=batch(["a"], metadatas=[{"a": 1}]).metadatas[0]),
        InvalidArgumentError,
        "where or where_document",
    ),
    "a patch with nothing": (
        Patch(collection=books(), where=where_from_dict({"a": 1})),
        InvalidArgumentError,
        "metadata has no keys",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_said_and_nothing_is_asked(cluster: Cluster, case: str) -> None:
    await cluster.create(shards=2)
    request, error, words = WRONG[case]
    method = type(request).__name__.removesuffix("Request")

    with pytest.raises(error, match=words) as failure:
        await getattr(cluster.records, method)(request)

    assert type(failure.value) is error
    assert [call for worker in cluster.workers for call in worker.calls] == []


async def test_work_whose_deadline_has_passed_is_not_begun(cluster: Cluster) -> None:
    await cluster.create()
    context = context_for(0.001)
    time.sleep(0.01)  # noqa: ASYNC251

    with pytest.raises(DeadlineExceededError):
        await cluster.gateway.record_service.count(
            record_service_pb2.CountRequest(collection=books()), context
        )
    with pytest.raises(DeadlineExceededError):
        await cluster.gateway.record_service.add(add(["a"]), context)

    assert [call for worker in cluster.workers for call in worker.calls] == []


def creation(name: str = "books", **hnsw: Any) -> collection_service_pb2.CreateCollectionRequest:
    return collection_service_pb2.CreateCollectionRequest(
        name=name,
        configuration=collection_pb2.CollectionConfiguration(
            hnsw=collection_pb2.HnswConfiguration(**hnsw)
        ),
    )


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (creation("ab"), "3 to 512"),
        (creation("1.2.3.4"), "IPv4"),
        (creation(space=9), "space 9"),
        (creation(quantization=9), "quantization 9"),
        (creation(shards=257), "shards"),
        (creation(dimension=0), "dimension"),
        (
            changed(
                creation(),
                lambda r: r.metadata.fields["a"].int_list.values.append(1),
            ),
            "string, int, float or bool",
        ),
        (
            changed(creation(), lambda r: r.configuration.embedding_function.SetInParent()),
            "has no name",
        ),
        (changed(creation(), lambda r: setattr(r, "tenant", "a..b")), "must not contain"),
    ],
)
async def test_a_wrong_creation_is_refused(cluster: Cluster, request_: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        await cluster.collections.CreateCollection(request_)
