"""The fresh set: vectors that are committed but not in the graph, searched exactly.

It lies in blocks that only grow: a vector's place is written once, before the state that counts it
is published, and its death is noted as the sequence at which it died. So a reader of sequence s
looks at the first `count` vectors and leaves out those that died at s or before, while the writer
prepares s + 1 beside it; nothing is copied and nothing is locked. There is one writer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from shoal_worker.distances import (
    Queries,
    Space,
    bounded_of_parts,
    exact,
    is_tame,
    norms,
    similarities,
)
from shoal_worker.graph_vectors import Deaths
from shoal_worker.nearest import Candidates, Nearest
from shoal_worker.store import VectorBatch
from shoal_worker.stored import places_in

__all__ = ["FRESH_OVERHEAD_BYTES", "FreshSet", "FreshWriter"]

_N = TypeVar("_N", bound=np.generic)

_SMALLEST_BLOCK: Final = 64
_LARGEST_BLOCK: Final = 4096
"""Vectors in a block: few for the many small shards, and for the large ones so many that a block's
share of Python is small beside its scan."""

_ALIVE: Final = np.uint64(2**64 - 1)
_NEVER: Final = 2**64 - 2  # a sequence beyond every death

FRESH_OVERHEAD_BYTES: Final = 200
"""What a fresh vector takes beside its numbers: norm, key, row, death, and its place in the
table."""

_LEAST_SIMILAR: Final = -2.0
"""Less than any cosine, and more than what stands for a vector that does not count."""

_SCAN_CELLS: Final = 1024 * 1024
"""Query-vector pairs whose distances are held at once: 32 MB with their bounds."""


class _Block:
    """Vectors at fixed places. The arrays never move; only the writer fills them."""

    __slots__ = ("dead_at", "filled", "keys", "norms", "rows", "vectors")

    def __init__(self, capacity: int, dimension: int) -> None:
        self.vectors = np.empty((capacity, dimension), np.float32)
        self.norms = np.empty(capacity, np.float64)
        self.keys = np.empty(capacity, np.uint64)
        self.rows = np.empty(capacity, np.uint32)
        self.dead_at = np.full(capacity, _ALIVE, np.uint64)
        self.filled = 0  # the writer's; readers have counts of their own

    @property
    def capacity(self) -> int:
        return len(self.keys)


class _Span:
    """Neighbouring blocks that a scan takes at once, as a state sees them.

    Nearly all of scanning a few hundred vectors is the calls that it takes, and of small blocks
    there are seven before the first large one: 600 vectors took 0.29 ms block by block.
    """

    __slots__ = ("alive", "inverse_norms", "keys", "norms", "rows", "starts", "vectors")

    def __init__(self, blocks: Sequence[tuple[_Block, int]], sequence: int) -> None:
        self.vectors = [block.vectors[:count] for block, count in blocks]
        self.norms = _joined([block.norms[:count] for block, count in blocks])
        self.keys = _joined([block.keys[:count] for block, count in blocks])
        self.rows = _joined([block.rows[:count] for block, count in blocks])
        # What dies later, dies at a later sequence: this stays as it is.
        self.alive = _joined([block.dead_at[:count] for block, count in blocks]) > sequence
        # For `similarities`; None if they are not to be asked.
        self.inverse_norms: npt.NDArray[np.float64] | None = None
        if is_tame(self.norms):
            self.inverse_norms = np.zeros(len(self.norms))
            np.divide(1.0, self.norms, out=self.inverse_norms, where=self.norms > 0.0)
        self.starts = np.cumsum([0, *(count for _, count in blocks)])

    def vectors_at(self, places: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Give the vectors at places, which ascend."""
        if len(self.vectors) == 1:
            only: npt.NDArray[np.float32] = self.vectors[0][places]
            return only
        ends = np.searchsorted(places, self.starts).tolist()
        starts = self.starts.tolist()
        return np.concatenate(
            [
                vectors[places[ends[i] : ends[i + 1]] - starts[i]]
                for i, vectors in enumerate(self.vectors)
                if ends[i] < ends[i + 1]
            ]
        )


def _survivors(
    space: Space,
    queries: Queries,
    span: _Span,
    alive: npt.NDArray[np.bool_],
    nearest: Sequence[Nearest],
) -> list[npt.NDArray[np.intp]]:
    """Choose for each query the vectors that may be among its nearest."""
    is_one = space is Space.COSINE and len(nearest) == 1
    if is_one and span.inverse_norms is not None and queries.norms[0] and is_tame(queries.norms):
        return [_similar(queries, span, span.inverse_norms, alive, nearest[0])]
    distance, error = bounded_of_parts(space, queries, span.vectors, span.norms)
    lower, upper = distance - error, distance + error
    return [n.survivors(lower[i], upper[i], alive) for i, n in enumerate(nearest)]


