"""`shoal status`: what runs in a data directory, as a table or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from shoal.errors import ShoalError
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import admin_service_pb2_grpc as admin_grpc
from shoal_local.access import ServerAccess
from shoal_local.directory import is_held
from shoal_local.state import RunState
from shoal_local.tables import print_table

__all__ = ["ask", "show"]


def show(given: argparse.Namespace) -> int:
    """Print what runs in a directory.

    Args:
        given: By `shoal_local.access.add_arguments`, and whether to print `json`.

    Returns:
        0 if a cluster runs and answers, else 1.
    """
    directory, as_json = given.data.absolute(), given.json
    state = RunState.read(directory)
    if state is None or not is_held(directory):
        if as_json:
            print(json.dumps({"running": False, "data": str(directory)}))
        else:
            print(f"nothing runs in {directory}; start it with: shoal up --data {directory}")
        return 1
    try:
        status = asyncio.run(ask(ServerAccess.of(given)))
        problem = ""
    except ShoalError as error:
        status, problem = None, error.message
    if as_json:
        print(json.dumps(_document(directory, state, status, problem), indent=2))
    else:
        _print_state(directory, state)
        if status is not None:
            _print_status(status)
        else:
            print(f"\nthe gateway does not say more: {problem}")
    return 0 if status is not None else 1


async def ask(access: ServerAccess) -> admin.GetStatusResponse:
    """Ask a gateway for workers and shards."""
    async with access.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        return await access.call(stub.GetStatus, admin.GetStatusRequest())


def _document(
    directory: Path, state: RunState, status: admin.GetStatusResponse | None, problem: str
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "running": True,
        "data": str(directory),
        **dataclasses.asdict(state),
        "cluster": None,
    }
    if status is not None:
        document["cluster"] = json_format.MessageToDict(
            status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    else:
        document["problem"] = problem
    return document


def _print_state(directory: Path, state: RunState) -> None:
    print(f"data      {directory}")
    print(f"ready     {'yes' if state.is_ready else 'not yet'}")
    print(f"shoal up  process {state.process}\n")
    rows = [("ROLE", "PROCESS", "GRPC", "HEALTH", "METRICS", "RESTARTS")]
    rows += [
        (
            role.name,
            str(role.process or "down"),
            f"{role.host}:{role.port}",
            str(role.health_port),
            f"http://{role.host}:{role.metrics_port}/metrics",
            str(role.restarts),
        )
        for role in state.roles
    ]
    print_table(rows)


def _print_status(status: admin.GetStatusResponse) -> None:
    reachable = "yes" if status.coordinator_reachable else "no: existing collections are served"
    print(f"\ncluster   {status.cluster_id}")
    print(f"table     version {status.table_version}, coordinator reachable: {reachable}\n")
    rows = [("WORKER", "ADDRESS", "LIVE", "SHARDS")]
    rows += [
        (w.worker_id, w.address, "yes" if w.live else "no", str(w.shard_count))
        for w in status.workers
    ]
    print_table(rows)
    print()
    if not status.shards:
        print("no shards yet")
        return
    rows_of_shards = [("SHARD", "COLLECTION", "WORKER", "EPOCH", "RECORDS", "FRESH", "DISK")]
    rows_of_shards += [
        (
            s.shard_id,
            s.collection_name,
            s.worker_id[:8],
            str(s.epoch),
            *(
                (str(s.record_count), str(s.fresh_count), f"{s.disk_bytes / 1e6:.1f} MB")
                if s.available
                else ("unavailable:", s.message, "")
            ),
        )
        for s in status.shards
    ]
    print_table(rows_of_shards)
