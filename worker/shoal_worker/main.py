"""The process `shoal-worker`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Final

from shoal.internal.v1.membership_service_pb2_grpc import MembershipServiceStub
from shoal.server import process, rpc
from shoal_worker.settings import WorkerSettings
from shoal_worker.worker import Worker

__all__ = ["SWITCH_INTERVAL_S", "main"]

SWITCH_INTERVAL_S: Final = 50e-6
"""How long one thread may keep the interpreter while another wants it. USearch takes it again after
every query of a batch: at Python's 5 ms, searches on threads beside a busy event loop take a
hundred times as long as alone."""


def main() -> int:
    """Run the worker until it is told to stop, and give the exit code."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return process.run(
        "worker",
        WorkerSettings,
        serve,
        description="Shoal's worker: holds shards, searches them and writes to them.",
    )


@contextlib.asynccontextmanager
async def serve(settings: WorkerSettings, role: process.RoleProcess) -> AsyncIterator[None]:
    """Open the data directory, answer calls, and join the cluster."""
    worker = Worker(settings.data_dir, settings=settings)
    await worker.start()
    refusal: asyncio.Task[None] | None = None
    channel = rpc.channel(settings.coordinator, role.cluster_tls)
    try:
        role.add_service("shoal.internal.v1.ShardDataService", worker.data_service)
        role.add_service("shoal.internal.v1.ShardControlService", worker.control_service)
        port = await role.listen()
        worker.join(MembershipServiceStub(channel), settings.advertise or _own(settings.host, port))
        refusal = asyncio.create_task(_stop_if_refused(worker, role))
        # Serving begins with the directory, not with the coordinator: gateways may know the way
        # here.
        await role.set_serving(True)
        yield
        if refusal.done():
            refusal.result()
    finally:
        if refusal is not None:
            refusal.cancel()
        await worker.close()
        await channel.close()


def _own(host: str, port: int) -> str:
    """Give the address to tell others if none is configured."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"{reachable}:{port}"


async def _stop_if_refused(worker: Worker, role: process.RoleProcess) -> None:
    try:
        await worker.refused()
    finally:
        role.stop()
