"""`python -m benchmarks.shard_speed`: one shard without gateway and sockets, beside raw USearch.

Each line is a ratio to raw USearch on the same data, number type and threads, what is compared
taking turns in one run; the medians of single calls and of rounds are compared. Wall time says
what a caller sees; CPU time of the process stays comparable while others use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from usearch.index import Index

from benchmarks import data
from benchmarks.measure import percentile
from shoal.internal.v1 import catalog_pb2
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal.v1 import value_pb2
from shoal.v1.collection_pb2 import Quantization, Space
from shoal.wire.metadata import metadata_to_message
from shoal_worker.building import Need, need_of
from shoal_worker.columns import Column
from shoal_worker.main import SWITCH_INTERVAL_S
from shoal_worker.matching import Selection
from shoal_worker.search import Search, search
from shoal_worker.shard import Shard
from shoal_worker.worker import Worker

LIMIT = 10
BATCH = 64
WRITE_BATCH = 1_000
EF = 100
TIMEOUT_S = 600.0


@dataclass(slots=True)
class Line:
    """One row of the table.

    Attributes:
        what: What was measured.
        target: What it is to reach, as text.
        measured: What came out, as text.
        met: Whether it did.
    """

    what: str
    target: str
    measured: str
    met: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.target} | {self.measured} | {'yes' if self.met else 'NO'} |"


@dataclass(slots=True)
class Times:
    """Of one way: wall and CPU seconds an operation."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def us(self) -> str:
        """Medians, microseconds an operation: wall, CPU."""
        return (
            f"{statistics.median(self.wall) * 1e6:,.0f} us "
            f"({statistics.median(self.cpu) * 1e6:,.0f} us CPU)"
        )


