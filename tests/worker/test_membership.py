"""A worker that can no longer say that it lives ends, rather than go on unheard of."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from shoal.internal.v1 import membership_service_pb2 as api
from shoal.server.rpc import CallContext, local_stub
from shoal_worker.membership import Membership

CLUSTER = str(uuid4())


class Coordinator:
    """Takes everybody in."""

    def __init__(self) -> None:
        self.beats = 0

    async def register_worker(
        self, request: api.RegisterWorkerRequest, context: CallContext
    ) -> api.RegisterWorkerResponse:
        return api.RegisterWorkerResponse(cluster_id=CLUSTER, heartbeat_seconds=0.001)

    async def heartbeat_worker(
        self, request: api.HeartbeatWorkerRequest, context: CallContext
    ) -> api.HeartbeatWorkerResponse:
        self.beats += 1
        return api.HeartbeatWorkerResponse()


class Usages:
    """Reports that fail after some time, in a way that nobody foresaw."""

    def __init__(self, good_count: int) -> None:
        self._left = good_count

    def forget(self) -> None:
        """Report everything anew."""

    def answered(self, usages: Any) -> None:
        """They are known."""

    async def changed(self) -> list[Any]:
        """Report what has changed."""
        if not self._left:
            raise RuntimeError("nobody foresaw this")
        self._left -= 1
        return []


async def test_what_nobody_foresaw_ends_the_worker() -> None:
    coordinator = Coordinator()
    membership = Membership(
        local_stub("shoal.internal.v1.MembershipService", coordinator),
        worker_id=uuid4(),
        process_id=uuid4(),
        address="127.0.0.1:1",
        cluster_id=lambda: None,
        join=lambda cluster_id: None,
        held_shards=list,
        usages=Usages(3),  # type: ignore[arg-type]
    )
    membership.start()
    try:
        async with asyncio.timeout(240):
            await membership.wait_registered()
            with pytest.raises(RuntimeError, match="nobody foresaw this"):
                await membership.wait_refused()
        assert coordinator.beats == 3
    finally:
        await membership.close()
