"""A cluster of processes on one machine: all roles started, kept alive, and stopped in order.

The roles find out that this process is gone by a pipe that only it holds open for writing, so that
they end with it even if it is killed; they share its lock on the data directory, so that nobody
starts on the directory before the last of them has ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.errors import DeadlineExceededError, ShoalError, UnavailableError
from shoal.server import logs, rpc
from shoal.server.health import CLUSTER
from shoal_local.child import Child, ChildPlan
from shoal_local.directory import DataDirectory
from shoal_local.state import RunState

__all__ = ["Supervisor", "wait_until_ready"]

_STOP_ORDER: Final = ("gateway", "worker", "coordinator")
_READY_POLL_S: Final = 0.05
_READY_CALL_S: Final = 2.0
_WAITING_NOTE_S: Final = 10.0

_log: Final = logs.get_logger("shoal.local")


class Supervisor:
    """Runs a coordinator, workers and gateways as child processes.

    Args:
        directory: Held by this process.
        plans: Coordinator, workers, gateways, in this order.
        environment: What the children inherit.
        on_ready: Called once, when all have registered and the gateway answers.
    """

    def __init__(
        self,
        directory: DataDirectory,
        plans: Sequence[ChildPlan],
        *,
        environment: Mapping[str, str],
        on_ready: Callable[[RunState], None],
    ) -> None:
        self._directory = directory
        self._on_ready = on_ready
        self._is_ready = False
        self._parent_read, self._parent_write = os.pipe()
        self._children = [
            Child(
                plan,
                environment=environment,
                pass_descriptors=(self._parent_read, directory.lock_descriptor),
                on_change=self._write_state,
            )
            for plan in plans
        ]

    @property
    def state(self) -> RunState:
        """What runs now."""
        return RunState(
            process=os.getpid(),
            worker_count=sum(child.plan.role == "worker" for child in self._children),
            is_ready=self._is_ready,
            roles=tuple(child.state for child in self._children),
        )

    def _write_state(self) -> None:
        self.state.write(self._directory.path)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, and leave nothing running.

        Raises:
            ShoalError: A role refused to start.
        """
        keeping = [asyncio.create_task(child.keep()) for child in self._children]
        announcing = asyncio.create_task(self._announce())
        stopping = asyncio.create_task(stop.wait())
        # Without a word that it is ready nobody would use it: then it may as well end.
        announcing.add_done_callback(
            lambda task: stop.set() if not task.cancelled() and task.exception() else None
        )
        try:
            await asyncio.wait([*keeping, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            announcing.cancel()
            stopping.cancel()
            await self._stop_in_order()
            ended = await asyncio.gather(*keeping, announcing, stopping, return_exceptions=True)
            os.close(self._parent_write)
            os.close(self._parent_read)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.kill()

    async def _stop_in_order(self) -> None:
        """First who asks, then who is asked: nobody runs into a role that is gone."""
        for role in _STOP_ORDER:
            await asyncio.gather(*(c.stop() for c in self._children if c.plan.role == role))

    async def _announce(self) -> None:
        for child in self._children:
            if child.plan.role == "gateway":
                await wait_until_ready(f"{child.plan.host}:{child.plan.health_port}")
        self._is_ready = True
        for child in self._children:
            child.has_been_ready = True
        self._write_state()
        self._on_ready(self.state)


async def wait_until_ready(address: str) -> None:
    """Wait until a cluster can serve. Bounded by nothing: shards may be recovering.

    Args:
        address: Of the gateway's health port, which asks for no key and no certificate.
    """
    loop = asyncio.get_running_loop()
    note_at = loop.time() + _WAITING_NOTE_S
    async with rpc.channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=CLUSTER)
        while True:
            try:
                # NOT_FOUND until the gateway has heard that all workers have registered.
                await rpc.call(stub.Check, request, timeout_s=_READY_CALL_S)  # type: ignore[attr-defined]
            except ShoalError as error:
                if loop.time() > note_at:
                    reached = not isinstance(error, UnavailableError | DeadlineExceededError)
                    message = "not all workers have registered" if reached else error.message
                    _log.info("still_waiting", address=address, message=message)
                    note_at = loop.time() + _WAITING_NOTE_S
            else:
                return
            await asyncio.sleep(_READY_POLL_S)
