"""`shoal up` with processes: ready, ports, status, health, one owner, an orderly end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal import errors
from shoal.v1 import admin_service_pb2
from tests.cluster.running import RunningCluster, is_running, running_in, wait_for

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]


def _shoal(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal_local", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )


def test_ready_is_said_when_all_workers_are_there(shared: RunningCluster) -> None:
    assert shared.printed[-1] == "ready"
    status = shared.status()
    assert status.expected_workers == 2
    assert [worker.live for worker in status.workers] == [True, True]
    assert status.coordinator_reachable
    heartbeat = shared.call("admin", "Heartbeat", admin_service_pb2.HeartbeatRequest())
    assert heartbeat.nanoseconds > 0


def test_the_command_line_of_each_role_names_it(shared: RunningCluster) -> None:
    for role in shared.state()["roles"]:
        line = Path(f"/proc/{role['process']}/cmdline").read_bytes().split(b"\0")
        words = [word.decode() for word in line]
        assert words[0].startswith("python")
        assert words[1:3] == ["-m", f"shoal_{role['role']}"]


def test_the_public_port_serves_health_and_reflection(shared: RunningCluster) -> None:
    channel = shared.channel()
    health: Any = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "shoal.v1.RecordService"):
        request = health_pb2.HealthCheckRequest(service=name)
        assert health.Check(request, timeout=60).status == serving
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    told = next(reflection.ServerReflectionInfo(iter(asked), timeout=60))
    names = {service.name for service in told.list_services_response.service}
    assert {
        "shoal.v1.AdminService",
        "shoal.v1.CollectionService",
        "shoal.v1.RecordService",
        "grpc.health.v1.Health",
    } <= names


def test_every_role_has_a_health_and_a_metrics_port(shared: RunningCluster) -> None:
    for role in shared.state()["roles"]:
        with grpc.insecure_channel(f"127.0.0.1:{role['health_port']}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        url = f"http://127.0.0.1:{role['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=60) as page:
            text = page.read().decode()
        assert f'role="{role["role"]}"' in text
        for name in ("started", "handled", "msg_received", "msg_sent"):
            assert f"grpc_server_{name}_total{{" in text
        if role["role"] == "gateway":
            # A counter that comes into being with its first event has no rate at that event.
            for counted in (
                'quota_refusals_total{limit="max_bytes"}',
                'failures_total{why="denied"}',
            ):
                assert counted in text


def test_no_port_can_be_shared(shared: RunningCluster) -> None:
    for role in shared.state()["roles"]:
        for name in ("port", "health_port", "metrics_port"):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="in use"):
                    probe.bind(("127.0.0.1", role[name]))


def test_status_shows_roles_ports_and_shards(shared: RunningCluster) -> None:
    shared.create("status", shards=4).upsert(["a", "b", "c"])
    shown = _shoal("status", "--data", str(shared.data))
    assert shown.returncode == 0, shown.stderr
    for role in shared.state()["roles"]:
        for field in ("name", "process", "port", "health_port", "metrics_port"):
            assert str(role[field]) in shown.stdout
    assert shown.stdout.count("status") >= 4
    document = json.loads(_shoal("status", "--data", str(shared.data), "--json").stdout)
    assert document["running"] is True
    assert len(document["cluster"]["shards"]) >= 4


def test_a_directory_has_one_owner(shared: RunningCluster) -> None:
    second = _shoal("up", "--data", str(shared.data), "--port=0")
    assert second.returncode == 1
    assert f"in use by process {shared.process.pid}" in second.stderr
    assert "ready" not in second.stdout
    assert shared.status().coordinator_reachable


@pytest.mark.long
def test_a_worker_s_directory_has_one_process(shared: RunningCluster) -> None:
    role = shared.role("worker-1")
    directory = shared.data / "worker-1"
    second = subprocess.run(
        [sys.executable, "-m", "shoal_worker", f"--data-dir={directory}"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert second.returncode == 1
    assert str(directory) in second.stderr
    assert "Traceback" not in second.stderr
    assert is_running(role["process"])


def test_a_port_in_use_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = _shoal("up", f"--data={tmp_path / 'data'}", f"--port={port}")
    assert refused.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
    assert not running_in(tmp_path)


def test_wrong_settings_of_any_role_are_refused_before_anything_starts(tmp_path: Path) -> None:
    data = f"--data={tmp_path / 'data'}"
    for arguments, environment, said in (
        (["--workers=x"], {}, "setting workers is 'x' (flag --workers)"),
        (["--set=worker.read_threads=0"], {}, "setting read_threads is '0'"),
        (["--set=nonsense"], {}, "--set nonsense"),
        ([], {"SHOAL_ALLOW_RESET": "perhaps"}, "setting allow_reset is 'perhaps'"),
    ):
        refused = _shoal("up", data, "--port=0", *arguments, **environment)
        assert refused.returncode == 2, refused
        assert said in refused.stderr
    file = tmp_path / "shoal.toml"
    file.write_text("[gateway]\nprot = 1\n")
    refused = _shoal("up", data, "--port=0", f"--config={file}")
    assert "sets prot in [gateway]" in refused.stderr
    assert not running_in(tmp_path)


def test_a_role_that_refuses_to_start_ends_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "coordinator").mkdir(parents=True)
    (data / "worker-1").write_text("not a directory")
    failed = _shoal("up", f"--data={data}", "--port=0")
    assert failed.returncode == 1
    assert "shoal: the worker-1 ended at its start" in failed.stderr
    assert "ready" not in failed.stdout
    assert not running_in(tmp_path)


def test_settings_reach_the_roles(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "shoal.toml"
    file.write_text("[gateway]\nmax_n_results = 7\n[coordinator]\nlease_s = 3.0\n")
    cluster = start(
        workers=1,
        arguments=[f"--config={file}", "--set=gateway.max_queries=3"],
        environment={"SHOAL_ALLOW_RESET": "1"},
    )
    limits = cluster.call("admin", "GetLimits", admin_service_pb2.GetLimitsRequest())
    assert (limits.max_n_results, limits.max_queries) == (7, 3)
    collection = cluster.create("reset")
    cluster.call("admin", "Reset", admin_service_pb2.ResetRequest())
    with pytest.raises(errors.CollectionNotFoundError):
        collection.count()


def test_reset_is_not_allowed_by_default(shared: RunningCluster) -> None:
    with pytest.raises(errors.PermissionDeniedError):
        shared.call("admin", "Reset", admin_service_pb2.ResetRequest())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_orderly_stop_keeps_everything(start: Start, workers: int) -> None:
    cluster = start(workers=workers)
    ids = [f"r{n}" for n in range(200)]
    cluster.create("kept").upsert(ids, version=3)
    assert cluster.stop() == 0
    assert not running_in(cluster.data)
    stopped = cluster.logged()
    if workers:
        order = [
            line.rpartition("role=")[2].split()[0]
            for line in stopped.splitlines()
            if "role_stopped" in line
        ]
        assert order == ["gateway", "worker", "worker", "coordinator"]
    again = start(workers=workers)
    assert again.create("kept").read() == dict.fromkeys(ids, 3)


@pytest.mark.long
def test_interrupt_in_the_terminal_is_an_orderly_stop(start: Start) -> None:
    cluster = start(workers=1)
    assert cluster.stop(signal.SIGINT) == 0
    assert cluster.logged().count("role_stopped") == 3


def test_children_end_when_their_parent_is_killed(start: Start) -> None:
    cluster = start()
    collection = cluster.create("orphans")
    collection.upsert(["a"])
    processes = cluster.processes()
    assert len(processes) == 5
    os.kill(cluster.process.pid, signal.SIGKILL)
    wait_for(lambda: not any(is_running(process) for process in processes[1:]))
    wait_for(lambda: not running_in(cluster.data))
    # And the next one can start at once.
    assert start().create("orphans").read() == {"a": 0}


@pytest.mark.long
def test_the_next_start_waits_for_the_children_of_a_killed_one(start: Start) -> None:
    cluster = start()
    cluster.create("again").upsert(["a"])
    os.kill(cluster.process.pid, signal.SIGKILL)
    cluster.process.wait()
    assert start().create("again").read() == {"a": 0}


@pytest.mark.long
def test_processes_or_one_process_on_the_same_directory(start: Start) -> None:
    ids = [f"r{n}" for n in range(50)]
    cluster = start(workers=2)
    cluster.create("both", shards=4).upsert(ids, version=1)
    cluster.stop()
    single = start(workers=0)
    collection = single.create("both")
    assert collection.read() == dict.fromkeys(ids, 1)
    collection.upsert(ids, version=2)
    single.stop()
    assert start(workers=3).create("both").read() == dict.fromkeys(ids, 2)


@pytest.mark.long
def test_fewer_workers_than_the_directory_holds_are_refused(start: Start, tmp_path: Path) -> None:
    start(workers=2).stop()
    refused = _shoal("up", f"--data={tmp_path / 'data'}", "--workers=1", "--port=0")
    assert refused.returncode == 1
    assert "--workers 2 or more" in refused.stderr


@pytest.mark.long
def test_ports_are_kept_over_a_restart(start: Start) -> None:
    cluster = start()
    before = {role["name"]: role["port"] for role in cluster.state()["roles"]}
    cluster.stop()
    after = {role["name"]: role["port"] for role in start().state()["roles"]}
    del before["gateway"], after["gateway"]
    assert after == before


def test_a_stopped_directory_says_so(tmp_path: Path) -> None:
    shown = _shoal("status", "--data", str(tmp_path))
    assert shown.returncode == 1
    assert "nothing runs" in shown.stdout
    assert json.loads(_shoal("status", "--data", str(tmp_path), "--json").stdout) == {
        "running": False,
        "data": str(tmp_path),
    }


@pytest.mark.long
def test_two_at_once_on_a_new_directory(tmp_path: Path) -> None:
    results: list[subprocess.CompletedProcess[str]] = []
    data = tmp_path / "data"
    command = [sys.executable, "-m", "shoal_local", "up", f"--data={data}", "--port=0"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for(lambda: (data / "run.json").exists())
        thread = threading.Thread(target=lambda: results.append(_shoal(*command[3:])))
        thread.start()
        thread.join(240)
        assert results[0].returncode == 1
        assert "in use" in results[0].stderr
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=240)
    assert first.returncode == 0
    assert not running_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_at_any_moment_of_the_start_is_an_orderly_stop(
    start: Callable[..., RunningCluster], number: signal.Signals, workers: int
) -> None:
    for after_s in (0.0, 0.3, 0.9):
        cluster = start(workers=workers, wait=False)
        # Before its first line an interpreter ends by the signal, as every one does.
        wait_for(lambda cluster=cluster: _catches(cluster.process.pid, number))
        time.sleep(after_s)
        assert cluster.stop(number) == 0, cluster.logged()[-2_000:]
        assert "Traceback" not in cluster.logged(), cluster.logged()[-2_000:]


def _catches(process: int, number: signal.Signals) -> bool:
    text = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("SigCgt"))
    # SIGINT is caught by every interpreter: ours catches both.
    return all(int(line.split()[1], 16) & 1 << (n - 1) for n in (number, signal.SIGTERM))
