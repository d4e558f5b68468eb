"""`python -m benchmarks.shard_scale`: what a shard's size costs.

    ingest --count 100000      until everything is in the graph, and the bytes written
    large --count 1000000      one large shard: memory, disk, opening, searching, being built again
    compaction --count 300000  how long it takes, and what writers and readers notice of it

Vectors come from a stream, so that a million need not lie in memory beside the shard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data import Vectors
from benchmarks.measure import percentile
from benchmarks.shard_speed import LIMIT, WRITE_BATCH, ShardUnderTest, raw_index
from shoal.errors import OverloadedError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.checkpoint_files import checkpoints_in
from shoal_worker.compaction import Compacted, CompactionError
from shoal_worker.holding import Holding
from shoal_worker.main import SWITCH_INTERVAL_S
from shoal_worker.worker import Worker

QUERIES = 200
ROUNDS = 5
QUERIES_S = 20.0
"""Queries of a fresh process: so often each, and so long at most, for without a graph each takes
long."""

UNDER_WAY = 4
"""Batches that a writer has under way."""


class Stream:
    """A Gaussian mixture on a subspace, like `data.mixture`, drawn part by part.

    Args:
        count: Vectors in all, a multiple of `WRITE_BATCH`.
        dimension: Numbers in each.
    """

    def __init__(self, count: int, dimension: int, intrinsic: int = 32) -> None:
        rng = np.random.default_rng(20)
        self.count = count
        self._plane = rng.standard_normal((intrinsic, dimension)).astype(np.float32)
        self._centres = rng.standard_normal((256, intrinsic)).astype(np.float32) * 1.5
        self.queries = self._drawn(np.random.default_rng([20, 0]), QUERIES)

    def _drawn(self, rng: np.random.Generator, count: int) -> Vectors:
        inner = self._centres[rng.integers(0, len(self._centres), count)]
        inner = inner + rng.standard_normal(inner.shape).astype(np.float32)
        noise = rng.standard_normal((count, self._plane.shape[1])).astype(np.float32) * 0.3
        drawn = inner @ self._plane + noise
        normalised: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("<f4")
        return normalised

    def parts(self) -> Iterator[tuple[int, Vectors]]:
        """Give each batch with the number of its first vector."""
        for first in range(0, self.count, WRITE_BATCH):
            yield first, self._drawn(np.random.default_rng([20, 1, first]), WRITE_BATCH)

    def truth(self) -> npt.NDArray[np.int64]:
        """Give the numbers of each query's ten nearest, shape ``(QUERIES, 10)``."""
        best = np.full((QUERIES, LIMIT), -np.inf, np.float32)
        numbers = np.zeros((QUERIES, LIMIT), np.int64)
        for first, part in self.parts():
            dots = np.concatenate((best, self.queries @ part.T), axis=1)
            ours = np.broadcast_to(np.arange(first, first + len(part)), (QUERIES, len(part)))
            both = np.concatenate((numbers, ours), axis=1)
            nearest = np.argpartition(-dots, LIMIT, axis=1)[:, :LIMIT]
            best = np.take_along_axis(dots, nearest, 1)
            numbers = np.take_along_axis(both, nearest, 1)
        return numbers


async def _sent(shard: ShardUnderTest, request: pb.WriteShardRequest) -> None:
    while True:
        try:
            await shard.send(request)
        except OverloadedError:
            # As any client does.
            await asyncio.sleep(0.5)
        else:
            return


async def fed(shard: ShardUnderTest, stream: Stream) -> int:
    """Write everything, some batches under way at a time, and give the bytes of the requests."""
    size = 0
    under_way: set[asyncio.Task[None]] = set()
    for first, part in stream.parts():
        request = shard.put(first, part)
        size += request.ByteSize()
        under_way.add(asyncio.create_task(_sent(shard, request)))
        if len(under_way) >= UNDER_WAY:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*under_way)
    return size


# Ingest.


@dataclass(frozen=True, slots=True)
class Ingested:
    """One ingest.

    Attributes:
        raw_s: Raw `index.add` of the same, one thread.
        acknowledged_s: Until the last batch was.
        graph_s: Until nothing more was to be built.
        outside_count: Records that stay outside of the graph.
        written_per_byte: Bytes that reached the disk, by byte of the requests.
        builder_cpu_s: CPU time of the builder.
        checkpoint_count: Graphs that were published.
    """

    raw_s: float
    acknowledged_s: float
    graph_s: float
    outside_count: int
    written_per_byte: float
    builder_cpu_s: float
    checkpoint_count: int


