"""The life of a role's process: ports, health, metrics, signals, the parent's end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal.internal.v1 import membership_service_pb2, membership_service_pb2_grpc
from shoal.server.health import LIVE
from shoal.server.process import PARENT_FD_VARIABLE

_ROLE = """
import asyncio, contextlib, sys
from shoal.internal.v1 import membership_service_pb2 as m
from shoal.errors import DataLossError
from shoal.server import process, settings

class Membership:
    async def register_worker(self, request, context):
        return m.RegisterWorkerResponse(cluster_id="c")
    async def heartbeat_worker(self, request, context):
        print("called", flush=True)
        # Until the test has read what it came for, or as good as for ever.
        await asyncio.to_thread(sys.stdin.readline)
        return m.HeartbeatWorkerResponse()

@contextlib.asynccontextmanager
async def serve(given, role):
    if MODE == "fails":
        raise DataLossError("the catalog is gone")
    if MODE == "hangs":
        print("hangs", flush=True)
        await asyncio.sleep(60)
    role.add_service("shoal.internal.v1.MembershipService", Membership())
    role.make_public()
    await role.listen()
    await role.set_serving(True)
    print(role.port, role.health_port, role.metrics_port, flush=True)
    try:
        yield
    finally:
        print("closed", flush=True)

sys.exit(process.run("worker", settings.RoleSettings, serve, description="A test."))
"""


class Running:
    """A role in a process of its own."""

    def __init__(self, *arguments: str, mode: str = "serves") -> None:
        reading, self.parent = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ROLE.replace("MODE", repr(mode)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[reading],
            env={**os.environ, PARENT_FD_VARIABLE: str(reading)},
        )
        os.close(reading)

    def ports(self) -> tuple[int, int, int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        port, health, metrics = line.split()
        return int(port), int(health), int(metrics)

    def is_called(self) -> None:
        """Wait until a heartbeat is under way: it is answered when `answer` is called."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "called\n"

    def answer(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[type[Running]]:
    started: list[Running] = []

    class Started(Running):
        def __init__(self, *arguments: str, mode: str = "serves") -> None:
            super().__init__(*arguments, mode=mode)
            started.append(self)

    yield Started
    for running in started:
        with contextlib.suppress(OSError):
            os.close(running.parent)
        running.process.kill()
        running.process.communicate()


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _health(port: int, service: str = "") -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(request, timeout=60).status)


def test_a_role_serves_health_reflection_and_metrics(start: type[Running]) -> None:
    port, health, metrics = start().ports()
    name = "shoal.internal.v1.MembershipService"
    assert _health(health) == _health(port, name) == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = membership_service_pb2_grpc.MembershipServiceStub(channel)
        stub.RegisterWorker(membership_service_pb2.RegisterWorkerRequest(), timeout=60)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        told = next(reflection.ServerReflectionInfo(iter(asked), timeout=60))
        names = {service.name for service in told.list_services_response.service}
        assert {name, "grpc.health.v1.Health"} <= names
    status, text = _get(metrics, "/metrics")
    assert status == 200
    assert (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="RegisterWorker",'
        'grpc_service="shoal.internal.v1.MembershipService",grpc_type="unary"} 1.0'
    ) in text
    assert "process_resident_memory_bytes" in text
    assert "shoal_build_info{" in text
    assert _get(metrics, "/readyz")[0] == _get(metrics, "/healthz")[0] == 200
    assert _get(metrics, "/none")[0] == 404


def test_the_http_port_survives_nonsense(start: type[Running]) -> None:
    _, _, metrics = start().ports()
    for sent in (b"\x00" * 100_000, b"POST /metrics HTTP/1.1\r\n\r\n", b""):
        with (
            socket.create_connection(("127.0.0.1", metrics), timeout=60) as connection,
            contextlib.suppress(OSError),
        ):
            connection.sendall(sent)
    assert _get(metrics, "/healthz")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order_and_lets_calls_end(
    start: type[Running], number: signal.Signals
) -> None:
    running = start("--stop-grace-s=120")
    port, health, _ = running.ports()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = membership_service_pb2_grpc.MembershipServiceStub(channel)
        request = membership_service_pb2.HeartbeatWorkerRequest()
        under_way = stub.HeartbeatWorker.future(request, timeout=60)
        running.is_called()
        running.process.send_signal(number)
        while _health(health) != health_pb2.HealthCheckResponse.NOT_SERVING:
            time.sleep(0.01)
        assert _health(health, LIVE) == health_pb2.HealthCheckResponse.SERVING
        running.answer()
        assert under_way.result() == membership_service_pb2.HeartbeatWorkerResponse()
    code, out, err = running.end()
    assert (code, out) == (0, "closed\n")
    assert "role_stopped" in err


