"""The stores as processes: a server where there is one, and the driver that measures it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import shoal
from benchmarks.cluster import START_POLL_S, START_TIMEOUT_S, free_port, running
from benchmarks.peers.store import adapter
from benchmarks.processes import descendants, environment, memory, stored_bytes

_ROOT: Final = Path(__file__).parents[2]
_END_S: Final = 15.0
COMMAND_TIMEOUT_S: Final = 1_800.0
"""Of one command; a store that takes longer to load counts as one that does not start."""

Server = Callable[[Path, Path], AbstractContextManager[tuple[int, int]]]
"""Runs a server, given its directory and the environment's `bin`: gives port and process."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A store, and how it runs.

    Attributes:
        name: Of the system, in tables.
        adapter: ``module:Class`` below `benchmarks.peers.stores`.
        beside: The system of Shoal's that it is compared with: a server with the server.
        server: Runs its server; None if it is embedded.
        is_own: Whether it runs in this environment, and not in that of the peers.
        is_index: Whether it holds vectors alone.
        options: For the adapter.
    """

    name: str
    adapter: str
    beside: str
    server: Server | None = None
    is_own: bool = False
    is_index: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class StoreFailure(Exception):
    """A store did not do what it was asked to."""


class System:
    """One store under measurement, on one data set: it can be started again and again.

    Args:
        kind: Which.
        home: For its data, which stays when it ends, and its output.
        vectors: Directory of the data set.
        setting: `dimension` and `metric`.
        peers: ``bin`` of the environment in which the peers are installed.
    """

    def __init__(
        self, kind: Kind, home: Path, vectors: Path, setting: Mapping[str, Any], peers: Path
    ) -> None:
        self.kind = kind
        self.version = ""
        self.store = adapter(kind.adapter)
        self._home = home
        self._vectors = vectors
        self._setting = {**setting, **kind.options}
        self._peers = peers
        self._stack = ExitStack()
        self._driver: subprocess.Popen[str] | None = None
        self._server: int | None = None
        self._place = ""
        home.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """Of the system."""
        return self.kind.name

    # Processes

    def _spawn(self) -> dict[str, int]:
        """Start the driver; gives what memory it has before it has done anything."""
        python = Path(sys.executable) if self.kind.is_own else self._peers / "python"
        if not python.exists():
            raise StoreFailure("its environment is not there: see `make bench-peers`")
        command = [str(python), "-m", "benchmarks.peers.driver", self.kind.adapter]
        command += [json.dumps(self._setting), str(self._vectors)]
        output = self._stack.enter_context((self._home / "driver.log").open("ab"))
        self._driver = self._stack.enter_context(_process(command, output))
        # Its first answer shows that it has started.
        self.do("ready")
        return memory(descendants(self._driver.pid))

    def _prepare(self) -> None:
        self.version = self.do("prepare")["version"]

    def _serve(self) -> None:
        """Start the server, if there is one."""
        self._place = str(self._home / "data")
        if self.kind.server is not None:
            data = self._home / "server"
            data.mkdir(exist_ok=True)
            try:
                port, self._server = self._stack.enter_context(self.kind.server(data, self._peers))
            except (shoal.ShoalError, OSError) as error:
                raise StoreFailure(f"its server does not start: {error}") from error
            self._place = f"port:{port}"

    def start(self) -> dict[str, Any]:
        """Start everything, and open the store."""
        self._spawn()
        self._prepare()
        self._serve()
        return self.do("open", place=self._place)

    def start_timed(self) -> tuple[float, dict[str, int]]:
        """Start it as a loaded store; gives seconds until the first answer, and idle memory.

        A server's client is there before. Of an embedded store the import counts, since some do
        then what others do when they are opened.
        """
        idle = self._spawn()
        if self.kind.server is not None:
            self._prepare()
        began = time.perf_counter()
        if self.kind.server is None:
            self._prepare()
        self._serve()
        self.do("first", place=self._place)
        return time.perf_counter() - began, idle

    def stop(self) -> None:
        """End everything; the data stays."""
        remaining = self.processes()
        if self._driver is not None and self._driver.poll() is None:
            with contextlib.suppress(StoreFailure, OSError):
                self.do("close", timeout_s=_END_S)
        self._stack.close()
        self._stack = ExitStack()
        self._driver = self._server = None
        _end(remaining)

    def restart(self) -> None:
        """Open what is loaded anew, which searches as far as before."""
        self.stop()
        self.start()

    def servers(self) -> list[int]:
        """Processes of the server."""
        return [] if self._server is None else descendants(self._server)

    def processes(self) -> list[int]:
        """All of them: of an embedded store, its driver and what that started."""
        own = [] if self._driver is None else descendants(self._driver.pid)
        return own + self.servers()

    def disk_bytes(self) -> int:
        """What its data takes."""
        return sum(
            stored_bytes(self._home / part)
            for part in ("data", "server")
            if (self._home / part).exists()
        )

    # Commands

    def do(
        self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any
    ) -> dict[str, Any]:
        """Have the driver do something, and give its answer.

        Raises:
            StoreFailure: It failed, has ended, or takes too long.
        """
        assert self._driver is not None
        assert self._driver.stdin is not None
        try:
            self._driver.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._driver.stdin.flush()
            line = self._line(timeout_s)
        except BrokenPipeError:
            line = ""
        if not line:
            raise StoreFailure(f"{command}: the driver has ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StoreFailure(f"{command}: {answer['error']}")
        return answer

    def _line(self, timeout_s: float) -> str:
        """One line: every answer is one, so that nothing of a second lies in the buffer."""
        assert self._driver is not None
        assert self._driver.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._driver.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise StoreFailure(f"no answer for {timeout_s:.0f} s")
        return self._driver.stdout.readline()

    def _last_words(self) -> str:
        lines = (self._home / "driver.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def _process(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        text=True,
        env={**environment(), "PYTHONPATH": str(_ROOT)},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _end(processes: list[int]) -> None:
    """End what a client left behind, which is no child of ours: first gently."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END_S
        alive = [p for p in processes if _is_alive(p)]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, kind)
        while any(map(_is_alive, alive)) and time.monotonic() < deadline:
            time.sleep(0.05)


def _is_alive(process: int) -> bool:
    try:
        state = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def shoal_server(workers: int) -> Server:
    """Give what runs `shoal up` with so many workers; 0 is one process."""

    @contextlib.contextmanager
    def run(directory: Path, peers: Path) -> Iterator[tuple[int, int]]:
        del peers
        before = set(descendants(os.getpid()))
        with running(workers, directory) as port:
            yield port, min(set(descendants(os.getpid())) - before)

    return run


@contextlib.contextmanager
def chroma_server(directory: Path, peers: Path) -> Iterator[tuple[int, int]]:
    """Run Chroma's server, and wait until it answers."""
    port = free_port()
    command = [str(peers / "chroma"), "run", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--path", str(directory / "chroma")]
    with (directory / "output").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment())
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(f"http://127.0.0.1:{port}/api/v2/heartbeat"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StoreFailure("its server does not answer")
                time.sleep(START_POLL_S)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.URLError:
        return False
    return True
