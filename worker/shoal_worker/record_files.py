"""The file of a shard's records, and the compacted copy that is to take its place.

The copy lies beside it until it is whole, caught up and synced; then it is renamed. One that is
found when a shard is opened was left by a crash, and is discarded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shoal.server.durable import rename_durably

__all__ = ["RECORDS_FILE", "copy_path", "discard_copy", "replace_by_copy"]

RECORDS_FILE: Final = "records.mdb"

_COPY_FILE: Final = RECORDS_FILE + ".new"
_LOCK_SUFFIX: Final = "-lock"


def copy_path(directory: Path) -> Path:
    """Give the place of the copy."""
    return directory / _COPY_FILE


def discard_copy(directory: Path) -> None:
    """Remove the copy, if there is one."""
    for name in (_COPY_FILE, _COPY_FILE + _LOCK_SUFFIX):
        (directory / name).unlink(missing_ok=True)


def replace_by_copy(directory: Path) -> None:
    """Put the copy in the place of the records, durably. Nobody may have either of them open."""
    # The lock file of the old records holds no data: LMDB makes it new for whoever opens it alone.
    (directory / (_COPY_FILE + _LOCK_SUFFIX)).unlink(missing_ok=True)
    rename_durably(copy_path(directory), directory / RECORDS_FILE)
