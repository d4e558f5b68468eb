"""Readiness is a process's own: a peer that is down makes nobody unready, and liveness is apart."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.server.health import LIVE
from tests.cluster.running import RunningCluster, wait_for

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]


def _is_ready(role: dict[str, Any]) -> bool:
    """By gRPC and by HTTP, which must agree."""
    with grpc.insecure_channel(f"127.0.0.1:{role['health_port']}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        by_grpc = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
        live = stub.Check(health_pb2.HealthCheckRequest(service=LIVE), timeout=60).status
    assert live == health_pb2.HealthCheckResponse.SERVING
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{role['metrics_port']}/readyz", timeout=60):
            by_http = True
    except urllib.error.HTTPError as error:
        error.close()
        by_http = False
    assert by_http == (by_grpc == health_pb2.HealthCheckResponse.SERVING)
    return by_http


def test_who_has_lost_his_peers_is_ready_still(start: Start) -> None:
    cluster = start(workers=1)
    collection = cluster.create("ready", shards=1)
    collection.upsert(["a"])
    cluster.kill("coordinator", signal.SIGSTOP)
    try:
        time.sleep(1)
        assert _is_ready(cluster.role("gateway"))
        assert _is_ready(cluster.role("worker-1"))
        assert collection.count() == 1
        cluster.kill("worker-1", signal.SIGSTOP)
        try:
            time.sleep(1)
            assert _is_ready(cluster.role("gateway"))
        finally:
            cluster.kill("worker-1", signal.SIGCONT)
    finally:
        cluster.kill("coordinator", signal.SIGCONT)


def test_who_has_never_found_the_coordinator(tmp_path: Path, unused_tcp_port_factory: Any) -> None:
    """A worker serves from its directory; a gateway without any table is live, and not ready."""
    nobody = unused_tcp_port_factory()
    ports = {name: (unused_tcp_port_factory(), unused_tcp_port_factory()) for name in "gw"}
    flags = {
        "g": ("shoal_gateway", "--port=0"),
        "w": ("shoal_worker", f"--data-dir={tmp_path / 'worker'}"),
    }
    started = []
    try:
        for name, (module, own) in flags.items():
            health, metrics = ports[name]
            started.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", module, own),
                        f"--coordinator=127.0.0.1:{nobody}",
                        f"--health-port={health}",
                        f"--metrics-port={metrics}",
                    ],
                    stderr=subprocess.DEVNULL,
                )
            )
        roles = {
            name: {"health_port": health, "metrics_port": metrics}
            for name, (health, metrics) in ports.items()
        }

        def told(name: str) -> bool | None:
            try:
                return _is_ready(roles[name])
            except (grpc.RpcError, OSError, AssertionError):
                return None  # still starting: one of its ports may be ahead of the other

        wait_for(lambda: told("g") is not None)
        wait_for(lambda: told("w"))
        time.sleep(1)
        assert not _is_ready(roles["g"])
    finally:
        for process in started:
            process.terminate()
        codes = [process.wait(180) for process in started]
    assert codes == [0, 0]
