"""Vectors part by part: a million need not lie in memory beside the shard that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.data import Vectors
from benchmarks.shard import LIMIT, WRITE_BATCH, ShardUnderTest
from shoal.errors import OverloadedError
from shoal.internal.v1 import worker_service_pb2 as pb

QUERIES: Final = 200
UNDER_WAY: Final = 4
"""Batches that a writer has under way."""


class Stream:
    """A Gaussian mixture on a subspace, like `data.mixture`, drawn part by part.

    Args:
        count: Vectors in all, a multiple of `WRITE_BATCH`.
        dimension: Numbers in each.

    Raises:
        ValueError: The count is no such multiple.
    """

    def __init__(self, count: int, dimension: int, intrinsic: int = 32) -> None:
        if count % WRITE_BATCH:
            raise ValueError(f"{count} vectors are not batches of {WRITE_BATCH}")
        rng = np.random.default_rng(20)
        self.count = count
        self.name = f"mixture {count:,} x {dimension}"
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


async def sent(shard: ShardUnderTest, request: pb.WriteShardRequest) -> None:
    """Write a batch, as often as the worker asks for it."""
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
        under_way.add(asyncio.create_task(sent(shard, request)))
        if len(under_way) >= UNDER_WAY:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*under_way)
    return size
