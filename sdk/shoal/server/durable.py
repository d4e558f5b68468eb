"""Files that are whole or not there, also after a power cut.

A file is written beside its place, synced, renamed, and the directory synced: rename is atomic, but
neither the content nor the name is durable before its sync.
"""

from __future__ import annotations

import os
from pathlib import Path

from shoal.server.crash import crash_point

__all__ = [
    "make_directory_durably",
    "rename_durably",
    "sync_directory",
    "sync_file",
    "write_file_durably",
]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory_durably(path: Path) -> None:
    """Make a directory, and those above it, where they are missing.

    Without the sync of what is above it, a power cut could take a new directory away with all that
    was synced in it.
    """
    if path.is_dir() and any(path.iterdir()):
        return
    if not path.parent.is_dir():
        make_directory_durably(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file_durably(path: Path, content: bytes, *, aside_point: str | None = None) -> None:
    """Write a file, or replace it as a whole.

    Args:
        path: Its place.
        content: All of it.
        aside_point: Name of the crash point between writing and renaming.
    """
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if aside_point:
        crash_point(aside_point)
    rename_durably(aside, path)


def rename_durably(source: Path, target: Path) -> None:
    """Rename within one directory, or into another one on the same file system."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)
