"""A whole cluster in the caller's process, without sockets: the same service code, called directly.

Coordinator, workers and gateway are the objects that their own processes run; what is a gRPC stub
there is `shoal.server.rpc.local_stub` here. The data directory is that of `shoal up`, so that the
one can open what the other has written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Self

from shoal.errors import UnavailableError
from shoal.server import rpc
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal_coordinator.coordinator import Coordinator
from shoal_gateway.gateway import Gateway
from shoal_local.directory import DataDirectory
from shoal_worker.settings import WorkerSettings
from shoal_worker.worker import Worker

__all__ = ["LocalCluster"]

_READY_POLL_S: Final = 0.01
_READY_CALL_S: Final = 5.0


class LocalCluster:
    """Coordinator, workers and gateway of one data directory, on one event loop.

    Args:
        directory: Held by the caller, who lets go of it after `close`.
        allow_reset: Whether everything may be deleted by one call.
        recover_catalog: Rebuild a lost catalog from the workers' copies.
        bootstrap_key_file: Holds an API key with all rights.
        snapshot_store: Where snapshots and backups lie; None: in the data directory.
        auth: Whether who calls through a port must show an API key. `call` asks for none: it is
            this process that calls.
        limits: Of requests and answers.
        worker_settings: Of every worker; ports and directories in them are not used.
    """

    def __init__(
        self,
        directory: DataDirectory,
        *,
        allow_reset: bool = False,
        recover_catalog: bool = False,
        bootstrap_key_file: Path | None = None,
        snapshot_store: str | None = None,
        auth: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        worker_settings: WorkerSettings | None = None,
    ) -> None:
        self.gateway: Gateway
        self._directory = directory
        self._allow_reset = allow_reset
        self._recover_catalog = recover_catalog
        self._bootstrap_key_file = bootstrap_key_file
        self._snapshot_store = snapshot_store
        self._auth = auth
        self._limits = limits
        self._worker_settings = worker_settings
        self._stack = contextlib.AsyncExitStack()
        self._public: dict[str, rpc.LocalService] = {}
        # By address: what the worker serves, in the shape of its stubs.
        self._data_stubs: dict[str, Any] = {}
        self._control_stubs: dict[str, Any] = {}

    @classmethod
    async def open(cls, path: Path, *, allow_reset: bool = False) -> Self:
        """Open a data directory for a program that embeds it; `close` lets go of it.

        Raises:
            DataDirectoryLockedError: Another process uses it.
        """
        directory = DataDirectory(path)
        cluster = cls(directory, allow_reset=allow_reset)
        cluster._stack.callback(directory.close)  # after everything else
        await cluster.start()
        return cluster

    async def start(self) -> None:
        """Start the roles, and wait until they can serve."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        # Every worker that has left shards here; one for a new directory.
        numbers = self._directory.worker_numbers() or [1]
        coordinator = Coordinator(
            self._directory.coordinator,
            expected_workers=len(numbers),
            allow_reset=self._allow_reset,
            recover=self._recover_catalog,
            bootstrap_key_file=self._bootstrap_key_file,
            snapshot_store=self._snapshot_store or str(self._directory.snapshots),
            worker_stub=self._control_stub,
        )
        await coordinator.start()
        self._stack.push_async_callback(coordinator.close)
        membership = rpc.local_stub(
            "shoal.internal.v1.MembershipService", coordinator.membership_service
        )
        workers = [await self._start_worker(number) for number in numbers]
        for worker in workers:
            worker.join(membership, _address(worker))
        for worker in workers:
            await worker.joined()
        self.gateway = Gateway(
            catalog_stub=rpc.local_stub(
                "shoal.internal.v1.CatalogService", coordinator.catalog_service
            ),
            routing_stub=rpc.local_stub(
                "shoal.internal.v1.RoutingService", coordinator.routing_service
            ),
            snapshot_stub=rpc.local_stub(
                "shoal.internal.v1.SnapshotCatalogService", coordinator.snapshot_catalog_service
            ),
            worker_stub=lambda _, address: self._stub(self._data_stubs, address),
            control_stub=lambda _, address: self._stub(self._control_stubs, address),
            limits=self._limits,
            auth=self._auth,
        )
        await self.gateway.start()
        self._stack.push_async_callback(self.gateway.close)
        self._public = {
            name: rpc.LocalService(name, instance) for name, instance in self.services.items()
        }
        await self._wait_until_ready()

    async def _start_worker(self, number: int) -> Worker:
        worker = Worker(self._directory.worker(number), settings=self._worker_settings)
        await worker.start()
        self._stack.push_async_callback(worker.close)
        address = _address(worker)
        self._data_stubs[address] = rpc.local_stub(
            "shoal.internal.v1.ShardDataService", worker.data_service
        )
        self._control_stubs[address] = rpc.local_stub(
            "shoal.internal.v1.ShardControlService", worker.control_service
        )
        return worker

    def call(
        self, service: str, method: str, request: bytes, timeout_s: float
    ) -> Coroutine[Any, Any, bytes]:
        """Call a method of the public API by serialised messages.

        Raises:
            ShoalError: Whatever went wrong.
        """
        return self._public[service].answer_bytes(method, request, timeout_s)

    @property
    def services(self) -> dict[str, object]:
        """The public services by their full names."""
        return self.gateway.services

    async def close(self) -> None:
        """Stop the roles: gateway, workers, coordinator."""
        await self._stack.aclose()

    def _control_stub(self, address: str) -> Any:
        return self._stub(self._control_stubs, address)

    def _stub(self, stubs: dict[str, Any], address: str) -> Any:
        try:
            return stubs[address]
        except KeyError:
            raise UnavailableError(
                f"the worker at {address} is none of this process",
                metadata={"address": address},
            ) from None

    async def _wait_until_ready(self) -> None:
        admin = self._public["shoal.v1.AdminService"]
        while True:
            try:
                await admin.answer_bytes("Heartbeat", b"", _READY_CALL_S)
            except UnavailableError:
                await asyncio.sleep(_READY_POLL_S)
            else:
                return


def _address(worker: Worker) -> str:
    """What stands in the catalog where workers with sockets have host:port; unlike any of those."""
    return f"in-process/{worker.worker_id}"