def _similar(
    queries: Queries,
    span: _Span,
    inverse_norms: npt.NDArray[np.float64],
    alive: npt.NDArray[np.bool_],
    nearest: Nearest,
) -> npt.NDArray[np.intp]:
    """Choose as `Nearest.survivors` does, for one query under cosine."""
    similar, error = similarities(queries, span.vectors, inverse_norms)
    np.copyto(similar, -np.inf, where=~alive)
    # Surely as near: what was found before, and as many of these as are wanted.
    least = 1.0 - nearest.bound - error
    if len(similar) > nearest.limit:
        kth = len(similar) - nearest.limit
        least = max(least, float(np.partition(similar, kth)[kth]) - 2.0 * error)
    chosen: npt.NDArray[np.intp] = np.flatnonzero(similar >= max(least, _LEAST_SIMILAR))
    return chosen


def _joined(parts: Sequence[npt.NDArray[_N]]) -> npt.NDArray[_N]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class FreshSet:
    """What one published state sees of the fresh set. Immutable.

    Attributes:
        blocks: The blocks, each with how many of its vectors count.
        sequence: The state's; what died later is alive here.
        live_count: Vectors that are alive.
        exact_count: Those among them that no graph is to take.
        size: Vectors alive and dead: what a scan costs.
    """

    blocks: tuple[tuple[_Block, int], ...]
    sequence: int
    live_count: int
    exact_count: int
    size: int

    @property
    def pending_count(self) -> int:
        """Vectors that wait for a graph."""
        return self.live_count - self.exact_count

    @functools.cached_property
    def _spans(self) -> list[_Span]:
        """The blocks as a scan takes them; made by the first one of the state."""
        spans: list[list[tuple[_Block, int]]] = []
        room = 0
        for block, count in self.blocks:
            if not spans or count > room:
                spans.append([])
                room = _LARGEST_BLOCK
            spans[-1].append((block, count))
            room -= count
        return [_Span(blocks, self.sequence) for blocks in spans]

    def search(
        self,
        space: Space,
        queries: Queries,
        limit: int,
        rows: npt.NDArray[np.uint32] | None = None,
    ) -> list[Candidates]:
        """Give each query's `limit` nearest, exactly ranked.

        Args:
            space: Which distance.
            queries: The query vectors.
            limit: At least 1.
            rows: If given, only these rows, ascending.
        """
        nearest = [Nearest(limit) for _ in range(len(queries.single))]
        step = max(1, _SCAN_CELLS // _LARGEST_BLOCK)
        for first in range(0, len(nearest), step):
            part = queries.part(slice(first, first + step))
            for span in self._spans:
                alive = span.alive if rows is None else span.alive & _among(span.rows, rows)
                self._search_span(space, part, span, alive, nearest[first : first + step])
        return [n.candidates() for n in nearest]

    @staticmethod
    def _search_span(
        space: Space,
        queries: Queries,
        span: _Span,
        alive: npt.NDArray[np.bool_],
        nearest: list[Nearest],
    ) -> None:
        chosen_of_each = _survivors(space, queries, span, alive, nearest)
        for i, (chosen, collected) in enumerate(zip(chosen_of_each, nearest, strict=True)):
            if chosen.size:
                collected.add(
                    exact(space, queries.double[i], span.vectors_at(chosen)),
                    span.rows[chosen],
                    span.keys[chosen],
                )

    def batches(self) -> Iterator[VectorBatch]:
        """Give the vectors that are alive, block by block, by ascending key within the fresh."""
        for block, count in self.blocks:
            alive = np.flatnonzero(block.dead_at[:count] > self.sequence)
            if alive.size:
                yield VectorBatch(block.keys[alive], block.rows[alive], block.vectors[alive])


class FreshWriter:
    """Fills the fresh set; belongs to the one thread that drains the shard's queue.

    Args:
        deaths: Of the vectors in the graph beside it; None if there is none.
    """

    def __init__(self, deaths: Deaths | None = None) -> None:
        self._deaths = deaths
        self._blocks: list[_Block] = []
        # Place of each vector that is alive, by key.
        self._places: dict[int, tuple[_Block, int]] = {}
        # Of those, the keys of which no graph is to take.
        self._exact: set[int] = set()
        # What was done since `begin`, so that it can be undone.
        self._added: list[int] = []
        self._removed: list[tuple[int, _Block, int, bool]] = []

    @property
    def live_count(self) -> int:
        """Vectors that are alive."""
        return len(self._places)

    def begin(self) -> None:
        """Begin the changes of one commit."""
        self._added = []
        self._removed = []
        if self._deaths is not None:
            self._deaths.begin()

    def roll_back(self) -> None:
        """Undo the changes since `begin`. No reader has seen them: they were not committed."""
        for key, block, offset, is_exact in self._removed:
            block.dead_at[offset] = _ALIVE
            self._places[key] = (block, offset)
            if is_exact:
                self._exact.add(key)
        for key in reversed(self._added):
            block, offset = self._places.pop(key)
            block.filled = offset
            self._exact.discard(key)
        while self._blocks and not self._blocks[-1].filled:
            self._blocks.pop()
        if self._deaths is not None:
            self._deaths.roll_back()
        self.begin()

    def add(self, batch: VectorBatch, exact_keys: Iterable[int]) -> None:
        """Append vectors, by ascending key.

        Args:
            batch: The vectors.
            exact_keys: Keys of which those in the batch can be in no graph.
        """
        present = set(batch.keys.tolist())
        self._exact.update(key for key in exact_keys if key in present)
        taken = 0
        while taken < len(batch.keys):
            block = self._block_with_room(batch.vectors.shape[1], len(batch.keys) - taken)
            count = min(block.capacity - block.filled, len(batch.keys) - taken)
            place = slice(block.filled, block.filled + count)
            part = slice(taken, taken + count)
            block.vectors[place] = batch.vectors[part]
            block.norms[place] = norms(batch.vectors[part])
            block.keys[place] = batch.keys[part]
            block.rows[place] = batch.rows[part]
            block.dead_at[place] = _ALIVE
            keys = batch.keys[part].tolist()
            for offset, key in enumerate(keys, block.filled):
                self._places[key] = (block, offset)
            self._added += keys
            block.filled += count
            taken += count

    def _block_with_room(self, dimension: int, wanted: int) -> _Block:
        if self._blocks and self._blocks[-1].filled < self._blocks[-1].capacity:
            return self._blocks[-1]
        total = sum(block.capacity for block in self._blocks)
        capacity = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, total, wanted))
        self._blocks.append(_Block(capacity, dimension))
        return self._blocks[-1]

    def remove(self, key: int, sequence: int) -> bool:
        """Note the death of a vector.

        Returns:
            Whether it was here; otherwise the graph holds it, and its death is noted there.
        """
        place = self._places.pop(key, None)
        if place is None:
            if self._deaths is not None:
                self._deaths.note(key, sequence)
            return False
        block, offset = place
        block.dead_at[offset] = sequence
        self._removed.append((key, block, offset, key in self._exact))
        self._exact.discard(key)
        return True

    def hold_back(self, keys: Iterable[int]) -> None:
        """Leave vectors out of every graph from now on; those that are not here are passed over."""
        self._exact.update(key for key in keys if key in self._places)

    def snapshot(self, sequence: int) -> FreshSet:
        """Give what the state of a sequence sees."""
        blocks = tuple((block, block.filled) for block in self._blocks)
        size = sum(count for _, count in blocks)
        return FreshSet(blocks, sequence, len(self._places), len(self._exact), size)

    def are_current(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Say which keys are here, and alive.

        By arrays, for it is asked beside searches: going over the table would hold them up.
        """
        here = [
            block.keys[: block.filled][block.dead_at[: block.filled] == _ALIVE]
            for block in self._blocks
        ]
        alive = np.sort(np.concatenate(here)) if here else np.empty(0, np.uint64)
        if not len(alive):
            return np.zeros(len(keys), np.bool_)
        result: npt.NDArray[np.bool_] = alive[places_in(alive, keys)] == keys
        return result

    def beside(self, deaths: Deaths) -> None:
        """Note the deaths of a graph's vectors from now on."""
        self._deaths = deaths

    def without(self, last_key: int, deaths: Deaths) -> FreshWriter:
        """Give a fresh set without what a graph took in, and without the dead.

        Args:
            last_key: The graph considered every key up to here, and holds those it can.
            deaths: Of the graph's vectors.
        """
        remaining = FreshWriter(deaths)
        exact = np.array(sorted(self._exact), np.uint64)
        for batch in self.snapshot(_NEVER).batches():
            stays = np.isin(batch.keys, exact)
            keep = (batch.keys > last_key) | stays
            if keep.any():
                kept = VectorBatch(batch.keys[keep], batch.rows[keep], batch.vectors[keep])
                remaining.add(kept, batch.keys[stays].tolist())
        remaining.begin()
        return remaining


def _among(
    rows: npt.NDArray[np.uint32], ascending: npt.NDArray[np.uint32]
) -> npt.NDArray[np.bool_]:
    """Say for each row whether it is in an ascending array."""
    if not len(ascending):
        return np.zeros(len(rows), np.bool_)
    places = np.searchsorted(ascending, rows)
    places[places == len(ascending)] = 0
    result: npt.NDArray[np.bool_] = ascending[places] == rows
    return result
