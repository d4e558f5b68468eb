"""`python -m benchmarks.shard_compaction`: what compaction takes, and what others notice of it.

A shard of which half is deleted is compacted, for room and to erase, while one writer and one
searcher go on. A round is one compaction, beside as long at rest.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import percentile
from benchmarks.record import Recorder, print_run
from benchmarks.shard import WRITE_BATCH, ShardUnderTest
from benchmarks.stream import Stream, fed
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.compaction import Compacted, CompactionError
from shoal_worker.holding import Holding
from shoal_worker.main import SWITCH_INTERVAL_S
from shoal_worker.worker import Worker

SHARD = "shard"


async def compaction(recorder: Recorder, stream: Stream, path: Path) -> None:
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
    while shard.open.indexes.lag:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.1)
    reference = shard.reference
    holding = worker.held.find(reference.collection_id, reference.shard_id, reference.epoch)
    for purpose in ("room", "erasure"):
        with _Callers(shard, stream) as callers:
            await asyncio.sleep(5)
            at_rest = callers.taken()
            told, seconds = await _compacted(worker, holding, purpose == "erasure")
            during = callers.taken()
        for what, unit, value in (
            ("compaction", "s", seconds),
            ("writers held", "ms", 1e3 * told.gate_seconds),
            ("size before", "bytes", told.before_bytes),
            ("size after", "bytes", told.after_bytes),
        ):
            recorder.add(stream.name, SHARD, what, unit, value, purpose=purpose)
        for when, times in (("at rest", at_rest), ("compacting", during)):
            for kind, share in ((k, s) for k in times for s in (0.5, 0.99, 1.0)):
                what = f"{kind} {'longest' if share == 1 else f'p{100 * share:.0f}'}"
                value = 1e3 * percentile(times[kind], share)
                recorder.add(stream.name, SHARD, what, "ms", value, purpose=purpose, when=when)
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
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shard_compaction", description=__doc__
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    recorder = Recorder("shard-compaction")
    stream = Stream(options.count, options.dimension)
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as path:
            asyncio.run(compaction(recorder, stream, Path(path)))
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
