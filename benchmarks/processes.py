"""What processes use of a machine, as Linux counts it in /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """Give this process's variables, for what it starts.

    But Python may keep there what it compiles, as it does of packages that are installed: with a
    checkout that is compiled anew at each start, Shoal would take half as long again.
    """
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def descendants(root: int) -> list[int]:
    """Give a process, and all that it started, and all that those started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def started_by_this() -> list[int]:
    """Give what this process started: in a worker, its builder."""
    return descendants(os.getpid())[1:]


def command_line(process: int) -> str:
    """Give a process's command line; of one that has ended, nothing."""
    try:
        return (Path("/proc") / str(process) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def cpu_s(processes: Iterable[int]) -> float:
    """CPU seconds that processes have used; those that have ended used none."""
    ticks = 0
    for process in processes:
        with contextlib.suppress(OSError):
            # Behind the name in brackets: user time is the 12th field, system time the 13th.
            fields = _fields(process)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def _fields(process: int) -> list[str]:
    return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()


def memory(processes: Iterable[int]) -> dict[str, int]:
    """Bytes in memory, by kind.

    ``Pss`` is all, pages shared by several processes divided among them, and files that are mapped
    counted as far as they are in memory; ``Anonymous`` is what belongs to no file.
    """
    total = {"Pss": 0, "Anonymous": 0}
    for process in processes:
        with contextlib.suppress(OSError):
            for line in (Path("/proc") / str(process) / "smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in total:
                    total[name] += int(value.split()[0]) * 1024
    return total


def written_bytes() -> int:
    """Bytes that this process and what it started have written to files.

    Counted as they are written, without what went through the pipe to a builder and back. The
    kernel's own `write_bytes` counts all of a large page that is touched: 67 MB where 2,000 pieces
    of 4 KB reached the disk (ext4 of Linux 6.18).
    """
    total = _io("self")["wchar"]
    for process in started_by_this():
        counted = _io(str(process))
        total += counted["wchar"] - counted["rchar"]
    return total


def _io(process: str) -> dict[str, int]:
    lines = (Path("/proc") / process / "io").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(":") for line in lines)}


def stored_bytes(directory: Path) -> int:
    """Bytes that the files below a directory take on the disk, holes left out."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a file that is replaced meanwhile
            if path.is_file():
                total += path.stat().st_blocks * 512
    return total


def forget_pages(directory: Path) -> None:
    """Have the system forget what it has read of the files below a directory."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
