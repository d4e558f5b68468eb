"""Reads by a filter: on the event loop as long as they are short, else on threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shoal_worker import short_reads
from shoal_worker.state import Pinned
from tests.worker.single import SingleShard, answer_of, indexed, plain

COUNT = 300
ODD = {"parity": {"$eq": 1}}

Vectors = npt.NDArray[np.float32]


@pytest.fixture
async def filled(shard: SingleShard, vectors: Vectors) -> SingleShard:
    """A shard whose indexes have taken in everything."""
    numbers = range(COUNT)
    ids, metadatas = [f"id {n}" for n in numbers], [{"parity": n % 2, "rank": n} for n in numbers]
    await shard.add(ids, vectors[:COUNT], metadatas, [f"text {n}" for n in numbers])
    await indexed(shard)
    return shard


@pytest.fixture
def pins(filled: SingleShard, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each read that has begun, whether it did on the event loop."""
    found: list[bool] = []
    pin, loop_thread = filled.open.pin, threading.get_ident()

    def noted(**given: Any) -> Pinned:
        found.append(threading.get_ident() == loop_thread)
        return pin(**given)

    monkeypatch.setattr(filled.open, "pin", noted)
    # No read is long, however busy the machine.
    monkeypatch.setattr(short_reads, "_LONG_S", 60.0)
    return found


def reads_of(shard: SingleShard, vectors: Vectors) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Reads whose answers are the same each time, and right."""
    nearest = np.argsort(np.square(vectors[1:COUNT:2] - vectors[7]).sum(axis=1))[:5] * 2 + 1

    async def search() -> None:
        found = answer_of(await shard.search([vectors[7]], 5, where=ODD))
        assert found.ids == [[f"id {n}" for n in nearest]]

    async def get() -> None:
        found = plain(await shard.get(where=ODD, limit=3, offset=1))
        assert list(found) == ["id 3", "id 5", "id 7"]

    numbers = itertools.count()

    async def count() -> None:
        # Another filter each time: what matched one is remembered, and then nothing is read.
        where = {"$and": [ODD, {"rank": {"$gte": -next(numbers)}}]}
        assert await shard.count(where=where) == COUNT // 2

    return {"search": search, "get": get, "count": count}


@pytest.mark.parametrize("kind", ["search", "get", "count"])
async def test_a_read_by_a_filter_is_on_the_loop_once_one_was_short(
    filled: SingleShard, vectors: Vectors, pins: list[bool], kind: str
) -> None:
    read = reads_of(filled, vectors)[kind]
    for _ in range(4):
        await read()
    assert pins == [False, True, True, True]


@pytest.mark.parametrize("kind", ["search", "get", "count"])
async def test_what_takes_too_long_on_the_loop_is_done_on_a_thread_and_so_are_the_next(
    filled: SingleShard,
    vectors: Vectors,
    pins: list[bool],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = reads_of(filled, vectors)[kind]
    await read()
    monkeypatch.setattr(short_reads, "_LONG_S", 0.0)
    pins.clear()
    await read()
    assert pins == [True, False]
    monkeypatch.setattr(short_reads, "_LONG_S", 60.0)
    pins.clear()
    for _ in range(18):
        await read()
    assert pins == [False] * 16 + [True] * 2


async def test_kinds_of_reads_are_told_apart(
    filled: SingleShard, vectors: Vectors, pins: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = reads_of(filled, vectors)
    for read in reads.values():
        await read()
    monkeypatch.setattr(short_reads, "_LONG_S", 0.0)
    await reads["search"]()
    monkeypatch.setattr(short_reads, "_LONG_S", 60.0)
    pins.clear()
    await reads["get"]()
    await reads["search"]()
    assert pins == [True, False]


async def test_what_is_likely_to_take_long_is_on_a_thread_and_tells_nothing_of_others(
    filled: SingleShard, vectors: Vectors, pins: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reads_of(filled, vectors)["get"]
    await read()
    pins.clear()
    monkeypatch.setattr(short_reads, "_LONG_S", 0.0)
    await filled.get(where_document={"$contains": "text"}, limit=3)
    await filled.get(where=ODD, limit=1000)
    await filled.get(id_prefix="id 1", limit=3)
    await filled.search(vectors[:2], 5, where=ODD)
    monkeypatch.setattr(short_reads, "_LONG_S", 60.0)
    await read()
    assert pins == [False] * 4 + [True]


async def test_a_backlog_of_an_index_sends_reads_to_threads(
    filled: SingleShard, vectors: Vectors, pins: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reads_of(filled, vectors)["count"]
    await read()
    filled.open.indexes.noted(short_reads._BACKLOG_CHANGES + 1)
    pins.clear()
    await read()
    assert pins == [False]
