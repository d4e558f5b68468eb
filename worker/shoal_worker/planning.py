"""What ways of searching a shard cost, so that the cheapest can be taken.

The figures are microseconds of one thread, measured by ``python -m benchmarks.calibrate`` on the
machine that `benchmarks/RESULTS-filters.md` describes, as the least of many runs: they are the work
itself, without what else the machine did. Another machine is faster or slower in all of them
alike, and only their ratios decide anything: where the two ways cost the same, a wrong choice costs
nothing; where one costs twice the other, the ratios have to be off by two to choose it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["coarse_us", "scan_us", "walk_us"]

_WALK_US: Final = 0.2
_WALK_NUMBER_US: Final = 0.001
"""A candidate that the graph is asked for: fixed, and for each number of its vector."""

_WALK_SQUARE_US: Final = 0.001
"""A pair of candidates: USearch keeps what it has found in a sorted array, so that each insertion
moves what is behind it. 640 candidates of 100,000 vectors take 0.75 ms, 5,120 take 30."""

_LOOK_US: Final = 0.9
"""A candidate of the graph whose row is read and does not match."""

_RANK_NUMBER_US: Final = 0.0018
"""A vector that is read and ranked exactly, for each of its numbers."""

_SCAN_ROW_US: Final = 1.2
"""A row of an exact scan, beside its numbers."""

_SCAN_MORE_NUMBER_US: Final = 0.001
"""A number of a vector, for each further query of a scan: what is read is read once."""


_COARSE_US: Final = 250.0
_COARSE_ROW_US: Final = 0.06
_COARSE_NUMBER_US: Final = 0.0003
_PASSED_NUMBER_US: Final = 0.00008
"""A scan by coarse distances: the vectors that are read after all; a row; a number that is gathered
from the graph's vectors and multiplied, and one that is passed over in order."""


def walk_us(candidates: float, matching_share: float, dimension: int, query_count: int) -> float:
    """Estimate a walk through the graph.

    Args:
        candidates: Asked for, for each query.
        matching_share: Of these, the share that is ranked.
        dimension: Numbers in a vector.
        query_count: Queries.
    """
    walked = _WALK_US + _WALK_NUMBER_US * dimension + _WALK_SQUARE_US * candidates
    ranked = _LOOK_US + matching_share * _RANK_NUMBER_US * dimension
    return query_count * candidates * (walked + ranked)


def coarse_us(rows: float, stored_count: float, dimension: int, query_count: int) -> float:
    """Estimate an exact scan that reads only what coarse distances leave.

    Args:
        rows: Rows that are scanned.
        stored_count: Vectors of the graph; they are all passed over if that costs less.
        dimension: Numbers in a vector.
        query_count: Queries.
    """
    gathered = rows * (_COARSE_ROW_US + _COARSE_NUMBER_US * dimension)
    in_order = stored_count * _PASSED_NUMBER_US * dimension + rows * _COARSE_ROW_US
    return query_count * (_COARSE_US + min(gathered, in_order))


def scan_us(rows: float, dimension: int, query_count: int) -> float:
    """Estimate an exact scan of rows."""
    first = _SCAN_ROW_US + _RANK_NUMBER_US * dimension
    return rows * (first + (query_count - 1) * _SCAN_MORE_NUMBER_US * dimension)
