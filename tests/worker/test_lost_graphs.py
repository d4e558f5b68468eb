"""A shard whose graph is lost answers exactly and takes writes, whatever is left of its caches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal.v1.collection_pb2 import Space
from shoal.v1.record_service_pb2 import SearchMethod
from shoal_worker import building, loading, metrics, recovering, ungraphed
from shoal_worker.checkpoint_files import checkpoints_in, vector_files_in
from shoal_worker.settings import WorkerSettings
from shoal_worker.store import Store
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, answer_of, graph_of, started
from tests.worker.test_search import names, true_distances

Vectors = npt.NDArray[np.float32]

SMALL_MEMORY = 1024 * 1024
"""Half of it does not hold 3,000 vectors of 64 numbers."""


def nothing(_: Path) -> None:
    """Leave the file of vectors as it is."""


def without(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a thousand vectors for many, and compare them in parts of less than all."""
    monkeypatch.setattr(loading, "MAX_FRESH_ALONE", 1000)
    monkeypatch.setattr(ungraphed, "_PART", 700)


@contextmanager
def unbuilt() -> Iterator[None]:
    """Have no graph built meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "need_of", lambda *_: building.Need.NOTHING)
        yield


async def check(single: SingleShard, current: dict[str, Vectors], queries: Vectors) -> None:
    """Each answer is the exact one, one by one and in a batch."""
    ids, stored = np.array(list(current)), np.array(list(current.values()))
    batch = answer_of(await single.search(queries, 10))
    for i, query in enumerate(queries):
        true = true_distances(Space.SPACE_COSINE, query, stored)
        nearest = np.argsort(true, kind="stable")[:10]
        alone = answer_of(await single.search(query, 10))
        for given, place in ((alone, 0), (batch, i)):
            assert given.ids[place] == ids[nearest].tolist()
            np.testing.assert_allclose(given.distances[place], true[nearest], atol=1e-9)


async def filled(worker: Worker, vectors: Vectors) -> tuple[SingleShard, dict[str, Vectors]]:
    """A shard with a graph beside which vectors died, and others came."""
    single = await SingleShard.create(worker, space=Space.SPACE_COSINE)
    metadatas = [{"n": i} for i in range(2600)]
    await single.add(names(range(2600)), vectors[:2600], metadatas)
    await graph_of(single, 2600)
    with unbuilt():
        await single.update(names(range(100, 300)), vectors[4000:4200])
        await single.delete(names(range(50, 150)))
    current = {f"r{i}": vectors[i] for i in range(2600)}
    current |= {f"r{i}": vectors[3900 + i] for i in range(100, 300)}
    for i in range(50, 150):
        del current[f"r{i}"]
    return single, current


@pytest.mark.parametrize(
    ("damage", "settings", "ungraphed_count", "fresh_count"),
    [
        (nothing, WorkerSettings(), 2600, 150),
        (flipped, WorkerSettings(), 2500, 0),
        (without, WorkerSettings(), 2500, 0),
        (without, WorkerSettings(memory_bytes=SMALL_MEMORY), 0, 0),
        # A file is whole up to its end: what it lacks is read from the records.
        (cut_short, WorkerSettings(), 1293, 1457),
    ],
    ids=["graph", "damaged vectors", "graph and vectors", "and no memory", "half the vectors"],
)
async def test_a_lost_graph_is_made_up_for_exactly_until_it_is_built_again(
    tmp_path: Path,
    vectors: Vectors,
    damage: Callable[[Path], None],
    settings: WorkerSettings,
    ungraphed_count: int,
    fresh_count: int,
) -> None:
    worker = await started(tmp_path)
    single, current = await filled(worker, vectors)
    (checkpoint,), (file,) = checkpoints_in(single.directory), vector_files_in(single.directory)
    await worker.close()
    checkpoint.unlink()
    damage(file)

    worker = await started(tmp_path, settings=settings)
    single = single.on(worker)
    with unbuilt():
        await check(single, current, vectors[5000:5010])
        state = single.open.newest
        assert (state.ungraphed.count if state.ungraphed else 0) == ungraphed_count
        assert state.fresh.size == fresh_count
        assert bool(state.unloaded_below) == (not ungraphed_count)
        assert state.outside_count == len(current)

        await single.delete(names(range(300, 320)))
        await single.update(names(range(320, 340)), vectors[4300:4320])
        await single.add(["new"], vectors[5000:5001])
        for i in range(300, 320):
            del current[f"r{i}"]
        current |= {f"r{i}": vectors[3980 + i] for i in range(320, 340)}
        current["new"] = vectors[5000]
        await check(single, current, np.concatenate((vectors[4995:5005], vectors[300:330])))

        among = [f"r{i}" for i in range(200, 1000) if f"r{i}" in current]
        found = answer_of(await single.search(vectors[6000], 20, where={"n": {"$lt": 1000}}))
        left = {name: current[name] for name in [*names(range(200)), *among] if name in current}
        true = true_distances(Space.SPACE_COSINE, vectors[6000], np.array(list(left.values())))
        assert found.ids[0] == [list(left)[i] for i in np.argsort(true, kind="stable")[:20]]
        few = answer_of(await single.search(vectors[6000], 20, where={"n": {"$lt": 9}}))
        assert sorted(few.ids[0]) == names(range(9))

    await single.add(["later"], vectors[5001:5002])
    await graph_of(single, 2400)
    assert single.open.newest.ungraphed is None
    assert single.open.newest.unloaded_below == 0
    assert single.open.newest.outside_count < 100
    answer = await single.search(vectors[7], 1)
    assert answer.plan.method == SearchMethod.SEARCH_METHOD_GRAPH
    assert answer_of(answer).ids == [["r7"]]
    await worker.close()


async def test_what_a_graph_may_not_hold_is_searched_beside_its_vectors(
    tmp_path: Path, vectors: Vectors
) -> None:
    worker = await started(tmp_path)
    single = await SingleShard.create(worker)
    await single.add(names(range(3000)), vectors[:3000])
    await single.add(["huge"], np.full((1, 64), 1e18, np.float32))
    await graph_of(single, 3000)
    (path,) = checkpoints_in(single.directory)
    await worker.close()
    path.unlink()

    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        assert answer_of(await single.search(np.full(64, 1e18), 1)).ids == [["huge"]]
        assert answer_of(await single.search(vectors[9], 1)).ids == [["r9"]]
        assert single.open.newest.fresh.size == 1
        assert single.open.newest.ungraphed is not None
    await worker.close()


async def test_what_serves_for_a_graph_counts_as_no_backlog(
    tmp_path: Path, vectors: Vectors
) -> None:
    worker = await started(tmp_path)
    single, _ = await filled(worker, vectors)
    directory = single.directory
    await worker.close()
    for path in (*checkpoints_in(directory), *vector_files_in(directory)):
        path.unlink()

    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        await single.count()
        assert single.open.newest.fresh.pending_count == 0
        assert single.open.memory_bytes > 2500 * 4 * 64
    await worker.close()


async def test_a_file_of_another_history_is_refused(tmp_path: Path, vectors: Vectors) -> None:
    worker = await started(tmp_path)
    single, current = await filled(worker, vectors)
    directory = single.directory
    await worker.close()
    records = directory / "records.mdb"
    older = records.read_bytes()
    worker = await started(tmp_path)
    single = single.on(worker)
    await single.add(names(range(7000, 8000)), vectors[7000:])
    await graph_of(single, 3400)
    await worker.close()
    # The records of a backup, put back by hand beside newer caches.
    records.write_bytes(older)
    checkpoints_in(directory)[0].unlink()
    refused = metrics.REFUSED_CHECKPOINTS.labels("newer")._value.get()

    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        await check(single, current, vectors[5000:5005])
    assert metrics.REFUSED_CHECKPOINTS.labels("newer")._value.get() == refused + 1
    await worker.close()


async def test_a_file_that_lacks_too_much_is_not_used(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "MAX_MISSING_VECTORS", 149)
    worker = await started(tmp_path)
    single, current = await filled(worker, vectors)
    directory = single.directory
    await worker.close()
    checkpoints_in(directory)[0].unlink()

    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        await check(single, current, vectors[5000:5005])
        state = single.open.newest
        assert state.ungraphed is not None
        assert (state.ungraphed.count, state.fresh.size) == (2500, 0)
    await worker.close()


async def test_a_vector_that_is_not_what_is_recorded_is_noticed_when_it_is_found(
    tmp_path: Path, vectors: Vectors
) -> None:
    worker = await started(tmp_path)
    single, current = await filled(worker, vectors)
    directory = single.directory
    await worker.close()
    checkpoints_in(directory)[0].unlink()
    (path,) = vector_files_in(directory)

    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        await check(single, current, vectors[5000:5005])
        # Every vector becomes its opposite, in the file that is mapped by now.
        content = np.fromfile(path, np.uint8)
        slots = content[4096:].reshape(-1, 64 * 4 + 72)
        slots[:, 3:256:4] ^= 128
        with path.open("r+b") as file:
            file.write(content.tobytes())

        await check(single, current, vectors[5000:5005])
        assert single.open.newest.ungraphed is not None
        assert not single.open.newest.ungraphed.is_sound
    await worker.close()


async def test_a_search_of_a_file_reads_from_the_records_only_what_it_finds(
    tmp_path: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await started(tmp_path)
    single, current = await filled(worker, vectors)
    directory = single.directory
    await worker.close()
    checkpoints_in(directory)[0].unlink()
    worker = await started(tmp_path)
    single = single.on(worker)
    with unbuilt():
        await single.count()
        read: list[int] = []
        vectors_of = Store.vectors_of

        def noted(store: Store, txn: object, keys: list[int], *rest: object) -> object:
            read.append(len(keys))
            return vectors_of(store, txn, keys, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "vectors_of", noted)
        answer_of(await single.search(vectors[5000], 10))
        assert sum(read) <= 10
        monkeypatch.setattr(Store, "vectors_of", vectors_of)
        await check(single, current, vectors[5000:5001])
    await worker.close()
