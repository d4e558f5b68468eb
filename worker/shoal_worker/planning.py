"""What ways of searching a shard cost, so that the cheapest can be taken.

Each cost is a sum of terms, and what each term takes is measured: ``python -m
benchmarks.calibrate`` times the ways themselves on shards of two dimensions, as the least of many
runs, and fits the microseconds below. Another machine is faster or slower in all of them alike, and
only their ratios decide anything: where two ways cost the same, a wrong choice costs nothing; where
one costs twice the other, the ratios have to be off by two to choose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["coarse_us", "scan_terms", "scan_us", "ungraphed_us", "walk_terms", "walk_us"]

_WALK_US: Final = (92.8, 0.0856, 0.000761, 0.000417, 0.00133, 0.0065)
"""A walk through the graph, and the terms of `walk_terms`."""

_SCAN_US: Final = (41.1, 0.013, 0.00198, 61.2, 0.0367, 0.00026, 0.0001)
"""A scan of what matches in the graph, and the terms of `scan_terms`."""

_CACHED_NUMBERS: Final = 160_000
"""Of the candidates of a walk; those that it only passes are several times as many."""

_READ_ROWS: Final = 192
"""Rows whose vectors are all read, rather than bounded first (`scanning`)."""

_DENSE_SHARE: Final = 0.3
"""Of the graph, the share from which on all vectors are passed over in order (`scanning`)."""

_RECORD_US: Final = 1.2
_RECORD_NUMBER_US: Final = 0.0018
_MORE_NUMBER_US: Final = 0.001
"""A scan that reads records: a row, a number of its vector, and one for each further query: what is
read is read once."""

_UNGRAPHED_US: Final = 0.025
_UNGRAPHED_NUMBER_US: Final = 0.00016
"""A scan of the vectors of a lost graph: a vector, and a number of it."""


def walk_terms(candidates: float, matching_share: float, dimension: int) -> tuple[float, ...]:
    """Give what a walk does for one query.

    Args:
        candidates: Asked for.
        matching_share: Of these, the share that is ranked.
        dimension: Numbers in a vector.

    Returns:
        Candidates, and the numbers of their vectors; pairs of candidates (USearch keeps what it has
        found in a sorted array, so that each insertion moves what is behind it); numbers of the
        candidates that match; numbers of vectors beyond those that a cache holds.
    """
    numbers = candidates * dimension
    return (
        candidates,
        numbers,
        candidates * candidates,
        matching_share * numbers,
        max(0.0, numbers - _CACHED_NUMBERS),
    )


def scan_terms(rows: float, stored_count: float, dimension: int) -> tuple[float, ...]:
    """Give what a scan by places in the graph does for one query.

    Args:
        rows: Rows that are scanned.
        stored_count: Vectors of the graph.
        dimension: Numbers in a vector.

    Returns:
        If they are few: rows, and the numbers of their vectors. Else whether they are bounded at
        all; rows; numbers of vectors that are gathered, and numbers that are passed over in order.
    """
    if rows <= _READ_ROWS:
        return (rows, rows * dimension, 0.0, 0.0, 0.0, 0.0)
    if rows <= _DENSE_SHARE * stored_count:
        return (0.0, 0.0, 1.0, rows, rows * dimension, 0.0)
    return (0.0, 0.0, 1.0, rows, 0.0, stored_count * dimension)


def _cost_us(costs: Sequence[float], terms: Sequence[float]) -> float:
    return costs[0] + sum(cost * term for cost, term in zip(costs[1:], terms, strict=True))


def walk_us(candidates: float, matching_share: float, dimension: int, query_count: int) -> float:
    """Estimate a walk through the graph; see `walk_terms`."""
    return query_count * _cost_us(_WALK_US, walk_terms(candidates, matching_share, dimension))


def coarse_us(rows: float, stored_count: float, dimension: int, query_count: int) -> float:
    """Estimate a scan by coarse distances to the graph's vectors; see `scan_terms`."""
    return query_count * _cost_us(_SCAN_US, scan_terms(rows, stored_count, dimension))


def scan_us(rows: float, dimension: int, query_count: int) -> float:
    """Estimate a scan that reads the vector of each row from the records."""
    first = _RECORD_US + _RECORD_NUMBER_US * dimension
    return rows * (first + (query_count - 1) * _MORE_NUMBER_US * dimension)


def ungraphed_us(count: float, dimension: int, query_count: int) -> float:
    """Estimate a scan of all vectors of a graph that was lost."""
    return query_count * count * (_UNGRAPHED_US + _UNGRAPHED_NUMBER_US * dimension)
