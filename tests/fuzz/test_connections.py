"""Connections that no gRPC library would make, to a real cluster: by bare sockets.

Half requests, readers that do not read, frames out of order, bombs: none of it may end a process,
hold it up, or fill its memory; and whoever calls properly meanwhile is answered.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from shoal import errors
from shoal.v1 import record_service_pb2, value_pb2
from tests.cluster.running import DIMENSION, Collection, RunningCluster, vectors_of
from tests.fuzz.hostile import grpc_frame

pytestmark = pytest.mark.cluster

_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(
    10
)
_END_STREAM, _END_HEADERS = 0x1, 0x4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ADD: Final = b"/shoal.v1.RecordService/Add"
_GET: Final = b"/shoal.v1.RecordService/Get"
_MEBIBYTE: Final = 1024 * 1024
_MOST_BYTES: Final = 1024 * _MEBIBYTE


@pytest.fixture
def kept(kept: Collection, cluster: RunningCluster) -> Iterator[Collection]:
    """As for all of them; and the processes are no larger."""
    yield kept
    assert _anonymous_bytes(cluster) < _MOST_BYTES


def _anonymous_bytes(cluster: RunningCluster) -> int:
    most = 0
    for process in cluster.processes():
        text = Path(f"/proc/{process}/status").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("RssAnon"))
        most = max(most, int(line.split()[1]) * 1024)
    return most


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None
           ) -> bytes:  # fmt: skip
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    def text(of: bytes) -> bytes:
        if len(of) < 127:
            return bytes([len(of)]) + of
        rest, out = len(of) - 127, bytearray(b"\x7f")
        while rest >= 128:
            out.append(rest % 128 | 0x80)
            rest //= 128
        return bytes(out) + bytes([rest]) + of

    return b"\x00" + text(name) + text(value)


def _headers(path: bytes, *others: tuple[bytes, bytes], method: bytes = b"POST",
             content_type: bytes = b"application/grpc") -> bytes:  # fmt: skip
    given = (
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", content_type),
        (b"te", b"trailers"),
        *others,
    )
    return b"".join(_literal(name, value) for name, value in given)


def _call(stream: int, path: bytes, body: bytes, *others: tuple[bytes, bytes]) -> bytes:
    return _frame(_HEADERS, _END_HEADERS, stream, _headers(path, *others)) + _frame(
        _DATA, _END_STREAM, stream, body
    )


@contextlib.contextmanager
def _connection(cluster: RunningCluster, *, greets: bool = True) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=60) as connection:
        if greets:
            connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0))
        yield connection


def _send(connection: socket.socket, data: bytes) -> None:
    """Send what the server takes; it may hang up at any moment."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


def _drain(connection: socket.socket, seconds: float, first_s: float | None = None) -> bytes:
    """Receive until nothing comes for a time; what comes first is waited for longer."""
    connection.settimeout(first_s or seconds)
    received = bytearray()
    with contextlib.suppress(OSError):
        while data := connection.recv(65_536):
            received += data
            connection.settimeout(seconds)
    return bytes(received)


def _is_answered(kept: Collection) -> None:
    """A proper caller is answered, while all that goes on; after a flood, who calls again."""
    give_up_at = time.monotonic() + 240
    while True:
        try:
            assert kept.count(timeout_s=60) == 20
        except errors.UnavailableError:
            # Refused by gRPC, for all that waits to be looked at.
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        else:
            return


