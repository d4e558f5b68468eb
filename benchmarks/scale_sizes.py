"""How cost grows with the records of one shard: 10,000 to 1,000,000 vectors.

Each size is written by this process, then opened by a fresh one for each round: how long until the
first answer, what it takes of memory, and what a query takes at equal recall. With `is_lost`, the
largest is opened once more without its graph, which is then built again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.measure import RECALL_TARGETS, least_effort, percentile
from benchmarks.processes import memory, stored_bytes, written_bytes
from benchmarks.record import (
    DISK,
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    MEMORY,
    QUERY_CPU,
    QUERY_P50,
    QUERY_P99,
    RECALL,
    START,
    Recorder,
    Series,
)
from benchmarks.shard import LIMIT, ShardUnderTest, warm_builder
from benchmarks.stream import Stream, fed
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.checkpoint_files import checkpoints_in
from shoal_worker.main import SWITCH_INTERVAL_S

DIMENSION: Final = 128
SIZES: Final = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SHARD: Final = "shard by its service"

_QUERIES_S: Final = 10.0
"""How long queries are asked at each recall; without a graph each takes long."""


Figures = dict[str, float]
Truth = npt.NDArray[np.int64]


async def _recall(shard: ShardUnderTest, stream: Stream, truth: Truth, ef: int | None) -> float:
    graph = shard.open.newest.graph
    if graph is not None and ef is not None:
        graph.set_ef_search(ef)
    end = time.perf_counter() + _QUERIES_S
    hits = asked = 0
    for query, true in zip(stream.queries, truth, strict=True):
        encoded = await shard.by_service(shard.request(query).SerializeToString())
        matches = pb.SearchShardsResponse.FromString(encoded).shards[0]
        found = {int(i.removeprefix("id-")) for i in matches.records.ids}
        hits += len(found & set(true.tolist()))
        asked += 1
        if time.perf_counter() > end:
            break
    return hits / (LIMIT * asked)


async def _timed(shard: ShardUnderTest, stream: Stream) -> Figures:
    """Ask for as long as there is time, each query at most some times."""
    requests = [shard.request(query).SerializeToString() for query in stream.queries]
    seconds: list[float] = []
    end, cpu = time.perf_counter() + _QUERIES_S, time.process_time()
    for request in requests * 5:
        began = time.perf_counter()
        if began > end:
            break
        await shard.by_service(request)
        seconds.append(time.perf_counter() - began)
    return {
        QUERY_P50: 1e3 * statistics.median(seconds),
        QUERY_P99: 1e3 * percentile(seconds, 0.99),
        QUERY_CPU: 1e6 * (time.process_time() - cpu) / len(seconds),
    }


async def serve(
    path: Path, shard_id: str, collection_id: str, stream: Stream
) -> dict[str, Figures]:
    """Open a directory in this fresh process, and measure it."""
    own = [os.getpid()]
    empty = memory(own)
    truth: Truth = np.load(path.parent / "truth.npy")
    reference = pb.ShardReference(collection_id=collection_id, shard_id=shard_id, epoch=1)
    began = time.perf_counter()
    worker = await ShardUnderTest.start(path)
    shard = ShardUnderTest(worker, reference)
    await shard.by_service(shard.request(stream.queries[:1]).SerializeToString())
    figures = {"opened": {START: time.perf_counter() - began}}
    if shard.open.newest.graph is None:
        figures["lost"] = await _timed(shard, stream)
        figures["lost"][RECALL] = await _recall(shard, stream, truth, None)
        await shard.built(stream.count)
        figures["lost"]["until built again"] = time.perf_counter() - began
    else:
        loop = asyncio.get_running_loop()
        for target in RECALL_TARGETS:

            def recall_of(ef: int) -> float:
                asked = _recall(shard, stream, truth, ef)
                return asyncio.run_coroutine_threadsafe(asked, loop).result()

            _, recall = await asyncio.to_thread(least_effort, recall_of, target)
            figures[str(target)] = await _timed(shard, stream) | {RECALL: recall}
    searched = memory(own)
    for kind in searched:
        figures["opened"][kind] = (searched[kind] - empty[kind]) / stream.count
    await worker.close()
    return figures


def _in_fresh_process(path: Path, shard: ShardUnderTest, stream: Stream) -> dict[str, Figures]:
    reference = shard.reference
    command = [sys.executable, "-m", "benchmarks.scale_sizes", str(path), reference.shard_id]
    command += [reference.collection_id, str(stream.count), str(stream.queries.shape[1])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Figures] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def _indexed(shard: ShardUnderTest) -> None:
    while shard.open.indexes.lag:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.1)


async def one_size(
    recorder: Recorder, count: int, rounds: int, path: Path, *, is_lost: bool
) -> None:
    """Write so many records, and open them."""
    data_dir, stream = path / "worker", Stream(count, DIMENSION)
    np.save(path / "truth.npy", stream.truth())
    worker = await ShardUnderTest.start(data_dir)
    await warm_builder(worker)
    shard = await ShardUnderTest.create(worker, 2)

    add = recorder.series(f"mixture x {DIMENSION}", SHARD, count=count)
    written = written_bytes()
    began = time.perf_counter()
    size = await fed(shard, stream)
    add(INGEST_ACKNOWLEDGED, "records/s", count / (time.perf_counter() - began))
    outside = await shard.built(count)
    add(INGEST_INDEXED, "records/s", (count - outside) / (time.perf_counter() - began))
    add("bytes written a byte of data", "", (written_bytes() - written) / size)
    add("records outside of the graph", "", outside)
    await _indexed(shard)
    directory = data_dir / "shards" / shard.reference.shard_id
    await worker.close()
    add(DISK, "bytes", stored_bytes(directory) / count)
    for _ in range(rounds):
        figures = _in_fresh_process(data_dir, shard, stream)
        opened = figures.pop("opened")
        add(START, "s", opened.pop(START))
        for kind, value in opened.items():
            add(MEMORY, "bytes", value, kind=kind)
        for target, found in figures.items():
            _add_queries(add, found, recall_target=float(target))
    if is_lost:
        for checkpoint in checkpoints_in(directory):
            checkpoint.unlink()
        lost = _in_fresh_process(data_dir, shard, stream)["lost"]
        add("until built again", "s", lost.pop("until built again"), state="graph lost")
        _add_queries(add, lost, state="graph lost")


def _add_queries(add: Series, found: Figures, **parameters: str | float) -> None:
    units = {RECALL: "", QUERY_CPU: "us"}
    for what, value in found.items():
        add(what, units.get(what, "ms"), value, **parameters)


def measure(recorder: Recorder, sizes: Sequence[int], rounds: int, *, is_lost: bool) -> None:
    """Measure each size; of the largest, also without its graph."""
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as path:
            lost = is_lost and count == max(sizes)
            asyncio.run(one_size(recorder, count, rounds, Path(path), is_lost=lost))


def main() -> None:
    """Be the fresh process; `benchmarks.scaling` is what one calls."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_sizes", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("shard_id")
    parser.add_argument("collection_id")
    parser.add_argument("count", type=int)
    parser.add_argument("dimension", type=int)
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stream = Stream(options.count, options.dimension)
    served = serve(options.path, options.shard_id, options.collection_id, stream)
    print(json.dumps(asyncio.run(served)))


if __name__ == "__main__":
    main()
