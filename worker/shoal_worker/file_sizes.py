"""What files weigh, also while some of them come and go."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["size_of_files"]


def size_of_files(directory: Path) -> int:
    """Give the bytes of the files in a directory.

    A builder's checkpoint or a compaction's copy may be renamed or removed between its listing and
    the question for its size: what is gone by then counts nothing, and a directory that is gone
    has nothing.
    """
    size = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return size
    return size
