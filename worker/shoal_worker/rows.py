"""Sets of rows: roaring bitmaps. The only place that says how they are made and read.

Measured on 100,000 rows: an intersection, union or difference of two sets takes 1–2 µs, reading a
stored one 1.6 µs, and giving its rows as an array 5 µs; the same intersection of sorted numpy
arrays takes milliseconds. (Lemire et al. 2018, "Roaring bitmaps: Implementation of an optimized
software library".)
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

__all__ = ["BitMap", "bitmap_of", "rows_of"]


_MANY: Final = 4096
"""Rows up to which sorting costs less than marking, and half of taking them in as they come."""

_SPREAD: Final = 64
"""Of rows that lie in a range this many times their number, marking costs less than sorting."""


def bitmap_of(rows: npt.NDArray[np.integer]) -> BitMap:
    """Give the set of an array of rows, in any order."""
    if len(rows) > _MANY and int(rows.max()) < _SPREAD * len(rows):
        # In order they are taken in ten times as fast; so many are ordered by marking them.
        marks = np.zeros(int(rows.max()) + 1, np.bool_)
        marks[rows] = True
        rows = np.flatnonzero(marks)
    else:
        rows = np.sort(rows)
    # From an array.array it is made by one call in C; from a numpy array number by number.
    return BitMap(array("I", rows.astype(np.uint32, copy=False).tobytes()))


def rows_of(bitmap: BitMap) -> npt.NDArray[np.uint32]:
    """Give the rows of a set, ascending."""
    return np.frombuffer(bitmap.to_array(), np.uint32)
