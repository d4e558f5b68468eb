"""`shoal keys`: API keys of a running server, created, listed and revoked."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
from typing import Any, Final

from google.protobuf import json_format

from shoal.errors import InvalidArgumentError
from shoal.server.keys import ApiKey
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import admin_service_pb2_grpc as admin_grpc
from shoal_local import scopes
from shoal_local.access import ServerAccess, add_arguments
from shoal_local.tables import print_table

__all__ = ["run"]

_RIGHTS: Final = {
    "read": admin.RIGHT_READ,
    "write": admin.RIGHT_WRITE,
    "admin": admin.RIGHT_ADMIN,
}


def run(arguments: list[str]) -> int:
    """Run `shoal keys`, and give its exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.action == "generate":
        print(ApiKey.generate().text)
        return 0
    access = ServerAccess.of(given)
    actions = {"create": _create, "list": _list, "revoke": _revoke}
    return asyncio.run(actions[given.action](access, given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoal keys", description="API keys of a running server.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="create a key and print it, once",
        description="Create a key and print it. It is shown once: the server keeps its SHA-256.",
    )
    create.add_argument("--name", default="", help="What to call it.")
    create.add_argument(
        "--right",
        dest="rights",
        action="append",
        required=True,
        choices=tuple(_RIGHTS),
        help="read, write (records), or admin (collections, databases, keys); repeatable. None "
        "includes another.",
    )
    scopes.add_arguments(create)
    create.add_argument(
        "--days", type=float, metavar="N", help="Refuse it after so many days. Default: never."
    )
    listing = actions.add_parser("list", help="list the keys, without their secrets")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", help="The key's ID (not the key).")
    for action in (create, listing, revoke):
        add_arguments(action)
        action.add_argument("--json", action="store_true", help="Print JSON.")
    actions.add_parser(
        "generate",
        help="print a new key that no server knows",
        description="Print a new key that no server knows: for the coordinator's "
        "bootstrap_key_file.",
    )
    return parser


async def _create(access: ServerAccess, given: argparse.Namespace) -> int:
    on = scopes.given_scopes(given)
    if not on:
        raise InvalidArgumentError(
            "a key is for something: give --cluster, --tenant, --database or --collection"
        )
    rights = [_RIGHTS[right] for right in dict.fromkeys(given.rights)]
    request = admin.CreateApiKeyRequest(
        name=given.name, grants=[admin.Grant(scope=scope, rights=rights) for scope in on]
    )
    if given.days is not None:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=given.days)
        request.expires_at.FromDatetime(end)
    async with access.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        answer = await access.call(stub.CreateApiKey, request)
    if given.json:
        print(json.dumps({"key": answer.key, **_document(answer.description)}, indent=2))
    else:
        print(answer.key)
    return 0


async def _list(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        pages = access.pages(stub.ListApiKeys, admin.ListApiKeysRequest())
        found = [key async for page in pages for key in page.api_keys]
    if given.json:
        print(json.dumps([_document(key) for key in found], indent=2))
        return 0
    rows = [("ID", "NAME", "CREATED", "EXPIRES", "GRANTS")]
    rows += [
        (
            key.id,
            key.name or "-",
            _time(key.created_at),
            _time(key.expires_at) if key.HasField("expires_at") else "never",
            "; ".join(_shown(grant) for grant in key.grants),
        )
        for key in found
    ]
    print_table(rows)
    return 0


async def _revoke(access: ServerAccess, given: argparse.Namespace) -> int:
    async with access.channel() as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        await access.call(stub.RevokeApiKey, admin.RevokeApiKeyRequest(id=given.id))
    print(json.dumps({"revoked": given.id}) if given.json else f"revoked {given.id}")
    return 0


def _shown(grant: admin.Grant) -> str:
    rights = "+".join(name for name, right in _RIGHTS.items() if right in grant.rights)
    return f"{rights} on {scopes.shown(grant.scope)}"


def _time(moment: Any) -> str:
    text: str = moment.ToDatetime().strftime("%Y-%m-%d %H:%M")
    return text


def _document(key: admin.ApiKey) -> dict[str, Any]:
    document: dict[str, Any] = json_format.MessageToDict(key, preserving_proto_field_name=True)
    return document
