"""Stubs of the workers, by worker and address: made when first needed, closed when out of use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from shoal.internal.v1 import catalog_pb2

if TYPE_CHECKING:
    from shoal.internal.v1.worker_service_pb2_grpc import (
        ShardControlServiceAsyncStub,
        ShardDataServiceAsyncStub,
    )

__all__ = ["ControlStubs", "DataStubs", "ReleaseWorker", "WorkerStubs"]

DataStubs: TypeAlias = "Callable[[str, str], ShardDataServiceAsyncStub]"
"""Makes the data stub of a worker, from its UUID and address."""

ControlStubs: TypeAlias = "Callable[[str, str], ShardControlServiceAsyncStub]"
"""Makes the control stub of a worker, from its UUID and address."""

ReleaseWorker: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Closes what the stubs of a worker at an address have used."""


class WorkerStubs:
    """Caches stubs.

    Args:
        data: Makes data stubs.
        control: Makes control stubs.
        release: Called once for a worker and address that the table no longer names.
    """

    def __init__(
        self, data: DataStubs, control: ControlStubs, release: ReleaseWorker | None = None
    ) -> None:
        self._make_data: Final = data
        self._make_control: Final = control
        self._release: Final = release
        self._data: dict[tuple[str, str], ShardDataServiceAsyncStub] = {}
        self._control: dict[tuple[str, str], ShardControlServiceAsyncStub] = {}

    def data(self, worker: catalog_pb2.WorkerEntry) -> ShardDataServiceAsyncStub:
        """Give the data stub of a worker."""
        key = (worker.worker_id, worker.address)
        stub = self._data.get(key)
        if stub is None:
            stub = self._data[key] = self._make_data(*key)
        return stub

    def control(self, worker: catalog_pb2.WorkerEntry) -> ShardControlServiceAsyncStub:
        """Give the control stub of a worker."""
        key = (worker.worker_id, worker.address)
        stub = self._control.get(key)
        if stub is None:
            stub = self._control[key] = self._make_control(*key)
        return stub

    async def keep_only(self, workers: Iterable[catalog_pb2.WorkerEntry]) -> None:
        """Close what leads to any other worker or address."""
        used = {(worker.worker_id, worker.address) for worker in workers}
        unused = (self._data.keys() | self._control.keys()) - used
        for key in unused:
            self._data.pop(key, None)
            self._control.pop(key, None)
        if self._release is not None:
            for key in unused:
                await self._release(*key)
