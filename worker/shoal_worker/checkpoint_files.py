"""Where a shard's checkpoints lie: ``graph-<sequence>.usearch`` in its directory, and beside it the
exact vectors, ``vectors-<sequence>.f32``, named for the checkpoint that began the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = [
    "checkpoint_path",
    "checkpoints_in",
    "remove_checkpoints_except",
    "vector_file_path",
    "vector_files_in",
]

_NAME: Final = re.compile(r"graph-(\d{20})\.usearch")
_VECTORS_NAME: Final = re.compile(r"vectors-(\d{20})\.f32")
_ASIDE: Final = (".usearch.tmp", ".f32.tmp")


def checkpoint_path(directory: Path, sequence: int) -> Path:
    """Give the place of the checkpoint of a sequence."""
    return directory / f"graph-{sequence:020}.usearch"


def vector_file_path(directory: Path, sequence: int) -> Path:
    """Give the place of the exact vectors that were begun for the checkpoint of a sequence."""
    return directory / f"vectors-{sequence:020}.f32"


def checkpoints_in(directory: Path) -> list[Path]:
    """Give the checkpoints of a shard, newest first."""
    return sorted((p for p in directory.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def vector_files_in(directory: Path) -> list[Path]:
    """Give the files of exact vectors of a shard, newest first."""
    return sorted((p for p in directory.iterdir() if _VECTORS_NAME.fullmatch(p.name)), reverse=True)


def remove_checkpoints_except(directory: Path, *kept: Path) -> None:
    """Remove all checkpoints and files of vectors but some, and what an interrupted builder
    left."""
    for path in directory.iterdir():
        is_ours = _NAME.fullmatch(path.name) or _VECTORS_NAME.fullmatch(path.name)
        if path not in kept and (is_ours or path.name.endswith(_ASIDE)):
            path.unlink(missing_ok=True)
