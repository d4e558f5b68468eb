"""What no client of ours would send: an error status each time, and the process lives."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire import status
from tests.cluster.running import DIMENSION, Collection, RunningCluster, vectors_of

pytestmark = pytest.mark.cluster

_MEBIBYTE = 1024 * 1024


@pytest.fixture
def collection(shared: RunningCluster) -> Iterator[Collection]:
    """A collection with one record, which is still there afterwards in the same processes."""
    processes = shared.processes()
    collection = shared.create("input", shards=2)
    collection.upsert(["kept"])
    yield collection
    assert collection.read_at_last() == {"kept": 0}
    assert shared.processes() == processes


def _refusal(cluster: RunningCluster, method: str, request: bytes, timeout_s: float = 60) -> Any:
    """Send bytes, and give the error."""
    with grpc.insecure_channel(
        f"127.0.0.1:{cluster.port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        send: Any = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            send(request, timeout=timeout_s, wait_for_ready=True)
        error: Any = caught.value
        trailer = dict(error.trailing_metadata() or ()).get(status.TRAILER)
        return status.decode(error.code().name, error.details(), trailer)


_ADD = "/shoal.v1.RecordService/Add"
_QUERY = "/shoal.v1.RecordService/Query"


def test_bytes_that_are_no_message(shared: RunningCluster, collection: Collection) -> None:
    for method in (_ADD, _QUERY, "/shoal.v1.AdminService/Heartbeat"):
        error = _refusal(shared, method, b"\xff" * 100)
        assert error.reason == "INVALID_ARGUMENT"
        assert "not a serialised" in error.message


def test_a_method_that_is_none(shared: RunningCluster, collection: Collection) -> None:
    assert _refusal(shared, "/shoal.v1.RecordService/Fly", b"").code == "UNIMPLEMENTED"
    assert _refusal(shared, "/shoal.v9.Service/Add", b"").code == "UNIMPLEMENTED"


def test_a_message_over_the_limit(shared: RunningCluster, collection: Collection) -> None:
    error = _refusal(shared, _ADD, bytes(65 * _MEBIBYTE))
    assert error.reason == "INVALID_ARGUMENT"
    assert "max_message_bytes" in error.message
    # Far above it is not even read.
    assert _refusal(shared, _ADD, bytes(80 * _MEBIBYTE)).code == "RESOURCE_EXHAUSTED"


def test_a_block_of_the_wrong_length(shared: RunningCluster, collection: Collection) -> None:
    for values in (b"", b"\0" * (4 * DIMENSION - 1), b"\0" * (4 * DIMENSION + 4)):
        block = value_pb2.VectorBlock(dimension=DIMENSION, values=values)
        batch = value_pb2.RecordBatch(ids=["a"], vectors=block)
        request = record_service_pb2.AddRequest(collection=collection.reference, records=batch)
        error = _refusal(shared, _ADD, request.SerializeToString())
        assert error.code == "INVALID_ARGUMENT"
        assert any("vectors" in violation.field for violation in error.violations)


def test_an_unknown_enum_value(shared: RunningCluster, collection: Collection) -> None:
    request = record_service_pb2.QueryRequest(
        collection=collection.reference,
        query_vectors=value_pb2.VectorBlock(
            dimension=DIMENSION, values=vectors_of(["kept"], 0).astype("<f4").tobytes()
        ),
        n_results=1,
        include=[99],  # type: ignore[list-item]
    )
    assert _refusal(shared, _QUERY, request.SerializeToString()).reason == "INVALID_ARGUMENT"


def test_a_deadline_already_past(shared: RunningCluster, collection: Collection) -> None:
    assert _refusal(shared, _ADD, b"", timeout_s=-1).code == "DEADLINE_EXCEEDED"


def test_calls_that_are_cancelled(shared: RunningCluster, collection: Collection) -> None:
    batch = value_pb2.RecordBatch(
        ids=["kept"],
        vectors=value_pb2.VectorBlock(
            dimension=DIMENSION, values=vectors_of(["kept"], 0).astype("<f4").tobytes()
        ),
    )
    request = record_service_pb2.AddRequest(
        collection=collection.reference, records=batch
    ).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{shared.port}") as channel:
        add: Any = channel.unary_unary(_ADD)
        for _ in range(200):
            add.future(request, timeout=10).cancel()


def test_what_is_not_http2(shared: RunningCluster, collection: Collection) -> None:
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10_000, b""):
        with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as connection:
            connection.sendall(sent)