class ShardUnderTest:
    """A worker in this process with one shard, spoken to as a gateway would."""

    def __init__(self, worker: Worker, reference: pb.ShardReference) -> None:
        self.worker = worker
        self.reference = reference

    @staticmethod
    async def start(path: Path) -> Worker:
        """Start a worker on a directory."""
        worker = Worker(path)
        await worker.start()
        worker.directory.join(uuid.UUID(int=1))
        return worker

    @staticmethod
    async def create(worker: Worker, threads: int) -> ShardUnderTest:
        """Create a shard for cosine distances in bfloat16."""
        shard_id, collection_id = str(uuid.uuid4()), str(uuid.uuid4())
        entry = catalog_pb2.CollectionEntry(
            shards=[
                catalog_pb2.ShardEntry(shard_id=shard_id, worker_id=str(worker.worker_id), epoch=1)
            ],
            table_version=1,
        )
        entry.collection.id = collection_id
        hnsw = entry.collection.configuration.hnsw
        hnsw.space = Space.SPACE_COSINE
        hnsw.quantization = Quantization.QUANTIZATION_BF16
        hnsw.num_threads = threads
        await worker.control_service.create_shard(
            pb.CreateShardRequest(
                cluster_id=str(worker.cluster_id),
                worker_id=str(worker.worker_id),
                shard_id=shard_id,
                entry=entry,
            ),
            context_for(TIMEOUT_S),
        )
        reference = pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
        return ShardUnderTest(worker, reference)

    @property
    def open(self) -> Shard:
        """The shard itself; it must have been used."""
        reference = self.reference
        holding = self.worker.held.find(reference.collection_id, reference.shard_id, 1)
        assert holding.shard is not None
        return holding.shard

    def put(self, first: int, vectors: data.Vectors) -> pb.WriteShardRequest:
        """Make a batch with documents of 250 characters and four metadata keys."""
        numbers = range(first, first + len(vectors))
        request = pb.WriteShardRequest(
            shard=self.reference,
            write_id=uuid.uuid4().bytes,
            first_ordinal=self.worker.clock.reserve(len(vectors)),
            dimension=vectors.shape[1],
        )
        request.put.kind = pb.WRITE_KIND_ADD
        records = request.put.records
        records.ids.extend(f"id-{n}" for n in numbers)
        records.vectors.CopyFrom(
            value_pb2.VectorBlock(dimension=vectors.shape[1], values=vectors.tobytes())
        )
        records.metadatas.extend(
            metadata_to_message(
                {"number": n, "even": n % 2 == 0, "share": n / 7, "group": f"g{n % 50}"}
            ).SerializeToString()
            for n in numbers
        )
        records.documents.values.extend(
            f"The document of record {n}, which says little. " * 5 for n in numbers
        )
        return request

    async def send(self, request: pb.WriteShardRequest) -> None:
        """Write a batch, durably."""
        await self.worker.data_service.write_shard(request, context_for(TIMEOUT_S))

    async def write(self, base: data.Vectors) -> list[pb.WriteShardRequest]:
        """Write everything, batch by batch, without waiting for the graph."""
        requests = [
            self.put(first, base[first : first + WRITE_BATCH])
            for first in range(0, len(base), WRITE_BATCH)
        ]
        for request in requests:
            await self.send(request)
        return requests

    async def built(self, count: int) -> int:
        """Wait until all is in the graph that is worth a build, and give what stays outside."""
        while True:
            shard, state = self.open, self.open.newest
            if (
                state.graph is not None
                and state.meta.record_count == count
                and need_of(state, shard.configuration) is Need.NOTHING
            ):
                return state.fresh.pending_count
            await asyncio.sleep(0.005)

    def request(self, queries: data.Vectors) -> pb.SearchShardsRequest:
        """Ask for IDs, distances and metadata."""
        block = np.atleast_2d(queries)
        return pb.SearchShardsRequest(
            shards=[self.reference],
            queries=value_pb2.VectorBlock(dimension=block.shape[1], values=block.tobytes()),
            limit=LIMIT,
            include=[value_pb2.Include.INCLUDE_METADATAS],
        )

    def in_shard(self, queries: data.Vectors, threads: int) -> list[list[str]]:
        """Search the pinned shard, without messages."""
        shard = self.open
        sought = Search(
            np.atleast_2d(queries),
            LIMIT,
            Selection(),
            frozenset([Column.METADATAS]),
            1 << 30,
            threads,
            lambda: None,
        )
        with shard.pin() as pinned:
            found = search(pinned, shard.configuration.fit.space, sought)
        ends = np.cumsum(found.counts).tolist()
        ids = found.columns.ids
        return [ids[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    async def by_service(self, request: bytes) -> bytes:
        """Search through the service, from serialised request to serialised answer."""
        decoded = pb.SearchShardsRequest.FromString(request)
        response = await self.worker.data_service.search_shards(decoded, context_for(TIMEOUT_S))
        return response.SerializeToString()


def raw_index(base: data.Vectors) -> Index:
    """USearch itself: bfloat16, inner product of normalised vectors."""
    return Index(
        ndim=base.shape[1],
        metric="ip",
        dtype="bf16",
        connectivity=16,
        expansion_add=EF,
        expansion_search=EF,
    )


def keys_of(base: data.Vectors) -> npt.NDArray[np.uint64]:
    """Give the keys of raw USearch."""
    return np.arange(len(base), dtype=np.uint64)


Way = Callable[[int], Awaitable[object]]


async def interleaved(ways: dict[str, Way], turns: Sequence[int], each: int) -> dict[str, Times]:
    """Call every way once a turn, in changing order, each with a query of its own.

    Were they given the same query, the later would find the earlier's pages in the caches.

    Args:
        ways: What to call.
        turns: Numbers of queries.
        each: Queries that a call answers.
    """
    times = {name: Times() for name in ways}
    names = list(ways)
    for turn in range(-10, len(turns)):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            query = turns[(turn + place * (len(turns) // len(names))) % len(turns)]
            cpu, began = time.process_time(), time.perf_counter()
            await ways[name](query)
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            if turn >= 0:
                times[name].wall.append(wall / each)
                times[name].cpu.append(cpu / each)
    return times


def _ratio(raw: Times, ours: Times) -> tuple[float, float]:
    """How fast ours is of raw: by wall, by CPU."""
    return (
        statistics.median(raw.wall) / statistics.median(ours.wall),
        statistics.median(raw.cpu) / statistics.median(ours.cpu),
    )


async def searches(
    dataset: data.Dataset, index: Index, shard: ShardUnderTest, rounds: int
) -> list[Line]:
    """One query at a time, and batches."""
    queries, count = dataset.queries, len(dataset.queries)
    single = [shard.request(q).SerializeToString() for q in queries]
    starts = list(range(0, count - BATCH + 1, BATCH))
    batched = {s: shard.request(queries[s : s + BATCH]).SerializeToString() for s in starts}

    async def raw_one(q: int) -> object:
        return index.search(queries[q], LIMIT, threads=1)

    async def raw_batch(s: int) -> object:
        return index.search(queries[s : s + BATCH], LIMIT, threads=2)

    async def shard_one(q: int) -> object:
        return shard.in_shard(queries[q], 1)

    async def shard_batch(s: int) -> object:
        return shard.in_shard(queries[s : s + BATCH], 2)

    async def service_one(q: int) -> object:
        return await shard.by_service(single[q])

    async def service_batch(s: int) -> object:
        return await shard.by_service(batched[s])

    raw_found = [index.search(q, LIMIT, threads=1).keys.tolist() for q in queries]
    raw_recall = dataset.recall(raw_found, range(count))
    equal_ef = next(
        (ef for ef in range(32, EF, 4) if _recall(dataset, shard, ef) >= raw_recall), EF
    )
    print(
        f"recall@10 at ef {EF}: raw {raw_recall:.4f}, shard {_recall(dataset, shard, EF):.4f}; "
        f"shard at ef {equal_ef} {_recall(dataset, shard, equal_ef):.4f}"
    )

    def at_equal_recall(way: Way) -> Way:
        async def at(turn: int) -> object:
            _set_ef(shard, equal_ef)
            try:
                return await way(turn)
            finally:
                _set_ef(shard, EF)

        return at

    _set_ef(shard, EF)
    texts = {"shard": "in the shard", "service": "through the service"}
    one = await interleaved(
        {
            "raw": raw_one,
            "shard": shard_one,
            "service": service_one,
            "shard, equal recall": at_equal_recall(shard_one),
            "service, equal recall": at_equal_recall(service_one),
        },
        list(range(count)) * max(1, rounds // 2),
        1,
    )
    batch = await interleaved(
        {
            "raw": raw_batch,
            "shard": shard_batch,
            "service": service_batch,
            "shard, equal recall": at_equal_recall(shard_batch),
            "service, equal recall": at_equal_recall(service_batch),
        },
        starts * 3 * rounds,
        BATCH,
    )
    lines = []
    for what, target, times in (("one query", 0.7, one), ("batches of 64", 0.75, batch)):
        for name in list(times)[1:]:
            wall, cpu = _ratio(times["raw"], times[name])
            where = texts[name.partition(",")[0]]
            how = f", at equal recall (ef {equal_ef})" if "equal" in name else f", ef {EF}"
            lines.append(
                Line(
                    f"{what}, {where}{how}",
                    f">= {target} of raw",
                    f"{wall:.2f} (CPU {cpu:.2f}); raw {times['raw'].us()}, {times[name].us()}",
                    wall >= target,
                )
            )
    return lines


def _set_ef(shard: ShardUnderTest, ef: int) -> None:
    graph = shard.open.newest.graph
    assert graph is not None
    graph.set_ef_search(ef)


def _recall(dataset: data.Dataset, shard: ShardUnderTest, ef: int) -> float:
    """What the shard finds of the nearest when it considers so many candidates."""
    _set_ef(shard, ef)
    found = [[int(i.removeprefix("id-")) for i in shard.in_shard(q, 1)[0]] for q in dataset.queries]
    return dataset.recall(found, range(len(dataset.queries)))


async def ingest(dataset: data.Dataset, path: Path, rounds: int) -> list[Line]:
    """Until everything is in the graph, beside raw adding with one thread; and the bytes."""
    base = dataset.base
    ratios, cpu_ratios, amplification = [], [], []
    for turn in range(rounds):
        raw_cpu = time.process_time()
        raw_s = _timed_add(base)
        raw_cpu = time.process_time() - raw_cpu
        worker = await ShardUnderTest.start(path / f"ingest-{turn}")
        shard = await ShardUnderTest.create(worker, 1)
        await _warm_builder(worker)
        written, builder_cpu = _written_bytes(), _builder_cpu_s()
        began = time.perf_counter()
        requests = await shard.write(base)
        outside = await shard.built(len(base))
        seconds = time.perf_counter() - began
        written = _written_bytes() - written
        builder_cpu = _builder_cpu_s() - builder_cpu
        cpu_ratios.append(raw_cpu / builder_cpu * (len(base) - outside) / len(base))
        ratios.append(raw_s / seconds * (len(base) - outside) / len(base))
        amplification.append(written / sum(request.ByteSize() for request in requests))
        print(
            f"ingest: raw {len(base) / raw_s:,.0f}/s, shard {(len(base) - outside) / seconds:,.0f}"
            f"/s ({outside} outside), {amplification[-1]:.1f} bytes written a byte"
        )
        await worker.close()
    ratio, size = statistics.median(ratios), statistics.median(amplification)
    return [
        Line(
            "durable ingest until in the graph",
            ">= 0.7 of raw add",
            f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}); by CPU of the builder "
            f"{statistics.median(cpu_ratios):.2f}",
            ratio >= 0.7,
        ),
        Line(
            f"bytes written, ingest of {len(base):,}, per byte of data",
            "<= 20 (at 500,000)",
            f"{size:.1f}",
            size <= 20,
        ),
    ]


def _timed_add(base: data.Vectors) -> float:
    index = raw_index(base)
    began = time.perf_counter()
    index.add(keys_of(base), base, threads=1)
    return time.perf_counter() - began


async def _warm_builder(worker: Worker) -> None:
    """Have the builder process started: a worker starts it once."""
    scratch = await ShardUnderTest.create(worker, 1)
    random = np.random.default_rng(1).standard_normal((2_500, 8)).astype(np.float32)
    await scratch.write(random)
    await scratch.built(len(random))


def _children() -> list[str]:
    return [
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _builder_cpu_s() -> float:
    """CPU seconds of the builder: what it needs, however little of the machine it gets."""
    ticks = 0
    for child in _children():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _written_bytes() -> int:
    """Bytes that this process and its children, the builder, caused to be written to the disk."""
    total = 0
    for process in ("self", *_children()):
        for line in Path(f"/proc/{process}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                total += int(line.split()[1])
    return total


async def burst(dataset: data.Dataset, path: Path, rounds: int) -> list[Line]:
    """50,000 records until acknowledged, a few batches under way at a time."""
    base = np.resize(dataset.base, (50_000, dataset.base.shape[1]))
    ratios = []
    for turn in range(rounds):
        part = base[:20_000]
        raw_rate = len(part) / _timed_add(part)
        worker = await ShardUnderTest.start(path / f"burst-{turn}")
        shard = await ShardUnderTest.create(worker, 1)
        requests = [
            shard.put(n, base[n : n + WRITE_BATCH]) for n in range(0, len(base), WRITE_BATCH)
        ]
        began = time.perf_counter()
        for first in range(0, len(requests), 4):
            await asyncio.gather(*(shard.send(r) for r in requests[first : first + 4]))
        rate = len(base) / (time.perf_counter() - began)
        ratios.append(rate / raw_rate)
        print(f"burst: raw {raw_rate:,.0f}/s, acknowledged {rate:,.0f}/s")
        await worker.close()
    ratio = statistics.median(ratios)
    return [
        Line(
            "burst of 50,000 until acknowledged",
            ">= 1.5 of raw add",
            f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            ratio >= 1.5,
        )
    ]


async def tail(
    dataset: data.Dataset, shard: ShardUnderTest, first: int, rate: float, seconds: float
) -> list[Line]:
    """The p99 of single queries at rest, and while records come at a steady rate."""
    requests = [shard.request(q).SerializeToString() for q in dataset.queries]

    async def measured(duration_s: float) -> list[float]:
        times: list[float] = []
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end:
            for request in requests[:50]:
                began = time.perf_counter()
                await shard.by_service(request)
                times.append(time.perf_counter() - began)
                # Another task's turn: a gateway's call is one, too.
                await asyncio.sleep(0)
        return times

    rest = await measured(seconds)
    size = 200
    noise = np.random.default_rng(3).standard_normal((size, dataset.base.shape[1])) * 0.02
    stopped = False
    written = 0
    # Made beforehand: making them is no part of what a worker does.
    writes = [
        shard.put(
            first + n,
            (
                dataset.base[(place := n * 7 % (len(dataset.base) - size)) : place + size] + noise
            ).astype(np.float32),
        )
        for n in range(0, int(rate * 4 * seconds), size)
    ]

    async def write() -> None:
        nonlocal written
        began = time.perf_counter()
        while not stopped:
            await shard.send(writes[written // size])
            written += size
            await asyncio.sleep(max(0.0, began + written / rate - time.perf_counter()))

    writer = asyncio.create_task(write())
    began = time.perf_counter()
    busy = await measured(3 * seconds)
    reached = written / (time.perf_counter() - began)
    stopped = True
    await writer
    at_rest, while_writing = percentile(rest, 0.99), percentile(busy, 0.99)
    ratio = while_writing / at_rest
    return [
        Line(
            f"search p99 while {reached:,.0f} records/s come",
            "<= 3 x at rest",
            f"{ratio:.1f} ({at_rest * 1e3:.2f} -> {while_writing * 1e3:.2f} ms; p50 "
            f"{percentile(rest, 0.5) * 1e3:.2f} -> {percentile(busy, 0.5) * 1e3:.2f} ms)",
            ratio <= 3,
        )
    ]


async def opening(shard: ShardUnderTest, path: Path, rounds: int) -> tuple[Worker, list[Line]]:
    """From a worker that starts to the first answer."""
    worker, count = shard.worker, shard.open.newest.meta.record_count
    request = shard.request(np.ones(shard.open.newest.meta.dimension, np.float32))
    encoded, lines = request.SerializeToString(), []
    for where in ("the page cache", "the disk"):
        seconds = []
        for _ in range(rounds):
            await worker.close()
            if where == "the disk":
                _forget_pages(path)
            began = time.perf_counter()
            worker = await ShardUnderTest.start(path)
            await ShardUnderTest(worker, shard.reference).by_service(encoded)
            seconds.append(time.perf_counter() - began)
        median = statistics.median(seconds)
        what = f"opening {count:,} from {where} to the first answer"
        lines.append(Line(what, "<= 1 s", f"{median:.3f} s", median <= 1))
    return worker, lines


def _forget_pages(path: Path) -> None:
    """Have the system forget what it has read of files."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


async def measure(dataset: data.Dataset, options: argparse.Namespace, path: Path) -> list[Line]:
    """Measure the lines that were asked for."""
    lines: list[Line] = []
    asked = set(options.lines.split(","))
    if asked & {"search", "tail", "open"}:
        index = raw_index(dataset.base)
        index.add(keys_of(dataset.base), dataset.base, threads=1)
        worker = await ShardUnderTest.start(path / "searched")
        shard = await ShardUnderTest.create(worker, 2)
        await shard.write(dataset.base)
        outside = await shard.built(len(dataset.base))
        print(f"{dataset.name}: {outside} records outside of the graph")
        if "search" in asked:
            lines += await searches(dataset, index, shard, options.rounds)
        if "open" in asked:
            worker, opened = await opening(shard, path / "searched", options.rounds)
            shard = ShardUnderTest(worker, shard.reference)
            lines += opened
        if "tail" in asked:
            lines += await tail(dataset, shard, len(dataset.base), options.rate, 4.0)
        await worker.close()
    if "ingest" in asked:
        lines += await ingest(dataset, path, options.rounds)
    if "burst" in asked:
        lines += await burst(dataset, path, options.rounds)
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shard_speed", description=__doc__)
    parser.add_argument("--lines", default="search,open,tail,ingest,burst")
    parser.add_argument("--count", type=int, default=0, help="of the mixture; 0: real passages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2_000, help="records/s of the line `tail`")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    dataset = data.mixture(options.count) if options.count else data.passages()
    with tempfile.TemporaryDirectory(prefix="shoal-speed-") as path:
        lines = asyncio.run(measure(dataset, options, Path(path)))
    print(f"\n{dataset.name}\n\n| What | Target | Measured | Met |\n|---|---|---|---|")
    print("\n".join(str(line) for line in lines))


if __name__ == "__main__":
    main()
