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

    __slots__ = (
        "_handled",
        "_in_buckets",
        "_lock",
        "_received",
        "_seconds",
        "_sent",
        "_started",
        "_unread",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._started = 0
        self._handled = {"OK": 0}
        self._in_buckets = [0] * len(_BOUNDS)
        self._seconds = 0.0
        # Of streams; a unary call has one request, if that was read, and one answer, if it was OK.
        self._received = 0
        self._sent = 0
        self._unread = 0

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

    def was_not_read(self) -> None:
        """Count a unary call that ends without its request."""
        with self._lock:
            self._unread += 1

    def received(self) -> None:
        """Count a message of a stream that came."""
        with self._lock:
            self._received += 1

    def sent(self) -> None:
        """Count a message of a stream that was sent."""
        with self._lock:
            self._sent += 1

    def values(self) -> tuple[int, dict[str, int], list[int], float]:
        """Give calls begun, ended by code, ended up to each bound of time, and their time."""
        with self._lock:
            buckets = list(accumulate(self._in_buckets))
            return self._started, dict(self._handled), buckets, self._seconds

    def messages(self, kind: str) -> tuple[int, int]:
        """Give messages received and sent, of a method of this kind."""
        with self._lock:
            if kind == "unary":
                return self._started - self._unread, self._handled["OK"]
            return self._received, self._sent


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
        received = CounterMetricFamily(
            "grpc_server_msg_received", "Messages that came.", labels=_LABELS
        )
        sent = CounterMetricFamily(
            "grpc_server_msg_sent", "Messages that were sent.", labels=_LABELS
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Time from request to answer.", labels=_LABELS
        )
        with self._lock:
            methods = list(self._methods.items())
        for labels, method in methods:
            begun, ended, in_buckets, took_s = method.values()
            started.add_metric(labels, begun)
            for family, count in zip((received, sent), method.messages(labels[0]), strict=True):
                family.add_metric(labels, count)
            for code, count in ended.items():
                handled.add_metric((*labels, code), count)
            buckets = [(bound, float(n)) for bound, n in zip(_BOUNDS, in_buckets, strict=True)]
            seconds.add_metric(labels, buckets, took_s)
        yield started
        yield handled
        yield received
        yield sent
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
