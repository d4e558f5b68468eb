"""`shoal quotas`: quotas of a running server, set, removed and listed."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Final

from google.protobuf import json_format

from shoal.errors import InvalidArgumentError
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import admin_service_pb2_grpc as admin_grpc
from shoal_local import access, scopes
from shoal_local.tables import print_table

__all__ = ["run"]

_LIMITS: Final = {
    "requests_per_second": (float, "Calls a second, over all gateways."),
    "records_per_second": (float, "Records a second that are sent to be written."),
    "max_collections": (int, "Collections."),
    "max_records": (int, "Records."),
    "max_bytes": (int, "Bytes of files."),
    "max_snapshots": (int, "Snapshots."),
}


def run(arguments: list[str]) -> int:
    """Run `shoal quotas`, and give its exit code."""
    given = _parser().parse_args(arguments)
    server = access.ServerAccess.of(given)
    actions = {"set": _set, "remove": _set, "list": _list}
    return asyncio.run(actions[given.action](server, given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoal quotas", description="Quotas of a running server.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    change = actions.add_parser(
        "set",
        help="set a quota, in place of the one there was",
        description="Set the quota of scopes or keys, in place of the one there was. What is not "
        "given is not limited.",
    )
    remove = actions.add_parser("remove", help="remove a quota")
    for action in (change, remove):
        scopes.add_arguments(action)
        action.add_argument(
            "--key-id", action="append", default=[], metavar="ID", help="An API key; repeatable."
        )
    for name, (kind, text) in _LIMITS.items():
        change.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    listing = actions.add_parser("list", help="list the quotas, and what is used of them")
    for action in (change, remove, listing):
        access.add_arguments(action)
        action.add_argument("--json", action="store_true", help="Print JSON.")
    return parser


async def _set(server: access.ServerAccess, given: argparse.Namespace) -> int:
    subjects = [admin.QuotaSubject(scope=scope) for scope in scopes.given_scopes(given)]
    subjects += [admin.QuotaSubject(api_key_id=key_id) for key_id in given.key_id]
    if not subjects:
        raise InvalidArgumentError(
            "a quota is somebody's: give --cluster, --tenant, --database, --collection or --key-id"
        )
    limits = {name: getattr(given, name, None) for name in _LIMITS}
    request = admin.SetQuotaRequest(
        limits=admin.QuotaLimits(**{n: v for n, v in limits.items() if v is not None})
    )
    if given.action == "set" and not request.limits.ListFields():
        raise InvalidArgumentError("no limit is given; `shoal quotas remove` removes a quota")
    async with server.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        for subject in subjects:
            request.subject.CopyFrom(subject)
            answer = await server.call(stub.SetQuota, request)
            if given.json:
                print(json.dumps(json_format.MessageToDict(answer.quota)))
            else:
                print(f"{_shown(subject)}: {_limits(answer.quota.limits) or 'no quota'}")
    return 0


async def _list(server: access.ServerAccess, given: argparse.Namespace) -> int:
    async with server.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        pages = server.pages(stub.ListQuotas, admin.ListQuotasRequest())
        found = [quota async for page in pages for quota in page.quotas]
    if given.json:
        print(json.dumps([json_format.MessageToDict(quota) for quota in found], indent=2))
        return 0
    rows = [("OF", "LIMITS", "USED")]
    rows += [(_shown(q.subject), _limits(q.limits), _used(q)) for q in found]
    print_table(rows)
    return 0


def _shown(subject: admin.QuotaSubject) -> str:
    if subject.WhichOneof("subject") == "api_key_id":
        return f"API key {subject.api_key_id}"
    return scopes.shown(subject.scope)


def _limits(limits: admin.QuotaLimits) -> str:
    return ", ".join(f"{field.name} {value:g}" for field, value in limits.ListFields())


def _used(quota: admin.Quota) -> str:
    if not quota.HasField("usage"):
        return "-"
    used = quota.usage
    return (
        f"{used.collections} collections, {used.records} records, {used.bytes} bytes, "
        f"{used.snapshots} snapshots"
    )
