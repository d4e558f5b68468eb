"""The exact vectors beside a graph are a cache: whatever becomes of the file, answers are exact."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.server.metrics import REGISTRY
from shoal.v1.collection_pb2 import Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker.checkpoint_files import vector_files_in
from shoal_worker.fresh import FreshWriter
from shoal_worker.graph_vectors import Deaths
from shoal_worker.store import Store, VectorBatch
from shoal_worker.vector_file import (
    HEAD,
    DamagedVectorsError,
    VectorFile,
    VectorFileWriter,
    encode_heads,
)
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, started, until
from tests.worker.test_search import names, true_distances

Vectors = npt.NDArray[np.float32]
SHARD = "9b0d2a4e-0000-4000-8000-000000000001"
DIMENSION = 5


# The file.


def written(
    path: Path, count: int, *, kept: int = 0, shard_id: str = SHARD, first_key: int = 1
) -> Vectors:
    keys = list(range(first_key + kept, first_key + count))
    vectors = np.random.default_rng(4).standard_normal((count, DIMENSION)).astype(np.float32)
    writer = VectorFileWriter(path, shard_id, DIMENSION, kept)
    records = [(key * 10, f"id-{key}".encode()) for key in keys]
    writer.add(encode_heads(keys, [key + 100 for key in keys], records), vectors[kept:])
    writer.finish()
    return vectors


def ids_and_ordinals(heads: npt.NDArray[np.uint64]) -> list[tuple[str, int]]:
    return [
        (name[:length].decode(), ordinal)
        for _, ordinal, _, length, name in HEAD.iter_unpack(heads.tobytes())
    ]


def test_vectors_rows_and_ids_come_back(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    vectors = written(path, 20)
    places = np.array([3, 19, 0], np.intp)

    found = VectorFile.open(path, SHARD, DIMENSION, 20).read(places, places.astype(np.uint64) + 1)

    assert found.vectors.tobytes() == vectors[places].tobytes()
    assert found.rows.tolist() == [104, 120, 101]
    assert found.heads is not None
    assert ids_and_ordinals(found.heads) == [("id-4", 40), ("id-20", 200), ("id-1", 10)]


def test_a_file_grows_under_its_readers_and_loses_what_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    vectors = written(path, 20)
    before = VectorFile.open(path, SHARD, DIMENSION, 20)
    with path.open("ab") as file:
        file.write(b"of an extension that did not come to its end")

    assert written(path, 30, kept=20)[:20].tobytes() == vectors.tobytes()

    places = np.arange(30)
    after = VectorFile.open(path, SHARD, DIMENSION, 30).read(places, places.astype(np.uint64) + 1)
    assert after.rows.tolist() == list(range(101, 131))
    assert before.read(places[:20], places[:20].astype(np.uint64) + 1).rows[19] == 120


def test_an_id_that_is_too_long_for_a_head_is_left_to_the_records() -> None:
    longest, longer = "ä" * 21 + "x", "ä" * 22
    heads = encode_heads([1, 2], [1, 2], [(1, longest.encode()), (2, longer.encode())])

    assert ids_and_ordinals(heads) == [(longest, 1), ("", 2)]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_flipped_bit_torn_page_or_foreign_slot_is_ever_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("vectors") / "vectors"
    vectors = written(path, 8)
    content = bytearray(path.read_bytes())
    slot = (len(content) - 4096) // 8
    match data.draw(st.sampled_from(["flip", "opposite flips", "zeros", "slot", "foreign"])):
        case "opposite flips":
            # Of one bit in two words, so that their sum stays.
            first = data.draw(st.integers(0, DIMENSION - 1)) * 4 + 4096
            second = first + slot * data.draw(st.integers(0, 7))
            content[first], content[second] = content[second], content[first]
        case "flip":
            content[data.draw(st.integers(4096, len(content) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
        case "zeros":
            first = data.draw(st.integers(4096, len(content) - 1))
            end = min(len(content), first + 512)
            content[first:end] = bytes(end - first)
        case "slot":
            content[4096 : 4096 + slot] = content[4096 + slot : 4096 + 2 * slot]
        case _:
            written(path.with_name("other"), 8, shard_id=str(uuid.uuid4()))
            content[4096 + slot :] = path.with_name("other").read_bytes()[4096 + slot :]
    path.write_bytes(content)
    file = VectorFile.open(path, SHARD, DIMENSION, 8)

    for place in range(8):
        try:
            found = file.read(np.array([place]), np.array([place + 1], np.uint64))
        except DamagedVectorsError:
            continue
        assert found.vectors.tobytes() == vectors[place].tobytes()
        assert found.rows.tolist() == [place + 101]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged"),
        (lambda path: os.truncate(path, 0), "damaged"),
        (lambda path: written(path, 8, shard_id=str(uuid.uuid4())), "mismatch"),
    ],
    ids=["missing", "cut short", "empty", "foreign"],
)
def test_a_file_that_lacks_vectors_or_is_anothers_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "vectors"
    written(path, 8)
    damage(path)

    with pytest.raises(DamagedVectorsError) as refused:
        VectorFile.open(path, SHARD, DIMENSION, 8)

    assert refused.value.reason == reason


# Deaths.


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_each_sequence_sees_its_own_deaths(data: st.DataObject) -> None:
    keys = np.array(sorted(data.draw(st.sets(st.integers(1, 40), min_size=1))), np.uint64)
    deaths = Deaths(keys)
    died: dict[int, int] = {}
    for sequence in range(1, data.draw(st.integers(1, 12))):
        deaths.begin()
        noted = data.draw(st.sets(st.integers(1, 42), max_size=4)) - died.keys()
        for key in noted:
            deaths.note(key, sequence)
        if data.draw(st.booleans()):
            deaths.roll_back()
        else:
            died |= dict.fromkeys(noted, sequence)
    places = np.arange(len(keys))

    for sequence in range(14):
        alive = deaths.alive(places, sequence)
        told = [True] * len(keys) if alive is None else alive.tolist()
        assert told == [died.get(int(key), 99) > sequence for key in keys]
    assert deaths.are_current(keys).tolist() == [int(key) not in died for key in keys]


# In a shard.


async def check(single: SingleShard, current: dict[str, Vectors], queries: Vectors) -> None:
    """Answers hold no dead vector, and tell exact distances, ascending; nearly all are found."""
    ids, stored = list(current), np.array(list(current.values()))
    answer = answer_of(await single.search(queries, 10))
    found = 0
    for i, query in enumerate(queries):
        true = dict(
            zip(ids, true_distances(Space.SPACE_COSINE, query, stored).tolist(), strict=True)
        )
        nearest = sorted(true, key=lambda name: true[name])[:10]
        told = [true[name] for name in answer.ids[i]]
        np.testing.assert_allclose(answer.distances[i], told, atol=1e-9)
        assert told == sorted(told)
        assert len(told) == 10
        found += len(set(nearest) & set(answer.ids[i]))
    assert found > 9.4 * len(queries)


async def changed(single: SingleShard, vectors: Vectors) -> dict[str, Vectors]:
    """A shard with a graph, some of whose vectors were replaced and deleted."""
    await single.add(names(range(2600)), vectors[:2600])
    await graph_of(single, 2600)
    await single.update(names(range(100, 300)), vectors[4000:4200])
    await single.delete(names(range(50, 150)))
    current = {f"r{i}": vectors[i] for i in range(2600)}
    current |= {f"r{i}": vectors[3900 + i] for i in range(100, 300)}
    for i in range(50, 150):
        del current[f"r{i}"]
    return current


async def test_a_search_reads_no_vector_from_the_records(
    worker: Worker, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)

    def refuse(*_: object) -> None:
        raise AssertionError("read from the records")

    monkeypatch.setattr(Store, "vectors_of", refuse)
    await check(single, current, vectors[5000:5040])
    for query in vectors[5000:5020]:
        await check(single, current, query[None])


async def test_what_died_is_known_after_a_restart_and_in_the_next_graph(
    tmp_path: Path, vectors: Vectors
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)
    await worker.close()

    worker = await started(tmp_path)
    single = single.on(worker)
    await check(single, current, vectors[5000:5040])
    await single.add(names(range(2600, 3600)), vectors[2600:3600])
    current |= {f"r{i}": vectors[i] for i in range(2600, 3600)}
    await graph_of(single, 3600)
    await single.delete(names(range(2600, 2700)))
    for i in range(2600, 2700):
        del current[f"r{i}"]

    await check(single, current, vectors[5000:5040])
    await worker.close()


async def test_deaths_are_found_without_the_index_of_keys(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)
    await worker.close()
    monkeypatch.setattr("shoal_worker.currency._indexed_keys", lambda *_: None)

    worker = await started(tmp_path)

    await check(single.on(worker), current, vectors[5000:5040])
    await worker.close()


def flipped(path: Path) -> None:
    """Flip a bit of every vector: whatever a search reads is damaged."""
    content = bytearray(path.read_bytes())
    for place in range(4096 + 8, len(content), 256):
        content[place] ^= 1
    with path.open("r+b") as file:
        file.write(content)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def without(path: Path) -> None:
    path.unlink()


def older(path: Path) -> None:
    """As it was before its last extension, and zeros where the disk forgot the rest."""
    size = path.stat().st_size
    os.truncate(path, size * 2 // 3)
    os.truncate(path, size)


def _build_seconds() -> float:
    """What all builds of this process took together."""
    return REGISTRY.get_sample_value("shoal_graph_build_seconds_sum") or 0.0


@pytest.mark.parametrize("damage", [flipped, cut_short, without, older])
async def test_a_damaged_file_is_never_served_and_is_made_again(
    tmp_path: Path, vectors: Vectors, damage: Callable[[Path], None]
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)
    (path,) = vector_files_in(single.directory)
    await worker.close()
    damage(path)
    seconds = _build_seconds()

    worker = await started(tmp_path)
    single = single.on(worker)
    for _ in range(3):
        await check(single, current, vectors[5000:5100])
    await graph_of(single, 2450)
    await until(lambda: _build_seconds() > seconds and single.open.newest.vectors is not None)
    vectors_of = single.open.newest.vectors
    assert vectors_of is not None
    assert vectors_of.is_sound
    await check(single, current, vectors[5000:5100])
    assert (await single.search(vectors[5000], 1)).plan.method == SearchMethod.SEARCH_METHOD_GRAPH
    await until(lambda: len(vector_files_in(single.directory)) == 1)
    await worker.close()


async def test_damage_that_comes_while_it_is_open_is_noticed(
    worker: Worker, vectors: Vectors
) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)
    (path,) = vector_files_in(single.directory)
    graph = single.open.newest.graph

    flipped(path)

    await check(single, current, vectors[5000:5100])
    await until(lambda: single.open.newest.graph is not graph)
    await check(single, current, vectors[5000:5100])


async def test_an_extension_of_what_is_damaged_on_disk_is_built_anew(
    worker: Worker, vectors: Vectors
) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    current = await changed(single, vectors)
    (path,) = vector_files_in(single.directory)
    path.unlink()

    await single.add(names(range(2600, 3600)), vectors[2600:3600])
    current |= {f"r{i}": vectors[i] for i in range(2600, 3600)}

    await graph_of(single, 3400)
    await check(single, current, vectors[5000:5040])


async def test_an_extension_writes_only_what_it_adds(
    worker: Worker, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    await single.add(names(range(2600)), vectors[:2600])
    await graph_of(single, 2600)
    (path,) = vector_files_in(single.directory)
    inode, size = path.stat().st_ino, path.stat().st_size

    await single.add(names(range(2600, 3900)), vectors[2600:3900])
    await graph_of(single, 3900)

    assert vector_files_in(single.directory) == [path]
    assert path.stat().st_ino == inode
    assert path.stat().st_size == size + (size - 4096) // 2


async def test_what_was_deleted_is_not_in_the_next_file(worker: Worker, vectors: Vectors) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    await single.add(names(range(4000)), vectors[:4000])
    await graph_of(single, 4000)
    (path,) = vector_files_in(single.directory)
    secret = vectors[7].tobytes()
    assert secret in path.read_bytes()

    await single.delete(names(range(1500)))
    await until(lambda: not single.open.newest.graph_dead_count)
    await until(lambda: len(vector_files_in(single.directory)) == 1)
    (path,) = vector_files_in(single.directory)
    content = path.read_bytes()
    assert secret not in content
    assert b"r1499\0" not in content
    assert vectors[1500].tobytes() in content


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_fresh_set_knows_which_keys_are_in_it(data: st.DataObject) -> None:
    fresh = FreshWriter()
    keys = sorted(data.draw(st.sets(st.integers(1, 400), max_size=200)))
    for first in range(0, len(keys), 50):
        part = np.array(keys[first : first + 50], np.uint64)
        fresh.add(
            VectorBatch(part, part.astype(np.uint32), np.ones((len(part), 2), np.float32)), ()
        )
    died = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
    for key in died:
        fresh.remove(key, 1)
    asked = np.arange(1, 402, dtype=np.uint64)

    assert fresh.are_current(asked).tolist() == [k in set(keys) - died for k in range(1, 402)]


async def test_a_graph_whose_adoption_was_given_up_is_not_published(
    worker: Worker, vectors: Vectors
) -> None:
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    await single.add(names(range(2600)), vectors[:2600])
    await graph_of(single, 2600)
    shard, graph = single.open, single.open.newest.graph
    assert graph is not None
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        go_on.wait(240)

    shard.queue.run_exclusively(block)
    await asyncio.to_thread(blocked.wait, 30)
    adopting = shard.adopt_graph(graph.sequence)
    assert adopting.cancel()
    go_on.set()
    await single.add(["later"], vectors[2600:2601])

    assert shard.newest.graph is graph
