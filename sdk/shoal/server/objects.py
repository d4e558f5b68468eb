"""The snapshot store: objects by key, in a directory or in an object store.

Objects are written once and whole: a reader finds all of one or nothing, also after a power cut.
What is put and got is checksummed from end to end (SHA-256), for neither a disk nor a network is
to be believed about a copy that is perhaps read years later.

Everything here blocks: it is not for an event loop.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from shoal.errors import DataLossError, FailedPreconditionError

__all__ = ["BLOCK_BYTES", "ObjectInfo", "ObjectStore", "check_key", "file_sha256", "open_store"]
__all__ += ["damaged_object", "missing_object", "store_url"]

BLOCK_BYTES: Final = 1024 * 1024
"""What is read or written at a time: large enough to be fast, small enough for any memory."""

REMOTE_SCHEMES: Final = frozenset({"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory"})
"""Schemes that `obstore` understands."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

Progress = Callable[[int], None]
"""Told how many further bytes are done; what it raises ends the transfer."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in a list.

    Attributes:
        key: Its key.
        size_bytes: Its bytes.
        modified_at_ms: When it was put, milliseconds since 1970-01-01 UTC, by the store's clock.
    """

    key: str
    size_bytes: int
    modified_at_ms: int


class ObjectStore(Protocol):
    """A snapshot store. Usable from several threads.

    Every method raises UnavailableError if the store cannot be reached, FailedPreconditionError if
    it does not let us in, and OverloadedError if it is full.
    """

    @property
    def url(self) -> str:
        """What it was opened by."""

    def put_file(
        self, key: str, path: Path, sha256: bytes, progress: Progress | None = None
    ) -> None:
        """Put a file's content, durably, in the place of what was there.

        Nobody may write to the file any more: it may become the object itself.

        Raises:
            DataLossError: If the file does not have this SHA-256 (any more); nothing is put.
        """

    def get_to_file(
        self,
        key: str,
        path: Path,
        size_bytes: int,
        sha256: bytes,
        progress: Progress | None = None,
    ) -> None:
        """Get an object into a new file, or over an old one. Not made durable.

        Raises:
            DataLossError: If it is missing, or not of this size and SHA-256; names the object.
        """

    def put_bytes(self, key: str, content: bytes) -> None:
        """Put a small object, durably, in the place of what was there."""

    def get_bytes(self, key: str) -> bytes:
        """Get a small object.

        Raises:
            DataLossError: If it is missing; names the object.
        """

    def size(self, key: str) -> int | None:
        """Give an object's bytes; None if there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects beneath a prefix that ends with a slash, or all for the empty one."""

    def delete(self, key: str) -> None:
        """Remove an object, durably; one that is not there is removed."""

    def local_path(self, key: str) -> Path | None:
        """Give the file that an object is, if the store is on this machine; it is only read."""


def store_url(text: str) -> str:
    """Give the URL of a store as it is handed from one process to another.

    Args:
        text: A URL, or the path of a directory, which may be relative to the working directory.

    Raises:
        FailedPreconditionError: If it names no store.
    """
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise FailedPreconditionError(
            f"the snapshot store {text[:100]!r} is no URL: {error}"
        ) from None
    if "\0" in unquote(text):
        raise FailedPreconditionError("the snapshot store's name has a NUL character")
    if parts.scheme in REMOTE_SCHEMES:
        return text.rstrip("/")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise FailedPreconditionError(
                f"the snapshot store {text!r} is no file URL: file:///absolute/path is one"
            )
        return Path(unquote(parts.path)).as_uri()
    if "://" in text or not text:
        raise FailedPreconditionError(
            f"the snapshot store {text!r} is not known: give a directory, or a URL that begins "
            "with file://, s3://, gs:// or az://"
        )
    return Path(text).absolute().as_uri()


def open_store(url: str) -> ObjectStore:
    """Open a store: a directory, or what `obstore` reaches, with credentials from the environment.

    Args:
        url: As `store_url` gives it, or anything that it takes.

    Raises:
        FailedPreconditionError: If it names no store, or one for which a package is missing.
    """
    url = store_url(url)
    if url.startswith("file://"):
        from shoal.server.directory_objects import DirectoryStore

        return DirectoryStore(Path(unquote(urlsplit(url).path)))
    from shoal.server.remote_objects import RemoteStore

    return RemoteStore(url)


def check_key(key: str) -> None:
    """Refuse what is no key, before it becomes a path."""
    if not _KEY.fullmatch(key):
        raise FailedPreconditionError(f"{key!r} is no key of an object")


def missing_object(url: str, key: str) -> DataLossError:
    """Make the error for an object that ought to be there."""
    return DataLossError(
        f"object {key} is missing in the snapshot store {url}", metadata={"object": key}
    )


def damaged_object(url: str, key: str, how: str) -> DataLossError:
    """Make the error for an object that is not what was put."""
    return DataLossError(
        f"object {key} in the snapshot store {url} is damaged: {how}", metadata={"object": key}
    )


def file_sha256(path: Path, progress: Progress | None = None) -> bytes:
    """Give the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.digest()
