"""The channel: where to, how safely, and what is tried again.

`SHOAL_ADDRESS`   host:port, or anything that gRPC can resolve to several (default localhost:7700)
`SHOAL_TLS_CA`    a PEM file of certificates to trust, or `system`; without it there is no TLS
`SHOAL_API_KEY`   sent with every call, if given
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

PROTOS: Final = Path(__file__).parents[3] / "protos"

# Answers may be so large; gRPC by itself takes 4 MiB.
MAX_ANSWER_BYTES: Final = 64 << 20


def connect() -> grpc.Channel:
    """Open a channel with the deadlines and retries of protos/service_config.json."""
    address = os.environ.get("SHOAL_ADDRESS", "localhost:7700")
    options = [
        ("grpc.service_config", (PROTOS / "service_config.json").read_text()),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ]
    trusted = os.environ.get("SHOAL_TLS_CA")
    if trusted:
        roots = None if trusted == "system" else Path(trusted).read_bytes()
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options)
    else:
        channel = grpc.insecure_channel(address, options)
    api_key = os.environ.get("SHOAL_API_KEY")
    return grpc.intercept_channel(channel, ApiKey(api_key)) if api_key else channel


class ApiKey(grpc.UnaryUnaryClientInterceptor):
    """Sends the API key with every call."""

    def __init__(self, key: str) -> None:
        self._header = ("authorization", f"Bearer {key}")

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        details: Any = client_call_details
        headers = [*(details.metadata or ()), self._header]
        return continuation(details._replace(metadata=headers), request)
