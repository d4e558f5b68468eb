"""The HTTP port of a role, with callers that do not take what they have asked for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import pytest

from shoal.server import health, metrics

_BODY: Final = b"x" * (64 * 1024 * 1024)


async def _length_of_rest(reader: asyncio.StreamReader) -> int:
    length = 0
    with contextlib.suppress(ConnectionResetError):
        while part := await reader.read(1024 * 1024):
            length += len(part)
    return length


async def test_whoever_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(metrics, "exposition", lambda: ("text/plain", _BODY))
    served = health.HttpPort(lambda: True)
    port = await served.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.0)
        assert await _length_of_rest(reader) < len(_BODY)
    finally:
        writer.close()
        await served.close()
