"""How a client gets its session: with a server, or with a store in this process."""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from shoal._address import make_address
from shoal._async.session import AsyncSession
from shoal._async.transport import AsyncChannelTransport, AsyncEmbeddedTransport
from shoal._defaults import check_timeout
from shoal.errors import InvalidArgumentError


def with_server(
    host: str,
    port: int,
    api_key: str | None,
    ssl: bool | str | Path | grpc.ChannelCredentials,
    timeout: float,
) -> AsyncSession:
    """Make a session with a server, which nothing is sent to yet."""
    address = make_address(host, port, ssl)
    return AsyncSession(AsyncChannelTransport(address, api_key), check_timeout(timeout))


def with_store(
    path: str | os.PathLike[str] | None, timeout: float, *, allow_reset: bool
) -> AsyncSession:
    """Open a store in this process, and make a session with it.

    Args:
        path: Its directory; None: a directory of its own, which is gone when it is closed.
        timeout: For one call, seconds.
        allow_reset: Whether everything may be deleted by one call.

    Raises:
        DataDirectoryLockedError: Another process uses the directory.
        ImportError: The server's dependencies are not installed.
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise InvalidArgumentError(f"path must be a directory, got {path!r}")
    directory = None if path is None else Path(path)
    timeout_s = check_timeout(timeout)
    return AsyncSession(AsyncEmbeddedTransport(directory, allow_reset), timeout_s)
