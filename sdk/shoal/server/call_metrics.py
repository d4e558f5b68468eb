"""The customary server metrics of gRPC, as plain numbers until somebody asks for them.

A call is counted twice and timed once, in the midst of work whose caches they compete for: the
library's counters, each an object with a value and a lock of its own, took a fourteenth of a query
within a process. So a method counts in a few numbers, and they become families of metrics when they
are collected.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shoal.server.metrics import REGISTRY, SECONDS

__all__ = ["MethodMetrics", "of_method"]

_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_BOUNDS: Final = (*map(floatToGoString, SECONDS), "+Inf")


class MethodMetrics:
    """What has become of the calls of one method in this process. Thread-safe."""

    __slots__ = ("_handled", "_in_buckets", "_lock", "_seconds", "_started")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._started = 0
        self._handled = {"OK": 0}
        self._in_buckets = [0] * len(_BOUNDS)
        self._seconds = 0.0

    def began(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._started += 1

    def ended(self, code: str, seconds: float) -> None:
        """Count and time a call that has ended, with the name of its status."""
        with self._lock:
            self._handled[code] = self._handled.get(code, 0) + 1
            self._in_buckets[bisect_left(SECONDS, seconds)] += 1
            self._seconds += seconds

    def values(self) -> tuple[int, dict[str, int], list[int], float]:
        """Give calls begun, ended by code, ended up to each bound of time, and their time."""
        with self._lock:
            buckets = list(accumulate(self._in_buckets))
            return self._started, dict(self._handled), buckets, self._seconds


class _Methods(Collector):
    """All methods of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._methods: dict[tuple[str, str, str], MethodMetrics] = {}  # guarded by _lock

    def of(self, labels: tuple[str, str, str]) -> MethodMetrics:
        with self._lock:
            return self._methods.setdefault(labels, MethodMetrics())

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        started = CounterMetricFamily(
            "grpc_server_started", "Calls that were begun.", labels=_LABELS
        )
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that were answered.", labels=(*_LABELS, "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Time from request to answer.", labels=_LABELS
        )
        with self._lock:
            methods = list(self._methods.items())
        for labels, method in methods:
            begun, ended, in_buckets, took_s = method.values()
            started.add_metric(labels, begun)
            for code, count in ended.items():
                handled.add_metric((*labels, code), count)
            buckets = [(bound, float(n)) for bound, n in zip(_BOUNDS, in_buckets, strict=True)]
            seconds.add_metric(labels, buckets, took_s)
        yield started
        yield handled
        yield seconds


_methods: Final = _Methods()
REGISTRY.register(_methods)


def of_method(kind: str, service: str, method: str) -> MethodMetrics:
    """Give what is counted of one method.

    Args:
        kind: ``unary`` or ``bidi_stream``.
        service: The service's full name.
        method: The method's name.
    """
    return _methods.of((kind, service, method))
