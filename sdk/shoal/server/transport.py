"""gRPC servers and channels as Shoal's processes use them: one set of options for both ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from shoal.errors import FailedPreconditionError
from shoal.server.methods import MAX_MESSAGE_BYTES

__all__ = ["AddressedChannel", "bind", "channel", "server"]

_MAX_METADATA_BYTES: Final = 64 * 1024
_MIN_PING_INTERVAL_MS: Final = 5_000
_KEEPALIVE_MS: Final = 20_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000
# A process that was restarted at its old address should be found again at once: a first attempt
# after 0.1 s, and never more than 1 s between two.
_FIRST_RECONNECT_MS: Final = 100
_LONGEST_RECONNECT_MS: Final = 1_000
# A process that comes back under its name with a new address, as pods do: gRPC's own 30 s between
# two look-ups would keep it lost for as long.
_MIN_RESOLUTION_INTERVAL_MS: Final = 1_000
# Above the calls that services refuse with an error of their own: here gRPC itself sheds, before
# it reads the request, with a bare RESOURCE_EXHAUSTED.
_SHED_FACTOR: Final = 4


def server(
    *, max_concurrent_calls: int = 1_024, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Server:
    """Make a server. Its services enforce `max_concurrent_calls`; far above it gRPC sheds."""
    return grpc.aio.server(
        maximum_concurrent_rpcs=max_concurrent_calls * _SHED_FACTOR,
        options=[
            # On by default: two servers would share a port silently.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            # Clients that ping idle connections would else be sent away with GOAWAY.
            # (The key of what grpc.h calls MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS has no "recv".)
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )


def bind(target: grpc.aio.Server, host: str, port: int) -> int:
    """Let a server listen, and give its port.

    Args:
        target: Not started yet.
        host: Name or IP address.
        port: 0 for a free one.

    Raises:
        FailedPreconditionError: The port is taken, or the address is not this machine's.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = target.add_insecure_port(address)
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
    """A unary method of a remote service that knows where it leads, for messages of errors."""

    __slots__ = ("_method", "address")

    def __init__(self, method: Any, address: str) -> None:
        self._method = method
        self.address = address

    def __call__(self, request: Any, **options: Any) -> Any:
        return self._method(request, **options)


class AddressedChannel(grpc.aio.Channel):
    """A channel that knows its address."""

    def __init__(self, address: str, inner: grpc.aio.Channel) -> None:
        self.address = address
        self._inner = inner

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
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return _AddressedMethod(self._inner.unary_unary(*args, **options), self.address)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return self._inner.unary_stream(*args, **options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return self._inner.stream_unary(*args, **options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return self._inner.stream_stream(*args, **options)


def channel(address: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> AddressedChannel:
    """Make a channel to another process of Shoal's. Nothing is contacted before the first call.

    Args:
        address: ``host:port``.
        max_message_bytes: Of a request and of an answer.
    """
    inner = grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
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
    )
    return AddressedChannel(address, inner)
