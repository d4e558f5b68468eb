"""`shoal snapshots`: snapshots of collections, taken, listed, restored and deleted."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from typing import Any

from google.protobuf import json_format

from shoal.configuration import check_hnsw, hnsw_to_message
from shoal.v1 import collection_pb2
from shoal.v1 import snapshot_service_pb2 as api
from shoal.v1 import snapshot_service_pb2_grpc as grpc_api
from shoal_local.access import ServerAccess, add_arguments
from shoal_local.tables import print_table, shown_bytes, shown_status, shown_time
from shoal_local.waiting import finished, progress_line, taken

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run `shoal snapshots`, and give its exit code."""
    given = _parser().parse_args(arguments)
    actions = {
        "create": _create,
        "list": _list,
        "describe": _describe,
        "restore": _restore,
        "delete": _delete,
    }
    return asyncio.run(actions[given.action](ServerAccess.of(given), given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal snapshots", description="Snapshots of a running server's collections."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="take a snapshot, and wait until it is complete")
    create.add_argument("name", help="1 to 45 lowercase letters, digits and hyphens.")
    create.add_argument("--source", required=True, metavar="COLLECTION", help="Of what.")
    create.add_argument("--no-wait", action="store_true", help="Return when its time is fixed.")
    listing = actions.add_parser("list", help="list a database's snapshots")
    describe = actions.add_parser("describe", help="describe a snapshot")
    restore = actions.add_parser("restore", help="make a new collection of a snapshot")
    restore.add_argument("--into", required=True, metavar="COLLECTION", help="The new name.")
    restore.add_argument("--shards", type=int, metavar="N", help="Other than the source's.")
    restore.add_argument("--space", help="Other than the source's: l2, cosine or ip.")
    restore.add_argument(
        "--quantization", help="Other than the source's: f32, f16, bf16 or i8 (cosine only)."
    )
    delete = actions.add_parser("delete", help="delete a snapshot")
    for action in (describe, restore, delete):
        action.add_argument("name")
    for action in (create, listing, describe, restore, delete):
        action.add_argument("--tenant", default="", help="Default: default_tenant.")
        action.add_argument("--database", default="", help="Default: default_database.")
        add_arguments(action)
        action.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


async def _create(access: ServerAccess, given: argparse.Namespace) -> int:
    request = api.CreateSnapshotRequest(
        name=given.name,
        source=collection_pb2.CollectionReference(
            tenant=given.tenant, database=given.database, name=given.source
        ),
    )
    async with access.channel() as channel, progress_line() as show:
        stub = grpc_api.SnapshotServiceStub(channel)
        snapshot = (await access.call(stub.CreateSnapshot, request)).snapshot

        async def describe() -> api.Snapshot:
            question = api.GetSnapshotRequest(snapshot=_reference(given))
            return (await access.call(stub.GetSnapshot, question)).snapshot

        if not given.no_wait:
            snapshot = await taken("snapshot", describe, show)
    _print_one(snapshot, given)
    return 0


async def _list(access: ServerAccess, given: argparse.Namespace) -> int:
    request = api.ListSnapshotsRequest(tenant=given.tenant, database=given.database)
    async with access.channel() as channel:
        stub = grpc_api.SnapshotServiceStub(channel)
        pages = access.pages(stub.ListSnapshots, request)
        found = [snapshot async for page in pages for snapshot in page.snapshots]
    if given.json:
        print(json.dumps([_document(snapshot) for snapshot in found], indent=2))
    else:
        _print_table(found)
    return 0


async def _describe(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        stub = grpc_api.SnapshotServiceStub(channel)
        request = api.GetSnapshotRequest(snapshot=_reference(given))
        answer = await access.call(stub.GetSnapshot, request)
    if given.json:
        print(json.dumps(_document(answer.snapshot), indent=2))
    else:
        _print_table([answer.snapshot])
    return 0


async def _restore(access: ServerAccess, given: argparse.Namespace) -> int:
    wanted = {name: getattr(given, name) for name in ("shards", "space", "quantization")}
    request = api.RestoreSnapshotRequest(
        operation_id=secrets.token_bytes(16),
        snapshot=_reference(given),
        into=given.into,
        configuration=collection_pb2.CollectionConfiguration(
            hnsw=hnsw_to_message(check_hnsw(wanted))
        ),
    )
    async with access.channel() as channel, progress_line() as show:
        stub = grpc_api.SnapshotServiceStub(channel)
        answer = await finished(
            f"restoring {given.name}", lambda: access.call(stub.RestoreSnapshot, request), show
        )
    if given.json:
        print(json.dumps(_document(answer), indent=2))
    else:
        print(f"restored {given.name} into {given.into}: {answer.restored_count:,} records")
    return 0


async def _delete(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        stub = grpc_api.SnapshotServiceStub(channel)
        await access.call(
            stub.DeleteSnapshot, api.DeleteSnapshotRequest(snapshot=_reference(given))
        )
    print(json.dumps({"deleted": given.name}) if given.json else f"deleted {given.name}")
    return 0


def _reference(given: argparse.Namespace) -> api.SnapshotReference:
    return api.SnapshotReference(tenant=given.tenant, database=given.database, name=given.name)


def _print_one(snapshot: api.Snapshot, given: argparse.Namespace) -> None:
    if given.json:
        print(json.dumps(_document(snapshot), indent=2))
    else:
        print(
            f"{snapshot.name}: {shown_status(snapshot.status)}, {snapshot.vector_count:,} records, "
            f"{shown_bytes(snapshot.size_bytes)}"
        )


def _print_table(snapshots: list[api.Snapshot]) -> None:
    rows = [("NAME", "STATUS", "OF", "CREATED", "RECORDS", "DIMENSION", "SIZE", "FAILURE")]
    rows += [
        (
            snapshot.name,
            shown_status(snapshot.status),
            snapshot.source.name,
            shown_time(snapshot.created_at),
            f"{snapshot.vector_count:,}",
            str(snapshot.source.dimension or "-"),
            shown_bytes(snapshot.size_bytes),
            snapshot.failure or "-",
        )
        for snapshot in snapshots
    ]
    print_table(rows)


def _document(message: Any) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document
