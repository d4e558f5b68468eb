"""What one call of one caller costs, beside gRPC that does nothing.

A server of bare grpc.aio and one of bare gRPC with threads answer with as many bytes as a query's
answer has; Shoal's server, in one process, does a heartbeat and a query, asked by the same bare
channel and by the SDK; a store in this process answers the same query without any gRPC. All take
turns. What a query costs beyond the embedded one is what gRPC and its adapter cost, and what of it
bare gRPC costs, too, is nobody's to save but gRPC's.

    python -m benchmarks.one_call --rounds 20 --calls 100
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

import shoal
from benchmarks import cluster, data
from benchmarks.requests import QUERY_PATH
from benchmarks.search import wait_until_built
from shoal._address import CHANNEL_OPTIONS
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2

HEARTBEAT_PATH: Final = "/shoal.v1.AdminService/Heartbeat"
ANSWER_BYTES: Final = 2_000
_LOAD_BATCH: Final = 1_000
_WARM_UP: Final = 10
_QUERIES: Final = 200
_NAME: Final = "one_call"
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make one call.

    Attributes:
        name: For the table.
        call: Makes it.
        server: The process that answers; None: this one.
        rounds: Of each the median of wall time, CPU of the server, CPU of this process; us a call.
    """

    name: str
    call: Callable[[], object]
    server: int | None
    rounds: list[tuple[float, float, float]] = field(default_factory=list)

    def measure(self, calls: int) -> None:
        """Make calls one after the other."""
        for _ in range(_WARM_UP):
            self.call()
        server, client = self.server_us(), _cpu_us("self")
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            self.call()
            took.append(time.perf_counter() - began)
        self.rounds.append(
            (
                statistics.median(took) * 1e6,
                (self.server_us() - server) / calls,
                (_cpu_us("self") - client) / calls,
            )
        )

    def server_us(self) -> float:
        """CPU time of the server so far."""
        return 0.0 if self.server is None else _cpu_us(str(self.server))


def _cpu_us(process: str) -> float:
    """CPU time of a process: the kernel's count in nanoseconds, where `stat` has hundredths."""
    total = 0
    for thread in (Path("/proc") / process / "task").iterdir():
        with contextlib.suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e3


class _Handler(grpc.GenericRpcHandler):
    """Answers every method alike."""

    def __init__(self, function: Any) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(function)

    def service(self, handler_call_details: Any) -> Any:
        return self._handler


def serve_aio() -> None:
    """Serve by grpc.aio, until killed."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return bytes(ANSWER_BYTES)

    async def serve() -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_Handler(answer),))
        _say(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


def serve_threads() -> None:
    """Serve by gRPC with two threads, until killed."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Handler(lambda _request, _context: bytes(ANSWER_BYTES)),))
    _say(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def _say(port: int) -> None:
    gc.freeze()
    print(port, flush=True)


SERVERS: Final = {"aio": serve_aio, "threads": serve_threads}


@contextlib.contextmanager
def _bare(kind: str) -> Iterator[tuple[int, int]]:
    """Run a bare server; gives its port and process."""
    command = [sys.executable, "-m", "benchmarks.one_call", "--serve", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


def _load(client: Any, dataset: data.Dataset) -> Any:
    collection = client.create_collection(
        _NAME,
        configuration={"hnsw": {"space": "cosine", "ef_search": 48}},
        embedding_function=None,
    )
    documents = data.documents(len(dataset.base))
    for first in range(0, len(dataset.base), _LOAD_BATCH):
        rows = range(first, min(first + _LOAD_BATCH, len(dataset.base)))
        collection.add(
            ids=[str(row) for row in rows],
            embeddings=dataset.base[rows.start : rows.stop],
            documents=[documents[row] for row in rows],
            metadatas=[{"number": row, "group": f"g{row % 50}"} for row in rows],
        )
    wait_until_built(collection)
    return collection


def _request(dataset: data.Dataset, number: int) -> bytes:
    """The request that the SDK makes of a query."""
    return record_service_pb2.QueryRequest(
        collection=collection_pb2.CollectionReference(name=_NAME),
        query_vectors=value_pb2.VectorBlock(
            dimension=dataset.queries.shape[1],
            values=dataset.queries[number].astype("<f4").tobytes(),
        ),
        n_results=10,
        include=[
            value_pb2.INCLUDE_DOCUMENTS,
            value_pb2.INCLUDE_METADATAS,
            value_pb2.INCLUDE_DISTANCES,
        ],
    ).SerializeToString()


def ways(stack: contextlib.ExitStack, count: int) -> list[Way]:
    """Start everything that is compared."""
    dataset = data.mixture(count)
    numbers = itertools.cycle(range(_QUERIES))
    requests = [_request(dataset, number) for number in range(_QUERIES)]
    found = []
    for kind in SERVERS:
        port, process = stack.enter_context(_bare(kind))
        echo = _channel(stack, port).unary_unary(HEARTBEAT_PATH)
        call = functools.partial(echo, requests[0], timeout=_TIMEOUT_S)
        found.append(Way(f"bare gRPC, {kind}", call, process))
    server = stack.enter_context(cluster.started(0))
    client = stack.enter_context(shoal.Client(port=server.port))
    remote = _load(client, dataset)
    channel = _channel(stack, server.port)
    heartbeat, query = (channel.unary_unary(path) for path in (HEARTBEAT_PATH, QUERY_PATH))
    embedded = _load(stack.enter_context(shoal.EphemeralClient()), dataset)

    def ask(collection: Any) -> object:
        number = next(numbers)
        return collection.query(query_embeddings=dataset.queries[number], n_results=10)

    return [
        *found,
        Way("heartbeat, bare channel", lambda: heartbeat(b"", timeout=_TIMEOUT_S), server.process),
        Way(
            "query, bare channel",
            lambda: query(requests[next(numbers)], timeout=_TIMEOUT_S),
            server.process,
        ),
        Way("query, SDK", lambda: ask(remote), server.process),
        Way("query, embedded", lambda: ask(embedded), None),
    ]


def _channel(stack: contextlib.ExitStack, port: int) -> Any:
    channel = grpc.insecure_channel(f"dns:///127.0.0.1:{port}", options=CHANNEL_OPTIONS)
    return stack.enter_context(channel)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="What one call of one caller costs.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=100, help="in a round")
    parser.add_argument("--count", type=int, default=20_000, help="vectors")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        SERVERS[given.serve]()
        return
    with contextlib.ExitStack() as stack:
        compared = ways(stack, given.count)
        for _ in range(given.rounds):
            for way in random.sample(compared, len(compared)):
                way.measure(given.calls)
    print("| | wall p50, us | CPU of the server | CPU of the caller |")
    print("|---|---|---|---|")
    for way in compared:
        cells = (
            f"{statistics.median(values):.0f} ({min(values):.0f})"
            for values in zip(*way.rounds, strict=True)
        )
        print(f"| {way.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