def test_a_second_signal_ends_at_once(start: type[Running]) -> None:
    running = start("--stop-grace-s=120")
    port, health, _ = running.ports()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = membership_service_pb2_grpc.MembershipServiceStub(channel)
        request = membership_service_pb2.HeartbeatWorkerRequest()
        under_way = stub.HeartbeatWorker.future(request, timeout=60)
        running.is_called()
        running.process.send_signal(signal.SIGTERM)
        while _health(health) != health_pb2.HealthCheckResponse.NOT_SERVING:
            time.sleep(0.01)
        # The call would hold it up, and then it would end in order: with 0.
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=120) == -signal.SIGTERM
        assert isinstance(under_way.exception(), grpc.RpcError)


def test_a_start_that_hangs_can_be_stopped(start: type[Running]) -> None:
    running = start(mode="hangs")
    assert running.process.stdout is not None
    assert running.process.stdout.readline() == "hangs\n"
    running.process.send_signal(signal.SIGTERM)
    assert running.end()[0] == 0


def test_a_role_ends_with_its_parent(start: type[Running]) -> None:
    running = start()
    running.ports()
    os.close(running.parent)
    assert running.end()[:2] == (0, "closed\n")


def test_a_taken_port_is_a_message_and_not_a_traceback(start: type[Running]) -> None:
    port, health, metrics = start().ports()
    for flag, taken in (("--port", port), ("--health-port", health), ("--metrics-port", metrics)):
        code, _, err = start(flag, str(taken)).end()
        assert code == 1
        assert f"127.0.0.1:{taken}" in err
        assert "Traceback" not in err


def test_an_expected_failure_is_a_message(start: type[Running]) -> None:
    code, _, err = start(mode="fails").end()
    assert code == 1
    assert "the catalog is gone" in err
    assert "Traceback" not in err


def test_wrong_settings_end_with_2(start: type[Running], tmp_path: Path) -> None:
    code, _, err = start("--port", "x", "--config", str(tmp_path / "none.toml")).end()
    assert code == 2
    assert "shoal-worker: setting port is 'x'" in err
    assert "cannot be read" in err


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_in_the_log_shows_no_local_variables(form: str) -> None:
    code = (
        "import structlog\n"
        "from shoal.server import logs\n"
        f"logs.configure(role='test', form={form!r})\n"
        "def fail(key):\n"
        "    raise ValueError('went wrong')\n"
        "try:\n"
        "    fail('secret'.upper())\n"
        "except ValueError:\n"
        "    structlog.get_logger().exception('failed')\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stderr
    assert "went wrong" in output
    assert "SECRET" not in output


def test_what_libraries_say_is_json_too() -> None:
    code = (
        "import logging, threading, warnings\n"
        "import structlog\n"
        "from shoal.server import logs\n"
        "logs.configure(role='test', form='json')\n"
        "structlog.get_logger().info('own_event')\n"
        "try:\n"
        "    raise ValueError('two\\nlines')\n"
        "except ValueError:\n"
        "    logging.getLogger('asyncio').exception('of %s', 'theirs')\n"
        "warnings.warn('old')\n"
        "said = lambda: logging.getLogger('grpc').warning('from a thread')\n"
        "thread = threading.Thread(target=said)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    output = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], check=True, capture_output=True, text=True
    ).stderr
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["level"] for event in events] == ["info", "error", "warning", "warning"]
    assert {event["role"] for event in events} == {"test"}
    assert [event["event"] for event in events[:2]] == ["own_event", "of theirs"]
    assert events[1]["exception"][0]["exc_value"] == "two\nlines"
    assert [event["logger"] for event in events[1:]] == ["asyncio", "py.warnings", "grpc"]
    assert all("timestamp" in event for event in events)


@pytest.mark.parametrize("role", ["coordinator", "gateway", "worker"])
def test_grpc_is_told_what_not_to_log_before_it_is_imported(role: str) -> None:
    code = (
        "import os, sys\n"
        f"from shoal_{role}.__main__ import main\n"
        "assert 'grpc' not in sys.modules\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert 'grpc' in sys.modules\n"
        "print(os.environ['GRPC_VERBOSITY'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.endswith("ERROR\n")
