"""A client that sends calls at a given rate, whether or not the ones before it were answered.

Users do not wait for each other: when a server falls behind, they go on to come, and it is then
that queues grow. A client that waits for its answers cannot show that. This one speaks just enough
HTTP/2 to make unary calls of gRPC, about 15 us of CPU each: gRPC's own Python client would take
more of the machine than the server that is measured. A latency counts from when the call was due,
not from when it was sent.

Run as a process of its own: a `Plan` as JSON on its standard input, an `Account` on its output.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_CONNECTION_WINDOW: Final = 65_535
"""What a server takes before its first WINDOW_UPDATE."""

_FRAME_BYTES: Final = 16_384
"""The largest frame that every server takes."""

_STRAGGLERS_S: Final = 1.0
"""How long answers are waited for beyond the calls' own deadlines."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process sends.

    Attributes:
        port: Of the server, on this machine.
        path: Of the method, ``/package.Service/Method``.
        messages: Serialised requests, in hexadecimal; sent in turn.
        rate: Calls a second, at random moments (Poisson).
        seconds: For how long.
        timeout_s: Deadline of each call.
        connections: Over which they are spread.
        seed: Of the moments.
        callers: Instead of a rate: so many calls are kept under way, to learn what the server can
            sustain.
    """

    port: int
    path: str
    messages: Sequence[str]
    rate: float
    seconds: float
    timeout_s: float
    connections: int = 4
    seed: int = 1
    callers: int = 0


@dataclass(slots=True)
class Account:
    """What became of the calls.

    Attributes:
        sent: Calls that were due.
        by_status: How many ended with each gRPC status; -1: reset, -2: never answered.
        latencies_s: Of those that were answered with OK.
        refusal_latencies_s: Of those that were refused with RESOURCE_EXHAUSTED.
        late_s: How far behind its own schedule the client was at worst.
    """

    sent: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    refusal_latencies_s: list[float] = field(default_factory=list)
    late_s: float = 0.0

    def add(self, other: Account) -> None:
        """Take in another process's account."""
        self.sent += other.sent
        for status, count in other.by_status.items():
            self.by_status[int(status)] = self.by_status.get(int(status), 0) + count
        self.latencies_s += other.latencies_s
        self.refusal_latencies_s += other.refusal_latencies_s
        self.late_s = max(self.late_s, other.late_s)


