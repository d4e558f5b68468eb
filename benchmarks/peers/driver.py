"""Measures one store from a process of its own, as its users would: by its own Python client.

Runs in the environment of that store, so that it imports nothing of Shoal's but for Shoal itself.
Takes one command a line, as JSON, and answers each with one line; the process that gives the
commands decides whose turn it is.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
LOAD_BATCH = 1_000
_BUILD_TIMEOUT_S = 900.0
_SETTLED_POLLS = 30


def records(first: int, last: int) -> dict[str, Any]:
    """The text and metadata of some records, alike in every store."""
    numbers = range(first, last)
    return {
        "ids": [str(n) for n in numbers],
        "documents": [f"The document of record {n}, which says little. " * 3 for n in numbers],
        "metadatas": [{"number": n, "group": f"g{n % 50}"} for n in numbers],
    }


class RawUsearch:
    """The ceiling: USearch itself, bfloat16, inner product of normalised vectors, two threads.

    Has as much of a store's client, and of its one collection, as the driver uses.

    Args:
        directory: Keeps the index.
        base: The vectors.
    """

    name = "bench"

    def __init__(self, directory: Path, base: Any) -> None:
        index = importlib.import_module("usearch.index").Index
        self._index: Any = index(
            ndim=base.shape[1], metric="ip", dtype="bf16", connectivity=16, expansion_add=100
        )
        path = directory.with_suffix(".usearch")
        if path.exists():
            self._index.load(str(path))
        else:
            self._index.add(np.arange(len(base), dtype=np.uint64), base, threads=1)
            self._index.save(str(path))

    def list_collections(self) -> list[Any]:
        """What it holds: itself."""
        return [self]

    def count(self) -> int:
        """How many vectors it has."""
        return len(self._index)

    def modify(self, configuration: dict[str, Any]) -> None:
        """Set how far a search goes."""
        self._index.expansion_search = configuration["hnsw"]["ef_search"]

    def query(self, query_embeddings: Any, n_results: int, **_: Any) -> dict[str, Any]:
        """Give the keys of the nearest."""
        keys = self._index.search(query_embeddings, n_results, threads=2).keys
        return {"ids": np.atleast_2d(keys)}


class Driver:
    """One store, one data set.

    Args:
        store: ``shoal``, ``chroma`` or ``usearch``.
        place: ``port:N`` of a server, or the directory of an embedded one.
        vectors: File with the arrays `base`, `queries` and `truth`.
    """

    def __init__(self, store: str, place: str, vectors: str) -> None:
        arrays = np.load(vectors)
        self.base, self.queries, self.truth = (arrays[k] for k in ("base", "queries", "truth"))
        self._is_shoal = store == "shoal"
        self._collection: Any = None
        self._numbers = itertools.count()
        if store == "usearch":
            self._client: Any = RawUsearch(Path(place), self.base)
            return
        port = int(place.removeprefix("port:")) if place.startswith("port:") else None
        if self._is_shoal:
            shoal = importlib.import_module("shoal")
            self._client = (
                shoal.PersistentClient(place) if port is None else shoal.Client(port=port)
            )
        else:
            chroma = importlib.import_module("chromadb")
            settings = chroma.Settings(anonymized_telemetry=False)
            self._client = (
                chroma.PersistentClient(place, settings=settings)
                if port is None
                else chroma.HttpClient("127.0.0.1", port, settings=settings)
            )

    def _create(self, name: str, shards: int, ef_search: int) -> Any:
        hnsw: dict[str, Any] = {
            "space": "cosine",
            "ef_construction": 100,
            "max_neighbors": 16,
            "ef_search": ef_search,
        }
        if self._is_shoal:
            hnsw["shards"] = shards
        return self._client.create_collection(
            name, configuration={"hnsw": hnsw}, embedding_function=None
        )

    def _write(self, collection: Any) -> None:
        for first in range(0, len(self.base), LOAD_BATCH):
            last = min(first + LOAD_BATCH, len(self.base))
            collection.add(embeddings=self.base[first:last], **records(first, last))

    def _find(self, collection: Any, queries: Any) -> list[list[str]]:
        found: list[list[str]] = collection.query(query_embeddings=queries, n_results=10)["ids"]
        return found

    # Commands

    def load(self, shards: int, ef_search: int) -> dict[str, Any]:
        """Write everything, and wait until it is in graphs; or find it there."""
        found = [c for c in self._client.list_collections() if c.name == "bench"]
        if found and found[0].count() == len(self.base):
            self._collection = found[0]
            self._wait_until_built()
            return {"written_s": 0.0, "built_s": 0.0}
        self._collection = self._create("bench", shards, ef_search)
        began = time.perf_counter()
        self._write(self._collection)
        written_s = time.perf_counter() - began
        self._wait_until_built()
        return {"written_s": written_s, "built_s": time.perf_counter() - began}

    def _wait_until_built(self) -> None:
        """Chroma builds its graph while it writes; Shoal behind the acknowledgement."""
        if not self._is_shoal:
            return
        deadline = time.monotonic() + _BUILD_TIMEOUT_S
        count, same = len(self.base), 0
        while count and same < _SETTLED_POLLS and time.monotonic() < deadline:
            time.sleep(0.1)
            answer = self._collection.query(
                query_embeddings=self.queries[0], n_results=1, explain=True
            )
            shards = answer["plan"]["shards"]
            before, count = count, sum(s["fresh_count"] for s in shards)
            if any(s["method"] != "graph" for s in shards):
                count = len(self.base)
            same = same + 1 if count == before and count < len(self.base) // 5 else 0

    def tune(self, ef_search: int) -> dict[str, Any]:
        """Set how far a search goes, and give the recall that comes of it.

        Shoal's alone: Chroma takes such a change, and goes on as before.
        """
        self._collection.modify(configuration={"hnsw": {"ef_search": ef_search}})
        return self.recall()

    def recall(self) -> dict[str, Any]:
        """The share of the true ten that is found."""
        hits = 0
        for first in range(0, len(self.queries), BATCH):
            part = self.queries[first : first + BATCH]
            for found, true in zip(
                self._find(self._collection, part), self.truth[first : first + BATCH], strict=True
            ):
                hits += len(set(map(int, found)) & set(true.tolist()))
        return {"recall": hits / (10 * len(self.queries))}

    def search(self, callers: int, batch: int, seconds: float, bare: bool) -> dict[str, Any]:
        """Query from several threads at once, each one call after another.

        Args:
            callers: Threads.
            batch: Queries of a call.
            seconds: How long.
            bare: Whether to ask for IDs and distances alone.
        """
        include = {"include": ["distances"]} if bare else {}
        times: list[list[float]] = [[] for _ in range(callers)]
        failures: list[str] = []
        end = time.perf_counter() + seconds
        cpu = time.process_time()

        def call(caller: int) -> None:
            for first in itertools.count(caller * batch, callers * batch):
                begin = first % (len(self.queries) - batch + 1)
                began = time.perf_counter()
                if began > end:
                    return
                part = self.queries[begin : begin + batch]
                self._collection.query(query_embeddings=part, n_results=10, **include)
                times[caller].append(time.perf_counter() - began)

        def guarded(caller: int) -> None:
            try:
                call(caller)
            except Exception as error:  # noqa: BLE001 - told to who compares
                failures.append(repr(error))

        began = time.perf_counter()
        threads = [threading.Thread(target=guarded, args=(c,)) for c in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed_s = time.perf_counter() - began
        if failures:
            raise RuntimeError(failures[0])
        ordered = sorted(itertools.chain.from_iterable(times))
        return {
            "calls": len(ordered),
            "rate": len(ordered) * batch / elapsed_s,
            "p50_s": ordered[len(ordered) // 2],
            "p99_s": ordered[int(len(ordered) * 0.99)],
            "client_cpu_s": time.process_time() - cpu,
        }

    def ingest(self) -> dict[str, Any]:
        """Write everything into a new collection, until the last record is found by a search."""
        name = f"ingest-{next(self._numbers)}"
        collection = self._create(name, 1, 100)
        began = time.perf_counter()
        self._write(collection)
        last = len(self.base) - 1
        # Among several: records may lie at the same place.
        while str(last) not in self._find(collection, self.base[last : last + 1])[0]:
            time.sleep(0.001)
        elapsed_s = time.perf_counter() - began
        self._client.delete_collection(name)
        return {"rate": len(self.base) / elapsed_s}


def main() -> None:
    """Answer commands until there are none."""
    # What a library prints must not stand between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    driver = Driver(*sys.argv[1:])
    for line in sys.stdin:
        command = json.loads(line)
        work: Callable[..., dict[str, Any]] = getattr(driver, command.pop("do"))
        try:
            answer = work(**command)
        except Exception as error:  # noqa: BLE001 - told to who gave the command
            answer = {"error": repr(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
