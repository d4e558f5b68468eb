"""The exact vectors of a graph, and which of them still count.

A graph and its file of vectors never change; what changes is which of their vectors are current.
Each death is noted here as the sequence at which it came, before the state of that sequence is
published: a reader of sequence s leaves out what died at s or before, and never asks LMDB. There is
one writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.places import Places
from shoal_worker.stored import places_in
from shoal_worker.vector_file import DamagedVectorsError, Gathered, VectorFile

__all__ = ["Deaths", "GraphVectors"]

_ALIVE: Final = np.uint64(2**64 - 1)


class Deaths:
    """When each vector of a graph died.

    Args:
        keys: The graph's, ascending.
        is_alive: Which of them are current when it is made; None: all.
    """

    def __init__(
        self, keys: npt.NDArray[np.uint64], is_alive: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self._keys = keys
        self._dead_at = np.full(len(keys), _ALIVE, np.uint64)
        if is_alive is not None:
            self._dead_at[~is_alive] = 0
        # Rises before the first death is published, and never falls: without one nobody looks.
        self._has_dead = is_alive is not None and not is_alive.all()
        # What was noted since `begin`, so that it can be undone.
        self._noted: list[int] = []

    @property
    def memory_bytes(self) -> int:
        """Bytes that it takes."""
        return self._dead_at.nbytes

    def begin(self) -> None:
        """Begin the changes of one commit."""
        self._noted = []

    def roll_back(self) -> None:
        """Undo the changes since `begin`. No reader has seen them: they were not committed."""
        for place in self._noted:
            self._dead_at[place] = _ALIVE
        self.begin()

    def note(self, key: int, sequence: int) -> None:
        """Note the death of a vector that the graph holds; nothing to do if it does not."""
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place < len(self._keys) and int(self._keys[place]) == key:
            self._dead_at[place] = sequence
            self._noted.append(place)
            self._has_dead = True

    def alive(self, places: npt.NDArray[np.intp], sequence: int) -> npt.NDArray[np.bool_] | None:
        """Say which vectors are current at a sequence; None: all are."""
        if not self._has_dead:
            return None
        is_alive: npt.NDArray[np.bool_] = self._dead_at[places] > np.uint64(sequence)
        return None if is_alive.all() else is_alive

    def are_alive(self, part: slice, sequence: int) -> npt.NDArray[np.bool_]:
        """Say which vectors that follow one another are current at a sequence."""
        result: npt.NDArray[np.bool_] = self._dead_at[part] > np.uint64(sequence)
        return result

    def are_current(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Say which keys, of any vectors, are in the graph and current now."""
        if not len(self._keys):
            return np.zeros(len(keys), np.bool_)
        places = places_in(self._keys, keys)
        result: npt.NDArray[np.bool_] = (self._keys[places] == keys) & (
            self._dead_at[places] == _ALIVE
        )
        return result


class GraphVectors:
    """Reads the vectors of a graph.

    Args:
        keys: The graph's, ascending.
        file: The vectors in the same order.
        deaths: Which of them died.
        damaged: Called once, when something that was read is not what was written.
    """

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        file: VectorFile,
        deaths: Deaths,
        damaged: Callable[[DamagedVectorsError], None],
    ) -> None:
        self.keys = keys
        # Made by the first search under a filter that can; there may be two at it, for the same.
        self.places: Places | None = None
        self._file = file
        self.deaths = deaths
        self._damaged = damaged
        self._lock = threading.Lock()
        self._is_sound = True  # guarded by _lock for its one change
        # Without gaps, as long as nothing was replaced or deleted: a place is a difference.
        self._first: np.uint64 | None = None
        if len(keys) and int(keys[-1]) - int(keys[0]) + 1 == len(keys):
            self._first = np.uint64(keys[0])

    @property
    def is_sound(self) -> bool:
        """Whether nothing damaged was met."""
        return self._is_sound

    def current(self, keys: npt.NDArray[np.uint64], sequence: int) -> Gathered | None:
        """Read the vectors of candidates without those that are not current.

        Args:
            keys: Keys that the graph gave.
            sequence: The reader's.

        Returns:
            None if the file is damaged: they must be read from the records.
        """
        if not self._is_sound:
            return None
        if self._first is not None:
            places = (keys - self._first).view(np.intp)
        else:
            places = places_in(self.keys, keys)
        alive = self.deaths.alive(places, sequence)
        try:
            if alive is None:
                return self._file.read(places, keys)
            positions = np.flatnonzero(alive)
            return self._file.read(places[positions], keys[positions])._replace(positions=positions)
        except DamagedVectorsError as error:
            self.report(error)
        except IndexError:
            # A key that the graph should not know: a bit of it was flipped in memory.
            self.report(DamagedVectorsError("damaged", "a key of the graph is not its file's"))
        return None

    def report(self, error: DamagedVectorsError) -> None:
        """Take note that the file, or the graph beside it, cannot be used any more."""
        with self._lock:
            if not self._is_sound:
                return
            self._is_sound = False
        self._damaged(error)
