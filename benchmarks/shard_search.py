"""`python -m benchmarks.shard_search`: searching one shard, beside raw USearch at equal recall.

Lines: `search`, one query and batches of 64; `open`, from a worker that starts to the first answer;
`tail`, the p99 of searches while records come. What is compared takes turns; a round is one pass
over the queries. Wall time says what a caller sees; CPU time of the process stays comparable while
others use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from usearch.index import Index

from benchmarks import data
from benchmarks.measure import RECALL_TARGETS, least_effort, percentile
from benchmarks.processes import forget_pages
from benchmarks.record import (
    QUERY_CPU,
    QUERY_P50,
    QUERY_P99,
    RECALL,
    START,
    Recorder,
    print_run,
)
from benchmarks.shard import EF, LIMIT, ShardUnderTest, keys_of, raw_index, set_effort
from shoal_worker.main import SWITCH_INTERVAL_S
from shoal_worker.worker import Worker

BATCH: Final = 64
RAW, SHARD, SERVICE = "raw usearch", "shard", "shard by its service"
READING: Final = "read of the graph's file"
_WARM_CALLS: Final = 10
_PASSES_OF_BATCHES: Final = 5

Way = Callable[[int], Awaitable[object]]


@dataclass(slots=True)
class Times:
    """Of one way: wall and CPU seconds a query."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def in_turns(ways: dict[str, Way], turns: Sequence[int], each: int) -> dict[str, Times]:
    """Call every way once a turn, in changing order, each with a query of its own.

    Were they given the same query, the later would find the earlier's pages in the caches.

    Args:
        ways: What to call.
        turns: Numbers of queries.
        each: Queries that a call answers.
    """
    times = {name: Times() for name in ways}
    names = list(ways)
    for turn in range(-_WARM_CALLS, len(turns)):
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


async def searches(
    recorder: Recorder, dataset: data.Dataset, index: Index, shard: ShardUnderTest, rounds: int
) -> None:
    """One query at a time, and batches, at each recall that both reach."""
    queries, count = dataset.queries, len(dataset.queries)
    single = [shard.request(q).SerializeToString() for q in queries]
    starts = list(range(0, count - BATCH + 1, BATCH)) * _PASSES_OF_BATCHES
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

    ones: dict[str, Way] = {RAW: raw_one, SHARD: shard_one, SERVICE: service_one}
    batches: dict[str, Way] = {RAW: raw_batch, SHARD: shard_batch, SERVICE: service_batch}
    for target in _recall_targets(dataset, index):
        efforts = {
            RAW: least_effort(lambda ef: _raw_recall(dataset, index, ef), target),
            SHARD: least_effort(lambda ef: _shard_recall(dataset, shard, ef), target),
        }
        low = [f"{name} {recall:.3f}" for name, (_, recall) in efforts.items() if recall < target]
        if low:
            why = f"at the greatest effort: {', '.join(low)}"
            recorder.skip(f"recall@10 of {target} on {dataset.name}", why)
            continue
        set_effort(index, efforts[RAW][0])
        _set_ef(shard, efforts[SHARD][0])
        for name in ones:
            _, recall = efforts[name if name == RAW else SHARD]
            recorder.add(dataset.name, name, RECALL, "", recall, recall_target=target)
        for _ in range(rounds):
            _record(recorder, dataset, target, 1, await in_turns(ones, list(range(count)), 1))
            _record(recorder, dataset, target, BATCH, await in_turns(batches, starts, BATCH))


def _record(
    recorder: Recorder, dataset: data.Dataset, target: float, batch: int, found: dict[str, Times]
) -> None:
    for name, times in found.items():
        for what, unit, value in (
            (QUERY_P50, "ms", 1e3 * statistics.median(times.wall)),
            (QUERY_CPU, "us", 1e6 * statistics.median(times.cpu)),
        ):
            recorder.add(dataset.name, name, what, unit, value, recall_target=target, batch=batch)


def _recall_targets(dataset: data.Dataset, index: Index) -> list[float]:
    """The usual ones, and what raw USearch has at the effort that users start from."""
    usual = math.floor(1_000 * _raw_recall(dataset, index, EF)) / 1_000
    return [*RECALL_TARGETS, *([usual] if usual > max(RECALL_TARGETS) else [])]


def _set_ef(shard: ShardUnderTest, ef: int) -> None:
    graph = shard.open.newest.graph
    assert graph is not None
    graph.set_ef_search(ef)


def _raw_recall(dataset: data.Dataset, index: Index, ef: int) -> float:
    set_effort(index, ef)
    found = index.search(dataset.queries, LIMIT, threads=1).keys.astype(np.int64).tolist()
    return dataset.recall(found, range(len(dataset.queries)))


