"""The life of a role's process: settings, ports, serving, and an orderly end.

A role's `main` is one call::

    def main() -> int:
        return process.run("worker", WorkerSettings, serve, description="…")

    @contextlib.asynccontextmanager
    async def serve(settings: WorkerSettings, process: RoleProcess) -> AsyncIterator[None]:
        worker = Worker(settings.data_dir, ...)
        process.add_service("shoal.internal.v1.ShardDataService", worker.data_service)
        port = await process.listen()          # the role's gRPC server is up; port may have been 0
        await worker.start(f"{settings.host}:{port}")
        await process.set_serving(True)
        try:
            yield                              # until SIGTERM, SIGINT, or the parent's end
        finally:
            await worker.close()

On a stop, in this order: health says NOT_SERVING, calls under way end (``stop_grace_s``), the role
closes. A second signal ends the process at once, which by the laws loses nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import grpc.aio

from shoal.errors import ShoalError
from shoal.server import logs, metrics, open_files, rpc, settings, tracing
from shoal.server.health import Health, HttpPort, add_reflection
from shoal.server.resources import add_resource_metrics
from shoal.server.slow_calls import SLOW_CALLS
from shoal.server.tls import Certificates, ChannelTls

__all__ = ["PARENT_FD_VARIABLE", "RoleProcess", "run"]

PARENT_FD_VARIABLE: Final = "SHOAL_PARENT_FD"
"""Environment variable with the number of a pipe's reading end. Whoever starts a role keeps the
other end open and writes nothing: at its end, by whatever signal, the role stops by itself."""

EXIT_FAILED: Final = 1
EXIT_WRONG_SETTINGS: Final = 2

# At a time, of methods that are not shed: few, and none that works long.
_ADMINISTRATORS_CALLS: Final = 64

# After the parent's end nobody waits for a long farewell, and who starts again on the same
# directory waits for its locks.
_ORPHAN_GRACE_S: Final = 2.0

_log: Final = logs.get_logger("shoal.process")

_Settings = TypeVar("_Settings", bound=settings.RoleSettings)
Serve = Callable[[_Settings, "RoleProcess"], AbstractAsyncContextManager[None]]


class RoleProcess:
    """What a role has of its process: servers, health, and the wish to stop.

    Attributes:
        cluster_tls: Of channels to the cluster's other processes; None: plaintext.

    Raises:
        InvalidArgumentError: The cluster's certificates cannot be used.
    """

    def __init__(self, role: str, given: settings.RoleSettings) -> None:
        self.role = role
        self.health = Health(most_watches=given.max_concurrent_calls)
        self._settings = given
        self._server = rpc.server(
            max_concurrent_calls=given.max_concurrent_calls,
            share_port=getattr(given, "share_port", False),
            sheds_early=hasattr(given, "max_wait_s"),
        )
        self._admission = rpc.Admission(
            given.max_concurrent_calls,
            max_bytes=given.max_pending_bytes,
            max_wait_s=getattr(given, "max_wait_s", None),
        )
        self._admission.publish()
        self._never_shed = rpc.Admission(_ADMINISTRATORS_CALLS)
        self._receiving = rpc.Receiving(given.default_timeout_s, given.max_pending_bytes)
        self._services: list[str] = []
        self._is_public = False
        self._has_reflection = False
        self._health_server: grpc.aio.Server | None = None
        self._http = HttpPort(lambda: self.health.is_serving)
        self._certificates = _cluster_certificates(given)
        self.cluster_tls = (
            None
            if self._certificates is None
            else ChannelTls(self._certificates, given.cluster_name)
        )
        self._stop = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._when_stopping: list[Callable[[], None]] = []
        self.port = 0
        self.health_port = 0
        self.metrics_port = 0

    def add_service(
        self,
        full_name: str,
        instance: object,
        *,
        max_request_bytes: int | None = None,
        guard: rpc.Guard | None = None,
        cost: rpc.Cost | None = None,
        is_shed: bool = True,
    ) -> None:
        """Serve an object's methods; before `listen`.

        Args:
            full_name: Of the service.
            instance: Whose methods.
            max_request_bytes: A larger request is refused.
            guard: Decides which calls are answered.
            cost: Weighs calls; None: all alike.
            is_shed: Whether calls are refused when there is too much to do: not those by which an
                administrator finds out what is going on, and ends it.
        """
        rpc.add_service(
            self._server,
            full_name,
            instance,
            admission=self._admission if is_shed else self._never_shed,
            cost=cost,
            default_timeout_s=self._settings.default_timeout_s,
            max_request_bytes=max_request_bytes,
            guard=guard,
            receiving=self._receiving,
        )
        self._services.append(full_name)

    def make_public(
        self, certificates: Certificates | None = None, *, with_reflection: bool = True
    ) -> None:
        """Let the role's own port be the public one; before `listen`.

        It serves health, too, and reflection. What other roles know each other by is not used.

        Args:
            certificates: For TLS; with authorities, clients must show a certificate, too. None:
                plaintext.
            with_reflection: Whether strangers may ask for the protos.
        """
        self._is_public = True
        self._certificates = certificates
        self._has_reflection = with_reflection

    async def listen(self) -> int:
        """Start to answer calls, and give the port.

        Raises:
            FailedPreconditionError: The port is taken.
        """
        if self._is_public:
            self.health.add_to(self._server)
        if self._has_reflection:
            add_reflection(self._server, self._services)
        credentials = (
            None if self._certificates is None else self._certificates.server_credentials()
        )
        self.port = rpc.bind(self._server, self._settings.host, self._settings.port, credentials)
        self.health.name(self._services)
        await self._server.start()
        _log.info(
            "role_started",
            port=self.port,
            tls=credentials is not None,
            health_port=self.health_port,
            metrics_port=self.metrics_port,
            process=os.getpid(),
        )
        return self.port

    async def set_serving(self, is_serving: bool) -> None:
        """Say whether calls make sense."""
        if is_serving != self.health.is_serving:
            _log.info("serving_began" if is_serving else "serving_ended")
        self.health.set(is_serving)

    def stop(self) -> None:
        """Begin the end. A start that is still under way is broken off."""
        self._stop.set()
        if self._starting is not None:
            self._starting.cancel()

    def on_stop(self, end: Callable[[], None]) -> None:
        """Have streams ended when the stop begins; else they last until the grace is over."""
        self._when_stopping.append(end)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Let `stop` break off what is done within."""
        self._starting = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            _log.info("start_broken_off")
            if self._starting is not None:
                self._starting.uncancel()
        finally:
            self._starting = None

    async def open_side_ports(self) -> None:
        """Start health and metrics, first of all: a role that hangs at its start can be seen."""
        self._health_server, self.health_port = await self.health.listen(
            self._settings.host, self._settings.health_port
        )
        self.metrics_port = await self._http.listen(
            self._settings.host, self._settings.metrics_port
        )

    async def wait_for_stop(self) -> None:
        """Wait for the end to begin, then let calls under way end."""
        await self._stop.wait()
        _log.info("stop_began")
        await self.set_serving(False)
        self.health.end()
        for end in self._when_stopping:
            end()
        await self._server.stop(self._settings.stop_grace_s)

    async def close(self) -> None:
        """Stop what `open_side_ports` and `listen` started."""
        await self._server.stop(None)
        if self._health_server is not None:
            await self._health_server.stop(None)
        await self._http.close()


