"""`shoal export` and `shoal import`: collections of a server or an embedded store as files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import shoal
from shoal._embedder import Choice
from shoal.errors import FailedPreconditionError, InvalidArgumentError
from shoal.transfer import (
    ChromaSource,
    Columns,
    Transferred,
    export_collection,
    import_chroma,
    import_collection,
)
from shoal_local.access import ServerAccess, add_arguments

__all__ = ["run_export", "run_import"]

_TIMEOUT_S: Final = 120.0

_CHROMA_TOKEN: Final = "CHROMA_TOKEN"


def _explains_missing_packages(run: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Let a command say which package it lacks, in place of a traceback."""

    @functools.wraps(run)
    def explained(arguments: list[str]) -> int:
        try:
            return run(arguments)
        except ImportError as error:
            raise FailedPreconditionError(str(error)) from error

    return explained


@_explains_missing_packages
def run_export(arguments: list[str]) -> int:
    """Run `shoal export`, and give its exit code."""
    parser = argparse.ArgumentParser(
        prog="shoal export",
        description="Write a collection's records into a file, in order of insertion, in bounded "
        "memory. It is a walk, not a point in time: for that, take a snapshot.",
    )
    parser.add_argument("collection", help="The collection's name.")
    parser.add_argument(
        "file", help="NAME.parquet, NAME.jsonl or NAME.ndjson; - for JSON lines to standard output."
    )
    parser.add_argument("--where", type=_json, metavar="JSON", help="Only what matches this.")
    parser.add_argument(
        "--where-document", type=_json, metavar="JSON", help="Only documents that match this."
    )
    _add_client_arguments(parser)
    given = parser.parse_args(arguments)
    with _client(given) as client:
        done = export_collection(
            client.get_collection(given.collection, embedding_function=None),
            given.file,
            given.where,
            given.where_document,
            progress=_shows_progress(given),
        )
    _report([done], "exported", given)
    return 0


@_explains_missing_packages
def run_import(arguments: list[str]) -> int:
    """Run `shoal import`, and give its exit code."""
    parser = argparse.ArgumentParser(
        prog="shoal import",
        description="Read records from a file into a new collection; or all collections of a "
        "Chroma store. What fails half way can be repeated with --into-existing.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        help="NAME.parquet, NAME.jsonl or NAME.ndjson, exported or from elsewhere; - for JSON "
        "lines from standard input.",
    )
    parser.add_argument(
        "--chroma",
        metavar="LOCATION",
        help="Instead of a file: a Chroma directory, or http://HOST:PORT of its server, to which "
        f"{_CHROMA_TOKEN} from the environment is shown as a bearer token.",
    )
    parser.add_argument(
        "--chroma-tenant", default="default_tenant", metavar="NAME", help="Chroma's tenant."
    )
    parser.add_argument(
        "--chroma-database", default="default_database", metavar="NAME", help="Chroma's database."
    )
    parser.add_argument(
        "--collection",
        action="append",
        metavar="NAME",
        help="What the collection is to be called. Default: as the exported one. With --chroma: "
        "which to take, repeatable; default: all.",
    )
    parser.add_argument(
        "--into-existing", action="store_true", help="Upsert into what exists already."
    )
    parser.add_argument(
        "--configuration",
        type=_json,
        metavar="JSON",
        help='Of the new collection, for a file from elsewhere: {"hnsw": {"space": "cosine"}}.',
    )
    for field in dataclasses.fields(Columns):
        if field.name != "metadata":
            parser.add_argument(
                f"--{field.name}-column",
                default=field.default,
                metavar="NAME",
                help=f"In Parquet from elsewhere. Default: {field.default}.",
            )
    parser.add_argument(
        "--metadata-column",
        action="append",
        metavar="NAME",
        help="In Parquet from elsewhere: a key of the metadata; repeatable. Default: all others.",
    )
    _add_client_arguments(parser)
    given = parser.parse_args(arguments)
    if (given.file is None) == (given.chroma is None):
        parser.error("give either a file or --chroma")
    names: list[str] = given.collection or []
    if given.file is not None and len(names) > 1:
        parser.error("a file goes into one collection")
    with _client(given) as client:
        if given.chroma is not None:
            token = os.environ.get(_CHROMA_TOKEN)
            source = ChromaSource(
                given.chroma,
                given.chroma_tenant,
                given.chroma_database,
                {"Authorization": f"Bearer {token}"} if token else None,
            )
            done = import_chroma(
                client,
                source,
                names or None,
                into_existing=given.into_existing,
                progress=_shows_progress(given),
            )
        else:
            done = [
                import_collection(
                    client,
                    given.file,
                    names[0] if names else None,
                    configuration=given.configuration,
                    embedding_function=Choice.STORED,
                    into_existing=given.into_existing,
                    columns=Columns(
                        given.id_column,
                        given.embedding_column,
                        given.document_column,
                        given.uri_column,
                        given.metadata_column,
                    ),
                    progress=_shows_progress(given),
                )
            ]
    _report(done, "imported", given)
    return 0


def _add_client_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--embedded",
        type=Path,
        metavar="DIR",
        help="An embedded store, as PersistentClient keeps it, instead of a server.",
    )
    parser.add_argument("--tenant", default="default_tenant", metavar="NAME")
    parser.add_argument("--database", default="default_database", metavar="NAME")
    parser.add_argument("--quiet", action="store_true", help="No progress bar.")


def _shows_progress(given: argparse.Namespace) -> bool:
    return not given.quiet and sys.stderr.isatty()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None


@contextlib.contextmanager
def _client(given: argparse.Namespace) -> Iterator[shoal.Client]:
    if given.embedded is not None:
        if not given.embedded.is_dir():
            raise InvalidArgumentError(f"there is no store in {given.embedded}")
        opened: shoal.Client = shoal.PersistentClient(
            given.embedded, tenant=given.tenant, database=given.database, timeout=_TIMEOUT_S
        )
    else:
        access = ServerAccess.of(given)
        host, _, port = access.address.rpartition(":")
        opened = shoal.Client(
            host=host.strip("[]"),
            port=int(port),
            tenant=given.tenant,
            database=given.database,
            api_key=access.api_key,
            ssl=access.credentials if access.credentials is not None else False,
            timeout=_TIMEOUT_S,
        )
    with opened as client:
        yield client


def _report(done: list[Transferred], verb: str, given: argparse.Namespace) -> None:
    # Standard output may be the export itself.
    for one in done:
        more = f", {one.updated:,} of them updated" if one.updated else ""
        print(f"{one.collection}: {one.count:,} records {verb}{more}", file=sys.stderr)