def _shard_recall(dataset: data.Dataset, shard: ShardUnderTest, ef: int) -> float:
    """What the shard finds of the nearest when it considers so many candidates."""
    _set_ef(shard, ef)
    found = [[int(i.removeprefix("id-")) for i in shard.in_shard(q, 1)[0]] for q in dataset.queries]
    return dataset.recall(found, range(len(dataset.queries)))


async def tail(
    recorder: Recorder,
    dataset: data.Dataset,
    shard: ShardUnderTest,
    rate: float,
    rounds: int,
    seconds: float,
) -> None:
    """The p50 and p99 of single queries at rest, and while records come at a steady rate."""
    requests = [shard.request(q).SerializeToString() for q in dataset.queries]
    rng, size = np.random.default_rng(3), 200
    count = len(dataset.base)

    async def asked(duration_s: float) -> list[float]:
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

    for _ in range(rounds):
        at_rest = await asked(seconds)
        # Made beforehand: making them is no part of what a worker does.
        writes = []
        for first in range(count, count + int(2 * rate * seconds), size):
            place = first * 7 % (len(dataset.base) - size)
            noise = rng.standard_normal((size, dataset.base.shape[1])) * 0.02
            near = (dataset.base[place : place + size] + noise).astype(np.float32)
            writes.append(shard.put(first, near))
        written = 0
        began = time.perf_counter()
        measuring = asyncio.create_task(asked(2 * seconds))
        for request in writes:
            await shard.send(request)
            written += size
            await asyncio.sleep(max(0.0, began + written / rate - time.perf_counter()))
            if measuring.done():
                break
        reached = written / (time.perf_counter() - began)
        while_writing = await measuring
        count += written
        recorder.add(dataset.name, SERVICE, "records that come", "records/s", reached)
        for is_ingesting, times in ((False, at_rest), (True, while_writing)):
            for what, share in ((QUERY_P50, 0.5), (QUERY_P99, 0.99)):
                value = 1e3 * percentile(times, share)
                recorder.add(dataset.name, SERVICE, what, "ms", value, is_ingesting=is_ingesting)
        await shard.built(count)


async def opening(
    recorder: Recorder, dataset: data.Dataset, shard: ShardUnderTest, path: Path, rounds: int
) -> Worker:
    """From a worker that starts to the first answer, beside reading its graph's file."""
    worker = shard.worker
    request = shard.request(np.ones(dataset.base.shape[1], np.float32)).SerializeToString()
    for _ in range(rounds):
        for place in ("page cache", "disk"):
            await worker.close()
            # What is mapped is not forgotten, and garbage holds maps.
            gc.collect()
            if place == "disk":
                forget_pages(path)
            read_s = _graphs_read_s(path)
            if place == "disk":
                forget_pages(path)
            began = time.perf_counter()
            worker = await ShardUnderTest.start(path)
            await ShardUnderTest(worker, shard.reference).by_service(request)
            started_s = time.perf_counter() - began
            recorder.add(dataset.name, SHARD, START, "s", started_s, place=place)
            recorder.add(dataset.name, READING, START, "s", read_s, place=place)
    return worker


def _graphs_read_s(path: Path) -> float:
    files = sorted(path.rglob("*.usearch"))
    began = time.perf_counter()
    for file in files:
        file.read_bytes()
    return time.perf_counter() - began


async def measure(
    recorder: Recorder, dataset: data.Dataset, options: argparse.Namespace, path: Path
) -> None:
    """Measure the lines that were asked for."""
    asked = set(options.lines.split(","))
    worker = await ShardUnderTest.start(path)
    shard = await ShardUnderTest.create(worker, 2)
    await shard.write(dataset.base)
    outside = await shard.built(len(dataset.base))
    recorder.add(dataset.name, SHARD, "records outside of the graph", "", outside)
    if "search" in asked:
        index = raw_index(dataset.base)
        index.add(keys_of(dataset.base), dataset.base, threads=1)
        await searches(recorder, dataset, index, shard, options.rounds)
    if "open" in asked:
        worker = await opening(recorder, dataset, shard, path, options.rounds)
        shard = ShardUnderTest(worker, shard.reference)
    if "tail" in asked:
        await tail(recorder, dataset, shard, options.rate, options.rounds, options.seconds)
    await worker.close()


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shard_search", description=__doc__)
    parser.add_argument("--lines", default="search,open,tail")
    parser.add_argument("--data", default="passages,mixture")
    parser.add_argument("--count", type=int, default=100_000, help="vectors of the mixture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round of `tail` at rest")
    parser.add_argument("--rate", type=float, default=2_000, help="records/s of the line `tail`")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    recorder = Recorder("shard-search")
    for name in options.data.split(","):
        dataset = data.passages() if name == "passages" else data.mixture(options.count)
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as path:
            asyncio.run(measure(recorder, dataset, options, Path(path)))
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
