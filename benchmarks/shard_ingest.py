"""`python -m benchmarks.shard_ingest`: writing to one shard, beside raw `index.add` of the same.

Lines: `ingest`, until everything is in the graph; `burst`, 50,000 records until acknowledged;
`bytes`, what a large ingest writes to the disk. Records have documents of 250 characters and four
metadata keys, and are made beforehand: making them is no part of what a worker does. Raw USearch
adds with one thread, just before each round.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import data
from benchmarks.data import Vectors
from benchmarks.processes import cpu_s, started_by_this, written_bytes
from benchmarks.record import INGEST_ACKNOWLEDGED, INGEST_INDEXED, Recorder, print_run
from benchmarks.shard import WRITE_BATCH, ShardUnderTest, raw_index, warm_builder
from benchmarks.stream import UNDER_WAY, Stream, fed, sent
from shoal_worker.main import SWITCH_INTERVAL_S
from shoal_worker.worker import Worker

RAW, SHARD = "raw usearch", "shard"
BURST: Final = 50_000
BURST_BESIDE: Final = 20_000
"""Vectors that raw USearch adds beside a burst: all of them would favour the burst, since adding to
a large graph is slower."""

WRITTEN: Final = "bytes written a byte of data"
BUILDER_CPU: Final = "CPU of building a vector"


def _raw_add_s(parts: Iterable[Vectors]) -> tuple[float, float]:
    """Add to raw USearch; give the seconds and the CPU seconds."""
    index = None
    seconds, cpu, first = 0.0, 0.0, 0
    for part in parts:
        index = index or raw_index(part)
        keys = np.arange(first, first + len(part), dtype=np.uint64)
        first += len(part)
        began, cpu_began = time.perf_counter(), time.process_time()
        index.add(keys, part, threads=1)
        seconds += time.perf_counter() - began
        cpu += time.process_time() - cpu_began
    return seconds, cpu


async def _shard_in(path: Path) -> tuple[Worker, ShardUnderTest]:
    """A worker whose builder is started, and an empty shard that is open."""
    worker = await ShardUnderTest.start(path)
    await warm_builder(worker)
    return worker, await ShardUnderTest.create(worker, 1)


def _parts(base: Vectors) -> list[Vectors]:
    return [base[first : first + WRITE_BATCH] for first in range(0, len(base), WRITE_BATCH)]


async def ingest(recorder: Recorder, name: str, base: Vectors, path: Path) -> None:
    """One round: everything into a shard of its own, until it is in the graph."""
    parts, count = _parts(base), len(base)
    raw_s, raw_cpu_s = _raw_add_s(parts)
    worker, shard = await _shard_in(path)
    requests = [shard.put(n * WRITE_BATCH, part) for n, part in enumerate(parts)]
    written, builder_s = written_bytes(), cpu_s(started_by_this())
    began = time.perf_counter()
    for request in requests:
        await sent(shard, request)
    acknowledged_s = time.perf_counter() - began
    in_graph = count - await shard.built(count)
    graph_s = time.perf_counter() - began
    builder_s = cpu_s(started_by_this()) - builder_s
    written = written_bytes() - written
    await worker.close()
    rates = {
        (RAW, INGEST_INDEXED): count / raw_s,
        (RAW, INGEST_ACKNOWLEDGED): count / raw_s,
        (SHARD, INGEST_INDEXED): in_graph / graph_s,
        (SHARD, INGEST_ACKNOWLEDGED): count / acknowledged_s,
    }
    for (system, what), rate in rates.items():
        recorder.add(name, system, what, "records/s", rate)
    recorder.add(name, RAW, BUILDER_CPU, "us", 1e6 * raw_cpu_s / count)
    recorder.add(name, SHARD, BUILDER_CPU, "us", 1e6 * builder_s / in_graph)
    size = sum(request.ByteSize() for request in requests)
    recorder.add(name, SHARD, WRITTEN, "", written / size)


async def burst(recorder: Recorder, name: str, base: Vectors, path: Path) -> None:
    """One round: as many as a burst has until acknowledged, a few batches under way at a time."""
    raw_s, _ = _raw_add_s(_parts(base[:BURST_BESIDE]))
    worker, shard = await _shard_in(path)
    requests = list(shard.puts(np.resize(base, (BURST, base.shape[1]))))
    began = time.perf_counter()
    for first in range(0, len(requests), UNDER_WAY):
        await asyncio.gather(*(shard.send(r) for r in requests[first : first + UNDER_WAY]))
    seconds = time.perf_counter() - began
    await worker.close()
    beside = min(BURST_BESIDE, len(base)) / raw_s
    for system, rate in ((RAW, beside), (SHARD, BURST / seconds)):
        recorder.add(name, system, INGEST_ACKNOWLEDGED, "records/s", rate, burst=BURST)


async def bytes_written(recorder: Recorder, count: int, path: Path) -> None:
    """What one large ingest writes, as fast as the worker takes it."""
    stream = Stream(count, 384)
    worker, shard = await _shard_in(path)
    written = written_bytes()
    size = await fed(shard, stream)
    await shard.built(count)
    written = written_bytes() - written
    await worker.close()
    recorder.add(stream.name, SHARD, WRITTEN, "", written / size)


async def measure(recorder: Recorder, options: argparse.Namespace) -> None:
    """Measure the lines that were asked for."""
    asked = set(options.lines.split(","))
    for name in options.data.split(","):
        if not asked & {"ingest", "burst"}:
            break
        dataset = data.passages() if name == "passages" else data.mixture(options.count)
        for _ in range(options.rounds):
            for line, run in (("ingest", ingest), ("burst", burst)):
                if line in asked:
                    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as path:
                        await run(recorder, dataset.name, dataset.base, Path(path))
    if "bytes" in asked:
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as path:
            await bytes_written(recorder, options.bytes_count, Path(path))


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shard_ingest", description=__doc__)
    parser.add_argument("--lines", default="ingest,burst,bytes")
    parser.add_argument("--data", default="passages,mixture")
    parser.add_argument("--count", type=int, default=100_000, help="vectors of the mixture")
    parser.add_argument("--bytes-count", type=int, default=500_000, help="records of `bytes`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    recorder = Recorder("shard-ingest")
    asyncio.run(measure(recorder, options))
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
