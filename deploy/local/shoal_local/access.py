"""How a command reaches a running server: where it is, which key to show, how to know it.

A key comes from a file or the environment, never from the command line, which every user of the
machine can read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from shoal.errors import InvalidArgumentError
from shoal.server import rpc
from shoal.server.tls import FixedTls
from shoal_local.directory import ADMIN_KEY, is_held
from shoal_local.state import RunState

__all__ = ["ServerAccess", "add_arguments"]

_TIMEOUT_S: Final = 10.0
_KEY_VARIABLE: Final = "SHOAL_API_KEY"

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command be told how to reach a server."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("SHOAL_DATA", "shoal-data")),
        help="Data directory of a cluster on this machine. [SHOAL_DATA; default: shoal-data]",
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="A gateway, instead of that of --data."
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"File with the API key to show. [{_KEY_VARIABLE} may hold the key itself; default: "
        f"{ADMIN_KEY} in --data, if it is there]",
    )
    parser.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="Speak TLS, and know the gateway by these authorities (PEM).",
    )
    parser.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="Own certificate chain (PEM)."
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="Its private key (PEM).")


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Where a server is, and what to show it.

    Attributes:
        address: ``host:port``.
        api_key: None: none.
        credentials: For TLS; None: plaintext.
    """

    address: str
    api_key: str | None = field(default=None, repr=False)
    credentials: grpc.ChannelCredentials | None = None

    @classmethod
    def of(cls, given: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Self:
        """Settle what `add_arguments` has asked for.

        Raises:
            InvalidArgumentError: A file cannot be read, or nothing runs in the directory.
        """
        directory: Path = given.data.absolute()
        address = given.address
        if address is None:
            state = RunState.read(directory)
            if state is None or not is_held(directory):
                raise InvalidArgumentError(
                    f"nothing runs in {directory}: start it with `shoal up --data {directory}`, or "
                    "name a server with --address"
                )
            address = f"{state.gateway.host}:{state.gateway.port}"
        own = directory / ADMIN_KEY
        file = given.api_key_file
        if file is None and _KEY_VARIABLE not in environment and given.address is None:
            file = own if os.access(own, os.R_OK) else None
        api_key = environment.get(_KEY_VARIABLE) if file is None else _read(file).decode().strip()
        credentials = None
        if given.tls_ca is not None:
            credentials = grpc.ssl_channel_credentials(
                _read(given.tls_ca),
                None if given.tls_key is None else _read(given.tls_key),
                None if given.tls_cert is None else _read(given.tls_cert),
            )
        return cls(address, api_key, credentials)

    def channel(self) -> grpc.aio.Channel:
        """Open a channel."""
        tls = None if self.credentials is None else FixedTls(self.credentials)
        return rpc.channel(self.address, tls)

    async def call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        """Call a method of a stub on the channel, showing the key."""
        metadata: list[Any] = []
        if self.api_key:
            metadata.append(("authorization", f"Bearer {self.api_key}"))
        return await rpc.call(method, request, timeout_s=_TIMEOUT_S, metadata=metadata)

    async def pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> AsyncIterator[_Response]:
        """Call a method that lists, page by page; the request is changed."""
        # That both have page tokens is known to the methods, and to no type.
        asked: Any = request
        while True:
            answer: Any = await self.call(method, request)
            yield answer
            if not answer.next_page_token:
                return
            asked.page_token = answer.next_page_token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}") from None
