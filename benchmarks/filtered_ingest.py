"""What indexes cost those who write: ingest with and without, and bytes for each kind of field.

    python -m benchmarks.filtered_ingest [--count 20000] [--rounds 3] [--lines ingest,fields]

The variants take turns. "Not indexed" is the same records with the indexing held still.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from benchmarks.data import documents
from benchmarks.filtered_records import BATCH, wait_until_indexed
from benchmarks.record import INGEST_ACKNOWLEDGED, INGEST_INDEXED, Recorder, print_run
from shoal_worker.indexing import Indexing

SHOAL: Final = "shoal embedded"
FIELDS, DOCUMENTS = "5 fields", "documents"
_DIMENSION: Final = 384

Columns = Mapping[str, Sequence[Any]]


@contextmanager
def _without_indexing() -> Iterator[None]:
    """Let no index take anything in."""
    consider = Indexing.consider
    Indexing.consider = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Indexing.consider = consider  # type: ignore[method-assign]


def _written(
    client: shoal.Client, vectors: npt.NDArray[np.float32], given: Columns
) -> tuple[shoal.Collection, float]:
    """Write records; give their collection, and the seconds until all were acknowledged."""
    collection = client.create_collection(
        "ingest", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    count = len(vectors)
    began = time.perf_counter()
    for first in range(0, count, BATCH):
        part = slice(first, min(first + BATCH, count))
        collection.add(
            ids=[str(n) for n in range(part.start, part.stop)],
            embeddings=vectors[part],
            **{name: list(values[part]) for name, values in given.items()},  # type: ignore[arg-type]
        )
    return collection, time.perf_counter() - began


def ingest(recorder: Recorder, count: int, rounds: int) -> None:
    """Record ingest with and without what is indexed."""
    vectors = np.random.default_rng(1).standard_normal((count, _DIMENSION)).astype(np.float32)
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
    columns: dict[str, Columns] = {
        "vectors alone": {},
        FIELDS: {"metadatas": fields},
        DOCUMENTS: {"documents": documents(count)},
    }

    def one(records: str, *, is_indexed: bool, is_counted: bool) -> None:
        held = contextlib.nullcontext() if is_indexed else _without_indexing()
        with held, shoal.EphemeralClient() as client:
            began = time.perf_counter()
            collection, acknowledged_s = _written(client, vectors, columns[records])
            rates = {INGEST_ACKNOWLEDGED: count / acknowledged_s}
            if is_indexed:
                wait_until_indexed(collection)
                rates[INGEST_INDEXED] = count / (time.perf_counter() - began)
        for what, rate in rates.items():
            if is_counted:
                recorder.add(
                    *(f"iid Gaussian {count:,} x {_DIMENSION}", SHOAL, what, "records/s", rate),
                    records=records,
                    is_indexed=is_indexed,
                )

    for turn in range(rounds + 1):
        for records in columns:
            for is_indexed in (True, False):
                one(records, is_indexed=is_indexed, is_counted=turn > 0)


def _kinds(count: int) -> dict[str, Callable[[int], Any]]:
    """Give kinds of fields: for each what the n-th record holds."""
    pick = random.Random(6)
    order = list(range(count))
    pick.shuffle(order)
    words = [f"{pick.getrandbits(64):016x}" for _ in range(count)]
    return {
        "a bool": lambda n: n % 3 == 0,
        "a string of 10 values": lambda n: f"value {order[n] % 10}",
        "a string of 1,000 values": lambda n: f"value {order[n] % 1000}",
        "an integer of 10 values": lambda n: order[n] % 10,
        "a rising timestamp, all distinct": lambda n: 1_700_000_000_000 + 17 * n,
        "a random integer, all distinct": lambda n: order[n] * 7919,
        "a random float, all distinct": lambda n: order[n] / 7,
        "a UUID, all distinct": lambda n: str(uuid.UUID(int=hash(words[n]) & (2**128 - 1))),
        "a string of 60 bytes, all distinct": lambda n: (words[n] * 4)[:60],
        "a string of 1,000 bytes, all distinct": lambda n: (words[n] * 63)[:1000],
        "a list of 3 of 50 strings": lambda n: [f"tag {(n * k) % 50}" for k in (1, 3, 7)],
        "a list of 10 distinct integers": lambda n: [order[n] * 10 + k for k in range(10)],
        "numbers, strings and bools mixed": lambda n: (n, f"text {n % 99}", n % 2 == 0)[n % 3],
    }


def _index_bytes(client: shoal.Client) -> dict[str, int]:
    """Give the bytes of the pages of the databases of the one shard that is open."""
    import gc

    from shoal_worker.shard import Shard

    shards = [o for o in gc.get_objects() if isinstance(o, Shard) and not o.failed]
    (shard,) = [s for s in shards if s.newest.meta.record_count]
    sizes: dict[str, int] = {}
    with shard.pin() as pinned:
        for name, database in shard._environment.databases.items():
            stat = pinned.txn.stat(database)
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            sizes[name] = pages * stat["psize"]
    return sizes


def fields(recorder: Recorder, count: int) -> None:
    """Record what a field of each kind costs: bytes of index, and time."""
    vectors = np.ones((count, 2), np.float32)
    base = 0.0
    many = {f"field {k}": k for k in range(100)}
    variants: dict[str, Columns] = {"none": {}}
    for name, value in _kinds(count).items():
        variants[name] = {"metadatas": [{"field": value(n)} for n in range(count)]}
    variants["100 integers of 1,000 values"] = {
        "metadatas": [{f: (n * (k + 1)) % 1000 for f, k in many.items()} for n in range(count)]
    }
    for name, given in variants.items():
        with shoal.EphemeralClient() as client:
            began = time.perf_counter()
            collection, _ = _written(client, vectors, given)
            wait_until_indexed(collection)
            seconds = time.perf_counter() - began
            sizes = _index_bytes(client)
        index = sum(v for k, v in sizes.items() if k.startswith("metadata_")) / count
        if name == "none":
            base = index
        for what, unit, figure in (
            ("index of a record's field", "bytes", index - base),
            ("metadata of a record", "bytes", sizes["metadata"] / count),
            (INGEST_INDEXED, "records/s", count / seconds),
        ):
            recorder.add(f"{count:,} records", SHOAL, what, unit, figure, field=name)


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.filtered_ingest", description=__doc__
    )
    parser.add_argument("--count", type=int, default=20_000, help="records")
    parser.add_argument("--rounds", type=int, default=3, help="ingests of each kind")
    parser.add_argument("--lines", default="ingest", help="ingest, fields")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    recorder = Recorder("filtered-ingest")
    if "ingest" in options.lines:
        ingest(recorder, options.count, options.rounds)
    if "fields" in options.lines:
        fields(recorder, options.count)
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
