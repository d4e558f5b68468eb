"""A cluster as it is deployed: each role a process of its own, started by its command."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import shoal
from shoal.errors import ShoalError
from shoal_local import ports

_HOST = "127.0.0.1"


class Role:
    """A role's process, at ports that it keeps when it is started again."""

    def __init__(self, name: str, place: Path, taken: set[int], *arguments: str) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self.port, self.health_port, self.metrics_port = (
            _free(taken) for _ in ("grpc", "health", "metrics")
        )
        self._log = place / f"{name}.log"
        self._arguments = (
            f"--host={_HOST}",
            f"--port={self.port}",
            f"--health-port={self.health_port}",
            f"--metrics-port={self.metrics_port}",
            *arguments,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where others reach it."""
        return f"{_HOST}:{self.port}"

    def start(self) -> None:
        """Start it, once more or for the first time."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"shoal_{self.kind}", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """End it in order, and give its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=30)


class RunningCluster:
    """One coordinator, workers and one gateway.

    Args:
        place: Holds data and logs.
        workers: How many.
    """

    def __init__(self, place: Path, *, workers: int) -> None:
        taken: set[int] = set()

        def data(name: str) -> str:
            return f"--data-dir={place / 'data' / name}"

        self.coordinator = Role(
            "coordinator", place, taken, data("coordinator"), f"--expected-workers={workers}"
        )
        coordinator = f"--coordinator={self.coordinator.address}"
        self.workers = [
            Role(f"worker-{n}", place, taken, data(f"worker-{n}"), coordinator)
            for n in range(1, workers + 1)
        ]
        self.gateway = Role("gateway", place, taken, coordinator)
        self.roles = [self.coordinator, *self.workers, self.gateway]

    @property
    def port(self) -> int:
        """Of the public API."""
        return self.gateway.port

    def client(self) -> shoal.Client:
        """Give a client of it."""
        return shoal.Client(host=_HOST, port=self.port)

    def __enter__(self) -> Self:
        for role in self.roles:
            role.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                with shoal.Client(host=_HOST, port=self.port, timeout=2) as client:
                    client.heartbeat()
            except ShoalError:
                if time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        for role in self.roles:
            role.kill()


def _free(taken: set[int]) -> int:
    port = ports.find(_HOST, taken)
    taken.add(port)
    return port