_RUBBISH: Final[dict[str, Callable[[random.Random], bytes]]] = {
    "HTTP/1.1": lambda chance: b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
    "TLS": lambda chance: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500),
    "noise": lambda chance: chance.randbytes(20_000),
    "half a preface": lambda chance: _PREFACE[: chance.randrange(1, len(_PREFACE))],
    "noise after the preface": lambda chance: _PREFACE + chance.randbytes(5_000),
    "frames of noise": lambda chance: (
        _PREFACE
        + b"".join(
            _frame(
                chance.randrange(12),
                chance.randrange(256),
                chance.randrange(8),
                chance.randbytes(40),
            )
            for _ in range(200)
        )
    ),
    "a frame longer than it says": lambda chance: (
        _PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_DATA, 0, 1, b"x" * 100, length=2**24 - 1)
    ),
    "data before headers": lambda chance: (
        _PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_DATA, _END_STREAM, 1, grpc_frame(b""))
    ),
    "headers that are none": lambda chance: (
        _PREFACE
        + _frame(_SETTINGS, 0, 0)
        + _frame(_HEADERS, _END_HEADERS, 1, chance.randbytes(300))
    ),
    "a table of 4 GiB": lambda chance: (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 1, 2**32 - 1))
        + _call(1, _GET, grpc_frame(b""))
    ),
    "a window that overflows": lambda chance: (
        _PREFACE + _frame(_SETTINGS, 0, 0) + _frame(_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 3
    ),
    "streams of even numbers": lambda chance: (
        _PREFACE + _frame(_SETTINGS, 0, 0) + _call(2, _GET, grpc_frame(b""))
    ),
    "a pushed promise": lambda chance: (
        _PREFACE
        + _frame(_SETTINGS, 0, 0)
        + _frame(_PUSH, _END_HEADERS, 1, struct.pack(">I", 2) + _headers(_GET))
    ),
    "a goodbye first": lambda chance: (
        _PREFACE + _frame(_GOAWAY, 0, 0, struct.pack(">II", 0, 0)) + _call(1, _GET, grpc_frame(b""))
    ),
}


