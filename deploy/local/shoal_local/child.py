"""One role's process: started, watched, started again when it dies, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shoal.errors import FailedPreconditionError
from shoal.server import logs
from shoal.server.process import PARENT_FD_VARIABLE
from shoal_local.state import RoleState

__all__ = ["Child", "ChildPlan"]

_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 5.0
# One that has lived so long has not died of what the one before it died of.
_FORGIVEN_AFTER_S: Final = 30.0
# Beyond the time that calls under way get: after this it is killed, which loses nothing.
_STOP_MARGIN_S: Final = 5.0

_log: Final = logs.get_logger("shoal.local")


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """How to start a role.

    Attributes:
        name: For example ``worker-1``.
        role: ``coordinator``, ``worker`` or ``gateway``.
        arguments: Flags of the role, its ports among them.
        host: Where others reach it.
        port: Of its gRPC services.
        health_port: Of grpc.health.v1.
        metrics_port: Of HTTP ``/metrics``.
        stop_grace_s: Time that it gives its calls when it is stopped, seconds.
    """

    name: str
    role: str
    arguments: Sequence[str]
    host: str
    port: int
    health_port: int
    metrics_port: int
    stop_grace_s: float


class Child:
    """A role's process that is kept alive at the same ports.

    Args:
        plan: How to start it.
        environment: What it inherits.
        pass_descriptors: Files that it inherits; the first is the pipe by which it notices our end.
        on_change: Called when it was started or has ended.
    """

    def __init__(
        self,
        plan: ChildPlan,
        *,
        environment: Mapping[str, str],
        pass_descriptors: Sequence[int],
        on_change: Callable[[], None],
    ) -> None:
        self.plan = plan
        self._environment = {
            **environment,
            PARENT_FD_VARIABLE: str(pass_descriptors[0]),
            # `-m` would else look for modules in the working directory first.
            "PYTHONSAFEPATH": "1",
            # Found by its bare name, below.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}",
        }
        self._pass_descriptors = tuple(pass_descriptors)
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self._stopping = asyncio.Event()
        self.has_been_ready = False

    @property
    def state(self) -> RoleState:
        """What it is now."""
        plan = self.plan
        process = self._process.pid if self._process is not None else 0
        return RoleState(
            name=plan.name,
            role=plan.role,
            process=process,
            host=plan.host,
            port=plan.port,
            health_port=plan.health_port,
            metrics_port=plan.metrics_port,
            restarts=self._restarts,
        )

    async def keep(self) -> None:
        """Start it, and again whenever it dies, until it is stopped.

        Raises:
            FailedPreconditionError: It refused to start, the first time: it has said why.
        """
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            begin = time.monotonic()
            code = await self._live()
            if self._stopping.is_set():
                return
            if code > 0 and not self.has_been_ready:
                raise FailedPreconditionError(
                    f"the {self.plan.name} ended at its start with exit code {code}; "
                    "what it said is above",
                    metadata={"role": self.plan.name, "exit_code": str(code)},
                )
            if time.monotonic() - begin > _FORGIVEN_AFTER_S:
                backoff_s = _FIRST_BACKOFF_S
            _log.warning(
                "role_died", name=self.plan.name, ended_by=_ended_by(code), restart_in_s=backoff_s
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._stopping.wait()
                return
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            self._restarts += 1

    async def _live(self) -> int:
        """Run one process to its end, and give its exit code, or the negative signal."""
        # Executed anew, never forked: a process with gRPC in it must not be. The command line
        # begins with `python -m shoal_worker`, by which operators find it.
        self._process = await asyncio.create_subprocess_exec(
            Path(sys.executable).name,
            "-m",
            f"shoal_{self.plan.role}",
            *self.plan.arguments,
            executable=sys.executable,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=self._environment,
            pass_fds=self._pass_descriptors,
            # Ctrl-C in a terminal goes to the whole group: only `shoal up` should get it, so that
            # the roles stop in order.
            start_new_session=True,
        )
        if self._stopping.is_set():
            self._process.terminate()
        self._on_change()
        code = await self._process.wait()
        self._process = None
        self._on_change()
        return code

    async def stop(self) -> None:
        """End it: let its calls end, then kill it."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.plan.stop_grace_s + _STOP_MARGIN_S):
                await process.wait()
        except TimeoutError:
            _log.warning("role_killed", name=self.plan.name, process=process.pid)
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _ended_by(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
