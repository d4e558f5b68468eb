"""One search of one shard: find the rows that match, find the nearest among them, read their
records.

The plan is the cheapest of: nothing (no record, or none that matches) · an exact scan of the rows
that match · the graph, over-fetched, with the fresh set scanned beside it (`finding`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.errors import DimensionMismatchError
from shoal_worker.columns import ColumnReader, Columns, too_large
from shoal_worker.distances import Space
from shoal_worker.finding import Finder
from shoal_worker.matching import select
from shoal_worker.nearest import Candidates, heads_of_all
from shoal_worker.rows import BitMap
from shoal_worker.sought import Method, Search
from shoal_worker.state import Pinned

__all__ = ["Matches", "Method", "Search", "search"]


@dataclass(slots=True)
class Matches:
    """What was found.

    Attributes:
        counts: Matches of each query; they follow one another in the columns.
        columns: The records.
        distances: One for each match.
        method: How it was found.
        matching_count: Records that match the selection.
        candidate_count: Candidates whose exact distance was computed.
        examined_count: Records that were looked at to tell whether they match.
        filter_seconds: Time that finding the matching records took.
    """

    counts: list[int]
    columns: Columns
    distances: npt.NDArray[np.float64]
    method: Method = Method.NOTHING
    matching_count: int = 0
    candidate_count: int = 0
    examined_count: int = 0
    filter_seconds: float = 0.0


def search(pinned: Pinned, space: Space, sought: Search) -> Matches:
    """Search a shard in a pinned state.

    Raises:
        DimensionMismatchError: If the queries are of another dimension.
        InvalidArgumentError: If a filter is not one.
        OverloadedError: If the answer would exceed its bound.
        DamagedValueError: If something stored is not what was stored.
    """
    meta = pinned.state.meta
    given = sought.queries.shape[1]
    if meta.dimension and given != meta.dimension:
        raise DimensionMismatchError(
            f"the collection holds vectors of dimension {meta.dimension}, got {given}",
            metadata={"expected": str(meta.dimension), "actual": str(given)},
        )
    rows: BitMap | None = None
    matching_count = meta.record_count
    examined_count, filter_seconds = 0, 0.0
    if not sought.selection.is_everything and meta.record_count:
        began = time.perf_counter()
        selected = select(pinned.source, sought.selection, check=sought.check)
        rows, examined_count = selected.rows, selected.examined_count
        matching_count = len(rows)
        if matching_count == meta.record_count:
            rows = None
        filter_seconds = time.perf_counter() - began
    if matching_count:
        finder = Finder(pinned, space, sought, rows, matching_count)
        method, found = finder.run()
        matches = _read(pinned, sought, found)
        matches.method, matches.matching_count = method, matching_count
        matches.candidate_count = finder.candidate_count
    else:
        none = Columns.empty(sought.include)
        matches = Matches([0] * len(sought.queries), none, np.empty(0))
    matches.examined_count, matches.filter_seconds = examined_count, filter_seconds
    return matches


def _read(pinned: Pinned, sought: Search, found: list[Candidates]) -> Matches:
    reader = ColumnReader(pinned.txn, pinned.store, sought.include, sought.max_bytes)
    distances, rows, _, heads = found[0]
    if len(found) > 1:
        rows = np.concatenate([c.rows for c in found])
        distances = np.concatenate([c.distances for c in found])
        heads = heads_of_all(found)
    if not reader.add_rows(rows.tolist(), heads, sought.check):
        raise too_large(sought.max_bytes)
    return Matches([len(c.rows) for c in found], reader.columns, distances)
