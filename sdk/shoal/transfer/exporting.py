"""From a collection into a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shoal import errors
from shoal._progress import Progress
from shoal._sync.collection import Collection
from shoal.transfer.json_lines import JsonLinesWriter
from shoal.transfer.parquet import ParquetWriter
from shoal.transfer.records import BATCH_RECORDS, Batch, Transferred
from shoal.types import Include, Where, WhereDocument

_INCLUDE: Final[tuple[Include, ...]] = ("embeddings", "metadatas", "documents", "uris")

STANDARD_STREAM: Final = "-"
"""Stands for standard output, or input."""


def export_collection(
    collection: Collection,
    path: str | os.PathLike[str],
    where: Where | None = None,
    where_document: WhereDocument | None = None,
    *,
    progress: bool = False,
) -> Transferred:
    """Write a collection's records into a file, in order of insertion.

    Args:
        collection: Which.
        path: A name in ``.parquet``, ``.jsonl`` or ``.ndjson``, which says the format; an existing
            file is replaced when all is written. ``-``: JSON lines to standard output.
        where: Only records that match, by metadata.
        where_document: Only records that match, by document.
        progress: Whether to show a progress bar.

    Returns:
        How many records were written (`count`).

    Raises:
        InvalidArgumentError: The name says no known format, or the file cannot be written.
    """
    total = collection.count(where, where_document) if progress else None
    count = 0
    with (
        _writer(collection, os.fspath(path)) as writer,
        Progress(progress, total, f"exporting {collection.name}") as bar,
    ):
        for found in collection.iterate(BATCH_RECORDS, where, where_document, _INCLUDE):
            batch = Batch(
                found["ids"],
                found["embeddings"],
                found["metadatas"],
                found["documents"],
                found["uris"],
            )
            writer.write(batch)
            count += len(batch.ids)
            bar.advance(len(batch.ids))
    return Transferred(collection.name, count)


@contextlib.contextmanager
def _writer(collection: Collection, path: str) -> Iterator[JsonLinesWriter | ParquetWriter]:
    """Open what writes the file; it takes its name when all is in it."""
    description = collection._message
    if path == STANDARD_STREAM:
        yield JsonLinesWriter(sys.stdout.buffer, description)
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    is_parquet = is_parquet_name(target)
    aside = target.with_name(f".{target.name}.part")
    try:
        with contextlib.ExitStack() as stack:
            if is_parquet:
                writer: JsonLinesWriter | ParquetWriter = ParquetWriter(aside, description)
            else:
                writer = JsonLinesWriter(stack.enter_context(aside.open("wb")), description)
            yield writer
            writer.close()
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(target)
    except OSError as error:
        if isinstance(error, errors.ShoalError):
            raise  # Some are errors of the operating system's families, too.
        raise errors.InvalidArgumentError(f"{target} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def is_parquet_name(path: Path) -> bool:
    """Return whether a file's name says Parquet, rather than JSON lines.

    Raises:
        InvalidArgumentError: It says neither.
    """
    if path.suffix == ".parquet":
        return True
    if path.suffix in (".jsonl", ".ndjson"):
        return False
    raise errors.InvalidArgumentError(
        f"{path} must end in .parquet, .jsonl or .ndjson, which says its format"
    )
