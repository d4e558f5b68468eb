"""A server to measure: `shoal up` as its users start it, on free ports."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import shoal

START_TIMEOUT_S = 60.0


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


@contextlib.contextmanager
def running(workers: int, directory: Path | None = None) -> Iterator[int]:
    """Run a cluster; gives its port.

    Args:
        workers: Worker processes; 0 is one process with all roles.
        directory: For its data; None for a temporary one.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="shoal-bench-")
            directory = Path(stack.enter_context(temporary))
        directory.mkdir(exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "shoal_local", "up", "--data", str(directory)]
        command += ["--workers", str(workers), "--port", str(port)]
        with (directory / "output").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                _wait_until_ready(port)
                yield port
            finally:
                process.terminate()
                process.wait()


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with shoal.Client(port=port, timeout=5) as client:
            try:
                client.heartbeat()
            except shoal.UnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return
