"""Where a server is, and how it is reached: the options of every channel to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from shoal import errors
from shoal._version import __version__

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The largest request that is sent, and answer that is taken, whatever the server would allow."""

# The limits are of a message; what a message is wrapped in comes on top.
_SLACK_BYTES: Final = 1024 * 1024

CHANNEL_OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + _SLACK_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + _SLACK_BYTES),
    ("grpc.primary_user_agent", f"shoal-python/{__version__}"),
    # A name with several addresses is a service with several gateways.
    ("grpc.lb_policy_name", "round_robin"),
    # A gateway that comes back with another address is found at once, not after gRPC's 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Finds out within 40 s that the peer of a call under way is gone without a word. Only while
    # calls are under way: idle connections would keep servers and balancers busy for nothing.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own 1 s at first and 120 s at last are for the internet; ours restarts in a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Whatever its name, how long one attempt to connect may take: with TLS, over a slow line.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        host: Name or IP address, or ``unix:PATH``.
        port: TCP port, without meaning for a Unix socket.
        credentials: For TLS, else None.
    """

    host: str
    port: int
    credentials: grpc.ChannelCredentials | None

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """The address as gRPC wants it."""
        return str(self) if self.host.startswith("unix:") else f"dns:///{self}"


def make_address(
    host: object, port: object, ssl: bool | str | Path | grpc.ChannelCredentials
) -> Address:
    """Check where to find a server.

    Args:
        host: Name or IP address, or ``unix:PATH``; not a URL.
        port: 1 to 65535.
        ssl: Whether to use TLS with the system's authorities; or the file with the certificates of
            the authorities to trust (PEM); or complete credentials.
    """
    if not isinstance(host, str) or not host:
        raise errors.InvalidArgumentError(f"host must be a name or an IP address, got {host!r}")
    if "://" in host:
        raise errors.InvalidArgumentError(
            f"host must be a name or an IP address, not a URL, got {host!r}; give port= besides"
        )
    host = host.strip("[]")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_535:
        raise errors.InvalidArgumentError(f"port must be in 1 to 65535, got {port!r}")
    credentials: grpc.ChannelCredentials | None
    if isinstance(ssl, grpc.ChannelCredentials):
        credentials = ssl
    elif isinstance(ssl, str | Path):
        credentials = grpc.ssl_channel_credentials(Path(ssl).read_bytes())
    else:
        credentials = grpc.ssl_channel_credentials() if ssl else None
    return Address(host, port, credentials)
