"""`python -m benchmarks.snapshots`: what snapshots cost those who want them, and the others.

Against a cluster of its own. Snapshot and restoration are compared with copying the same bytes on
the same disk, synced; searches and writes during snapshots with the same at rest, both taking turns
in one run, by a client in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

import shoal
from benchmarks import data
from benchmarks.cluster import running, temporary
from benchmarks.measure import percentile
from benchmarks.processes import command_line, cpu_s, started_by_this
from benchmarks.record import Recorder, Series, print_run

SHOAL: Final = "shoal server"
SNAPSHOT: Final = "snapshot"
SNAPSHOT_AGAIN: Final = "snapshot, nothing written since the last"
RESTORATION: Final = "restoration"
COPY: Final = "copy of the same bytes"
QUERY, WRITE = "query", "write"
QUERY_P99: Final = f"{QUERY} p99"
SOURCE = "source"
WRITE_BATCH = 1_000
BLOCK_BYTES = 1024 * 1024
WRITES_A_SECOND = 50
CLIENT = "--client"


def load(client: shoal.Client, dataset: data.Dataset, shards: int) -> shoal.Collection:
    """Write the data set, with a text and two fields each, and wait for the graphs."""
    collection = client.create_collection(
        SOURCE,
        configuration={"hnsw": {"space": "cosine", "shards": shards}},
        embedding_function=None,
    )
    count = len(dataset.base)
    for begin in range(0, count, WRITE_BATCH):
        rows = range(begin, min(begin + WRITE_BATCH, count))
        collection.add(
            ids=[f"record-{i}" for i in rows],
            embeddings=dataset.base[begin : begin + WRITE_BATCH],
            documents=[f"text number {i} " * 12 for i in rows],
            metadatas=[{"number": i, "group": f"group {i % 100}"} for i in rows],
        )
    while True:
        answer = collection.query(query_embeddings=dataset.queries[:1], explain=True)
        plans = answer["plan"]["shards"]
        if all(plan["method"] == "graph" and plan["fresh_count"] < 5_000 for plan in plans):
            return collection
        time.sleep(1)


def taken(client: shoal.Client, name: str) -> tuple[float, shoal.Snapshot]:
    """Take a snapshot; give the seconds until it is ready, and it."""
    began = time.perf_counter()
    client.create_snapshot(name, SOURCE)
    while True:
        snapshot = client.describe_snapshot(name)
        if snapshot.status == "Ready":
            return time.perf_counter() - began, snapshot
        if snapshot.status == "Failed":
            raise SystemExit(f"the snapshot failed: {snapshot.failure}")
        time.sleep(0.01)


def worker_cpu_s(directory: Path) -> float:
    """CPU seconds that the workers of a cluster have used, their builders left out."""
    lines = {process: command_line(process) for process in started_by_this()}
    return cpu_s(
        process
        for process, line in lines.items()
        if "-m shoal_worker " in line and str(directory) in line
    )


def copied(source: Path, target: Path) -> float:
    """Copy a file as carefully as a snapshot is: by blocks, synced; give the seconds."""
    began = time.perf_counter()
    with source.open("rb") as given, target.open("wb") as file:
        while block := given.read(BLOCK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def serve_client(port: int, seconds: float) -> None:
    """Search and write for a while, and print the latencies as JSON."""
    queries = data.passages().queries
    searches: list[float] = []
    writes: list[float] = []
    stop = time.perf_counter() + seconds
    with shoal.Client(port=port) as client:
        collection = client.get_collection(SOURCE, embedding_function=None)

        def write() -> None:
            with shoal.Client(port=port) as own:
                written = own.get_collection(SOURCE, embedding_function=None)
                turn = 0
                while (began := time.perf_counter()) < stop:
                    turn += 1
                    # Of several shards, so that the barrier has batches to wait for.
                    ids = [f"written-{turn % 100}-{i}" for i in range(4)]
                    written.upsert(ids=ids, embeddings=queries[:4])
                    writes.append(time.perf_counter() - began)
                    time.sleep(max(0.0, began + 1 / WRITES_A_SECOND - time.perf_counter()))

        writer = threading.Thread(target=write)
        writer.start()
        turn = 0
        while (began := time.perf_counter()) < stop:
            turn += 1
            collection.query(query_embeddings=queries[turn % len(queries)][None], include=[])
            searches.append(time.perf_counter() - began)
        writer.join()
    print(json.dumps({QUERY: searches, WRITE: writes}))


@contextmanager
def client_process(port: int, seconds: float) -> Iterator[Callable[[], dict[str, list[float]]]]:
    """Run `serve_client` elsewhere; gives what waits for its latencies."""
    command = [sys.executable, "-m", "benchmarks.snapshots", CLIENT, str(port), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def result() -> dict[str, list[float]]:
        output, _ = process.communicate()
        found: dict[str, list[float]] = json.loads(output)
        return found

    try:
        yield result
    finally:
        process.kill()
        process.wait()


def beside(
    client: shoal.Client, port: int, seconds: float, *, snapshots: bool
) -> tuple[dict[str, list[float]], int]:
    """Measure a client at rest, or while snapshots are taken one after another."""
    count = 0
    with client_process(port, seconds) as result:
        if snapshots:
            stop = time.perf_counter() + seconds
            while time.perf_counter() < stop:
                count += 1
                name = f"during-{time.time_ns()}"
                taken(client, name)
                client.delete_snapshot(name)
        return result(), count


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    if sys.argv[1:2] == [CLIENT]:
        serve_client(int(sys.argv[2]), float(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshots", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="records")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each round at rest or not")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    recorder = Recorder("snapshots")
    dataset = data.mixture(options.count)
    with (
        temporary() as directory,
        running(options.workers, directory / "data") as port,
        shoal.Client(port=port, timeout=600) as client,
    ):
        collection = load(client, dataset, options.shards)

        add = recorder.series(dataset.name, SHOAL, shards=options.shards, workers=options.workers)
        durations(add, client, collection, directory, options.rounds)
        interference(add, client, port, options.rounds, options.seconds)
    print_run(recorder, options.output)


def durations(
    add: Series, client: shoal.Client, collection: shoal.Collection, directory: Path, rounds: int
) -> None:
    """Record how long snapshot and restoration take, beside copying the same bytes."""
    for turn in range(rounds):
        collection.upsert(ids=[f"turn-{turn}"], embeddings=np.ones((1, collection.dimension or 1)))
        used = worker_cpu_s(directory)
        seconds, snapshot = taken(client, f"round-{turn}")
        add("CPU of a snapshot", "s", worker_cpu_s(directory) - used)
        add(SNAPSHOT, "s", seconds)
        add(SNAPSHOT_AGAIN, "s", taken(client, f"again-{turn}")[0])
        size = snapshot.size_bytes
        objects = max((directory / "data").rglob("records-*"), key=lambda p: p.stat().st_mtime_ns)
        share = objects.stat().st_size / size
        add(COPY, "s", copied(objects, directory / "copy") / share)
        used, began = worker_cpu_s(directory), time.perf_counter()
        client.restore_snapshot(f"round-{turn}", "restored")
        add(RESTORATION, "s", time.perf_counter() - began)
        add("CPU of a restoration", "s", worker_cpu_s(directory) - used)
        client.delete_collection("restored")
        add("size", "bytes", size)


def interference(add: Series, client: shoal.Client, port: int, rounds: int, seconds: float) -> None:
    """Record how searches and writes fare at rest and during snapshots."""
    for _ in range(rounds):
        for snapshots in (False, True):
            latencies, count = beside(client, port, seconds, snapshots=snapshots)
            for kind, values in latencies.items():
                for what, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
                    value = 1e3 * percentile(values, share)
                    add(f"{kind} {what}", "ms", value, during_snapshots=snapshots)
            if snapshots:
                add("snapshots taken meanwhile", "", count)


if __name__ == "__main__":
    main()