def _raw_add_s(parts: list[Vectors]) -> float:
    index = raw_index(parts[0])
    began = time.perf_counter()
    for number, part in enumerate(parts):
        keys = np.arange(number * WRITE_BATCH, number * WRITE_BATCH + len(part), dtype=np.uint64)
        index.add(keys, part, threads=1)
    return time.perf_counter() - began


def children() -> list[str]:
    """Give the processes that this one started."""
    return [
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _written_bytes() -> int:
    """Give the bytes that this process and the builder have written to files.

    Counted as they are written, without what went through the pipe between the two. The kernel's
    own `write_bytes` counts all of a large page that is touched: 67 MB where 2,000 pieces of 4 KB
    reached the disk (ext4 of Linux 6.18).
    """
    total = _io("self")["wchar"]
    for child in children():
        counted = _io(child)
        total += counted["wchar"] - counted["rchar"]
    return total


def _io(process: str) -> dict[str, int]:
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(":") for line in lines)}


def _builder_cpu_s() -> float:
    total = 0.0
    for child in children():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / 100
    return total


async def _watched_graphs(shard: ShardUnderTest, seen: set[int]) -> None:
    while True:
        graph = shard.open.newest.graph
        if graph is not None:
            seen.add(graph.sequence)
        await asyncio.sleep(0.02)


async def ingest(stream: Stream, path: Path, *, is_beside_raw: bool) -> Ingested:
    """Ingest everything into a shard of its own, between two halves of raw adding."""
    parts = [part for _, part in stream.parts()] if is_beside_raw else []
    raw_s = _raw_add_s(parts) if is_beside_raw else float("nan")
    worker = await ShardUnderTest.start(path)
    await _warm_builder(worker)
    shard = await ShardUnderTest.create(worker, 1)
    await shard.by_service(shard.request(stream.queries[:1]).SerializeToString())
    # Made beforehand: making them is no part of what a worker does.
    requests = [shard.put(n * WRITE_BATCH, part) for n, part in enumerate(parts)]
    written, builder_cpu_s = _written_bytes(), _builder_cpu_s()
    seen: set[int] = set()
    watching = asyncio.create_task(_watched_graphs(shard, seen))
    began = time.perf_counter()
    if is_beside_raw:
        size = sum(request.ByteSize() for request in requests)
        for request in requests:
            await _sent(shard, request)
    else:
        size = await fed(shard, stream)
    acknowledged_s = time.perf_counter() - began
    outside = await shard.built(stream.count)
    graph_s = time.perf_counter() - began
    watching.cancel()
    ingested = Ingested(
        raw_s,
        acknowledged_s,
        graph_s,
        outside,
        (_written_bytes() - written) / size,
        _builder_cpu_s() - builder_cpu_s,
        len(seen),
    )
    await worker.close()
    return ingested


async def _warm_builder(worker: Worker) -> None:
    """Have the builder process started: a worker starts it once."""
    scratch = await ShardUnderTest.create(worker, 1)
    random = np.random.default_rng(1).standard_normal((2_500, 8)).astype(np.float32)
    await scratch.write(random)
    await scratch.built(len(random))


def _print_ingested(stream: Stream, one: Ingested) -> None:
    in_graph = stream.count - one.outside_count
    rate = in_graph / one.graph_s
    print(
        f"ingest of {stream.count:,}: {rate:,.0f}/s until in the graph ({one.outside_count} "
        f"outside), acknowledged after {one.acknowledged_s:.1f} of {one.graph_s:.1f} s; builder "
        f"{one.builder_cpu_s:.1f} s of CPU, {one.checkpoint_count} graphs; "
        f"{one.written_per_byte:.1f} bytes written a byte"
    )
    if one.raw_s == one.raw_s:
        raw_rate = stream.count / one.raw_s
        print(f"  raw {raw_rate:,.0f}/s: ratio {rate / raw_rate:.2f}")


# One large shard.


