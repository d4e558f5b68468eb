"""One data set: the systems that take part, whose turn it is, and where figures go.

A system that fails is ended, named as skipped with what it said, and the others go on. A part keeps
its figures until all its rounds are done, so that none is compared by fewer rounds than another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.data import Dataset
from benchmarks.peers.store import thousandth
from benchmarks.peers.systems import Kind, StoreFailure, System
from benchmarks.record import Parameter, Recorder

WARM_S: Final = 0.3

Figures = list[tuple[str, str, float, dict[str, Parameter]]]
"""Of one system: what, unit, value, parameters."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and how long.

    Attributes:
        rounds: Of everything that is interleaved.
        seconds: Of one measurement.
        ingest_rounds: Of writing everything.
        recalls: At which recalls searches are compared.
        write_rate: Records a second that come while searches are timed.
        parts: Which parts of the protocol.
    """

    rounds: int
    seconds: float
    ingest_rounds: int
    recalls: Sequence[float]
    write_rate: float
    parts: frozenset[str]


class Bench:
    """The systems that are still measured on a data set.

    Args:
        dataset: Which.
        home: For the data of all systems.
        options: What is measured.
        recorder: Takes the figures.
        say: Takes a line about what goes on.
    """

    def __init__(
        self,
        dataset: Dataset,
        home: Path,
        options: Options,
        recorder: Recorder,
        say: Callable[[str], None],
    ) -> None:
        self.dataset = dataset
        self.options = options
        self.say = say
        self.systems: list[System] = []
        self.recorder = recorder
        self._home = home
        self._vectors = home / "vectors"

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for system in self.systems:
            system.stop()

    @property
    def count(self) -> int:
        """Vectors of the data set."""
        return len(self.dataset.base)

    def take(self, kinds: Sequence[Kind], peers: Path) -> None:
        """Let systems take part; those that are not installed are skipped."""
        self._write_vectors()
        setting = {"dimension": self.dataset.base.shape[1], "metric": self.dataset.metric}
        for kind in kinds:
            directory = self._home / kind.name.replace(" ", "-").replace(",", "")
            self.systems.append(System(kind, directory, self._vectors, setting, peers))

    def _write_vectors(self) -> None:
        """Files for the drivers, also of the true neighbours among those that match a filter."""
        self._vectors.mkdir(parents=True, exist_ok=True)
        np.save(self._vectors / "base.npy", self.dataset.base)
        np.save(self._vectors / "queries.npy", self.dataset.queries)
        np.save(self._vectors / "truth.npy", self.dataset.truth)

    def write_truth(self, below: int) -> None:
        """A file of the true neighbours among the records whose `thousandth` is less."""
        rows = np.asarray([n for n in range(self.count) if thousandth(n) < below])
        np.save(self._vectors / f"truth-{below}.npy", self.dataset.truth_among(rows))

    def each(self, turn: int = 0) -> Iterator[System]:
        """The systems, back and forth, so that none always comes after the same other."""
        yield from list(self.systems if turn % 2 == 0 else self.systems[::-1])

    def try_each(self, work: Callable[[System], None], turn: int = 0) -> None:
        """Have every system do something; those that fail take no further part."""
        for system in self.each(turn):
            with self._skipping(system):
                work(system)

    @contextlib.contextmanager
    def _skipping(self, system: System) -> Iterator[None]:
        try:
            yield
        except StoreFailure as failure:
            reason = f"{failure}"
            self.say(f"{system.name} takes no further part: {reason}")
            self.recorder.skip(f"{system.name}, {self.dataset.name}", reason)
            self.systems.remove(system)
            with contextlib.suppress(StoreFailure):
                system.stop()

    def rounds(
        self,
        work: Callable[[System, float], Figures],
        among: Callable[[System], bool] = lambda _: True,
        seconds: float | None = None,
    ) -> None:
        """Interleave: a short round that does not count, then the others, each system in turn.

        Args:
            work: Measures a system for so many seconds.
            among: Which systems.
            seconds: If they are not those of the options.
        """
        kept: dict[str, list[Figures]] = {}
        long = self.options.seconds if seconds is None else seconds

        def warm(system: System) -> None:
            if among(system):
                work(system, WARM_S)

        def one(system: System) -> None:
            if among(system):
                kept.setdefault(system.name, []).append(work(system, long))

        self.try_each(warm)
        for turn in range(self.options.rounds):
            self.try_each(one, turn)
        for system in self.systems:
            for figures in kept.get(system.name, []):
                self.keep(system, figures)

    def keep(self, system: System, figures: Figures) -> None:
        """Record figures of a system."""
        self.recorder.version(system.store.package, system.version)
        for what, unit, value, parameters in figures:
            self.recorder.add(self.dataset.name, system.name, what, unit, value, **parameters)
