"""Filters: what they cost a query, beside the same query without one.

    python -m benchmarks.filters [--count 100000] [--rounds 60] [--ingest 20000]

Everything runs in one process, by the embedded client; the variants of a table take turns, so that
the ratios hold on a busy machine, too. The vectors are a Gaussian mixture, the documents real texts
with their sentences in another order, the metadata made so that each share of the records matches.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import PASSAGES, Dataset, mixture
from benchmarks.measure import percentile
from benchmarks.search import wait_until_built
from shoal_worker.indexing import Indexing

BATCH = 1_000
LIMIT = 10
_INDEXED_TIMEOUT_S = 1_200.0

Timed = Callable[[int], Any]


def documents(count: int) -> list[str]:
    """Real texts, each time with their sentences in another order."""
    with gzip.open(PASSAGES / "passages.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    shuffle = random.Random(3)
    made = []
    for n in range(count):
        sentences = texts[n % len(texts)].split(". ")
        shuffle.shuffle(sentences)
        made.append(". ".join(sentences))
    return made


class Filters:
    """Metadata of `count` records, and filters with what they match."""

    def __init__(self, dataset: Dataset) -> None:
        count = len(dataset.base)
        self.rank = np.random.default_rng(5).permutation(count)
        # The worst case: what matches lies as far from the queries as can be.
        self.direction = dataset.queries[0]
        nearness = dataset.base @ self.direction
        self.far = np.argsort(np.argsort(nearness))
        self.near_queries = dataset.base[np.argsort(-nearness)[:100]]
        shares = (0.9, 0.5, 0.1, 0.01, 0.001, 0.0001)
        self.even: dict[str, tuple[dict[str, Any], npt.NDArray[np.bool_]]] = {}
        self.worst: dict[str, tuple[dict[str, Any], npt.NDArray[np.bool_]]] = {}
        for share in shares:
            end = int(share * count)
            self.even[f"{share:.2%} of the records, a range"] = (
                {"rank": {"$lt": end}},
                self.rank < end,
            )
            self.worst[f"{share:.2%}, the farthest"] = ({"far": {"$lt": end}}, self.far < end)
        for parts, name in ((10, "tenth"), (100, "hundredth"), (1000, "thousandth")):
            wanted = f"{name} 3"
            self.even[f"1 / {parts} of the records, a string"] = (
                {name: wanted},
                self.rank % parts == 3,
            )
        self.even["9 / 10 of the records, a complement"] = (
            {"tenth": {"$ne": "tenth 3"}},
            self.rank % 10 != 3,
        )

    def metadata(self, n: int) -> dict[str, Any]:
        """Give the metadata of a record."""
        rank = int(self.rank[n])
        return {
            "rank": rank,
            "far": int(self.far[n]),
            "tenth": f"tenth {rank % 10}",
            "hundredth": f"hundredth {rank % 100}",
            "thousandth": f"thousandth {rank % 1000}",
            "same": "same",
        }


def _loaded(
    client: shoal.Client, dataset: Dataset, filters: Filters, texts: Sequence[str]
) -> shoal.Collection:
    collection = client.create_collection(
        "filters", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    for first in range(0, len(dataset.base), BATCH):
        numbers = range(first, min(first + BATCH, len(dataset.base)))
        collection.add(
            ids=[str(n) for n in numbers],
            embeddings=dataset.base[numbers.start : numbers.stop],
            metadatas=[filters.metadata(n) for n in numbers],
            documents=[texts[n] for n in numbers],
        )
    wait_until_indexed(collection)
    wait_until_built(collection)
    return collection


def wait_until_indexed(collection: shoal.Collection) -> None:
    """Wait until no filter has to look at a record."""
    probe = np.ones(collection.dimension or 1, np.float32)
    deadline = time.monotonic() + _INDEXED_TIMEOUT_S
    while time.monotonic() < deadline:
        answer: Any = collection.query(
            query_embeddings=probe,
            n_results=1,
            where={"no such field": "x"},
            where_document={"$contains": "\x01\x02\x03\x04"},
            explain=True,
        )
        if not sum(shard["examined_count"] for shard in answer["plan"]["shards"]):
            return
        time.sleep(0.05)
    raise TimeoutError("the indexes have not taken everything in")


def _turns(variants: Mapping[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Time each variant in turn, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-1, rounds):
        for name, run in variants.items():
            began = time.perf_counter()
            run(max(turn, 0))
            if turn >= 0:
                times[name].append(time.perf_counter() - began)
    return times


def _true_nearest(
    dataset: Dataset, query: npt.NDArray[np.float32], matching: npt.NDArray[np.bool_]
) -> set[str]:
    rows = np.flatnonzero(matching)
    nearness = dataset.base[rows] @ query
    count = min(LIMIT, len(rows))
    return {str(rows[place]) for place in np.argpartition(-nearness, count - 1)[:count]}


def queries(
    collection: shoal.Collection,
    dataset: Dataset,
    given: Mapping[str, tuple[dict[str, Any], npt.NDArray[np.bool_]]],
    asked: npt.NDArray[np.float32],
    rounds: int,
) -> None:
    """Print a table of filtered queries beside the one without a filter."""
    answers: dict[str, list[Any]] = {name: [] for name in given}
    variants: dict[str, Timed] = {
        "no filter": lambda turn: collection.query(
            query_embeddings=asked[turn % len(asked)], n_results=LIMIT, include=[]
        )
    }
    for name, (where, _) in given.items():

        def run(turn: int, name: str = name, where: dict[str, Any] = where) -> None:
            found = collection.query(
                query_embeddings=asked[turn % len(asked)],
                n_results=LIMIT,
                where=where,
                include=[],
                explain=True,
            )
            answers[name].append((turn, found))

        variants[name] = run
    times = _turns(variants, rounds)
    unfiltered = statistics.median(times["no filter"])
    print("| Filter | plan | p50 ms | p95 ms | ratio of p50 | recall@10 | short answers |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| no filter | graph | {unfiltered * 1e3:.2f} | "
        f"{percentile(times['no filter'], 0.95) * 1e3:.2f} | 1 | | |"
    )
    for name, (_, matching) in given.items():
        hits = total = short = 0
        plans: set[str] = set()
        for turn, found in answers[name][1:]:
            truth = _true_nearest(dataset, asked[turn % len(asked)], matching)
            hits += len(truth & set(found["ids"][0]))
            total += len(truth)
            short += len(found["ids"][0]) < len(truth)
            plans.update(shard["method"] for shard in found["plan"]["shards"])
        p50 = statistics.median(times[name])
        print(
            f"| {name} | {', '.join(sorted(plans))} | {p50 * 1e3:.2f} | "
            f"{percentile(times[name], 0.95) * 1e3:.2f} | {p50 / unfiltered:.2f} | "
            f"{hits / total:.4f} | {short} |"
        )


def reads(collection: shoal.Collection, texts: Sequence[str], rounds: int) -> None:
    """Print what get, count and documents cost, beside a scan of the same."""
    pick = random.Random(4)
    longest = [text for text in texts[:8000] if len(text) > 200]
    needles = []
    for _ in range(rounds + 1):
        text = pick.choice(longest)
        at = pick.randrange(len(text) - 8)
        needles.append(text[at : at + 8])
    variants: dict[str, Timed] = {
        "`get`, the first 10 of a tenth": lambda _: collection.get(
            where={"tenth": "tenth 3"}, limit=10, include=[]
        ),
        "`count`, all by one value": lambda _: collection.count(where={"same": "same"}),
        "`count`, all by a range of distinct values": lambda _: collection.count(
            where={"rank": {"$gte": 0}}
        ),
        "`$contains` of 8 characters, count": lambda turn: collection.count(
            where_document={"$contains": needles[turn]}
        ),
        "`$contains` of 8 characters, first 10": lambda turn: collection.get(
            where_document={"$contains": needles[turn]}, limit=10, include=[]
        ),
        "`$regex` with a literal, count": lambda turn: collection.count(
            where_document={"$regex": f"{_quoted(needles[turn])}\\w*"}
        ),
        "the same count by Python's `in` over the texts in memory": lambda turn: sum(
            needles[turn] in text for text in texts
        ),
    }
    times = _turns(variants, rounds)
    with _scanning():
        variants = {
            "`get`, the first 10 of a tenth, by scanning": variants[
                "`get`, the first 10 of a tenth"
            ],
            "`count`, all by one value, by scanning": variants["`count`, all by one value"],
            "`$contains` of 8 characters, count, by scanning": variants[
                "`$contains` of 8 characters, count"
            ],
        }
        times |= _turns(variants, max(3, rounds // 20))
    print("| Read | p50 ms | p95 ms |\n|---|---|---|")
    for name, taken in times.items():
        print(
            f"| {name} | {statistics.median(taken) * 1e3:.2f} | "
            f"{percentile(taken, 0.95) * 1e3:.2f} |"
        )


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or c == " " else "\\" + c for c in text if c.isascii())


@contextmanager
def _scanning() -> Iterator[None]:
    """Let no index be used."""
    from shoal_worker.indexes import Indexes

    uncovered = Indexes.uncovered
    Indexes.uncovered = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Indexes.uncovered = uncovered  # type: ignore[method-assign]


@contextmanager
def _without_indexing() -> Iterator[None]:
    """Let no index take anything in."""
    consider = Indexing.consider
    Indexing.consider = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Indexing.consider = consider  # type: ignore[method-assign]


def ingest(dataset: Dataset, texts: Sequence[str], count: int, rounds: int) -> None:
    """Print ingest with and without what is indexed."""
    fields = [
        {
            "number": n * 7919 % 1_000_003,
            "share": n / 7,
            "flag": n % 3 == 0,
            "group": f"group {n % 50}",
            "name": f"name of record {n}",
        }
        for n in range(count)
    ]
    columns: dict[str, dict[str, Sequence[Any]]] = {
        "vectors alone": {},
        "with 5 fields": {"metadatas": fields},
        "with documents": {"documents": texts},
    }
    rates: dict[str, list[float]] = {}

    def one(name: str, given: Mapping[str, Sequence[Any]], *, indexed: bool) -> None:
        with shoal.EphemeralClient() as client:
            collection = client.create_collection(
                "ingest", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
            )
            began = time.perf_counter()
            for first in range(0, count, BATCH):
                part = slice(first, min(first + BATCH, count))
                collection.add(
                    ids=[str(n) for n in range(part.start, part.stop)],
                    embeddings=dataset.base[part],
                    **{key: list(values[part]) for key, values in given.items()},  # type: ignore[arg-type]
                )
            rates.setdefault(f"{name}, until acknowledged", []).append(
                count / (time.perf_counter() - began)
            )
            if indexed:
                wait_until_indexed(collection)
                rates.setdefault(f"{name}, until indexed", []).append(
                    count / (time.perf_counter() - began)
                )

    for _ in range(rounds):
        for name, given in columns.items():
            one(f"{name}, indexed", given, indexed=True)
            with _without_indexing():
                one(f"{name}, not indexed", given, indexed=False)
    print(
        "| Ingest | records/s | ratio to not indexed | ratio to vectors alone |\n|---|---|---|---|"
    )
    alone = rates["vectors alone, not indexed, until acknowledged"]
    for name, taken in rates.items():
        base = rates[f"{name.split(', ')[0]}, not indexed, until acknowledged"]
        ratios = [a / b for a, b in zip(taken, base, strict=True)]
        to_alone = [a / b for a, b in zip(taken, alone, strict=True)]
        print(
            f"| {name} | {statistics.median(taken):,.0f} | {statistics.median(ratios):.2f} | "
            f"{statistics.median(to_alone):.2f} |"
        )


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="records to search")
    parser.add_argument("--rounds", type=int, default=60, help="queries of each kind")
    parser.add_argument("--ingest", type=int, default=20_000, help="records to ingest")
    parser.add_argument("--ingest-rounds", type=int, default=3, help="ingests of each kind")
    options = parser.parse_args()
    dataset = mixture(options.count)
    texts = documents(options.count)
    if options.ingest:
        print(f"\n## Ingest of {options.ingest:,} records\n")
        ingest(dataset, texts, options.ingest, options.ingest_rounds)
    if not options.rounds:
        return
    filters = Filters(dataset)
    with shoal.EphemeralClient() as client:
        collection = _loaded(client, dataset, filters, texts)
        print(f"\n## Queries, {dataset.name}, {LIMIT} results\n")
        queries(collection, dataset, filters.even, dataset.queries, options.rounds)
        print("\n## Queries whose matches are the farthest\n")
        queries(collection, dataset, filters.worst, filters.near_queries, options.rounds)
        print(f"\n## Reads of {options.count:,} records\n")
        reads(collection, texts, options.rounds)


if __name__ == "__main__":
    main()
