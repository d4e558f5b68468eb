"""Histograms as plain numbers, which become a family of metrics when somebody asks for them.

What is observed several times a query is observed in the midst of work whose caches it competes
for: the library's histogram takes five calls and two locks for each number, and was a twentieth of
a query within a process. Here it is one call.
"""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

__all__ = ["Histogram", "Series"]


class Series:
    """What was observed under one set of labels. Thread-safe."""

    __slots__ = ("_bounds", "_in_buckets", "_lock", "_sum", "began")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.began: Final = time.time()
        self._bounds = bounds
        self._lock = threading.Lock()
        # Guarded by the lock.
        self._in_buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value, and add it up."""
        with self._lock:
            self._in_buckets[bisect_left(self._bounds, value)] += 1
            self._sum += value

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Observe how long a block takes, seconds; whatever becomes of it."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)

    def values(self) -> tuple[list[int], float]:
        """Give how many values were up to each bound and in all, and their sum."""
        with self._lock:
            return list(accumulate(self._in_buckets)), self._sum


class Histogram(Collector):
    """A family of histograms.

    Args:
        name: Of the metric, with its unit.
        help_text: What it tells.
        labels: Their names.
        bounds: Upper bounds of the buckets, ascending.
        registry: Asks for it.

    Attributes:
        observe, time: As of its only series; of a family without labels.
    """

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._help_text = help_text
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._shown_bounds = (*map(floatToGoString, bounds), "+Inf")
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], Series] = {}  # guarded by _lock
        if not labels:
            only = self.labels()
            self.observe, self.time = only.observe, only.time
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Give what is observed under these labels; there from now on.

        Raises:
            ValueError: There are more of them than names, or fewer.
        """
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, got {values}")
        with self._lock:
            found = self._series.get(values)
            if found is None:
                found = self._series[values] = Series(self._bounds)
            return found

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = self._family()
        with self._lock:
            every = list(self._series.items())
        for labels, series in every:
            up_to, total = series.values()
            buckets = [(b, float(n)) for b, n in zip(self._shown_bounds, up_to, strict=True)]
            family.add_metric(labels, buckets, total)
            named = dict(zip(self._labels, labels, strict=True))
            family.add_sample(f"{self._name}_created", named, series.began)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._help_text, labels=self._labels)
