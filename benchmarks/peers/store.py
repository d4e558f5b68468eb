"""What the driver asks of a store: one adapter for each, in `stores/`.

An adapter calls the store as its users would, by its own client and with the settings that its
makers recommend. It is imported in the environment of that store, and therefore takes nothing of
Shoal's; a client that is not installed is an ImportError of `prepare`.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

NEAREST: Final = 10
"""Matches that every query wants."""

THREADS: Final = os.cpu_count() or 1
CONNECTIVITY: Final = 16
EXPANSION: Final = 100
"""M and ef_construction of every graph, so that stores differ in what they make of it."""

SHARES: Final = 1_000

Vectors = npt.NDArray[np.float32]


def thousandth(number: int) -> int:
    """The field that filters ask for: less than `n` are `n` thousandths of all records.

    389 and 1,000 have no common factor, so that neighbours in the order of writing differ.
    """
    return number * 389 % SHARES


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records: a vector, a text and three fields of metadata, alike in every store.

    Attributes:
        first: Number of the first; the others follow it.
        vectors: One for each.
    """

    first: int
    vectors: Vectors

    @property
    def numbers(self) -> range:
        """Their numbers, which are their IDs too."""
        return range(self.first, self.first + len(self.vectors))

    @property
    def ids(self) -> list[str]:
        """The same as texts."""
        return [str(n) for n in self.numbers]

    @property
    def texts(self) -> list[str]:
        """What they say."""
        return [f"The document of record {n}, which says little. " * 3 for n in self.numbers]

    @property
    def metadatas(self) -> list[dict[str, Any]]:
        """Their fields."""
        return [
            {"number": n, "group": f"g{n % 50}", "thousandth": thousandth(n)} for n in self.numbers
        ]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a store is made for.

    Attributes:
        dimension: Of the vectors.
        metric: ``cosine`` or ``l2``.
        shards: Of a store that divides its collections.
    """

    dimension: int
    metric: str
    shards: int = 1


class Store(ABC):
    """A store under measurement, with one collection at a time.

    Args:
        setting: What it is made for.
    """

    package: ClassVar[str]
    """Whose version is recorded."""

    modules: ClassVar[Sequence[str]]
    """That are imported before anything is timed."""

    holds_records: ClassVar[bool] = True
    """Whether texts, metadata and filters are there, and not vectors alone."""

    tunes_on_open: ClassVar[bool] = False
    """Whether another effort counts only when the store is opened again."""

    batches: ClassVar[str]
    """How several queries are asked at once."""

    acknowledged: ClassVar[str]
    """What is true when a write returns."""

    settings: ClassVar[str]
    """How it is set, in a few words."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def prepare(self) -> str:
        """Import the client; gives the version."""
        for module in self.modules:
            importlib.import_module(module)
        return version(self.package)

    @abstractmethod
    def open(self, place: str) -> None:
        """Connect: `place` is ``port:N`` of a server, or a directory."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    @abstractmethod
    def use(self, name: str) -> bool:
        """Use the collection of this name; tells whether there is one."""

    @abstractmethod
    def create(self, name: str) -> None:
        """Make an empty collection, and use it."""

    @abstractmethod
    def drop(self) -> None:
        """Delete the collection that is used."""

    @abstractmethod
    def count(self) -> int:
        """How many records it has."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write records, and return when that is acknowledged."""

    @abstractmethod
    def settle(self) -> float:
        """Return when all that was written is indexed, and nothing is left to be optimized.

        Gives how long of that it only watched whether there is more to come.
        """

    @abstractmethod
    def remove(self, numbers: range) -> None:
        """Delete records."""

    @abstractmethod
    def tune(self, effort: int) -> None:
        """Set how far searches go."""

    @abstractmethod
    def find(self, queries: Vectors, *, below: int | None = None, bare: bool = False) -> Any:
        """Give the nearest ten of each query, as the client gives them: this is what is timed.

        Args:
            queries: Shape ``(q, d)``; one is asked as the client asks one.
            below: Only records whose `thousandth` is less.
            bare: Give IDs and distances alone, and not texts and metadata too.
        """

    @abstractmethod
    def numbers(self, found: Any) -> list[list[int]]:
        """Give the numbers of the records in an answer of `find`, a list for each query."""


def adapter(name: str) -> type[Store]:
    """Give a store's adapter.

    Args:
        name: ``module:Class`` below `benchmarks.peers.stores`.
    """
    module, _, own = name.partition(":")
    found: type[Store] = getattr(importlib.import_module(f"benchmarks.peers.stores.{module}"), own)
    return found


def directory_of(place: str, name: str) -> Path:
    """Where a store that is a directory for each collection keeps this one."""
    return Path(place) / name


def integers(ids: Iterable[Iterable[Any]]) -> list[list[int]]:
    """IDs as numbers."""
    return [[int(i) for i in row] for row in ids]
