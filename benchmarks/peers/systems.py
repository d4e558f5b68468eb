"""The stores as processes: a server where there is one, and the driver that measures it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster import START_TIMEOUT_S, free_port, running

DRIVER = Path(__file__).with_name("driver.py")


@dataclass(frozen=True, slots=True)
class Kind:
    """A store, and how it runs.

    Attributes:
        name: For tables.
        store: ``shoal``, ``chroma``, or ``usearch``, which is an index alone.
        workers: Of Shoal's server; None for an embedded store, or Chroma's server.
        is_server: Whether it is one.
        shards: Of the collection.
    """

    name: str
    store: str
    is_server: bool
    workers: int | None = None
    shards: int = 1

    @property
    def is_store(self) -> bool:
        """Whether it holds records, and not vectors alone."""
        return self.store != "usearch"


class System:
    """One store under measurement."""

    def __init__(self, kind: Kind, driver: subprocess.Popen[str], server: int | None) -> None:
        self.kind = kind
        self._driver = driver
        self._server = server

    def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have the driver do something, and give its answer.

        Raises:
            RuntimeError: It failed.
        """
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self._driver.stdin.flush()
        line = self._driver.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the driver has ended"}
        if "error" in answer:
            raise RuntimeError(f"{self.kind.name}, {command}: {answer['error']}")
        return answer

    def server_cpu_s(self) -> float:
        """CPU time of the server's processes so far; of an embedded store 0: its driver's is it."""
        if self._server is None:
            return 0.0
        return sum(map(_cpu_s, _descendants(self._server)))


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _cpu_s(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended meanwhile
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(kind: Kind, directory: Path, vectors: Path, chroma_bin: Path) -> Iterator[System]:
    """Start a store, and its driver.

    Args:
        kind: Which.
        directory: For its data.
        vectors: File of the data set.
        chroma_bin: ``bin`` of the environment in which Chroma is installed.
    """
    with contextlib.ExitStack() as stack:
        server = None
        if not kind.is_server:
            place = str(directory / "embedded")
        elif kind.store == "shoal":
            assert kind.workers is not None
            before = set(_descendants(os.getpid()))
            port = stack.enter_context(running(kind.workers, directory / "data"))
            place = f"port:{port}"
            server = min(set(_descendants(os.getpid())) - before)
        else:
            port = free_port()
            server = stack.enter_context(_chroma(chroma_bin, directory, port)).pid
            place = f"port:{port}"
        python = str(chroma_bin / "python") if kind.store == "chroma" else sys.executable
        driver = stack.enter_context(
            _process([python, str(DRIVER), kind.store, place, str(vectors)])
        )
        yield System(kind, driver, server)


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _chroma(chroma_bin: Path, directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run Chroma's server, and wait until it answers."""
    command = [str(chroma_bin / "chroma"), "run", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--path", str(directory / "chroma")]
    with (directory / "chroma.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=5)
                    break
                except urllib.error.URLError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait()
