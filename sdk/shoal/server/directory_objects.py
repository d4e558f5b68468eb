"""A snapshot store in a directory: on this machine, or on a file system that all machines mount.

An object is a file, written aside, synced, renamed into its place, and the directories synced: a
name is there only with its whole content. What an interrupted put left aside is removed when it is
an hour old.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from shoal.errors import (
    DataLossError,
    FailedPreconditionError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.server.crash import crash_point
from shoal.server.durable import sync_directory, sync_file
from shoal.server.objects import (
    BLOCK_BYTES,
    ObjectInfo,
    Progress,
    check_key,
    damaged_object,
    file_sha256,
    missing_object,
)

__all__ = ["DirectoryStore"]

_ASIDE: Final = ".incoming"
_STALE_AFTER_S: Final = 60 * 60
"""A put writes to its file all the time: one that was not touched for so long was interrupted."""

_RENAMES: Final = 100
"""How often a directory may be removed under a put."""


class DirectoryStore:
    """``shoal.server.objects.ObjectStore`` in a directory, made at the first put.

    Args:
        root: Absolute.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        """What it was opened by."""
        return self._root.as_uri()

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    # Putting.

    def put_file(
        self, key: str, path: Path, sha256: bytes, progress: Progress | None = None
    ) -> None:
        """Put a file's content, durably.

        On the same file system it becomes a second name of the file, whose content is read to be
        verified and not written again.
        """
        with self._failures(key), self._aside(key) as aside:
            try:
                os.link(path, aside)
            except OSError:
                found = _copied(path, aside, progress)
            else:
                # Its age counts from now on: old ones are taken for what was left behind.
                os.utime(aside)
                found = file_sha256(aside, progress)
            if found != sha256:
                raise DataLossError(
                    f"{path} does not have its SHA-256 any more: it was damaged on its disk",
                    metadata={"object": key},
                )

    def put_bytes(self, key: str, content: bytes) -> None:
        """Put a small object, durably."""
        with self._failures(key), self._aside(key) as aside:
            aside.write_bytes(content)

    @contextmanager
    def _aside(self, key: str) -> Iterator[Path]:
        """Give the file to make; syncs and renames it into its place if nothing was raised."""
        target = self._path(key)
        _make_directory_durably(target.parent)
        _make_directory_durably(self._root / _ASIDE)
        aside = self._root / _ASIDE / uuid4().hex
        try:
            yield aside
            sync_file(aside)
            crash_point("object_written_aside")
            self._rename(aside, target)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
        crash_point("object_renamed")

    def _rename(self, aside: Path, target: Path) -> None:
        try:
            aside.rename(target)
            return
        except FileNotFoundError:
            # Who deleted the last object beside it has removed the directory.
            pass
        for _ in range(_RENAMES):
            with suppress(FileNotFoundError, FileExistsError):
                target.parent.mkdir(parents=True, exist_ok=True)
                aside.rename(target)
                break
        else:
            aside.rename(target)
        folder = target.parent
        while folder != self._root:
            folder = folder.parent
            sync_directory(folder)

    # Getting.

    def get_to_file(
        self,
        key: str,
        path: Path,
        size_bytes: int,
        sha256: bytes,
        progress: Progress | None = None,
    ) -> None:
        """Get an object into a file, and verify it."""
        source = self._path(key)
        with self._failures(key):
            self._check_size(key, size_bytes)
            found = _copied(source, path, progress)
        if found != sha256:
            raise damaged_object(self.url, key, "its SHA-256 is another one")

    def _check_size(self, key: str, size_bytes: int) -> None:
        size = self._path(key).stat().st_size
        if size != size_bytes:
            raise damaged_object(self.url, key, f"it has {size} bytes instead of {size_bytes}")

    def get_bytes(self, key: str) -> bytes:
        """Get a small object."""
        with self._failures(key):
            return self._path(key).read_bytes()

    def size(self, key: str) -> int | None:
        """Give an object's bytes; None if there is none."""
        path = self._path(key)
        with self._failures(key):
            try:
                return path.stat().st_size if path.is_file() else None
            except FileNotFoundError:
                return None

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.size(key) is not None

    def local_path(self, key: str) -> Path | None:
        """Give the file that an object is."""
        return self._path(key)

    # All of them.

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Give the objects beneath a prefix, in no order."""
        self._sweep()
        directory = self._root
        if prefix:
            directory = self._path(prefix.removesuffix("/"))
        for folder, names, files in os.walk(directory):
            if _ASIDE in names:
                names.remove(_ASIDE)
            for name in files:
                path = Path(folder, name)
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
                key = path.relative_to(self._root).as_posix()
                yield ObjectInfo(key, found.st_size, found.st_mtime_ns // 1_000_000)

    def delete(self, key: str) -> None:
        """Remove an object, and the directories that it leaves empty."""
        path = self._path(key)
        with self._failures(key):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            folder = path.parent
            while folder != self._root:
                # Another thread may put something there at this moment: then it stays.
                try:
                    folder.rmdir()
                except OSError:
                    break
                folder = folder.parent
            while folder != self._root.parent:
                # Or removes it: then what is above says that the object is gone.
                with suppress(FileNotFoundError):
                    sync_directory(folder)
                    break
                folder = folder.parent

    def _sweep(self) -> None:
        """Remove what interrupted puts left."""
        aside = self._root / _ASIDE
        oldest = time.time() - _STALE_AFTER_S
        # A directory that is none, or cannot be read: whoever uses it says so.
        with suppress(OSError):
            for path in aside.iterdir():
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        """Say what a failure of the file system means."""
        try:
            yield
        except ShoalError:
            raise
        except FileNotFoundError as error:
            raise missing_object(self.url, key) from error
        except OSError as error:
            facts = {"object": key, "store": self.url}
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OverloadedError(
                    f"the snapshot store {self.url} is full", metadata=facts
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise FailedPreconditionError(
                    f"the snapshot store {self.url} cannot be used: {error}", metadata=facts
                ) from error
            raise UnavailableError(
                f"the snapshot store {self.url} fails: {error}", metadata=facts
            ) from error


def _copied(source: Path, target: Path, progress: Progress | None) -> bytes:
    """Copy a file, and give its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as given, target.open("wb") as file:
        while block := given.read(BLOCK_BYTES):
            digest.update(block)
            file.write(block)
            if progress:
                progress(len(block))
    return digest.digest()


def _make_directory_durably(path: Path) -> None:
    """Make a directory and those above it where they are missing, and their names durable.

    Who removes an empty one at the same time may undo it: renaming into it makes it again.
    """
    if path.is_dir():
        return
    _make_directory_durably(path.parent)
    with suppress(FileExistsError, FileNotFoundError):
        path.mkdir()
        sync_directory(path.parent)
