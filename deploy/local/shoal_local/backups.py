"""`shoal backup`: backups of a running cluster, taken, listed, restored and deleted."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import re
import secrets
from typing import Any, Final

from google.protobuf import json_format

from shoal.errors import InvalidArgumentError
from shoal.server.objects import store_url
from shoal.v1 import snapshot_service_pb2 as api
from shoal.v1 import snapshot_service_pb2_grpc as grpc_api
from shoal_local.access import ServerAccess, add_arguments
from shoal_local.tables import print_table, shown_bytes, shown_status, shown_time
from shoal_local.waiting import finished, progress_line, taken

__all__ = ["make_parser", "run"]

_STAMP: Final = "%Y%m%d-%H%M%S"
_STAMP_PATTERN: Final = r"\d{8}-\d{6}"


def run(arguments: list[str]) -> int:
    """Run `shoal backup`, and give its exit code."""
    given = make_parser().parse_args(arguments)
    actions = {"create": _create, "list": _list, "restore": _restore, "delete": _delete}
    return asyncio.run(actions[given.action](ServerAccess.of(given), given))


def make_parser() -> argparse.ArgumentParser:
    """Make what reads the arguments; the chart's job is tested with it."""
    parser = argparse.ArgumentParser(
        prog="shoal backup", description="Backups of a running cluster, in its snapshot store."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="take a backup, and wait until it is complete",
        description="Take a backup of the whole cluster at one point in time, while it serves, and "
        "wait until it is complete: catalog, API keys, quotas, all collections.",
    )
    create.add_argument(
        "name",
        nargs="?",
        help="1 to 45 lowercase letters, digits and hyphens.",
    )
    create.add_argument(
        "--prefix",
        metavar="P",
        help="Instead of a name: call it P-YYYYMMDD-HHMMSS, by the time of UTC.",
    )
    create.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="With --prefix, when it is complete: delete all complete ones of that prefix but the "
        "newest N.",
    )
    create.add_argument("--no-wait", action="store_true", help="Return when its time is fixed.")
    listing = actions.add_parser("list", help="list the backups")
    restore = actions.add_parser(
        "restore",
        help="restore a backup into a cluster without collections",
        description="Restore a backup into this cluster, which must have no collections; the "
        "number of workers need not be the same. All is restored, or nothing.",
    )
    restore.add_argument("name")
    restore.add_argument(
        "--cluster-id",
        default="",
        metavar="UUID",
        help="The cluster that took it, where the store holds several of this name.",
    )
    restore.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="The snapshot store in which it lies, if not the cluster's own.",
    )
    delete = actions.add_parser("delete", help="delete a backup")
    delete.add_argument("name")
    for action in (create, listing, restore, delete):
        add_arguments(action)
        action.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


async def _create(access: ServerAccess, given: argparse.Namespace) -> int:
    name = _name(given)
    async with access.channel() as channel, progress_line() as show:
        stub = grpc_api.SnapshotServiceStub(channel)
        created = await access.call(stub.CreateBackup, api.CreateBackupRequest(name=name))
        backup = created.backup

        async def describe() -> api.Backup:
            answer = await access.call(stub.GetBackup, api.GetBackupRequest(name=name))
            return answer.backup

        if not given.no_wait:
            backup = await taken("backup", describe, show)
        deleted = await _delete_older(access, stub, given) if given.keep is not None else []
    if given.json:
        print(json.dumps({**_document(backup), "deleted": deleted}, indent=2))
        return 0
    print(
        f"{backup.name}: {shown_status(backup.status)}, {backup.collection_count} collections, "
        f"{backup.vector_count:,} records, {shown_bytes(backup.size_bytes)}"
    )
    for older in deleted:
        print(f"deleted {older}")
    return 0


def _name(given: argparse.Namespace) -> str:
    if (given.name is None) == (given.prefix is None):
        raise InvalidArgumentError("give a name, or --prefix")
    if given.keep is not None:
        if given.prefix is None or given.no_wait:
            raise InvalidArgumentError("--keep needs --prefix, and does not go with --no-wait")
        if given.keep < 1:
            raise InvalidArgumentError(f"--keep is {given.keep}: 1 or more would be right")
    if given.name is not None:
        return str(given.name)
    return f"{given.prefix}-{datetime.datetime.now(datetime.UTC).strftime(_STAMP)}"


async def _delete_older(
    access: ServerAccess, stub: grpc_api.SnapshotServiceAsyncStub, given: argparse.Namespace
) -> list[str]:
    pattern = re.compile(re.escape(given.prefix) + "-" + _STAMP_PATTERN)
    names = [
        backup.name
        for backup in await _all(access, stub)
        if backup.status == api.SNAPSHOT_STATUS_READY and pattern.fullmatch(backup.name)
    ]
    # The stamp orders them, whatever the order in which they were asked for.
    older = sorted(names)[: -given.keep]
    for name in older:
        await access.call(stub.DeleteBackup, api.DeleteBackupRequest(name=name))
    return older


async def _list(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        found = await _all(access, grpc_api.SnapshotServiceStub(channel))
    if given.json:
        print(json.dumps([_document(backup) for backup in found], indent=2))
        return 0
    rows = [("NAME", "STATUS", "CREATED", "COLLECTIONS", "RECORDS", "SIZE", "FAILURE")]
    rows += [
        (
            backup.name,
            shown_status(backup.status),
            shown_time(backup.created_at),
            str(backup.collection_count),
            f"{backup.vector_count:,}",
            shown_bytes(backup.size_bytes),
            backup.failure or "-",
        )
        for backup in found
    ]
    print_table(rows)
    return 0


async def _all(access: ServerAccess, stub: grpc_api.SnapshotServiceAsyncStub) -> list[api.Backup]:
    pages = access.pages(stub.ListBackups, api.ListBackupsRequest())
    return [backup async for page in pages for backup in page.backups]


async def _restore(access: ServerAccess, given: argparse.Namespace) -> int:
    request = api.RestoreBackupRequest(
        operation_id=secrets.token_bytes(16),
        name=given.name,
        cluster_id=given.cluster_id,
        # A path is one of this process' directory, and not of the coordinator's.
        store=store_url(given.store) if given.store else "",
    )
    async with access.channel() as channel, progress_line() as show:
        stub = grpc_api.SnapshotServiceStub(channel)
        answer = await finished(
            f"restoring {given.name}", lambda: access.call(stub.RestoreBackup, request), show
        )
    if given.json:
        print(json.dumps(_document(answer), indent=2))
    else:
        print(
            f"restored {given.name}: {answer.collection_count} collections, "
            f"{answer.restored_count:,} records"
        )
    return 0


async def _delete(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        stub = grpc_api.SnapshotServiceStub(channel)
        await access.call(stub.DeleteBackup, api.DeleteBackupRequest(name=given.name))
    print(json.dumps({"deleted": given.name}) if given.json else f"deleted {given.name}")
    return 0


def _document(message: Any) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return document
