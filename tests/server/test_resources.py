"""Memory that counts, and the disk, as metrics."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shoal.server.resources import ResourceCollector


def _values(collector: ResourceCollector) -> dict[str, float]:
    return {s.name: s.value for family in collector.collect() for s in family.samples}


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[Path, Path]:
    """A kernel's account of a process with one helper, in a group within a group."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    files = {
        proc / "self/status": "Name:\tpython\nVmRSS:\t 90000 kB\nRssAnon:\t   1000 kB\n",
        proc / "self/cgroup": "0::/system.slice/shoal-worker.service\n",
        proc / "self/task/7/children": "8 9 ",
        proc / "8/status": "RssAnon:\t 24 kB\n",  # and 9 has just ended
        proc / "meminfo": "MemTotal:       4000000 kB\n",
        cgroups / "system.slice/memory.max": "max\n",
        cgroups / "system.slice/shoal-worker.service/memory.max": "2147483648\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, cgroups


def test_memory_is_what_cannot_be_dropped_of_the_process_and_its_helpers(
    kernel: tuple[Path, Path],
) -> None:
    proc, cgroups = kernel
    values = _values(ResourceCollector(None, proc=proc, cgroups=cgroups))
    assert values == {
        "shoal_memory_anonymous_bytes": 1024 * 1024,
        "shoal_memory_limit_bytes": 2 * 1024**3,
    }


def test_a_group_without_limit_leaves_that_of_the_machine(kernel: tuple[Path, Path]) -> None:
    proc, cgroups = kernel
    shutil.rmtree(cgroups / "system.slice")
    (cgroups / "memory.max").write_text("max\n")
    values = _values(ResourceCollector(None, proc=proc, cgroups=cgroups))
    assert values["shoal_memory_limit_bytes"] == 4_000_000 * 1024


def test_a_container_of_the_first_kind_of_groups_has_its_limit(kernel: tuple[Path, Path]) -> None:
    proc, cgroups = kernel
    (proc / "self/cgroup").write_text("5:cpu,cpuacct:/kubepods/a\n4:memory:/kubepods/a\n")
    (cgroups / "memory").mkdir()
    (cgroups / "memory/memory.limit_in_bytes").write_text("1073741824\n")
    values = _values(ResourceCollector(None, proc=proc, cgroups=cgroups))
    assert values["shoal_memory_limit_bytes"] == 1024**3


def test_the_disk_is_that_of_a_data_directory_that_is_yet_to_be_made(tmp_path: Path) -> None:
    values = _values(ResourceCollector(tmp_path / "later" / "worker"))
    total = shutil.disk_usage(tmp_path).total
    assert values["shoal_disk_size_bytes"] == total
    assert 0 < values["shoal_disk_free_bytes"] <= total


def test_this_kernel_tells_memory_and_limit() -> None:
    values = _values(ResourceCollector(None))
    assert 1 << 20 < values["shoal_memory_anonymous_bytes"] < values["shoal_memory_limit_bytes"]
