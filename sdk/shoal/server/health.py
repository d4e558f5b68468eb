"""Whether this process serves: grpc.health.v1, HTTP, and reflection.

Each role has a plaintext health port of its own, because a Kubernetes probe speaks plaintext and
names a port by its number. The public port serves health and reflection besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shoal.errors import FailedPreconditionError
from shoal.server import metrics, transport

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

_MAX_HEAD_BYTES: Final = 8 * 1024
_HEAD_TIMEOUT_S: Final = 5.0


class Health:
    """The state that grpc.health.v1 and HTTP tell. NOT_SERVING until it is set.

    Args:
        services: Full names that can be asked for, beside the empty one.
    """

    def __init__(self, services: Sequence[str] = ()) -> None:
        self._names = ["", *services]
        self._servicer = health.aio.HealthServicer()
        self.is_serving = False

    async def set(self, is_serving: bool) -> None:
        """Tell everybody who asks or watches."""
        self.is_serving = is_serving
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if is_serving else states.NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, state)

    async def name(self, services: Sequence[str]) -> None:
        """Add services that can be asked for."""
        self._names.extend(services)
        await self.set(self.is_serving)

    async def announce(self, name: str) -> None:
        """Say SERVING under a further name, from now on."""
        await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it on a server that has not started yet."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def listen(self, host: str, port: int) -> tuple[grpc.aio.Server, int]:
        """Start a server that serves nothing but this, and give it with its port."""
        await self._servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
        server = transport.server()
        self.add_to(server)
        bound = transport.bind(server, host, port)
        await server.start()
        return server, bound


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Let clients without the proto files ask what a server offers."""
    names = [*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


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
