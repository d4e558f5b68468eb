"""Coarse distances to the vectors at some places of a graph: passed over in order, or gathered.

What this costs is reading the memory that the vectors lie in. In order, a vector of 384 numbers in
bfloat16 takes 30 ns; gathered 60, in parts that one buffer takes in and the cache holds. (Indexed
by an array, which makes a new array of each part, the same takes 500.) So from about a third of the
vectors on all are passed over, and as many cores take part as the search may use.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.coarse import CoarseQuery

__all__ = ["measured_at"]

_ALL_SHARE: Final = 0.3
"""Of the vectors that a part spans, the share from which on all of them are passed over."""

_PASSED_PART: Final = 8192
"""Vectors that are passed over at once: numpy's temporaries of more than 128 KB cost more than what
is done with them."""

_GATHERED_BYTES: Final = 384 * 1024
"""Of vectors that are gathered at once: they are read again at once, out of a core's cache."""

_SHARED_NUMBERS: Final = 8_000_000
"""Numbers of vectors from which on passing over them is shared with another thread: 0.7 ms, ten
times what starting one takes."""


def measured_at(
    query: CoarseQuery,
    matrix: npt.NDArray[np.generic],
    places: npt.NDArray[np.intp],
    threads: int,
    check: Callable[[], None],
) -> npt.NDArray[np.float64]:
    """Measure vectors of a graph.

    Args:
        query: What is measured.
        matrix: The graph's vectors, shape ``(n, d)``.
        places: Of those that are meant; at least one.
        threads: How many at most.
        check: Called for each part; what it raises ends the pass.

    Returns:
        Shape ``(query.raw_count, len(places))``.
    """
    raw = np.empty((query.raw_count, len(places)))
    first, end = int(places[0]), int(places[-1]) + 1
    is_dense = len(places) > _ALL_SHARE * (end - first) and bool((places[1:] > places[:-1]).all())
    if not is_dense:
        _gather(query, matrix, places, raw, check)
    elif threads == 1 or (end - first) * matrix.shape[1] < _SHARED_NUMBERS:
        _pass_over(query, matrix, places, raw, check)
    else:
        middle = int(np.searchsorted(places, (first + end) // 2))
        with ThreadPoolExecutor(1, "shoal-scan") as other:
            half = other.submit(_pass_over, query, matrix, places[middle:], raw[:, middle:], check)
            _pass_over(query, matrix, places[:middle], raw[:, :middle], check)
            half.result()
    return raw


def _gather(
    query: CoarseQuery,
    matrix: npt.NDArray[np.generic],
    places: npt.NDArray[np.intp],
    raw: npt.NDArray[np.float64],
    check: Callable[[], None],
) -> None:
    size = min(len(places), max(1, _GATHERED_BYTES // matrix[0].nbytes))
    buffer = np.empty((size, matrix.shape[1]), matrix.dtype)
    for at in range(0, len(places), size):
        check()
        part = places[at : at + size]
        vectors = buffer[: len(part)]
        # Told to raise where a place is not there, numpy would fill a buffer of its own first.
        np.take(matrix, part, axis=0, out=vectors, mode="clip")
        query.measure(vectors, raw[:, at : at + size])


def _pass_over(
    query: CoarseQuery,
    matrix: npt.NDArray[np.generic],
    places: npt.NDArray[np.intp],
    raw: npt.NDArray[np.float64],
    check: Callable[[], None],
) -> None:
    """Measure what lies at ascending places, passing over all that lies between."""
    passed = np.empty((query.raw_count, _PASSED_PART))
    at = 0
    while at < len(places):
        first = int(places[at])
        stop = int(np.searchsorted(places, first + _PASSED_PART))
        part = places[at:stop]
        behind = int(part[-1]) + 1
        if len(part) <= _ALL_SHARE * (behind - first):
            _gather(query, matrix, part, raw[:, at:stop], check)
        elif len(part) == behind - first:
            check()
            query.measure(matrix[first:behind], raw[:, at:stop])
        else:
            check()
            query.measure(matrix[first:behind], passed[:, : behind - first])
            np.take(passed, part - first, axis=1, out=raw[:, at:stop], mode="clip")
        at = stop
