"""Metrics: one registry for the process, and the buckets that all times share.

The registry is ours and not the library's default one, so that a program that embeds Shoal keeps
its own metrics apart. A family is made once a process: roles and tests that share a process get the
same one, as Prometheus has it: one process, one `/metrics`.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.registry import Collector

from shoal.server.histograms import Histogram

__all__ = [
    "REGISTRY",
    "SECONDS",
    "add_process_metrics",
    "counter",
    "exposition",
    "gauge",
    "histogram",
]

SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets of every histogram of times, seconds."""

REGISTRY: Final = CollectorRegistry()
"""All metrics of this process."""

_Family = TypeVar("_Family", bound=Collector)

_families: Final[dict[str, Collector]] = {}  # guarded by _families_lock
_families_lock: Final = threading.Lock()


def _family(cls: type[_Family], name: str, make: Callable[[], _Family]) -> _Family:
    with _families_lock:
        family = _families.get(name)
        if family is None:
            family = _families[name] = make()
        if type(family) is not cls:
            raise TypeError(f"metric {name!r} is a {type(family).__name__}, not a {cls.__name__}")
        return family


def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
    """Give the process's counter of this name."""
    return _family(Counter, name, lambda: Counter(name, help_text, labels, registry=REGISTRY))


def gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
    """Give the process's gauge of this name."""
    return _family(Gauge, name, lambda: Gauge(name, help_text, labels, registry=REGISTRY))


def histogram(
    name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
) -> Histogram:
    """Give the process's histogram of this name."""
    return _family(Histogram, name, lambda: Histogram(name, help_text, labels, buckets, REGISTRY))


def add_process_metrics(role: str) -> None:
    """Add what is customary of a process: CPU, memory, files, garbage collection, version."""
    ProcessCollector(registry=REGISTRY)
    PlatformCollector(registry=REGISTRY)
    GCCollector(registry=REGISTRY)
    gauge("shoal_build_info", "1, labelled with the version.", ("version", "role")).labels(
        importlib.metadata.version("shoal"), role
    ).set(1)


def exposition() -> tuple[str, bytes]:
    """Give all metrics in Prometheus' text format: content type, body."""
    return prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest(REGISTRY)
