"""A cluster as it is deployed: each role a process of its own, started by its command."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import shoal
from shoal.errors import ShoalError
from shoal_local.ports import Ports

_HOST = "127.0.0.1"


class Role:
    """A role's process, at ports that it keeps when it is started again."""

    def __init__(self, name: str, place: Path, ports: Ports, *arguments: str) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self.port, self.health_port, self.metrics_port = (
            ports.find(_HOST) for _ in ("grpc", "health", "metrics")
        )
        self.log = place / f"{name}.log"
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

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, once more or for the first time."""
        with self.log.open("ab") as log:
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
        return self._process.wait(timeout=240)


class RunningCluster:
    """One coordinator, workers and one gateway.

    Args:
        place: Holds data and logs.
        workers: How many.
        configuration: Of each role's file; the flags that hold the cluster together go before.
        api_key: By which the client comes in.
        authorities: That the client trusts; None: plaintext.
    """

    def __init__(
        self,
        place: Path,
        *,
        workers: int,
        configuration: Mapping[str, Path] | None = None,
        api_key: str | None = None,
        authorities: Path | None = None,
    ) -> None:
        self._ports = Ports()
        self._api_key = api_key
        self._authorities = authorities

        def role(name: str, *arguments: str) -> Role:
            if name != "gateway":
                arguments = (*arguments, f"--data-dir={place / 'data' / name}")
            if configuration is not None:
                file = configuration[name.partition("-")[0]]
                arguments = (*arguments, f"--config={file}")
            return Role(name, place, self._ports, *arguments)

        self.coordinator = role("coordinator", f"--expected-workers={workers}")
        coordinator = f"--coordinator={self.coordinator.address}"
        self.workers = [role(f"worker-{n}", coordinator) for n in range(1, workers + 1)]
        self.gateway = role("gateway", coordinator)
        self.roles = [self.coordinator, *self.workers, self.gateway]

    @property
    def port(self) -> int:
        """Of the public API."""
        return self.gateway.port

    def client(self, timeout_s: float = 60) -> shoal.Client:
        """Give a client of it."""
        return shoal.Client(
            host=_HOST,
            port=self.port,
            api_key=self._api_key,
            ssl=self._authorities or False,
            timeout=timeout_s,
        )

    def stranger(self) -> shoal.Client:
        """Give a client that shows no key."""
        return shoal.Client(host=_HOST, port=self.port, ssl=self._authorities or False)

    def __enter__(self) -> Self:
        for role in self.roles:
            role.start()
        deadline = time.monotonic() + 240
        while True:
            try:
                with self.client(timeout_s=10) as client:
                    client.heartbeat()
            except ShoalError as error:
                if time.monotonic() > deadline or not all(role.is_running for role in self.roles):
                    self.__exit__()
                    logs = "".join(role.log.read_text() for role in self.roles)
                    raise AssertionError(f"{error}\n{logs}") from None
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        for role in self.roles:
            role.kill()
        self._ports.close()