@pytest.mark.parametrize("kind", sorted(_RUBBISH))
def test_what_is_no_grpc(cluster: RunningCluster, kept: Collection, kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(5):
        with _connection(cluster, greets=False) as connection:
            _send(connection, _RUBBISH[kind](chance))
            _drain(connection, 0.1)
    _is_answered(kept)


@pytest.mark.parametrize(
    ("path", "others", "method", "content_type"),
    [
        (b"/shoal.v1.RecordService/Fly", (), b"POST", b"application/grpc"),
        (b"/", (), b"POST", b"application/grpc"),
        (b"*", (), b"POST", b"application/grpc"),
        (b"/" + b"x" * 30_000, (), b"POST", b"application/grpc"),
        (_GET, (), b"GET", b"application/grpc"),
        (_GET, (), b"PUT", b"application/grpc"),
        (_GET, (), b"POST", b"text/html"),
        (_GET, (), b"POST", b"application/grpc+json"),
        (_GET, ((b"grpc-timeout", b"99999999H"),), b"POST", b"application/grpc"),
        (_GET, ((b"grpc-timeout", b"soon"),), b"POST", b"application/grpc"),
        (_GET, ((b"grpc-encoding", b"middle-out"),), b"POST", b"application/grpc"),
        (_GET, ((b"authorization", b"Bearer " + b"x" * 10_000),), b"POST", b"application/grpc"),
        (_GET, ((b"x-request-id", b"\x01\x02\xff"),), b"POST", b"application/grpc"),
        (_GET, ((b"traceparent", b"00-zz-zz-zz"),), b"POST", b"application/grpc"),
        (_GET, ((b"anything-bin", b"!!! no base64"),), b"POST", b"application/grpc"),
        (_GET, ((b"UPPER", b"case"),), b"POST", b"application/grpc"),
    ],
)  # fmt: skip
def test_calls_with_strange_headers_are_answered_or_reset(
    cluster: RunningCluster,
    kept: Collection,
    path: bytes,
    others: tuple[tuple[bytes, bytes], ...],
    method: bytes,
    content_type: bytes,
) -> None:
    headers = _headers(path, *others, method=method, content_type=content_type)
    parts = [headers[begin : begin + 16_000] for begin in range(0, len(headers), 16_000)]
    with _connection(cluster) as connection:
        for number, part in enumerate(parts):
            kind = _HEADERS if number == 0 else _CONTINUATION
            _send(connection, _frame(kind, _END_HEADERS if part is parts[-1] else 0, 1, part))
        _send(connection, _frame(_DATA, _END_STREAM, 1, grpc_frame(b"")))
        received = _drain(connection, 1.0, first_s=60.0)
    assert received, "the server said nothing"
    _is_answered(kept)


def test_metadata_that_is_too_large_is_refused(cluster: RunningCluster, kept: Collection) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{cluster.port}") as channel:
        get: Any = channel.unary_unary(_GET.decode())
        for size in (100_000, 1_000_000):
            with pytest.raises(grpc.RpcError) as caught:
                get(b"", timeout=60, metadata=(("filler", "x" * size),))
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    _is_answered(kept)


def test_continuations_without_end(cluster: RunningCluster, kept: Collection) -> None:
    with _connection(cluster) as connection:
        _send(connection, _frame(_HEADERS, 0, 1, _headers(_GET)))
        more = _literal(b"filler", b"x" * 10_000)
        for _ in range(2_000):  # 20 MB
            _send(connection, _frame(_CONTINUATION, 0, 1, more))
    _is_answered(kept)


def test_a_bomb_is_not_unpacked(cluster: RunningCluster, kept: Collection) -> None:
    before = _anonymous_bytes(cluster)
    bomb = gzip.compress(bytes(1024 * _MEBIBYTE), 9)  # a gigabyte in one megabyte
    codes = []
    for _ in range(3):
        with _connection(cluster) as connection:
            message = grpc_frame(bomb, compressed=True)
            _send(
                connection,
                _frame(_HEADERS, _END_HEADERS, 1, _headers(_ADD, (b"grpc-encoding", b"gzip"))),
            )
            for begin in range(0, len(message), 16_384):
                part = message[begin : begin + 16_384]
                _send(connection, _frame(_DATA, 0, 1, part))
            _send(connection, _frame(_DATA, _END_STREAM, 1))
            codes.append(_drain(connection, 2.0))
        _is_answered(kept)
    assert _anonymous_bytes(cluster) - before < 256 * _MEBIBYTE


def test_requests_that_never_end(cluster: RunningCluster, kept: Collection) -> None:
    """Each says that it has fifty megabytes to come, and sends one."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(_connection(cluster))
            _send(connection, _frame(_HEADERS, _END_HEADERS, 1, _headers(_ADD)))
            _send(connection, _frame(_DATA, 0, 1, grpc_frame(b"", length=50 * _MEBIBYTE)))
            for _ in range(3):
                _send(connection, _frame(_DATA, 0, 1, bytes(16_000)))
        _is_answered(kept)
        assert _anonymous_bytes(cluster) < _MOST_BYTES


def test_readers_that_do_not_read(cluster: RunningCluster, kept: Collection) -> None:
    """Answers of some megabytes, asked for over and over, with a window of nothing."""
    large = cluster.create("large", shards=1)
    ids = [f"large-{n}" for n in range(400)]
    batch = value_pb2.RecordBatch(
        ids=ids,
        vectors=value_pb2.VectorBlock(
            dimension=DIMENSION, values=vectors_of(ids, 0).astype("<f4").tobytes()
        ),
        documents=value_pb2.StringColumn(values=["x" * 10_000] * len(ids)),
    )
    cluster.call(
        "records",
        "Upsert",
        record_service_pb2.UpsertRequest(collection=large.reference, records=batch),
    )
    get = record_service_pb2.GetRequest(
        collection=large.reference, include=[value_pb2.INCLUDE_DOCUMENTS]
    ).SerializeToString()
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(_connection(cluster, greets=False))
            no_window = struct.pack(">HI", 4, 0)
            _send(connection, _PREFACE + _frame(_SETTINGS, 0, 0, no_window))
            for stream in range(1, 9, 2):
                _send(connection, _call(stream, _GET, grpc_frame(get), (b"grpc-timeout", b"5S")))
        time.sleep(1)
        _is_answered(kept)
        assert _anonymous_bytes(cluster) < _MOST_BYTES


def test_calls_that_are_reset_as_soon_as_they_are_made(
    cluster: RunningCluster, kept: Collection
) -> None:
    with _connection(cluster) as connection:
        for stream in range(1, 4_001, 2):
            _send(
                connection,
                _frame(_HEADERS, _END_HEADERS, stream, _headers(_GET))
                + _frame(_RST, 0, stream, struct.pack(">I", 8)),
            )
    _is_answered(kept)


def test_floods_of_pings_and_settings(cluster: RunningCluster, kept: Collection) -> None:
    with _connection(cluster) as connection:
        _send(connection, _frame(_PING, 0, 0, bytes(8)) * 10_000)
    with _connection(cluster) as connection:
        _send(connection, _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 100)) * 10_000)
    _is_answered(kept)


def test_hundreds_of_connections_that_say_nothing(
    cluster: RunningCluster, kept: Collection
) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(300):
            stack.enter_context(_connection(cluster, greets=number % 2 == 0))
        _is_answered(kept)
