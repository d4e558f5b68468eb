"""gRPC servers and channels as Shoal's processes use them: one set of options for both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from shoal.errors import FailedPreconditionError
from shoal.server.methods import MAX_MESSAGE_BYTES
from shoal.server.tls import ChannelTls, FixedTls

__all__ = [
    "KEEPALIVE_MS",
    "MIN_PING_INTERVAL_MS",
    "AddressedChannel",
    "bind",
    "channel",
    "server",
]

_MAX_METADATA_BYTES: Final = 64 * 1024
MIN_PING_INTERVAL_MS: Final = 5_000
KEEPALIVE_MS: Final = 20_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000
_SERVER_KEEPALIVE_MS: Final = 60_000
# A process that was restarted at its old address should be found again at once: a first attempt
# after 0.1 s, and never more than 1 s between two.
_FIRST_RECONNECT_MS: Final = 100
_LONGEST_RECONNECT_MS: Final = 1_000
# A process that comes back under its name with a new address, as pods do: gRPC's own 30 s between
# two look-ups would keep it lost for as long.
_MIN_RESOLUTION_INTERVAL_MS: Final = 1_000
# How long calls go on over a connection that was made with a certificate since replaced. Longer
# than any deadline that our own roles set; watches, which have none, are opened again.
_LEAVING_GRACE_S: Final = 300.0
# Above the calls that services refuse with an error of their own: here gRPC itself sheds, before
# it reads the request, with a bare RESOURCE_EXHAUSTED.
_SHED_FACTOR: Final = 4


# Calls that have come in and that Python has not yet looked at. From the first on gRPC refuses
# some, by chance, from the second on all, with a bare CANCELLED, for a twentieth of the CPU that a
# refusal in Python takes: where calls are as cheap as that, a server that says no to each would do
# nothing else. A burst of that many is served in a fraction of a second.
_PENDING_CALLS: Final = 128
_MOST_PENDING_CALLS: Final = 384


def server(
    *,
    max_concurrent_calls: int = 1_024,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    share_port: bool = False,
    sheds_early: bool = False,
) -> grpc.aio.Server:
    """Make a server.

    Args:
        max_concurrent_calls: Enforced by its services; far above it gRPC sheds.
        max_message_bytes: Of a request and of an answer.
        share_port: Let other processes that say the same listen on its port, too.
        sheds_early: Let gRPC refuse what Python does not come round to: for the public port.
    """
    pending = [
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING_CALLS),
    ]
    return grpc.aio.server(
        maximum_concurrent_rpcs=max_concurrent_calls * _SHED_FACTOR,
        options=[
            # On by default: two servers would share a port silently.
            ("grpc.so_reuseport", int(share_port)),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            # Clients that ping idle connections would else be sent away with GOAWAY.
            # (The key of what grpc.h calls MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS has no "recv".)
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            # A peer that vanished without a word would hold its connection, and what it was
            # sending, for hours.
            ("grpc.keepalive_time_ms", _SERVER_KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            *(pending if sheds_early else ()),
        ],
    )


def bind(
    target: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    """Let a server listen, and give its port.

    Args:
        target: Not started yet.
        host: Name or IP address.
        port: 0 for a free one.
        credentials: For TLS; None: plaintext.

    Raises:
        FailedPreconditionError: The port is taken, or the address is not this machine's.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = (
            target.add_insecure_port(address)
            if credentials is None
            else target.add_secure_port(address, credentials)
        )
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise FailedPreconditionError(
            f"cannot listen on {address}: the port is in use, or the address is not one of this "
            "machine's; choose another one",
            metadata={"address": address},
        )
    return bound


class _AddressedMethod:
    """A method of a remote service that knows where it leads, for messages of errors."""

    __slots__ = (
        "_arguments",
        "_channel",
        "_connection",
        "_kind",
        "_method",
        "_options",
        "address",
        "full_name",
    )

    def __init__(
        self, channel: AddressedChannel, kind: str, arguments: Any, options: dict[str, Any]
    ) -> None:
        self.address = channel.address
        self._channel = channel
        self._kind = kind
        self._arguments = arguments
        self.full_name = str(arguments[0]).lstrip("/") if arguments else ""
        self._options = options
        self._connection: grpc.aio.Channel | None = None
        self._method: Any = None

    def __call__(self, request: Any, **options: Any) -> Any:
        connection = self._channel.connection()
        if connection is not self._connection:
            self._method = getattr(connection, self._kind)(*self._arguments, **self._options)
            self._connection = connection
        return self._method(request, **options)


class AddressedChannel(grpc.aio.Channel):
    """A channel that knows its address, and connects anew when its certificates have changed.

    Args:
        address: ``host:port``.
        options: Of the channel.
        tls: None for plaintext.
    """

    def __init__(
        self,
        address: str,
        options: Sequence[tuple[str, Any]],
        tls: ChannelTls | FixedTls | None = None,
    ) -> None:
        self.address = address
        self._options = list(options)
        self._tls = tls
        self._credentials: grpc.ChannelCredentials | None = None
        self._is_closed = False
        # Connections with former certificates, on which calls are still under way.
        self._leaving: set[asyncio.Task[None]] = set()
        self._connection = self._connect()

    def connection(self) -> grpc.aio.Channel:
        """Give the gRPC channel to make a call on."""
        if (
            self._tls is not None
            and not self._is_closed
            and self._tls.credentials() is not self._credentials
        ):
            former, self._connection = self._connection, self._connect()
            leaving = asyncio.create_task(former.close(_LEAVING_GRACE_S))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        return self._connection

    def _connect(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self.address, options=self._options)
        self._credentials = self._tls.credentials()
        return grpc.aio.secure_channel(
            self.address, self._credentials, options=[*self._options, *self._tls.options]
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        self._is_closed = True
        for leaving in list(self._leaving):
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._connection.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.connection().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.connection().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.connection().channel_ready()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return _AddressedMethod(self, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return _AddressedMethod(self, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return _AddressedMethod(self, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return _AddressedMethod(self, "stream_stream", args, options)


def channel(
    address: str,
    tls: ChannelTls | FixedTls | None = None,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> AddressedChannel:
    """Make a channel to another process of Shoal's. Nothing is contacted before the first call.

    Args:
        address: ``host:port``.
        tls: This process's own, and how to know the other; None: plaintext.
        max_message_bytes: Of a request and of an answer.
    """
    return AddressedChannel(
        address,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
            ("grpc.dns_min_time_between_resolutions_ms", _MIN_RESOLUTION_INTERVAL_MS),
            # Repeating is decided by who knows whether it is harmless.
            ("grpc.enable_retries", 0),
            # The cluster's own traffic never goes by a proxy that the environment names.
            ("grpc.enable_http_proxy", 0),
        ],
        tls=tls,
    )
