"""Where a shard's checkpoints lie: ``graph-<sequence>.usearch`` in its directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["checkpoint_path", "checkpoints_in", "remove_checkpoints_except"]

_NAME: Final = re.compile(r"graph-(\d{20})\.usearch")


def checkpoint_path(directory: Path, sequence: int) -> Path:
    """Give the place of the checkpoint of a sequence."""
    return directory / f"graph-{sequence:020}.usearch"


def checkpoints_in(directory: Path) -> list[Path]:
    """Give the checkpoints of a shard, newest first."""
    return sorted((p for p in directory.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def remove_checkpoints_except(directory: Path, kept: Path | None) -> None:
    """Remove all checkpoints but one, and what an interrupted builder left."""
    for path in directory.iterdir():
        is_checkpoint = _NAME.fullmatch(path.name) is not None
        if path != kept and (is_checkpoint or path.name.endswith(".usearch.tmp")):
            path.unlink(missing_ok=True)
