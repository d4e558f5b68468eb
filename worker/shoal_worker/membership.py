"""How the worker joins its cluster and stays in it.

It registers, then sends heartbeats; told that it is not known, it registers again. A coordinator
that cannot be reached changes nothing: the worker goes on serving from its own directory. Only two
answers end it: that its directory belongs to another cluster, and that another process lives under
its UUID.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from shoal.errors import FailedPreconditionError, NotRegisteredError, ShoalError
from shoal.internal.v1.membership_service_pb2 import (
    HeartbeatWorkerRequest,
    HeldShard,
    RegisterWorkerRequest,
    RegisterWorkerResponse,
)
from shoal.server import logs, rpc

if TYPE_CHECKING:
    from shoal_worker.usage import UsageReports

__all__ = ["Membership"]

_logger: Final = logs.get_logger(__name__)

_CALL_TIMEOUT_S: Final = 5.0
_RETRY_FIRST_S: Final = 0.1
_RETRY_LAST_S: Final = 2.0
"""Between attempts to register: doubled each time, and spread, so that workers do not come in
step."""


class Membership:
    """Keeps a worker registered with the coordinator.

    Args:
        stub: A stub of MembershipService, of another process or of this one.
        worker_id: The worker.
        process_id: This run of its process.
        address: host:port at which others reach it.
        cluster_id: Gives the cluster that its directory belongs to, or None.
        join: Makes its directory belong to a cluster, durably.
        held_shards: Gives what it holds.
        usages: Tells what its shards hold.
    """

    def __init__(
        self,
        stub: Any,
        *,
        worker_id: UUID,
        process_id: UUID,
        address: str,
        cluster_id: Callable[[], UUID | None],
        join: Callable[[UUID], None],
        held_shards: Callable[[], list[HeldShard]],
        usages: UsageReports,
    ) -> None:
        self._stub = stub
        self._worker_id = worker_id
        self._process_id = process_id
        self._address = address
        self._cluster_id = cluster_id
        self._join = join
        self._held_shards = held_shards
        self._usages = usages
        self._task: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()
        self._refused: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to register, in the background."""
        self._refused = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(), name="membership")
        self._task.add_done_callback(self._ended)

    async def wait_registered(self) -> None:
        """Wait until the coordinator has taken the worker in.

        Raises:
            FailedPreconditionError: If it refuses to.
        """
        registered = asyncio.create_task(self._registered.wait())
        try:
            await self._first(registered)
        finally:
            registered.cancel()

    async def _first(self, registered: asyncio.Task[Any]) -> None:
        assert self._refused is not None, "start() comes first"
        await asyncio.wait((registered, self._refused), return_when=asyncio.FIRST_COMPLETED)
        if self._refused.done():
            self._refused.result()

    async def wait_refused(self) -> None:
        """Wait until the coordinator refuses the worker, and raise its refusal."""
        assert self._refused is not None, "start() comes first"
        await asyncio.shield(self._refused)

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._refused is not None and not self._refused.done():
            self._refused.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the process with what nobody foresaw: a worker must not go on unheard of."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        _logger.critical("membership_ended", error=repr(error))
        if self._refused is not None and not self._refused.done():
            self._refused.set_exception(error)

    async def _live(self) -> None:
        try:
            while True:
                heartbeat_s = await self._register()
                self._registered.set()
                await self._beat(heartbeat_s)
        except FailedPreconditionError as error:
            _logger.error("worker_refused", message=str(error))
            if self._refused is not None and not self._refused.done():
                self._refused.set_exception(error)

    async def _register(self) -> float:
        wait_s = _RETRY_FIRST_S
        is_unreachable = False
        while True:
            try:
                response: RegisterWorkerResponse = await rpc.call(
                    self._stub.RegisterWorker, self._registration(), timeout_s=_CALL_TIMEOUT_S
                )
            except FailedPreconditionError:
                raise
            except ShoalError as error:
                if not is_unreachable:
                    _logger.warning("registration_failed", message=str(error))
                is_unreachable = True
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, _RETRY_LAST_S)
                continue
            cluster_id = UUID(response.cluster_id)
            # Off the loop: it is synced.
            await asyncio.to_thread(self._join, cluster_id)
            _logger.info(
                "worker_registered", worker_id=str(self._worker_id), cluster_id=str(cluster_id)
            )
            return response.heartbeat_seconds

    def _registration(self) -> RegisterWorkerRequest:
        return RegisterWorkerRequest(
            worker_id=str(self._worker_id),
            process_id=str(self._process_id),
            address=self._address,
            cluster_id=str(self._cluster_id() or ""),
            shards=self._held_shards(),
        )

    async def _beat(self, heartbeat_s: float) -> None:
        """Send heartbeats until the coordinator does not know the worker."""
        self._usages.forget()
        is_unreachable = False
        while True:
            await asyncio.sleep(heartbeat_s)
            usages = await self._usages.changed()
            request = HeartbeatWorkerRequest(
                worker_id=str(self._worker_id), process_id=str(self._process_id), usages=usages
            )
            try:
                await rpc.call(self._stub.HeartbeatWorker, request, timeout_s=max(heartbeat_s, 1.0))
            except NotRegisteredError:
                return
            except FailedPreconditionError:
                raise
            except ShoalError as error:
                if not is_unreachable:
                    _logger.warning("coordinator_unreachable", message=str(error))
                is_unreachable = True
            else:
                is_unreachable = False
                self._usages.answered(usages)
