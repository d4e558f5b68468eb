"""Hostile requests to a real cluster: each gets a typed answer, and the cluster is what it was."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from shoal import errors
from shoal.v1 import admin_service_pb2, collection_pb2, collection_service_pb2
from shoal.wire import status
from tests.cluster.running import Collection, RunningCluster
from tests.fuzz.hostile import COLLECTIONS, DIMENSION, Hostile, Request

pytestmark = pytest.mark.cluster

_AT_A_TIME: Final = 16
_TIMEOUT_S: Final = 60.0
_MOST_BYTES: Final = 1024 * 1024 * 1024
"""Of anonymous memory of any one process, however long it goes on: a few requests and answers of
the largest size, decoded."""

_BY_GRPC_ITSELF: Final = frozenset({"RESOURCE_EXHAUSTED", "UNIMPLEMENTED"})
"""What gRPC answers without asking us: a message above the transport's limit, an unknown method."""

_NEVER: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"})


class Memory:
    """The most anonymous memory that any process of a cluster had."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._processes = cluster.processes()
        self.most = 0

    def look(self) -> None:
        for process in self._processes:
            text = Path(f"/proc/{process}/status").read_text()
            (line,) = (line for line in text.splitlines() if line.startswith("RssAnon"))
            self.most = max(self.most, int(line.split()[1]) * 1024)


def _create_all(cluster: RunningCluster) -> None:
    """Create the collections that requests are about, where they have been deleted.

    Whoever may call everything may set quotas, too: those that were set are removed before.
    """
    listed = cluster.call("admin", "ListQuotas", admin_service_pb2.ListQuotasRequest())
    for quota in listed.quotas:
        cluster.call("admin", "SetQuota", admin_service_pb2.SetQuotaRequest(subject=quota.subject))
    for name in COLLECTIONS:
        configuration = collection_pb2.CollectionConfiguration()
        configuration.hnsw.dimension = DIMENSION
        configuration.hnsw.shards = 2
        request = collection_service_pb2.CreateCollectionRequest(
            name=name, configuration=configuration, get_or_create=True
        )
        # One of another dimension may have been made meanwhile: as good.
        with contextlib.suppress(errors.InvalidArgumentError):
            cluster.call("collections", "CreateCollection", request)


def _wrong(request: Request, error: grpc.aio.AioRpcError) -> str | None:
    """Say what is wrong with an answer."""
    code = error.code().name
    trailer: Any = next(
        (v for k, v in error.trailing_metadata() or () if k == status.TRAILER), None
    )
    decoded = status.decode(code, error.details() or "", trailer)
    if code in _NEVER:
        return f"{request.story}: {code} {decoded.reason}: {decoded.message}"
    if trailer is None and code not in _BY_GRPC_ITSELF:
        return f"{request.story}: {code} without details: {error.details()}"
    if not decoded.reason or decoded.reason == "UNKNOWN":
        return f"{request.story}: {code} without a reason"
    return None


async def _send_all(cluster: RunningCluster, count: int, seed: int, memory: Memory) -> None:
    wrong: list[str] = []
    codes: collections.Counter[str] = collections.Counter()
    requests = Hostile(seed).requests(count)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cluster.port}", options=options) as channel:

        async def send() -> None:
            for request in requests:
                call: Any = channel.unary_unary(request.path)
                try:
                    await call(request.body, timeout=_TIMEOUT_S)
                    codes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    codes[error.code().name] += 1
                    problem = _wrong(request, error)
                    if problem is not None:
                        wrong.append(problem)
                done = codes.total()
                if done % 100 == 0:
                    memory.look()
                    assert memory.most < _MOST_BYTES, f"{memory.most} bytes after {done} requests"
                if done % 1_000 == 0:
                    await asyncio.to_thread(_create_all, cluster)

        await asyncio.gather(*(send() for _ in range(_AT_A_TIME)))
    assert not wrong, f"{len(wrong)} of seed {seed}:\n" + "\n".join(wrong[:40])
    # It got behind the first checks, and was refused often enough to be hostile.
    assert codes["OK"] > count / 50, codes
    assert codes["INVALID_ARGUMENT"] > count / 5, codes
    print(f"seed {seed}: {dict(codes)}, {memory.most / 2**20:.0f} MiB at most")  # noqa: T201


def test_hostile_requests_get_typed_answers(cluster: RunningCluster, kept: Collection) -> None:
    _create_all(cluster)
    asyncio.run(_send_all(cluster, 2_000, 1, Memory(cluster)))


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_a_hundred_thousand_hostile_requests(cluster: RunningCluster, kept: Collection) -> None:
    """SHOAL_TEST_FUZZ_SEED chooses others."""
    first = int(os.environ.get("SHOAL_TEST_FUZZ_SEED", "1000"))
    memory = Memory(cluster)
    for seed in range(first, first + 10):
        _create_all(cluster)
        asyncio.run(_send_all(cluster, 10_000, seed, memory))
