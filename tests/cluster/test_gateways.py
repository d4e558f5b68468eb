"""`shoal up --gateways`: several processes on one port, of one cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shoal
from shoal_local import ports
from tests.cluster.running import RunningCluster, wait_for

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]


def _refused(*arguments: str) -> str:
    """What `shoal up` says that does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "shoal_local", "up", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=dict(os.environ),
    )
    assert ended.returncode != 0, ended.stdout
    return ended.stderr


def _is_answered(port: int) -> bool:
    with shoal.Client(port=port, timeout=2) as client:
        try:
            return client.heartbeat() > 0
        except shoal.ShoalError:
            return False


def test_gateways_share_the_port_of_their_cluster_and_of_no_other(
    start: Start, tmp_path: Path
) -> None:
    cluster = start(workers=1, arguments=("--gateways", "2"))
    gateways = [role for role in cluster.state()["roles"] if role["role"] == "gateway"]
    assert len(gateways) == 2
    assert {gateway["port"] for gateway in gateways} == {cluster.port}

    # What one was told, the other knows: connections fall to either.
    with shoal.Client(port=cluster.port) as client:
        client.create_collection("books", embedding_function=None).add("a", [[1.0, 2.0]])
    for _ in range(6):
        with shoal.Client(port=cluster.port) as client:
            assert client.get_collection("books", embedding_function=None).count() == 1

    for options in ([], ["--gateways", "2"]):
        said = _refused("--data", str(tmp_path / "other"), "--port", str(cluster.port), *options)
        assert f"port {cluster.port}" in said
        assert "in use" in said

    former = cluster.kill("gateway-2")
    wait_for(lambda: _is_answered(cluster.port))
    cluster.wait_for_restart("gateway-2", former)


def test_a_shared_port_is_nobody_elses_while_no_gateway_listens() -> None:
    with ports.Ports() as found:
        port = found.find("127.0.0.1")
    with ports.held("127.0.0.1", port):
        assert not ports.is_free("127.0.0.1", port)
        with socket.socket() as gateway:
            gateway.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            gateway.bind(("127.0.0.1", port))
            gateway.listen(1)
    assert ports.is_free("127.0.0.1", port)


def test_clusters_that_look_for_ports_at_the_same_time_find_different_ones() -> None:
    """While nobody listens yet, and although both would like the same."""
    with ports.Ports() as one, ports.Ports() as other:
        first = one.find("127.0.0.1")
        assert ports.is_free("127.0.0.1", first)
        found = {other.find("127.0.0.1", preferred=first) for _ in range(20)}
        assert len(found) == 20
        assert first not in found
        assert other.take("127.0.0.1", first), "who asks for it by number may have it"
    with ports.Ports() as later:
        assert later.find("127.0.0.1", preferred=first) == first


def test_several_gateways_need_processes_of_their_own(tmp_path: Path) -> None:
    said = _refused("--data", str(tmp_path / "data"), "--workers", "0", "--gateways", "2")
    assert "--gateways 2 needs" in said
