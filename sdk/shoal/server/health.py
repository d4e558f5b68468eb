"""Whether this process serves: grpc.health.v1, HTTP, and reflection.

Each role has a plaintext health port of its own, because a Kubernetes probe speaks plaintext and
names a port by its number. The public port serves health and reflection besides, to everybody who
can reach it: so what of it lasts is bounded, or strangers would take up all the calls that a server
works on at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from shoal.errors import FailedPreconditionError, InvalidArgumentError, ShoalError
from shoal.server import metrics, transport
from shoal.server.receiving import Receiving

__all__ = ["CLUSTER", "LIVE", "Health", "HttpPort", "add_reflection"]

LIVE: Final = "live"
"""The name under which health says SERVING as long as the process answers at all.

For liveness probes: a process that recovers its shards, waits for the coordinator, or ends in order
is not ready, and to kill it would only prolong that.
"""

CLUSTER: Final = "cluster"
"""The name under which a gateway's health says SERVING once all expected workers had registered.

For whoever starts a whole cluster and waits for it, without a key or a certificate.
"""

_SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_MOST_WATCHES: Final = 1_024
"""At a time: a quarter of the calls that a server has at all by default."""
_REQUEST_TIMEOUT_S: Final = 10.0
"""How long a request of a few bytes may take to arrive."""

_MOST_REFLECTIONS: Final = 64
_REFLECTION_TIMEOUT_S: Final = 60.0
"""So many at a time, and so long: who asks for the protos is a person with a tool."""

_MAX_HEAD_BYTES: Final = 8 * 1024
_HEAD_TIMEOUT_S: Final = 5.0

_Context = grpc.aio.ServicerContext[Any, Any]
_States: Final = health_pb2.HealthCheckResponse


class Health:
    """The state that grpc.health.v1 and HTTP tell. NOT_SERVING until it is set.

    Not the servicer of grpcio-health-checking: its watches last beyond the stop of a server, which
    waits for them, and it waits itself for requests that never come.

    Args:
        services: Full names that can be asked for, beside the empty one.
        most_watches: At a time.
    """

    def __init__(self, services: Sequence[str] = (), most_watches: int = _MOST_WATCHES) -> None:
        self._names = ["", *services]
        self._most_watches = most_watches
        self._watch_count = 0
        self._statuses: dict[str, int] = {}
        # Set and replaced with every change.
        self._changed = asyncio.Event()
        self._is_ended = False
        self._receiving = Receiving(_REQUEST_TIMEOUT_S)
        self.is_serving = False
        self.set(is_serving=False)

    def set(self, is_serving: bool) -> None:
        """Tell everybody who asks or watches."""
        self.is_serving = is_serving
        state = _States.SERVING if is_serving else _States.NOT_SERVING
        self._statuses.update(dict.fromkeys(self._names, state))
        self._wake()

    def name(self, services: Sequence[str]) -> None:
        """Add services that can be asked for."""
        self._names.extend(services)
        self.set(self.is_serving)

    def announce(self, name: str) -> None:
        """Say SERVING under a further name, from now on."""
        self._statuses[name] = _States.SERVING
        self._wake()

    def end(self) -> None:
        """End watches, once they have told the last state: a server that stops waits for them."""
        self._is_ended = True
        self._wake()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it on a server that has not started yet."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            # As streams, whose requests are received by our own hand.
            "Check": grpc.stream_unary_rpc_method_handler(self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    async def listen(self, host: str, port: int) -> tuple[grpc.aio.Server, int]:
        """Start a server that serves nothing but this, and give it with its port."""
        self.announce(LIVE)
        server = transport.server()
        self.add_to(server)
        bound = transport.bind(server, host, port)
        await server.start()
        return server, bound

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, _raws: AsyncIterator[bytes], context: _Context) -> bytes:
        status = self._statuses.get(await self._service(context))
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of that name is here")
        return health_pb2.HealthCheckResponse(status=status).SerializeToString()

    async def _watch(self, _raws: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
        if self._watch_count >= self._most_watches:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._watch_count} watch already, which is the limit: ask by Check",
            )
        self._watch_count += 1
        try:
            service = await self._service(context)
            told: int | None = None
            while True:
                changed = self._changed
                status = self._statuses.get(service, _States.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
                elif self._is_ended:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
                else:
                    await changed.wait()
        finally:
            self._watch_count -= 1

    async def _service(self, context: _Context) -> str:
        """Receive the name that a call asks for; or end the call."""
        try:
            raw = await self._receiving.read(context)
            if raw is grpc.aio.EOF:
                raise InvalidArgumentError("the call has no request")
            return health_pb2.HealthCheckRequest.FromString(raw).service
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the request is no HealthCheckRequest"
            )
        except ShoalError as error:
            await context.abort(grpc.StatusCode[error.code], error.message)


class _Symbols:
    """The pool of descriptors, in which methods are found, too, as tools ask for them."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            return found.methods_by_name[method].containing_service.file


class _Reflection(reflection.aio.ReflectionServicer):
    """Reflection, of which not many calls go on at a time, and none for long."""

    _count = 0

    async def ServerReflectionInfo(  # type: ignore[override]  # an async generator, as that is
        self, request_iterator: Any, context: _Context
    ) -> AsyncIterator[Any]:
        if self._count >= _MOST_REFLECTIONS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many ask for the protos: repeat later"
            )
        self._count += 1
        try:
            answers: Any = super().ServerReflectionInfo(request_iterator, context)
            end = time.monotonic() + _REFLECTION_TIMEOUT_S
            while True:
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        answer = await anext(answers, None)
                except TimeoutError:
                    await context.abort(
                        grpc.StatusCode.DEADLINE_EXCEEDED, "nothing more is answered on this call"
                    )
                if answer is None:
                    return
                yield answer
        finally:
            self._count -= 1


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Let clients without the proto files ask what a server offers."""
    names = [*services, _SERVICE, reflection.SERVICE_NAME]
    servicer = _Reflection(names, pool=_Symbols())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]


class HttpPort:
    """The HTTP port of a role: ``/metrics``, ``/healthz`` (it runs), ``/readyz`` (it serves).

    Args:
        is_ready: Asked at each ``/readyz``.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start, and give the port.

        Raises:
            FailedPreconditionError: The port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._answer, host, port, limit=_MAX_HEAD_BYTES, reuse_address=True
            )
        except OSError as error:
            raise FailedPreconditionError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror}; choose another one",
                metadata={"address": f"{host}:{port}"},
            ) from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            status, content_type, body = self._respond(head)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            )
            writer.write(body if not head.startswith(b"HEAD ") else b"")
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Whoever asked is gone, slow, or speaks no HTTP: hang up. A close would go on to wait
            # until he has taken what was written.
            writer.transport.abort()
        finally:
            writer.close()

    def _respond(self, head: bytes) -> tuple[str, str, bytes]:
        text = "text/plain; charset=utf-8"
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", text, b"only GET\n"
        if path == b"/metrics":
            content_type, body = metrics.exposition()
            return "200 OK", content_type, body
        if path == b"/healthz":
            return "200 OK", text, b"ok\n"
        if path == b"/readyz":
            if self._is_ready():
                return "200 OK", text, b"ready\n"
            return "503 Service Unavailable", text, b"not ready\n"
        return "404 Not Found", text, b"/metrics, /healthz, /readyz\n"
