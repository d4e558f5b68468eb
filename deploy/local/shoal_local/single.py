"""`shoal up --workers 0`: all roles in this process, behind the gateway's ports."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Final

from shoal.server import process
from shoal_gateway.costs import NEVER_SHED, cost_of
from shoal_gateway.settings import GatewaySettings
from shoal_local import early
from shoal_local.directory import DataDirectory
from shoal_local.plan import Plan, reachable
from shoal_local.roles import LocalCluster
from shoal_local.state import RoleState, RunState

__all__ = ["run"]

_SWITCH_INTERVAL_S: Final = 50e-6
"""As in a worker's own process: searches on threads wait no longer for the interpreter."""


def run(directory: DataDirectory, plan: Plan, *, on_ready: Callable[[RunState], None]) -> int:
    """Run all roles until SIGTERM or SIGINT, and give the exit code.

    Args:
        directory: Held by the caller.
        plan: The roles' settings.
        on_ready: Called once, when calls are answered.
    """

    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    @contextlib.asynccontextmanager
    async def serve(settings: GatewaySettings, role: process.RoleProcess) -> AsyncIterator[None]:
        if early.was_told_to_stop():
            role.stop()
        cluster = LocalCluster(
            directory,
            allow_reset=plan.coordinator.allow_reset,
            recover_catalog=plan.coordinator.recover_catalog,
            bootstrap_key_file=plan.coordinator.bootstrap_key_file,
            snapshot_store=plan.coordinator.snapshot_store,
            auth=settings.auth,
            limits=settings.limits,
            worker_settings=plan.worker,
        )
        await cluster.start()
        try:
            for name, instance in cluster.services.items():
                role.add_service(
                    name,
                    instance,
                    max_request_bytes=settings.limits.max_message_bytes,
                    guard=cluster.gateway.guard,
                    cost=cost_of,
                    is_shed=name not in NEVER_SHED,
                )
            role.make_public(settings.public_certificates, with_reflection=settings.reflection)
            await role.listen()
            await role.set_serving(True)
            state = _state(settings, role)
            state.write(directory.path)
            on_ready(state)
            yield
        finally:
            await cluster.close()

    return process.run(
        "gateway",
        GatewaySettings,
        serve,
        description="All roles in one process.",
        program="shoal up",
        arguments=plan.gateway_flags,
    )


def _state(settings: GatewaySettings, role: process.RoleProcess) -> RunState:
    everything = RoleState(
        name="all",
        role="all",
        process=os.getpid(),
        host=reachable(settings.host),
        port=role.port,
        health_port=role.health_port,
        metrics_port=role.metrics_port,
    )
    return RunState(process=os.getpid(), worker_count=0, is_ready=True, roles=(everything,))
