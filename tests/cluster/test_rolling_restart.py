"""Every role is restarted in its turn, under load: nothing acknowledged is lost, no request fails.

the service config that every language can load. A worker's shards have one copy, so that calls on
them wait while it restarts; they must not fail.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import shoal
from shoal.v1 import collection_pb2, record_service_pb2, record_service_pb2_grpc, value_pb2
from tests.cluster.running import DIMENSION, RunningCluster, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

_SERVICE_CONFIG: Final = Path(__file__).parents[2] / "protos" / "service_config.json"
_BATCH: Final = 10


class SecondGateway:
    """Another gateway of a cluster, at the other address of `localhost`."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        flags = {
            "host": "::1",
            "port": self._cluster.port,
            "health-port": 0,
            "metrics-port": 0,
            "coordinator": f"127.0.0.1:{self._cluster.role('coordinator')['port']}",
        }
        with self._cluster.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shoal_gateway", *(f"--{k}={v}" for k, v in flags.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._serves)

    def _serves(self) -> bool:
        with grpc.insecure_channel(f"[::1]:{self._cluster.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def restart(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(30) == 0
        self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Load:
    """Something that is done over and over in a thread; the first failure is kept."""

    def __init__(self, name: str, once: Callable[[int], None]) -> None:
        self.name = name
        self.count = 0
        self.failure: BaseException | None = None
        self._once = once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                self._once(self.count)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                self.failure = error
                self.failed_after_s = time.monotonic() - begin
                return
            self.count += 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(90)
            assert not self._thread.is_alive(), f"{self.name} hangs"


@pytest.fixture
def cluster(start: Callable[..., RunningCluster]) -> RunningCluster:
    return start(workers=2)


@pytest.fixture
def second(cluster: RunningCluster) -> Iterator[SecondGateway]:
    gateway = SecondGateway(cluster)
    gateway.start()
    yield gateway
    gateway.kill()


@pytest.fixture
def stub(cluster: RunningCluster, second: SecondGateway) -> Iterator[Any]:
    """A bare stub, as its language's gRPC makes it, with the published service config."""
    options = [("grpc.service_config", json.dumps(json.loads(_SERVICE_CONFIG.read_text())))]
    with grpc.insecure_channel(f"dns:///localhost:{cluster.port}", options=options) as channel:
        yield record_service_pb2_grpc.RecordServiceStub(channel)


def _vectors(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((_BATCH, DIMENSION), np.float32)


@pytest.mark.timeout(600)
def test_no_role_s_restart_loses_a_write_or_fails_a_request(
    cluster: RunningCluster, second: SecondGateway, stub: Any
) -> None:
    collection_id = cluster.create("rolling", shards=4).id
    reference = collection_pb2.CollectionReference(id=collection_id)
    acknowledged: set[str] = set()
    client = shoal.Client("localhost", cluster.port)
    collection = client.get_collection("rolling", embedding_function=None)

    def sdk_writes(number: int) -> None:
        ids = [f"sdk-{number}-{n}" for n in range(_BATCH)]
        assert collection.add(ids=ids, embeddings=_vectors(number)).added == _BATCH
        acknowledged.update(ids)

    def sdk_queries(number: int) -> None:
        found = collection.query(query_embeddings=_vectors(number)[:1], n_results=3, include=[])
        assert len(found["ids"]) == 1

    def stub_writes(number: int) -> None:
        ids = [f"stub-{number}-{n}" for n in range(_BATCH)]
        block = value_pb2.VectorBlock(
            dimension=DIMENSION, values=_vectors(number).astype("<f4").tobytes()
        )
        answer = stub.Add(
            record_service_pb2.AddRequest(
                collection=reference,
                records=value_pb2.RecordBatch(ids=ids, vectors=block),
                write_id=secrets.token_bytes(16),
            )
        )
        assert answer.added == _BATCH
        acknowledged.update(ids)

    def stub_queries(number: int) -> None:
        block = value_pb2.VectorBlock(
            dimension=DIMENSION, values=_vectors(number)[:1].astype("<f4").tobytes()
        )
        stub.Query(
            record_service_pb2.QueryRequest(collection=reference, query_vectors=block, n_results=3)
        )

    loads = [Load(f.__name__, f) for f in (sdk_writes, sdk_queries, stub_writes, stub_queries)]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load.running())
        for _ in range(2):
            for name in ("second", "gateway", "worker-1", "worker-2", "coordinator"):
                before = [load.count for load in loads]
                if name == "second":
                    second.restart()
                else:
                    cluster.wait_for_restart(name, cluster.kill(name, signal.SIGTERM))
                # Each goes on, by way of the one that has come back, too.
                wait_for(
                    lambda before=before: all(
                        load.failure or load.count >= was + 5
                        for load, was in zip(loads, before, strict=True)
                    )
                )
                for load in loads:
                    assert load.failure is None, (
                        f"{load.name} failed at the restart of {name}, after "
                        f"{load.failed_after_s:.1f} s: {load.failure!r}"
                    )
    for load in loads:
        assert load.failure is None, f"{load.name} failed: {load.failure!r}"
    found = {i for page in collection.iterate(1_000, include=[]) for i in page["ids"]}
    assert found == acknowledged
    client.close()
    print({load.name: load.count for load in loads})  # noqa: T201
