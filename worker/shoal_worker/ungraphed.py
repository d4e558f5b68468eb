"""The vectors of a graph that is lost, scanned exactly until there is another one.

A graph is a cache, and building it anew takes minutes where a shard is large. Until then each
search passes over all vectors, as it does over the fresh set: 30 to 60 ms for a million of 128
numbers. But they do not count as fresh, so that nobody is refused a write because a file was lost.

They lie in the file that was beside the graph (`vector_file`), if that is sound: mapped, and every
slot of it verified once, here. Where it is lost, too, they are read from the records into memory
(`loading` has the bound). Both are of one shape, and never change; what dies is noted beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.distances import Queries, Space, bounded, exact, norms
from shoal_worker.environment import Transaction
from shoal_worker.graph_vectors import Deaths
from shoal_worker.nearest import Candidates, Nearest
from shoal_worker.sealed import DamagedValueError
from shoal_worker.store import Meta, Store
from shoal_worker.stored import places_in
from shoal_worker.vector_file import DamagedVectorsError, VectorFile

__all__ = [
    "Ungraphed",
    "UngraphedVectors",
    "read_from_file",
    "read_from_records",
    "ungraphed_bytes",
]

_PART: Final = 4096
"""Vectors that are read, or compared with queries, at once."""

_SCAN_QUERIES: Final = 256
"""Queries that are compared at once with a part: 32 MB with their bounds."""

_KNOWN_BYTES: Final = 28
"""What a vector takes beside its numbers: key, row, norm, death."""


class UngraphedVectors:
    """Vectors, each with what a scan needs of it; never changed.

    Attributes:
        keys: Ascending, shape ``(n,)``.
        rows: Shape ``(n,)``.
        norms: Shape ``(n,)``.
        numbers: Shape ``(n, d)``, float32.
        memory_bytes: What it takes beside files that are mapped.
    """

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        rows: npt.NDArray[np.uint32],
        lengths: npt.NDArray[np.float64],
        numbers: npt.NDArray[np.float32],
        *,
        is_mapped: bool,
    ) -> None:
        self.keys = keys
        self.rows = rows
        self.norms = lengths
        self.numbers = numbers
        self.memory_bytes = _KNOWN_BYTES * len(keys) + (0 if is_mapped else numbers.nbytes)


def ungraphed_bytes(count: int, dimension: int) -> int:
    """Give the memory that vectors take which are not in a file."""
    return count * (_KNOWN_BYTES + 4 * dimension)


def read_from_file(file: VectorFile, next_key: int) -> UngraphedVectors:
    """Take the vectors of a file, all of them verified.

    Raises:
        DamagedVectorsError: If one is not what was written, or of another history.
    """
    count = file.count
    keys, rows = np.empty(count, np.uint64), np.empty(count, np.uint32)
    lengths = np.empty(count)
    for first in range(0, count, _PART):
        part = slice(first, min(first + _PART, count))
        slots = file.verified(part)
        keys[part], rows[part] = slots.keys, slots.rows
        lengths[part] = norms(slots.vectors)
    if not (keys[1:] > keys[:-1]).all():
        raise DamagedVectorsError("damaged", "its keys do not rise")
    if count and int(keys[-1]) >= next_key:
        raise DamagedVectorsError(
            "newer", f"it holds key {int(keys[-1])}, the records end before {next_key}"
        )
    return UngraphedVectors(keys, rows, lengths, file.vectors, is_mapped=True)


def read_from_records(txn: Transaction, store: Store, meta: Meta) -> UngraphedVectors:
    """Read all current vectors into memory.

    Raises:
        DamagedValueError: If one is not what was stored.
    """
    count, dimension = meta.record_count, meta.dimension
    keys, rows = np.empty(count, np.uint64), np.empty(count, np.uint32)
    lengths, numbers = np.empty(count), np.empty((count, dimension), np.float32)
    taken, first = 0, 1
    while True:
        batch = store.vectors_between(txn, first, meta.next_key, dimension, _PART)
        if taken + len(batch.keys) > count or (taken < count and not len(batch.keys)):
            raise DamagedValueError(f"its {count} records do not have a vector each")
        if not len(batch.keys):
            return UngraphedVectors(keys, rows, lengths, numbers, is_mapped=False)
        part = slice(taken, taken + len(batch.keys))
        keys[part], rows[part], numbers[part] = batch.keys, batch.rows, batch.vectors
        lengths[part] = norms(batch.vectors)
        taken, first = part.stop, int(batch.keys[-1]) + 1


class Ungraphed:
    """Searches vectors without a graph.

    Args:
        vectors: They.
        deaths: Which of them count, and until when.
        damaged: Called once, when something that was found is not what the records hold.
    """

    def __init__(
        self,
        vectors: UngraphedVectors,
        deaths: Deaths,
        damaged: Callable[[DamagedVectorsError], None],
    ) -> None:
        self._vectors = vectors
        self.deaths = deaths
        self.count = len(vectors.keys)
        self._damaged = damaged
        self._lock = threading.Lock()
        self._is_sound = True  # guarded by _lock for its one change

    @property
    def is_sound(self) -> bool:
        """Whether nothing damaged was met."""
        return self._is_sound

    @property
    def memory_bytes(self) -> int:
        """Bytes that it takes beside files that are mapped."""
        return self._vectors.memory_bytes

    def report(self, error: DamagedVectorsError) -> None:
        """Take note that it cannot be used any more."""
        with self._lock:
            if not self._is_sound:
                return
            self._is_sound = False
        self._damaged(error)

    def search(
        self,
        space: Space,
        queries: Queries,
        limit: int,
        sequence: int,
        rows: npt.NDArray[np.uint32] | None,
        check: Callable[[], None],
    ) -> list[Candidates]:
        """Give each query's `limit` nearest, exactly ranked.

        Args:
            space: Which distance.
            queries: The query vectors.
            limit: At least 1.
            sequence: The reader's: what died later counts.
            rows: If given, only these rows, ascending.
            check: Called for each part; what it raises ends the scan.
        """
        nearest = [Nearest(limit) for _ in range(len(queries.single))]
        for first in range(0, len(nearest), _SCAN_QUERIES):
            asked = queries.part(slice(first, first + _SCAN_QUERIES))
            for part, eligible in self._eligible(sequence, rows):
                check()
                self._search_part(space, asked, part, eligible, nearest[first:])
        return [n.candidates() for n in nearest]

    def _eligible(
        self, sequence: int, rows: npt.NDArray[np.uint32] | None
    ) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
        """Give the parts in which something counts, and what."""
        is_among: npt.NDArray[np.bool_] | None = None
        if rows is not None:
            is_among = np.zeros(int(self._vectors.rows.max()) + 1, np.bool_)
            is_among[rows[: int(np.searchsorted(rows, len(is_among)))]] = True
        for first in range(0, self.count, _PART):
            part = slice(first, min(first + _PART, self.count))
            eligible = self.deaths.are_alive(part, sequence)
            if is_among is not None:
                eligible &= is_among[self._vectors.rows[part]]
            if eligible.any():
                yield part, eligible

    def _search_part(
        self,
        space: Space,
        queries: Queries,
        part: slice,
        eligible: npt.NDArray[np.bool_],
        nearest: list[Nearest],
    ) -> None:
        vectors, numbers = self._vectors, self._vectors.numbers[part]
        distance, error = bounded(space, queries, numbers, vectors.norms[part])
        for i in range(len(queries.single)):
            chosen = nearest[i].survivors(distance[i] - error[i], distance[i] + error[i], eligible)
            if chosen.size:
                nearest[i].add(
                    exact(space, queries.double[i], numbers[chosen]),
                    vectors.rows[part][chosen],
                    vectors.keys[part][chosen],
                )

    def holds(self, keys: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> bool:
        """Whether it has these vectors, bit for bit.

        Args:
            keys: Keys that it gave.
            vectors: What the records have under them, shape ``(n, d)``.
        """
        here = self._vectors.numbers[places_in(self._vectors.keys, keys)]
        return here.tobytes() == np.ascontiguousarray(vectors).tobytes()