def _memory() -> dict[str, int]:
    """Bytes of this process in memory: of its own, and mapped from files."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"RssAnon", "RssFile", "VmHWM"}:
            found[name] = int(value.split()[0]) * 1024
    return found


async def _timed_queries(
    shard: ShardUnderTest, stream: Stream, truth: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Ask every query some times, or as many as there is time for."""
    end = time.perf_counter() + QUERIES_S
    requests = [shard.request(query).SerializeToString() for query in stream.queries]
    seconds: list[float] = []
    hits = asked = 0
    for turn in range(ROUNDS):
        for number, request in enumerate(requests):
            began = time.perf_counter()
            if began > end:
                break
            encoded = await shard.by_service(request)
            seconds.append(time.perf_counter() - began)
            if turn == 0:
                matches = pb.SearchShardsResponse.FromString(encoded).shards[0]
                found = {int(i.removeprefix("id-")) for i in matches.records.ids}
                hits += len(found & set(truth[number].tolist()))
                asked += 1
    return {
        "recall": hits / (LIMIT * asked),
        "p50_ms": 1e3 * statistics.median(seconds),
        "p99_ms": 1e3 * percentile(seconds, 0.99),
    }


async def serve(
    path: Path, shard_ids: list[str], stream: Stream, *, until_built: bool
) -> dict[str, float]:
    """Open a directory in this fresh process; measure it at once, or when its graph is built."""
    empty = _memory()
    reference = pb.ShardReference(collection_id=shard_ids[1], shard_id=shard_ids[0], epoch=1)
    began = time.perf_counter()
    worker = await ShardUnderTest.start(path)
    shard = ShardUnderTest(worker, reference)
    await shard.by_service(shard.request(stream.queries[:1]).SerializeToString())
    figures: dict[str, float] = {"first_answer_s": time.perf_counter() - began}
    opened = _memory()
    if until_built:
        await shard.built(stream.count)
        figures["built_after_s"] = time.perf_counter() - began
    truth = np.load(path.parent / "truth.npy")
    graph = shard.open.newest.graph
    figures["graph_vectors"] = graph.vector_count if graph else 0
    figures["fresh_vectors"] = shard.open.newest.fresh.size
    figures |= await _timed_queries(shard, stream, truth)
    searched = _memory()
    for name, memory in (("opened", opened), ("searched", searched)):
        for part in ("RssAnon", "RssFile"):
            figures[f"{name}_{part}_bytes"] = memory[part] - empty[part]
    await worker.close()
    return figures


async def _indexed(shard: ShardUnderTest) -> None:
    while shard.open.indexes.lag:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.1)


def _in_fresh_process(
    path: Path, shard: ShardUnderTest, stream: Stream, *options: str
) -> dict[str, float]:
    reference = shard.reference
    command = [sys.executable, "-m", "benchmarks.shard_scale", "serve"]
    command += ["--path", str(path), "--shard", f"{reference.shard_id},{reference.collection_id}"]
    command += ["--count", str(stream.count), "--dimension", str(stream.queries.shape[1])]
    command += options
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def large(stream: Stream, path: Path) -> None:
    """Ingest a large shard, open it, search it; lose its graph, and search until it is built."""
    data_dir = path / "worker"
    np.save(path / "truth.npy", stream.truth())
    worker = await ShardUnderTest.start(data_dir)
    shard = await ShardUnderTest.create(worker, 2)
    written = _written_bytes()
    began = time.perf_counter()
    size = await fed(shard, stream)
    acknowledged_s = time.perf_counter() - began
    outside = await shard.built(stream.count)
    print(
        f"{stream.count:,} x {stream.queries.shape[1]}: acknowledged after {acknowledged_s:.0f} s, "
        f"in the graph after {time.perf_counter() - began:.0f} s ({outside} outside), "
        f"{(_written_bytes() - written) / size:.1f} bytes written a byte, at most "
        f"{_memory()['VmHWM'] / 2**30:.1f} GiB in memory beside the builder",
        flush=True,
    )
    await _indexed(shard)
    directory = data_dir / "shards" / shard.reference.shard_id
    for file in sorted(directory.iterdir()):
        if file.suffix in {".mdb", ".usearch", ".f32"}:
            print(f"  {file.name}: {file.stat().st_size / stream.count:,.0f} bytes a vector")
    await worker.close()
    print(json.dumps({"opened": _in_fresh_process(data_dir, shard, stream)}), flush=True)
    for checkpoint in checkpoints_in(directory):
        checkpoint.unlink()
    print(json.dumps({"without graph": _in_fresh_process(data_dir, shard, stream)}), flush=True)
    again = _in_fresh_process(data_dir, shard, stream, "--until-built")
    print(json.dumps({"built again": again}), flush=True)


# Compaction.