def run(plans: Sequence[Plan]) -> Account:
    """Carry out plans at once, each in a process of its own."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.open_loop"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in plans
    ]
    total = Account()
    try:
        for process, plan in zip(processes, plans, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(plan)).encode())
            process.stdin.close()
        for process in processes:
            assert process.stdout is not None
            total.add(Account(**json.loads(process.stdout.read())))
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return total


class _Connection:
    """One HTTP/2 connection, with the calls that are under way on it."""

    def __init__(self, port: int, headers: bytes, account: Account) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._headers = headers
        self._account = account
        self._unparsed = bytearray()
        self._next_stream = 1
        self._window = _CONNECTION_WINDOW
        self._waiting: list[tuple[float, bytes]] = []  # for the server's window
        self.due: dict[int, float] = {}  # by stream
        # No dynamic table: statuses can be found in the bytes; and windows that never fill.
        settings = b"\x00\x01\x00\x00\x00\x00" + b"\x00\x04\x7f\xff\xff\xff"
        self.unsent = bytearray(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))
        )

    def call(self, due: float, message: bytes) -> None:
        """Make a call, as soon as the server's window allows it."""
        self._waiting.append((due, message))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._waiting[0][1]) <= self._window:
            due, message = self._waiting.pop(0)
            stream = self._next_stream
            self._next_stream += 2
            self.due[stream] = due
            self._window -= len(message)
            self.unsent += _frame(_HEADERS, _END_HEADERS, stream, self._headers)
            for begin in range(0, len(message), _FRAME_BYTES):
                part = message[begin : begin + _FRAME_BYTES]
                flags = _END_STREAM if begin + _FRAME_BYTES >= len(message) else 0
                self.unsent += _frame(_DATA, flags, stream, part)

    @property
    def under_way(self) -> int:
        """Calls that have not been answered."""
        return len(self.due) + len(self._waiting)

    def send(self) -> None:
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                del self.unsent[: self.socket.send(self.unsent)]

    def receive(self) -> None:
        try:
            read = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not read:
            raise ConnectionError("the server closed a connection")
        data = self._unparsed
        data += read
        position = 0
        while position + 9 <= len(data):
            size = int.from_bytes(data[position : position + 3], "big")
            end = position + 9 + size
            if end > len(data):
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9], "big")
            self._received(kind, flags, stream, bytes(data[position + 9 : end]))
            position = end
        del data[:position]

    def _received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._ended(stream, _status_in(payload))
        elif kind == _RST_STREAM:
            self._ended(stream, -1)
        elif kind == _SETTINGS and not flags & _ACK:
            self.unsent += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self.unsent += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._fill()
        elif kind == _GOAWAY:
            raise ConnectionError("the server sent a connection away")

    def _ended(self, stream: int, status: int) -> None:
        due = self.due.pop(stream, None)
        if due is None:
            return
        account = self._account
        account.by_status[status] = account.by_status.get(status, 0) + 1
        if status == 0:
            account.latencies_s.append(time.perf_counter() - due)
        elif status == 8:
            account.refusal_latencies_s.append(time.perf_counter() - due)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that no table remembers (RFC 7541, 6.2.2); each part below 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _status_in(trailers: bytes) -> int:
    """Find the gRPC status in an encoded header block: one or two digits, not Huffman-coded."""
    at = trailers.find(b"grpc-status")
    if at < 0:
        return -1
    at += len(b"grpc-status")
    return int(trailers[at + 1 : at + 1 + (trailers[at] & 0x7F)])


def _carry_out(plan: Plan) -> Account:
    chance = random.Random(plan.seed)
    account = Account()
    headers = b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", plan.path.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", f"{int(plan.timeout_s * 1000)}m".encode()),
        )
    )
    messages = [bytes.fromhex(message) for message in plan.messages]
    framed = [b"\x00" + len(message).to_bytes(4, "big") + message for message in messages]
    connections = [_Connection(plan.port, headers, account) for _ in range(plan.connections)]
    sockets = {c.socket: c for c in connections}
    begin = time.perf_counter()
    end = begin + plan.seconds
    due = begin if plan.callers else begin + chance.expovariate(plan.rate)
    while True:
        now = time.perf_counter()
        if plan.callers and now < end:
            under_way = sum(c.under_way for c in connections)
            for n in range(plan.callers - under_way):
                number = account.sent + n
                connections[number % len(connections)].call(now, framed[number % len(framed)])
            account.sent += max(0, plan.callers - under_way)
            due = end
        while due <= now and due < end:
            account.late_s = max(account.late_s, now - due)
            connections[account.sent % len(connections)].call(
                due, framed[account.sent % len(framed)]
            )
            account.sent += 1
            due += chance.expovariate(plan.rate)
        if now >= end and (
            not any(c.under_way for c in connections) or now > end + plan.timeout_s + _STRAGGLERS_S
        ):
            break
        for connection in connections:
            connection.send()
        wait_s = max(0.0, min(due - time.perf_counter(), 0.05)) if due < end else 0.05
        writing = [c.socket for c in connections if c.unsent]
        readable, _, _ = select.select(list(sockets), writing, [], wait_s)
        for ready in readable:
            sockets[ready].receive()
    unanswered = account.sent - sum(account.by_status.values())
    if unanswered:
        account.by_status[-2] = unanswered
    for connection in connections:
        connection.socket.close()
    return account


def main() -> None:
    """Carry out the plan that is given, and print its account."""
    given: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(_carry_out(Plan(**given)))))


if __name__ == "__main__":
    main()
