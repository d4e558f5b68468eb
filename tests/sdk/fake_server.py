"""A gRPC server whose answers a test writes: for what a real one does only when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from shoal import errors
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import collection_pb2
from shoal.v1 import collection_service_pb2 as collections
from shoal.v1 import record_service_pb2 as records
from shoal.wire import status

Answer = Callable[[Any], Any]

REQUESTS: dict[str, Callable[[bytes], Any]] = {
    "Heartbeat": admin.HeartbeatRequest.FromString,
    "GetLimits": admin.GetLimitsRequest.FromString,
    "CreateCollection": collections.CreateCollectionRequest.FromString,
    "GetCollection": collections.GetCollectionRequest.FromString,
    "Add": records.AddRequest.FromString,
    "Upsert": records.UpsertRequest.FromString,
    "Update": records.UpdateRequest.FromString,
    "Delete": records.DeleteRequest.FromString,
    "Get": records.GetRequest.FromString,
    "Count": records.CountRequest.FromString,
    "Query": records.QueryRequest.FromString,
}


@dataclass
class FakeServer(grpc.GenericRpcHandler):
    """Answers each method with what its function makes of the request, or with what it raises.

    Attributes:
        answers: By the method's name.
        received: What came in, in order: name of the method, request, metadata.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    received: list[tuple[str, Any, dict[str, str | bytes]]] = field(default_factory=list)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        name = handler_call_details.method.rpartition("/")[2]
        if name not in self.answers:
            return None

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self.received.append((name, request, dict(context.invocation_metadata())))
            try:
                return self.answers[name](request)
            except errors.ShoalError as error:
                context.set_trailing_metadata(((status.TRAILER, status.encode(error)),))
                context.abort(getattr(grpc.StatusCode, error.code), error.message)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=REQUESTS[name],
            response_serializer=lambda message: message.SerializeToString(),
        )

    def requests(self, name: str) -> list[Any]:
        """The requests of one method."""
        return [request for method, request, _ in self.received if method == name]


def small_limits(**limits: int) -> Answer:
    """Answers GetLimits."""
    return lambda request: admin.GetLimitsResponse(**limits)


def one_collection(dimension: int = 2) -> Answer:
    """Answers GetCollection and CreateCollection with the collection ``books``."""

    def answer(request: Any) -> Any:
        collection = collection_pb2.Collection(
            id="5d7d8a36-4fa6-4b1b-8d2e-0a3e7a9f1b11",
            name="books",
            tenant="default_tenant",
            database="default_database",
            dimension=dimension,
        )
        if isinstance(request, collections.GetCollectionRequest):
            return collections.GetCollectionResponse(collection=collection)
        return collections.CreateCollectionResponse(collection=collection, created=True)

    return answer


@contextmanager
def serving(fake: FakeServer, port: int = 0) -> Iterator[int]:
    """Serve on a free port, or a given one."""
    executor = ThreadPoolExecutor(8)
    server = grpc.server(executor, [fake], options=[("grpc.so_reuseport", 0)])
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()
        executor.shutdown()