async def compaction(stream: Stream, path: Path) -> None:
    """Compact a shard of which half is deleted, while it is written to and searched."""
    worker = await ShardUnderTest.start(path)
    shard = await ShardUnderTest.create(worker, 2)
    await fed(shard, stream)
    for first in range(0, stream.count, WRITE_BATCH):
        request = pb.WriteShardRequest(shard=shard.reference)
        request.delete.ids.values.extend(
            f"id-{n}" for n in range(first, first + WRITE_BATCH) if n % 2
        )
        request.delete.SetInParent()
        await shard.send(request)
    await _indexed(shard)
    reference = shard.reference
    holding = worker.held.find(reference.collection_id, reference.shard_id, reference.epoch)
    for is_erasing in (False, True):
        with _Callers(shard, stream) as callers:
            await asyncio.sleep(5)
            at_rest = callers.taken()
            told, seconds = await _compacted(worker, holding, is_erasing)
            during = callers.taken()
        purpose = "to erase" if is_erasing else "for room"
        print(
            f"compaction {purpose}: {told.before_bytes / 2**20:,.0f} -> "
            f"{told.after_bytes / 2**20:,.0f} MiB in {seconds:.1f} s, gate "
            f"{told.gate_seconds * 1e3:.0f} ms",
            flush=True,
        )
        for name in ("write", "search"):
            print(
                f"  {name}: p50 {percentile(at_rest[name], 0.5) * 1e3:.2f} -> "
                f"{percentile(during[name], 0.5) * 1e3:.2f} ms, p99 "
                f"{percentile(at_rest[name], 0.99) * 1e3:.1f} -> "
                f"{percentile(during[name], 0.99) * 1e3:.1f} ms, longest "
                f"{max(at_rest[name]) * 1e3:.0f} -> {max(during[name]) * 1e3:.0f} ms",
                flush=True,
            )
    await worker.close()


async def _compacted(worker: Worker, holding: Holding, is_erasing: bool) -> tuple[Compacted, float]:
    """Compact, and give how long it took."""
    while True:
        began = time.perf_counter()
        try:
            told = await asyncio.to_thread(worker.compacting.compact, holding, erase=is_erasing)
        except CompactionError:
            # An index lags behind what is to be erased up to now; it is erased later as a rule.
            await asyncio.sleep(0.05)
        else:
            return told, time.perf_counter() - began


class _Callers:
    """One writer of ten records, and one searcher, without end; how long each call took."""

    def __init__(self, shard: ShardUnderTest, stream: Stream) -> None:
        self._shard = shard
        self._stream = stream
        self._seconds: dict[str, list[float]] = {"write": [], "search": []}
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> _Callers:
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._search())]
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()

    def taken(self) -> dict[str, list[float]]:
        """Give the times since it was last asked."""
        for task in self._tasks:
            if task.done():
                task.result()
        taken, self._seconds = self._seconds, {"write": [], "search": []}
        return taken

    async def _write(self) -> None:
        number = 10 * self._stream.count
        while True:
            request = self._shard.put(number, self._stream.queries[:10])
            number += 10
            began = time.perf_counter()
            await self._shard.send(request)
            self._seconds["write"].append(time.perf_counter() - began)
            await asyncio.sleep(0.01)

    async def _search(self) -> None:
        requests = [self._shard.request(q).SerializeToString() for q in self._stream.queries]
        number = 0
        while True:
            number += 1
            began = time.perf_counter()
            await self._shard.by_service(requests[number % len(requests)])
            self._seconds["search"].append(time.perf_counter() - began)
            await asyncio.sleep(0.002)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shard_scale", description=__doc__)
    parser.add_argument("what", choices=["ingest", "large", "compaction", "serve"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--without-raw", action="store_true", help="of ingest: the bytes alone")
    parser.add_argument("--path", type=Path, help="of a directory to serve")
    parser.add_argument("--shard", default="", help="and its shard")
    parser.add_argument("--until-built", action="store_true", help="of serve: wait for the graph")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stream = Stream(options.count, options.dimension)
    if options.what == "serve":
        ids = options.shard.split(",")
        figures = asyncio.run(serve(options.path, ids, stream, until_built=options.until_built))
        print(json.dumps(figures))
        return
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="shoal-scale-") as path:
            if options.what == "ingest":
                is_beside_raw = not options.without_raw
                one = asyncio.run(ingest(stream, Path(path), is_beside_raw=is_beside_raw))
                _print_ingested(stream, one)
            elif options.what == "large":
                asyncio.run(large(stream, Path(path)))
            else:
                asyncio.run(compaction(stream, Path(path)))


if __name__ == "__main__":
    main()
