"""The log of slow calls: what it tells, what it never tells, and how much."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from shoal.server.slow_calls import SlowCalls
from shoal.v1 import collection_pb2, filter_pb2, record_service_pb2, value_pb2
from tests.cluster.running import DIMENSION, RunningCluster, clusters, vectors_of, wait_for


@pytest.fixture(autouse=True)
def _structlog() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_events_are_bounded_and_the_rest_is_counted() -> None:
    now = 0.0
    slow = SlowCalls(1.0, lambda: now)
    with capture_logs() as logged:
        for _ in range(100):
            slow.note("call_was_slow", method="m")
        assert len(logged) == 10
        now += 1.0
        slow.note("call_was_slow", method="m")
    assert logged[-1]["not_logged_before"] == 90


def test_no_threshold_means_that_nothing_is_slow() -> None:
    assert SlowCalls(0.0).threshold_s > 1e9
    assert SlowCalls(0.5).threshold_s == 0.5


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    with clusters(tmp_path) as starter:
        yield starter


@pytest.mark.cluster
def test_a_slow_query_is_told_of_by_each_process_with_its_plan_and_nothing_of_its_content(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start(
        workers=1,
        arguments=["--log-format=json"],
        environment={"SHOAL_SLOW_CALL_S": "0.000001"},
    )
    collection = cluster.create("slow", shards=2)
    collection.upsert(["secret-id", "b"])
    request = record_service_pb2.QueryRequest(
        collection=collection_pb2.CollectionReference(id=collection.id),
        query_vectors=value_pb2.VectorBlock(
            dimension=DIMENSION, values=vectors_of(["b"], 0).astype("<f4").tobytes()
        ),
        n_results=1,
    )
    request.where.condition.field = "secret-field"
    request.where.condition.operator = filter_pb2.WHERE_OPERATOR_NE
    request.where.condition.operand.string_value = "secret-value"
    send: Any = cluster.channel().unary_unary("/shoal.v1.RecordService/Query")
    metadata = (("x-request-id", "seek-me"), ("api-key", "secret-key"))

    def events() -> list[dict[str, Any]]:
        lines = (line for line in cluster.logged().splitlines() if "seek-me" in line)
        return [e for e in map(json.loads, lines) if e["event"] == "call_was_slow"]

    def told() -> bool:
        # Ten a second are written: others may have been in the way.
        send(request.SerializeToString(), timeout=60, metadata=metadata)
        return {e["role"] for e in events()} == {"gateway", "worker"}

    wait_for(told)
    query = next(e for e in events() if e["role"] == "gateway")
    assert query["method"] == "shoal.v1.RecordService/Query"
    assert query["code"] == "OK"
    assert query["collection"] == "slow"
    assert query["collection_id"] == collection.id
    assert (query["queries"], query["n_results"], query["filtered"]) == (1, 1, True)
    assert query["shards"] == 2
    assert sum(shard["records"] for shard in query["plan"]) == 2
    assert {shard["method"] for shard in query["plan"]} <= {"nothing", "exact", "graph"}
    assert query["seconds"] >= query["searching_s"] > 0
    searched = next(e for e in events() if e["role"] == "worker")
    assert searched["method"] == "shoal.internal.v1.ShardDataService/SearchShards"
    assert "secret" not in cluster.logged()
