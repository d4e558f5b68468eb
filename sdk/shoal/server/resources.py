"""What a process uses up: memory that cannot be given back, and its data directory's disk.

The customary ``process_resident_memory_bytes`` counts pages of mapped files, of which a worker has
as many as there is memory for: the kernel drops them whenever it needs to. What brings an
out-of-memory kill is anonymous memory, of the process and of those that it started, against the
limit of its control group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shoal.server.metrics import REGISTRY

__all__ = ["add_resource_metrics"]

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def add_resource_metrics(data_dir: Path | None) -> None:
    """Add memory and disk to the process's metrics; read at each scrape.

    Args:
        data_dir: Whose file system is watched; it need not be there yet. None: the role has none.
    """
    REGISTRY.register(ResourceCollector(data_dir))


class ResourceCollector(Collector):
    """Reads memory and disk when it is asked.

    Args:
        data_dir: See `add_resource_metrics`.
        proc: The kernel's account of processes.
        cgroups: The kernel's account of control groups.
    """

    def __init__(
        self, data_dir: Path | None, *, proc: Path = _PROC, cgroups: Path = _CGROUPS
    ) -> None:
        self._data_dir = data_dir.absolute() if data_dir is not None else None
        self._proc = proc
        self._cgroups = cgroups

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering reads nothing; the names are ours alone."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Give what could be read; a kernel that does not tell leaves a metric out."""
        anonymous = self._anonymous_bytes()
        if anonymous is not None:
            yield GaugeMetricFamily(
                "shoal_memory_anonymous_bytes",
                "Memory that cannot be dropped and read again, of the process and its helpers.",
                value=anonymous,
            )
        limit = self._memory_limit_bytes()
        if limit is not None:
            yield GaugeMetricFamily(
                "shoal_memory_limit_bytes",
                "Memory that the process may use: its control group's limit, else the machine's.",
                value=limit,
            )
        if self._data_dir is not None:
            yield from self._disk(self._data_dir)

    def _disk(self, data_dir: Path) -> Iterator[Metric]:
        place = data_dir
        while not os.path.exists(place) and place != place.parent:  # noqa: PTH110 - never raises
            place = place.parent
        try:
            found = os.statvfs(place)
        except OSError:
            return
        yield GaugeMetricFamily(
            "shoal_disk_free_bytes",
            "Bytes that the process can still write on its data directory's file system.",
            value=found.f_bavail * found.f_frsize,
        )
        yield GaugeMetricFamily(
            "shoal_disk_size_bytes",
            "Size of the data directory's file system, bytes.",
            value=found.f_blocks * found.f_frsize,
        )

    def _anonymous_bytes(self) -> int | None:
        own = self._kilobytes("self/status", "RssAnon")
        if own is None:
            return None
        total = own
        for children in (self._proc / "self" / "task").glob("*/children"):
            for child in _text(children).split():
                total += self._kilobytes(f"{child}/status", "RssAnon") or 0
        return total * 1024

    def _memory_limit_bytes(self) -> int | None:
        limits = [int(text) for text in self._cgroup_limits() if text.isdigit()]
        machine = self._kilobytes("meminfo", "MemTotal")
        if machine is not None:
            limits.append(machine * 1024)
        return min(limits, default=None)

    def _cgroup_limits(self) -> Iterator[str]:
        """Limits of the process's group and of those around it, as the kernel writes them."""
        for line in _text(self._proc / "self" / "cgroup").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "":  # version 2, the only kind that has one hierarchy for all
                root, file = self._cgroups, "memory.max"
            elif "memory" in controllers.split(","):
                root, file = self._cgroups / "memory", "memory.limit_in_bytes"
            else:
                continue
            # In a container the name may be that of the host's view, which is not there: then the
            # root is the container's own group.
            group = root / name.lstrip("/")
            while True:
                yield _text(group / file).strip()
                if group == root:
                    break
                group = group.parent

    def _kilobytes(self, file: str, key: str) -> int | None:
        for line in _text(self._proc / file).splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0])
        return None


def _text(path: Path) -> str:
    """Read a file of the kernel's; empty if there is none, or its process has just ended."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
