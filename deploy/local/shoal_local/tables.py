"""Tables for people, printed in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shoal.v1 import snapshot_service_pb2

__all__ = ["print_table", "shown_bytes", "shown_status", "shown_time"]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equal length, the first of which is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def shown_bytes(count: int) -> str:
    """Give a number of bytes in the largest unit of which there is at least one."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def shown_time(moment: Any) -> str:
    """Give a timestamp, in UTC."""
    text: str = moment.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
    return text


def shown_status(status: snapshot_service_pb2.SnapshotStatus.ValueType) -> str:
    """Give the status of a snapshot or backup as clients call it."""
    name = snapshot_service_pb2.SnapshotStatus.Name(status)
    return name.removeprefix("SNAPSHOT_STATUS_").capitalize()
