"""Filters: what they cost a query, beside the same query without one; get, count and documents.

    python -m benchmarks.filters --data DIRECTORY [--kind mixture|passages] [--count 100000] --build
    python -m benchmarks.filters --data DIRECTORY [--kind mixture|passages] [--rounds 100]

Everything runs in one process, by the embedded client; the variants of a table take turns, so that
the ratios hold on a busy machine, too. Each turn asks by another filter, since what matched one is
remembered until the next write. `filtered_records` says what lies in the directory.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import documents
from benchmarks.filtered_records import Given, Records, collection_in, dataset_in
from benchmarks.measure import percentile, without_indexes

LIMIT: Final = 10
_NEEDLE: Final = 8

Timed = Callable[[int], Any]


def _turns(variants: Mapping[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Time each variant in turn, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    gc.collect()
    for turn in range(-1, rounds):
        for name, run in variants.items():
            began = time.perf_counter()
            run(max(turn, 0))
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


class _Truth:
    """The true nearest of each query among the records that match."""

    def __init__(self, base: npt.NDArray[np.float32], asked: npt.NDArray[np.float32]) -> None:
        self._nearness = asked @ base.T

    def nearest(self, query: int, matching: npt.NDArray[np.bool_]) -> set[str]:
        rows = np.flatnonzero(matching)
        nearness = self._nearness[query, rows]
        count = min(LIMIT, len(rows))
        return {str(rows[place]) for place in np.argpartition(-nearness, count - 1)[:count]}


def queries(
    collection: shoal.Collection,
    base: npt.NDArray[np.float32],
    given: Mapping[str, Given],
    asked: npt.NDArray[np.float32],
    rounds: int,
) -> None:
    """Print a table of filtered queries beside the one without a filter."""
    truth = _Truth(base, asked)
    everything = np.ones(len(base), np.bool_)
    given = {"no filter": Given(lambda _: None, lambda _: everything), **given}
    answers: dict[str, list[tuple[int, Any]]] = {name: [] for name in given}
    variants: dict[str, Timed] = {}
    for name, (where, _) in given.items():

        def run(turn: int, name: str = name, where: Callable[..., Any] = where) -> None:
            found = collection.query(
                query_embeddings=asked[turn % len(asked)],
                n_results=LIMIT,
                where=where(turn),
                include=[],
                explain=True,
            )
            answers[name].append((turn, found))

        variants[name] = run
    times = _turns(variants, rounds)
    unfiltered = statistics.median(times["no filter"])
    print("| Filter | plan | p50 ms | p95 ms | ratio of p50 | recall@10 | short answers |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, matching) in given.items():
        hits = total = short = 0
        plans: set[str] = set()
        for turn, found in answers[name][1:]:
            expected = truth.nearest(turn % len(asked), matching(turn))
            hits += len(expected & set(found["ids"][0]))
            total += len(expected)
            short += len(found["ids"][0]) < len(expected)
            plans.update(shard["method"] for shard in found["plan"]["shards"])
        p50 = statistics.median(times[name])
        print(
            f"| {name} | {', '.join(sorted(plans))} | {p50 * 1e3:.2f} | "
            f"{percentile(times[name], 0.95) * 1e3:.2f} | {p50 / unfiltered:.2f} | "
            f"{hits / total:.4f} | {short} |",
            flush=True,
        )


def reads(collection: shoal.Collection, texts: Sequence[str], rounds: int) -> None:
    """Print what get, count and documents cost, beside a scan of the same."""
    pick = random.Random(4)
    longest = [text for text in texts[:8000] if len(text) > 200]
    needles = []
    for _ in range(rounds + 1):
        text = pick.choice(longest)
        at = pick.randrange(len(text) - _NEEDLE)
        needles.append(text[at : at + _NEEDLE])
    first, one_value = "`get`, the first 10 of a tenth", "`count`, all by one value"
    contains = f"`$contains` of {_NEEDLE} characters, count"
    variants: dict[str, Timed] = {
        first: lambda _: collection.get(where={"tenth": "tenth 3"}, limit=10, include=[]),
        "the same with metadata and documents": lambda _: collection.get(
            where={"tenth": "tenth 3"}, limit=10
        ),
        one_value: lambda turn: collection.count(where={"same": {"$in": ["same", f"{turn}"]}}),
        "`count`, all by a range of distinct values": lambda turn: collection.count(
            where={"rank": {"$gte": -turn}}
        ),
        contains: lambda turn: collection.count(where_document={"$contains": needles[turn]}),
        f"`$contains` of {_NEEDLE} characters, first 10": lambda turn: collection.get(
            where_document={"$contains": needles[turn]}, limit=10, include=[]
        ),
        "`$regex` with a literal, count": lambda turn: collection.count(
            where_document={"$regex": f"{_quoted(needles[turn])}\\w*"}
        ),
        "the same substrings by Python's `in` over the texts in memory": lambda turn: sum(
            needles[turn] in text for text in texts
        ),
    }
    times = _turns(variants, rounds)
    with without_indexes():
        scans = {f"{name}, by scanning": variants[name] for name in (first, one_value, contains)}
        times |= _turns(scans, max(3, rounds // 20))
    print("| Read | p50 ms | p95 ms |\n|---|---|---|")
    for name, taken in times.items():
        print(
            f"| {name} | {statistics.median(taken) * 1e3:.2f} | "
            f"{percentile(taken, 0.95) * 1e3:.2f} |"
        )


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c == " " else "\\" + c for c in text if c.isascii())


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of the records")
    parser.add_argument("--kind", choices=("mixture", "passages"), default="mixture")
    parser.add_argument("--count", type=int, default=100_000, help="records")
    parser.add_argument("--rounds", type=int, default=100, help="queries of each kind")
    parser.add_argument("--lines", default="even,worst,reads", help="which tables")
    parser.add_argument("--build", action="store_true", help="only build the records")
    options = parser.parse_args()
    records = Records(dataset_in(options.data, options.kind, options.count))
    path = options.data / f"{options.kind}-{options.count}"
    with shoal.PersistentClient(path) as client:
        collection = collection_in(client, records)
        if options.build:
            return
        base = records.dataset.base
        if "even" in options.lines:
            print(f"\n## Queries, {records.dataset.name}, {LIMIT} results\n")
            queries(collection, base, records.even, records.queries, options.rounds)
        if "worst" in options.lines:
            print("\n## Queries whose matches are the farthest\n")
            queries(collection, base, records.worst, records.near_queries, options.rounds)
        if "reads" in options.lines:
            print(f"\n## Reads of {options.count:,} records\n")
            reads(collection, documents(options.count), options.rounds)


if __name__ == "__main__":
    main()
