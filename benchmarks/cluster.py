"""A server to measure: `shoal up` as its users start it, on free ports."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import shoal
from benchmarks.processes import cpu_s, descendants, environment, memory

START_TIMEOUT_S = 60.0
START_POLL_S = 0.02
"""How often a server of whatever kind is asked whether it answers: its start is told as exactly."""


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as directory:
        yield Path(directory)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        port: Of its gateway.
        process: That all the others descend from.
        directory: Of its data.
    """

    port: int
    process: int
    directory: Path

    def cpu_s(self) -> float:
        """CPU seconds that it has used so far."""
        return cpu_s(descendants(self.process))

    def memory(self) -> dict[str, int]:
        """Bytes in memory, by kind: see `processes.memory`."""
        return memory(descendants(self.process))


@contextlib.contextmanager
def started(
    workers: int,
    directory: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Run a cluster.

    Args:
        workers: Worker processes; 0 is one process with all roles.
        directory: For its data; None for a temporary one.
        variables: Of the environment, besides those of this process.
    """
    with contextlib.ExitStack() as stack:
        directory = directory or stack.enter_context(temporary())
        directory.mkdir(exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "shoal_local", "up", "--data", str(directory)]
        command += ["--workers", str(workers), "--port", str(port)]
        given = environment() | dict(variables or {})
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=given)
            try:
                _wait_until_ready(port, process, directory / "output")
                yield Cluster(port, process.pid, directory)
            finally:
                process.terminate()
                process.wait()


@contextlib.contextmanager
def running(workers: int, directory: Path | None = None) -> Iterator[int]:
    """Run a cluster, and give its port alone."""
    with started(workers, directory) as cluster:
        yield cluster.port


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until a heartbeat is answered.

    Raises:
        RuntimeError: It has ended, or takes too long; with the last that it said.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            said = " / ".join(output.read_text().splitlines()[-3:])
            raise RuntimeError(f"the server did not start: {said}")
        time.sleep(START_POLL_S)


def _answers(port: int) -> bool:
    """Whether a heartbeat is answered. Asked of a new connection, once somebody accepts it: one
    that was refused is not tried again for a while.
    """
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with shoal.Client(port=port, timeout=5) as client:
            client.heartbeat()
    except (OSError, shoal.UnavailableError):
        return False
    return True
