"""Histograms: what is observed is what is told when somebody asks."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram

from shoal.server.histograms import Histogram

_BOUNDS = (0.5, 1.0, 2.5)
_VALUES = (0.1, 0.5, 0.6, 1.0, 2.4, 9.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def _text(registry: CollectorRegistry) -> list[str]:
    """The exposition, without when a series began."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created{" not in line and "_created " not in line[:30]]


def test_it_tells_what_the_librarys_own_would(registry: CollectorRegistry) -> None:
    theirs = CollectorRegistry()
    library = LibraryHistogram("taken_seconds", "Time.", ("of",), registry=theirs, buckets=_BOUNDS)
    ours = Histogram("taken_seconds", "Time.", ("of",), _BOUNDS, registry)

    for value in _VALUES:
        library.labels("one").observe(value)
        ours.labels("one").observe(value)
    library.labels("other")
    ours.labels("other")

    assert _text(registry) == _text(theirs)


def test_one_without_labels_is_there_before_anything_was_observed(
    registry: CollectorRegistry,
) -> None:
    histogram = Histogram("taken_seconds", "Time.", (), _BOUNDS, registry)

    assert registry.get_sample_value("taken_seconds_count") == 0
    with histogram.time():
        pass
    assert registry.get_sample_value("taken_seconds_bucket", {"le": "0.5"}) == 1


def test_a_block_that_fails_is_timed(registry: CollectorRegistry) -> None:
    histogram = Histogram("taken_seconds", "Time.", (), _BOUNDS, registry)

    with pytest.raises(KeyError, match="lost"), histogram.time():
        raise KeyError("lost")

    assert registry.get_sample_value("taken_seconds_count") == 1


def test_nothing_is_lost_between_threads(registry: CollectorRegistry) -> None:
    series = Histogram("taken_seconds", "Time.", ("of",), _BOUNDS, registry).labels("one")

    def observe() -> None:
        for _ in range(2_000):
            series.observe(1.0)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert registry.get_sample_value("taken_seconds_count", {"of": "one"}) == 8_000
    assert registry.get_sample_value("taken_seconds_sum", {"of": "one"}) == 8_000


def test_labels_that_are_too_few_are_an_error(registry: CollectorRegistry) -> None:
    histogram = Histogram("taken_seconds", "Time.", ("of", "by"), _BOUNDS, registry)

    with pytest.raises(ValueError, match="labels"):
        histogram.labels("one")


def test_a_name_is_given_once(registry: CollectorRegistry) -> None:
    Histogram("taken_seconds", "Time.", (), _BOUNDS, registry)

    with pytest.raises(ValueError, match="taken_seconds"):
        Histogram("taken_seconds", "Time.", (), _BOUNDS, registry)
