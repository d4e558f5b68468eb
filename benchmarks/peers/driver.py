"""Measures one store from a process of its own, as its users would: by its own client.

Runs in the environment of that store, so that it imports nothing of Shoal's but for the adapter of
Shoal itself. Takes one command a line, as JSON, and answers each with one line; the process that
gives the commands decides whose turn it is.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.peers.calling import Callers
from benchmarks.peers.store import Batch, Setting, Vectors, adapter, thousandth

COLLECTION: Final = "bench"
LOAD_BATCH: Final = 1_000
WRITE_BATCH: Final = 50
"""Records of one write while searches are timed."""

_RECALL_BATCH: Final = 64
_FILTERED_S: Final = 5.0
_FIRST_FOREIGN: Final = 100_000_000
"""Number of the first record that comes while searches are timed, and goes afterwards."""


class Driver:
    """One store, one data set.

    Args:
        store: ``module:Class`` below `benchmarks.peers.stores`.
        setting: What the store is made for.
        vectors: Directory with `base.npy`, `queries.npy` and `truth*.npy`.
    """

    def __init__(self, store: str, setting: dict[str, Any], vectors: str) -> None:
        self._store = adapter(store)(Setting(**setting))
        self._is_cosine = self._store.setting.metric == "cosine"
        self._files = Path(vectors)
        # Mapped, so that they count as nobody's memory until they are read.
        self._base: Vectors = np.load(self._files / "base.npy", mmap_mode="r")
        self._queries: Vectors = np.load(self._files / "queries.npy")
        self._serial = itertools.count()
        self._next_foreign = _FIRST_FOREIGN

    # Beginning and end

    def ready(self) -> dict[str, Any]:
        """Show that it has started."""
        return {}

    def prepare(self) -> dict[str, Any]:
        """Import the client."""
        return {"version": self._store.prepare()}

    def open(self, place: str) -> dict[str, Any]:
        """Connect to a server, or open a directory; tells whether all is there already."""
        self._store.open(place)
        found = self._store.use(COLLECTION)
        return {"is_loaded": found and self._store.count() == len(self._base), "is_there": found}

    def first(self, place: str) -> dict[str, Any]:
        """Open what is loaded, and give the first answer."""
        self._store.open(place)
        self._store.use(COLLECTION)
        found = self._store.numbers(self._store.find(self._queries[:1], **self._bare()))
        return {"found": len(found[0])}

    def _bare(self) -> dict[str, Any]:
        return {"bare": not self._store.holds_records}

    def close(self) -> dict[str, Any]:
        """Let go of everything."""
        self._store.close()
        return {}

    # Writing

    def load(self) -> dict[str, Any]:
        """Write everything into the collection that searches are measured in."""
        return self._write_all(COLLECTION)

    def ingest(self) -> dict[str, Any]:
        """The same into another collection, which is dropped again."""
        times = self._write_all(f"ingest_{next(self._serial)}")
        self._store.drop()
        self._store.use(COLLECTION)
        return times

    def drop(self) -> dict[str, Any]:
        """Drop what an earlier run left unfinished."""
        self._store.drop()
        return {}

    def _write_all(self, name: str) -> dict[str, Any]:
        base = np.asarray(self._base)  # read once, outside of what is timed
        batches = [Batch(n, base[n : n + LOAD_BATCH]) for n in range(0, len(base), LOAD_BATCH)]
        self._store.create(name)
        began = time.perf_counter()
        for batch in batches:
            self._store.write(batch)
        written_s = time.perf_counter() - began
        watched_s = self._store.settle()
        return {
            "written_s": written_s,
            "indexed_s": time.perf_counter() - began - watched_s,
            "count": self._store.count(),
        }

    def remove_written(self) -> dict[str, Any]:
        """Remove what came while searches were timed."""
        for first in range(_FIRST_FOREIGN, self._next_foreign, LOAD_BATCH):
            self._store.remove(range(first, min(first + LOAD_BATCH, self._next_foreign)))
        return {"count": self._store.count()}

    # Searching

    def tune(self, effort: int) -> dict[str, Any]:
        """Set how far searches go."""
        self._store.tune(effort)
        return {}

    def ask_all(self) -> dict[str, Any]:
        """Ask every query once, one by one."""
        for query in range(len(self._queries)):
            self._store.find(self._queries[query : query + 1], **self._bare())
        return {}

    def recall(self, below: int | None = None) -> dict[str, Any]:
        """The share of the true ten that is found, and of answers with too few.

        What is found counts if it matches, and lies no farther than the true tenth: among equally
        near ones, a store may choose. Under a filter queries are asked one by one, as many as fit
        into some seconds: for some stores a filter costs seconds itself.
        """
        truth = np.load(self._files / ("truth.npy" if below is None else f"truth-{below}.npy"))
        wanted = truth.shape[1]
        size = _RECALL_BATCH if below is None else 1
        until = time.monotonic() + (math.inf if below is None else _FILTERED_S)
        hits = short = asked = 0
        while asked < len(self._queries) and time.monotonic() < until:
            part = self._queries[asked : asked + size]
            found = self._store.numbers(self._store.find(part, below=below, **self._bare()))
            for query, own, true in zip(part, found, truth[asked : asked + size], strict=True):
                limit = self._distances(query, true).max()
                rows = sorted({n for n in own if below is None or thousandth(n) < below})
                near = self._distances(query, np.asarray(rows, dtype=np.int64)) <= limit
                hits += min(int(near.sum()), wanted)
                short += len(rows) < wanted
            asked += len(part)
        return {"recall": hits / (wanted * asked), "short": short / asked, "asked": asked}

    def _distances(self, query: Vectors, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Exact ones, rounded so that equally far ones are equal."""
        vectors = np.asarray(self._base[rows], dtype=np.float64)
        wide = query.astype(np.float64)
        if self._is_cosine:
            return np.asarray(np.round(1 - vectors @ wide, 7))
        return np.asarray(np.round(((vectors - wide) ** 2).sum(axis=1), 3))

    def search(
        self,
        callers: int,
        batch: int,
        seconds: float,
        servers: Sequence[int],
        bare: bool = False,
        below: int | None = None,
    ) -> dict[str, Any]:
        """Query from several threads at once, each one call after another.

        Args:
            callers: Threads.
            batch: Queries of a call.
            seconds: How long.
            servers: Processes of the server, whose CPU time counts too.
            bare: Whether to ask for IDs and distances alone.
            below: Only records that match.
        """
        last = len(self._queries) - batch + 1

        def call(number: int) -> None:
            first = number * batch % last
            self._store.find(self._queries[first : first + batch], below=below, bare=bare)

        answer = Callers(call, callers, servers).run(seconds)
        answer["rate"] *= batch
        for key in ("client_cpu_s", "server_cpu_s"):
            answer[key] /= batch
        return answer

    def mixed(self, seconds: float, rate: float, servers: Sequence[int]) -> dict[str, Any]:
        """Query with one caller while another thread writes so many records a second."""
        made = np.random.default_rng(next(self._serial))
        source = np.asarray(self._base[: int(rate * seconds) + WRITE_BATCH], dtype=np.float32)
        vectors = source + made.standard_normal(source.shape).astype(np.float32) * source.std() / 10
        if self._is_cosine:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        stop = threading.Event()
        written = 0
        failures: list[str] = []

        def write() -> None:
            nonlocal written
            began = time.perf_counter()
            for first in range(0, len(vectors), WRITE_BATCH):
                if stop.wait(max(0.0, began + first / rate - time.perf_counter())):
                    return
                part = vectors[first : first + WRITE_BATCH]
                try:
                    self._store.write(Batch(self._next_foreign, part))
                except Exception as error:  # noqa: BLE001 - told to who compares
                    failures.append(repr(error))
                    return
                self._next_foreign += len(part)
                written += len(part)

        writer = threading.Thread(target=write)
        began = time.perf_counter()
        writer.start()
        try:
            answer = self.search(callers=1, batch=1, seconds=seconds, servers=servers)
        finally:
            stop.set()
            writer.join()
        elapsed_s = time.perf_counter() - began
        if failures:
            raise RuntimeError(failures[0])
        return {**answer, "write_rate": written / elapsed_s}


def _answers() -> IO[str]:
    """Keep standard output for answers: what libraries print, also in C, goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Answer commands until there are none."""
    answers = _answers()
    driver = Driver(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
    for line in sys.stdin:
        command = json.loads(line)
        work: Callable[..., dict[str, Any]] = getattr(driver, command.pop("do"))
        try:
            answer = work(**command)
        except Exception as error:  # noqa: BLE001 - told to who gave the command
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    # Threads and children of some clients would keep it from ending.
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
