"""Calls are weighed by what they take, relative to each other."""

from __future__ import annotations

from google.protobuf.message import Message

from shoal.v1 import record_service_pb2, value_pb2
from shoal_gateway.costs import cost_of

_DIMENSION = 384


def _cost(method: str, request: Message) -> float:
    return cost_of(f"shoal.v1.RecordService/{method}", request, request.ByteSize())


def _query(count: int, n_results: int = 10) -> record_service_pb2.QueryRequest:
    block = value_pb2.VectorBlock(dimension=_DIMENSION, values=bytes(4 * _DIMENSION * count))
    return record_service_pb2.QueryRequest(query_vectors=block, n_results=n_results)


def _upsert(count: int) -> record_service_pb2.UpsertRequest:
    block = value_pb2.VectorBlock(dimension=_DIMENSION, values=bytes(4 * _DIMENSION * count))
    batch = value_pb2.RecordBatch(ids=[f"record-{n}" for n in range(count)], vectors=block)
    return record_service_pb2.UpsertRequest(records=batch)


def test_a_query_is_the_unit() -> None:
    assert 1 <= _cost("Query", _query(1)) < 2


def test_many_queries_and_many_matches_weigh_more() -> None:
    one = _cost("Query", _query(1))
    assert 20 * one < _cost("Query", _query(64)) < 64 * one
    assert _cost("Query", _query(1, 10_000)) > 100 * one


def test_what_is_asked_for_beyond_all_limits_weighs_no_more_than_the_limit() -> None:
    assert _cost("Query", _query(1, 2**32 - 1)) < 60_000


def test_a_batch_weighs_by_its_bytes() -> None:
    assert 100 < _cost("Upsert", _upsert(1_000)) < 400
    assert _cost("Upsert", _upsert(1)) < 2


def test_a_page_weighs_by_its_length() -> None:
    small = _cost("Get", record_service_pb2.GetRequest(limit=10))
    assert small < 2
    assert _cost("Get", record_service_pb2.GetRequest()) > 5 * small
