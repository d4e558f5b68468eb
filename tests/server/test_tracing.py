"""Traces: which spans a call leaves, how they hang together, and over which processes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from shoal import errors
from shoal.internal.v1 import (
    membership_service_pb2,
    membership_service_pb2_grpc,
    routing_service_pb2,
    routing_service_pb2_grpc,
)
from shoal.server import rpc, tracing
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2
from tests.cluster.running import DIMENSION, RunningCluster, clusters, vectors_of, wait_for

_MEMBERSHIP = "shoal.internal.v1.MembershipService"
_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_TRACEPARENT = ("traceparent", f"00-{_TRACE_ID}-b7ad6b7169203331-01")


class Spans:
    """What a process of tests has traced."""

    def __init__(self, exporter: InMemorySpanExporter, active: tracing.Tracing) -> None:
        self._exporter = exporter
        self._active = active

    def all(self) -> list[ReadableSpan]:
        self._active.flush()
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    exporter = InMemorySpanExporter()
    active = tracing.Tracing("test", exporter)
    tracing.switch(active)
    yield Spans(exporter, active)
    tracing.switch(None)
    active.close()


class Membership:
    """Asks another one, or fails."""

    def __init__(self) -> None:
        self.next: Any = None

    async def heartbeat_worker(
        self, request: membership_service_pb2.HeartbeatWorkerRequest, context: rpc.CallContext
    ) -> membership_service_pb2.HeartbeatWorkerResponse:
        if self.next is None:
            raise errors.DataLossError("it is gone")
        return membership_service_pb2.HeartbeatWorkerResponse()

    async def register_worker(
        self, request: membership_service_pb2.RegisterWorkerRequest, context: rpc.CallContext
    ) -> membership_service_pb2.RegisterWorkerResponse:
        if self.next is not None:
            heartbeat = membership_service_pb2.HeartbeatWorkerRequest()
            await rpc.call(self.next.HeartbeatWorker, heartbeat, timeout_s=60)
        return membership_service_pb2.RegisterWorkerResponse()


class Routing:
    async def watch_table(
        self,
        requests: AsyncIterator[routing_service_pb2.WatchTableRequest],
        context: rpc.CallContext,
    ) -> AsyncIterator[routing_service_pb2.WatchTableResponse]:
        yield routing_service_pb2.WatchTableResponse(version=1)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Any, Any, Membership]]:
    async with AsyncExitStack() as stack:
        server = rpc.server()
        membership = Membership()
        rpc.add_service(server, _MEMBERSHIP, membership)
        rpc.add_service(server, "shoal.internal.v1.RoutingService", Routing())
        port = rpc.bind(server, "127.0.0.1", 0)
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{port}"))
        yield (
            membership_service_pb2_grpc.MembershipServiceStub(channel),
            routing_service_pb2_grpc.RoutingServiceStub(channel),
            membership,
        )


async def _register(stub: Any, *metadata: tuple[str, str]) -> None:
    request = membership_service_pb2.RegisterWorkerRequest()
    await rpc.call(stub.RegisterWorker, request, timeout_s=60, metadata=metadata)


def _parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


async def test_a_call_has_a_span_on_each_side_and_calls_within_hang_on_it(
    spans: Spans, served: tuple[Any, Any, Membership]
) -> None:
    stub, _, membership = served
    membership.next = stub
    await _register(stub)
    found = {(s.name.rpartition("/")[2], s.kind): s for s in spans.all()}
    outer = found["RegisterWorker", SpanKind.CLIENT]
    server = found["RegisterWorker", SpanKind.SERVER]
    inner = found["HeartbeatWorker", SpanKind.CLIENT]
    assert _parent(outer) is None
    assert _parent(server) == _id(outer)
    assert _parent(inner) == _id(server)
    assert _parent(found["HeartbeatWorker", SpanKind.SERVER]) == _id(inner)
    assert server.name == f"{_MEMBERSHIP}/RegisterWorker"
    assert server.attributes is not None
    assert server.attributes["rpc.system.name"] == "grpc"
    assert server.attributes["rpc.response.status_code"] == "OK"
    assert len({s.context.trace_id for s in found.values() if s.context is not None}) == 1


async def test_a_call_joins_its_caller_s_trace(
    spans: Spans, served: tuple[Any, Any, Membership]
) -> None:
    stub, _, _ = served
    call = stub.RegisterWorker(
        membership_service_pb2.RegisterWorkerRequest(), metadata=(_TRACEPARENT,)
    )
    await call
    (span,) = spans.all()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == _TRACE_ID
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_a_traceparent_that_is_none_is_passed_over(
    spans: Spans, served: tuple[Any, Any, Membership]
) -> None:
    stub, _, _ = served
    await stub.RegisterWorker(
        membership_service_pb2.RegisterWorkerRequest(), metadata=(("traceparent", "00-zz-z-1"),)
    )
    (span,) = spans.all()
    assert span.parent is None


async def test_an_error_says_its_reason(spans: Spans, served: tuple[Any, Any, Membership]) -> None:
    stub, _, _ = served
    request = membership_service_pb2.HeartbeatWorkerRequest()
    with pytest.raises(errors.DataLossError):
        await rpc.call(stub.HeartbeatWorker, request, timeout_s=60)
    for span in spans.all():
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == "DATA_LOSS"
        assert span.attributes["error.type"] == "DATA_LOSS"


async def test_streams_have_no_span(spans: Spans, served: tuple[Any, Any, Membership]) -> None:
    _, stub, _ = served

    async def requests() -> AsyncIterator[routing_service_pb2.WatchTableRequest]:
        yield routing_service_pb2.WatchTableRequest()

    assert [a.version async for a in rpc.stream(stub.WatchTable, requests())] == [1]
    assert spans.all() == []


async def test_without_an_endpoint_nothing_is_traced(
    served: tuple[Any, Any, Membership],
) -> None:
    assert tracing.active() is None
    await _register(served[0])


def test_an_endpoint_without_opentelemetry_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None
    )
    with pytest.raises(errors.InvalidArgumentError, match=r"shoal\[tracing\]"):
        tracing.begin("gateway", "http://localhost:4317", 1.0)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by OTLP, as a collector does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[str, Any]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [(names["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[tuple[str, Any]]:
        with self._lock:
            return [(n, s) for n, s in self._spans if s.trace_id.hex() == trace_id]

    def services(self) -> set[str]:
        with self._lock:
            return {name for name, _ in self._spans}

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    with clusters(tmp_path) as starter:
        yield starter


@pytest.mark.cluster
def test_a_query_s_trace_goes_through_all_processes(
    start: Callable[..., RunningCluster], receiver: Receiver
) -> None:
    cluster = start(
        workers=1,
        environment={
            "SHOAL_TRACING_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        },
    )
    collection = cluster.create("traced", shards=2)
    collection.upsert(["a", "b"])
    query = record_service_pb2.QueryRequest(
        collection=collection_pb2.CollectionReference(id=collection.id),
        query_vectors=value_pb2.VectorBlock(
            dimension=DIMENSION, values=vectors_of(["a"], 0).astype("<f4").tobytes()
        ),
        n_results=1,
    ).SerializeToString()
    send: Any = cluster.channel().unary_unary("/shoal.v1.RecordService/Query")
    send(query, timeout=60, metadata=(_TRACEPARENT,))
    wait_for(lambda: len(receiver.of_trace(_TRACE_ID)) >= 3)
    found = {(name, span.name, span.kind): span for name, span in receiver.of_trace(_TRACE_ID)}
    search = "shoal.internal.v1.ShardDataService/SearchShards"
    server, client = 2, 3
    asked = found["shoal-gateway", "shoal.v1.RecordService/Query", server]
    sent = found["shoal-gateway", search, client]
    answered = found["shoal-worker", search, server]
    assert asked.parent_span_id.hex() == "b7ad6b7169203331"
    assert sent.parent_span_id == asked.span_id
    assert answered.parent_span_id == sent.span_id
    assert len(found) == 3
    # Creating the collection went through the coordinator; and health is never traced.
    wait_for(lambda: "shoal-coordinator" in receiver.services())
