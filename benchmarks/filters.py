"""Filters: what they cost a query, beside the same query without one; get, count and documents.

    python -m benchmarks.filters --data DIRECTORY [--kind mixture,passages] [--count 100000]

Everything runs in one process, by the embedded client; the variants of a table take turns, so that
the ratios hold on a busy machine, too. Each turn asks by another filter, since what matched one is
remembered until the next write. The effort is the least by which the query without a filter reaches
a recall of 0.99. `filtered_records` says what lies in the directory, and keeps it there.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import documents
from benchmarks.filtered_records import Given, Records, collection_in, dataset_in
from benchmarks.measure import least_effort, rounds_of, without_indexes
from benchmarks.record import (
    QUERY_CPU,
    QUERY_P50,
    RECALL,
    SHORT_ANSWERS,
    Recorder,
    print_run,
)

LIMIT: Final = 10
SHOAL: Final = "shoal embedded"
SCAN: Final = "shoal embedded, by scanning"
PYTHON: Final = "Python's `in` over texts in memory"
READ_P50: Final = "read p50"
UNFILTERED: Final = "none"
_NEEDLE: Final = 8
FIRST: Final = "`get`, the first 10 of a tenth"
ONE_VALUE: Final = "`count`, all by one value"
RANGE: Final = "`count`, all by a range of distinct values"
CONTAINS: Final = f"`$contains` of {_NEEDLE} characters, count"
_RECALL_TARGET: Final = 0.99
_SCANS: Final = 5

Timed = Callable[[int], Any]
Seconds = list[tuple[float, float]]


def _turns(variants: Mapping[str, Timed], rounds: int) -> dict[str, Seconds]:
    """Time each variant in turn, by wall and by CPU, after a round that is not counted."""
    times: dict[str, Seconds] = {name: [] for name in variants}
    gc.collect()
    for turn in range(-1, rounds):
        for name, run in variants.items():
            cpu, began = time.process_time(), time.perf_counter()
            run(max(turn, 0))
            seconds = time.perf_counter() - began
            if turn >= 0:
                times[name].append((seconds, time.process_time() - cpu))
    return times


def _medians(values: Sequence[float], scale: float) -> list[float]:
    return [scale * statistics.median(part) for part in rounds_of(values)]


class _Truth:
    """The true nearest of each query among the records that match."""

    def __init__(self, base: npt.NDArray[np.float32], asked: npt.NDArray[np.float32]) -> None:
        self._nearness = asked @ base.T
        self.count = len(base)

    def nearest(self, query: int, matching: npt.NDArray[np.bool_]) -> set[str]:
        rows = np.flatnonzero(matching)
        nearness = self._nearness[query, rows]
        count = min(LIMIT, len(rows))
        return {str(rows[place]) for place in np.argpartition(-nearness, count - 1)[:count]}


def _tune(collection: shoal.Collection, truth: _Truth, asked: npt.NDArray[np.float32]) -> None:
    """Let searches without a filter reach the recall."""
    everything = np.ones(truth.count, np.bool_)
    expected = [truth.nearest(query, everything) for query in range(len(asked))]

    def recall_of(ef: int) -> float:
        collection.modify(configuration={"hnsw": {"ef_search": ef}})
        found = collection.query(query_embeddings=asked, n_results=LIMIT, include=[])["ids"]
        hits = sum(len(near & set(ids)) for near, ids in zip(expected, found, strict=True))
        return hits / (LIMIT * len(asked))

    recall_of(least_effort(recall_of, _RECALL_TARGET)[0])


def queries(
    recorder: Recorder,
    name: str,
    collection: shoal.Collection,
    truth: _Truth,
    given: Mapping[str, Given],
    asked: npt.NDArray[np.float32],
    rounds: int,
    *,
    is_far: bool,
) -> None:
    """Record filtered queries beside the one without a filter."""
    everything = np.ones(truth.count, np.bool_)
    given = {UNFILTERED: Given(lambda _: None, lambda _: everything), **given}

    def found(where: dict[str, Any] | None, turn: int) -> list[str]:
        answer = collection.query(
            query_embeddings=asked[turn % len(asked)], n_results=LIMIT, where=where, include=[]
        )
        return answer["ids"][0]

    def asking(where: Callable[[int], dict[str, Any] | None]) -> Timed:
        return lambda turn: found(where(turn), turn)

    times = _turns({name: asking(where) for name, (where, _) in given.items()}, rounds)
    for filter_name, (where, matching) in given.items():
        hits = total = short = 0
        for turn in range(len(asked)):
            expected, ids = truth.nearest(turn, matching(turn)), found(where(turn), turn)
            hits += len(expected & set(ids))
            total += len(expected)
            short += len(ids) < len(expected)
        parameters: dict[str, Any] = {"filter": filter_name, "is_far": is_far}
        parameters["matches_percent"] = round(100 * float(matching(0).mean()), 4)
        wall, cpu = zip(*times[filter_name], strict=True)
        figures: dict[tuple[str, str], Sequence[float]] = {
            (QUERY_P50, "ms"): _medians(wall, 1e3),
            (QUERY_CPU, "us"): _medians(cpu, 1e6),
            (RECALL, ""): [hits / total],
            (SHORT_ANSWERS, ""): [short],
        }
        for (what, unit), values in figures.items():
            for value in values:
                recorder.add(name, SHOAL, what, unit, value, **parameters)


def reads(
    recorder: Recorder,
    name: str,
    collection: shoal.Collection,
    texts: Sequence[str],
    rounds: int,
) -> None:
    """Record what get, count and documents cost, beside a scan of the same."""
    pick = random.Random(4)
    longest = [text for text in texts[:8000] if len(text) > 200]
    needles = []
    for _ in range(rounds + 1):
        text = pick.choice(longest)
        at = pick.randrange(len(text) - _NEEDLE)
        needles.append(text[at : at + _NEEDLE])
    variants: dict[str, Timed] = {
        FIRST: lambda _: collection.get(where={"tenth": "tenth 3"}, limit=10, include=[]),
        "the same with metadata and documents": lambda _: collection.get(
            where={"tenth": "tenth 3"}, limit=10
        ),
        ONE_VALUE: lambda turn: collection.count(where={"same": {"$in": ["same", f"{turn}"]}}),
        RANGE: lambda turn: collection.count(where={"rank": {"$gte": -turn}}),
        CONTAINS: lambda turn: collection.count(where_document={"$contains": needles[turn]}),
        f"`$contains` of {_NEEDLE} characters, first 10": lambda turn: collection.get(
            where_document={"$contains": needles[turn]}, limit=10, include=[]
        ),
        "`$regex` with a literal, count": lambda turn: collection.count(
            where_document={"$regex": f"{_quoted(needles[turn])}\\w*"}
        ),
        PYTHON: lambda turn: sum(needles[turn] in text for text in texts),
    }
    times = _turns(variants, rounds)
    with without_indexes():
        scanned = _turns({what: variants[what] for what in (FIRST, ONE_VALUE, CONTAINS)}, _SCANS)
    for system, found in ((SHOAL, times), (SCAN, scanned)):
        for what, taken in found.items():
            of = PYTHON if what == PYTHON else system
            read = CONTAINS if what == PYTHON else what
            for value in _medians([wall for wall, _ in taken], 1e3):
                recorder.add(name, of, READ_P50, "ms", value, read=read)


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c == " " else "\\" + c for c in text if c.isascii())


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of the records; else a temporary one")
    parser.add_argument("--kind", default="mixture,passages")
    parser.add_argument("--count", type=int, default=100_000, help="records")
    parser.add_argument("--rounds", type=int, default=100, help="queries of each kind")
    parser.add_argument("--lines", default="even,worst,reads", help="which tables")
    parser.add_argument("--build", action="store_true", help="only build the records")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    recorder = Recorder("filters")
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        directory = options.data or Path(temporary)
        for kind in options.kind.split(","):
            records = Records(dataset_in(directory, kind, options.count))
            with shoal.PersistentClient(directory / f"{kind}-{options.count}") as client:
                collection = collection_in(client, records)
                if not options.build:
                    _measure(recorder, collection, records, options)
    print_run(recorder, options.output)


def _measure(
    recorder: Recorder,
    collection: shoal.Collection,
    records: Records,
    options: argparse.Namespace,
) -> None:
    dataset, rounds = records.dataset, options.rounds
    lines = options.lines.split(",")
    for line, given, asked in (
        ("even", records.even, records.queries),
        ("worst", records.worst, records.near_queries),
    ):
        if line in lines:
            truth = _Truth(dataset.base, asked)
            _tune(collection, truth, asked)
            is_far = line == "worst"
            queries(
                *(recorder, dataset.name, collection, truth, given, asked, rounds), is_far=is_far
            )
    if "reads" in lines:
        reads(recorder, dataset.name, collection, documents(len(dataset.base)), rounds)


if __name__ == "__main__":
    main()
