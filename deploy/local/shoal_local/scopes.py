"""Scopes on the command line: ``--cluster``, ``--tenant T``, ``--database T/D``, …"""

from __future__ import annotations

import argparse
from typing import Final

from shoal.errors import InvalidArgumentError
from shoal.v1 import admin_service_pb2 as admin

__all__ = ["add_arguments", "given_scopes", "shown"]

_LEVELS: Final = (
    admin.SCOPE_LEVEL_CLUSTER,
    admin.SCOPE_LEVEL_TENANT,
    admin.SCOPE_LEVEL_DATABASE,
    admin.SCOPE_LEVEL_COLLECTION,
)
_FORMS: Final = {
    "tenant": "TENANT",
    "database": "TENANT/DATABASE",
    "collection": "TENANT/DATABASE/COLLECTION",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command be told scopes; each repeatable."""
    parser.add_argument("--cluster", action="store_true", help="Everything.")
    for kind, form in _FORMS.items():
        parser.add_argument(
            f"--{kind}", action="append", default=[], metavar=form, help=f"A {kind}; repeatable."
        )


def given_scopes(given: argparse.Namespace) -> list[admin.Scope]:
    """Give the scopes that were told.

    Raises:
        InvalidArgumentError: One has too few names, or too many.
    """
    scopes = [admin.Scope(level=_LEVELS[0])] if given.cluster else []
    for kind, form in _FORMS.items():
        for text in getattr(given, kind):
            names = text.split("/")
            if len(names) != form.count("/") + 1 or not all(names):
                raise InvalidArgumentError(f"--{kind} {text!r}: {form} would be right")
            scopes.append(
                admin.Scope(
                    level=_LEVELS[len(names)],
                    **dict(zip(_FORMS, names, strict=False)),
                )
            )
    return scopes


def shown(scope: admin.Scope) -> str:
    """Give a scope in words."""
    names = [name for name in (scope.tenant, scope.database, scope.collection) if name]
    return "/".join(names) or "the cluster"