def _cluster_certificates(given: settings.RoleSettings) -> Certificates | None:
    if given.cluster_cert is None or given.cluster_key is None:
        return None
    return Certificates(given.cluster_cert, given.cluster_key, given.cluster_ca)


def run(
    role: str,
    settings_class: type[_Settings],
    serve: Serve[_Settings],
    *,
    description: str,
    program: str | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a role until it is told to stop, and give the exit code.

    0 after an orderly stop, 1 if it could not start or failed, 2 for wrong settings.
    """
    # What was imported stays. Of a role's own process, it was not looked through meanwhile either.
    gc.freeze()
    gc.enable()
    program = program or f"shoal-{role}"
    try:
        given = settings.load(
            settings_class,
            role=role,
            program=program,
            description=description,
            arguments=arguments,
        )
    except ShoalError as error:
        for line in error.message.splitlines():
            print(f"{program}: {line}", file=sys.stderr)  # noqa: T201 - before logs are set up
        return EXIT_WRONG_SETTINGS
    logs.configure(role=role, level=given.log_level, form=given.log_format)
    open_files.raise_limit()
    metrics.add_process_metrics(role)
    add_resource_metrics(getattr(given, "data_dir", None))
    SLOW_CALLS.configure(given.slow_call_s)
    try:
        if given.tracing_endpoint is not None:
            tracing.begin(role, given.tracing_endpoint, given.tracing_ratio)
        asyncio.run(_live(role, given, serve))
    except ShoalError as error:
        _log.error("role_failed", reason=error.reason, message=error.message)
        return EXIT_FAILED
    except Exception:  # noqa: BLE001 - main: nobody else is left to say it
        _log.exception("role_failed")
        return EXIT_FAILED
    finally:
        tracing.end()
    return 0


async def _live(role: str, given: _Settings, serve: Serve[_Settings]) -> None:
    process = RoleProcess(role, given)
    with _signals(process):
        _watch_parent(asyncio.get_running_loop(), process)
        try:
            async with contextlib.AsyncExitStack() as stack:
                with process.starting():
                    await process.open_side_ports()
                    await stack.enter_async_context(serve(given, process))
                # What is here now stays to the end: looking through it for garbage again and again
                # took a twentieth of the time of queries.
                gc.collect()
                gc.freeze()
                await process.wait_for_stop()
        finally:
            await process.close()
    _log.info("role_stopped")


@contextlib.contextmanager
def _signals(process: RoleProcess) -> Iterator[None]:
    """Stop in order at the first SIGTERM or SIGINT, at once at the second."""
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        process.stop()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _watch_parent(loop: asyncio.AbstractEventLoop, process: RoleProcess) -> None:
    """Stop when whoever started this process is gone, even if it was killed.

    A thread of its own: it ends the process also when the event loop hangs.
    """
    number = os.environ.pop(PARENT_FD_VARIABLE, "")
    if not number:
        return
    descriptor = int(number)
    os.set_inheritable(descriptor, False)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed: the end has come already
            loop.call_soon_threadsafe(process.stop)
        time.sleep(_ORPHAN_GRACE_S)
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
