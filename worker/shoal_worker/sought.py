"""What a search seeks, and by what way it is found."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shoal_worker.columns import Column
from shoal_worker.matching import Selection

__all__ = ["Method", "Search"]


class Method(Enum):
    """How a search found what it found."""

    # Enum's own hash is written in Python, and every search looks its method up twice.
    __hash__ = object.__hash__

    NOTHING = auto()
    EXACT = auto()
    GRAPH = auto()


class Search(NamedTuple):
    """What is sought.

    Attributes:
        queries: Shape ``(q, d)``.
        limit: Matches wanted of each.
        selection: Among which records.
        include: What to return of them.
        max_bytes: Bound of the answer.
        threads: For the graph and its vectors, at most.
        check: Called now and then; what it raises ends the search.
    """

    queries: npt.NDArray[np.float32]
    limit: int
    selection: Selection
    include: frozenset[Column]
    max_bytes: int
    threads: int
    check: Callable[[], None]
