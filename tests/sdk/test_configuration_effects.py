"""Each key of a configuration has an effect: shown by what a search finds, costs and tells."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import shoal
from shoal_worker import finding

COUNT = 3_000
DIMENSION = 24
K = 10

Vectors = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def graphs_are_walked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scanning so few vectors is cheaper, and knows nothing of these settings."""
    monkeypatch.setattr(finding, "walk_us", lambda *_: 0.0)
    finding._planned.cache_clear()
    yield
    finding._planned.cache_clear()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[shoal.Client, Path]]:
    directory = tmp_path_factory.mktemp("store")
    with shoal.PersistentClient(directory) as client:
        yield client, directory


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return np.random.default_rng(3).standard_normal((COUNT, DIMENSION)).astype(np.float32)


def _create(client: shoal.Client, name: str, vectors: Vectors, **hnsw: Any) -> shoal.Collection:
    books = client.create_collection(name, {"hnsw": hnsw}, embedding_function=None)
    books.add([str(i) for i in range(len(vectors))], vectors)
    return books


def _fresh_count(books: shoal.Collection) -> int:
    plan = books.query([0.0] * DIMENSION, n_results=1, include=[], explain=True)["plan"]
    return sum(shard["fresh_count"] for shard in plan["shards"])


def _graphed(books: shoal.Collection, beside: int = 0) -> shoal.Collection:
    """Wait until a graph holds all but so many."""
    give_up_at = time.monotonic() + 240
    while _fresh_count(books) > beside:
        assert time.monotonic() < give_up_at, "no graph"
        time.sleep(0.02)
    return books


def _recall(books: shoal.Collection, vectors: Vectors) -> float:
    queries = np.random.default_rng(4).standard_normal((200, DIMENSION)).astype(np.float32)
    found = books.query(queries, n_results=K, include=[], explain=True)
    assert {shard["method"] for shard in found["plan"]["shards"]} == {"graph"}
    distances = ((queries[:, None].astype(np.float64) - vectors[None]) ** 2).sum(-1)
    nearest = np.argsort(distances, axis=1)[:, :K]
    hits = [
        len(set(ids) & {str(i) for i in row})
        for ids, row in zip(found["ids"], nearest.tolist(), strict=True)
    ]
    return sum(hits) / (K * len(queries))


def _candidates(books: shoal.Collection) -> int:
    plan = books.query([0.0] * DIMENSION, n_results=K, include=[], explain=True)["plan"]
    return sum(shard["candidate_count"] for shard in plan["shards"])


def _graph_bytes(books: shoal.Collection, directory: Path) -> int:
    shard = books.query([0.0] * DIMENSION, explain=True)["plan"]["shards"][0]["shard_id"]
    graphs = [path for path in directory.rglob("graph-*.usearch") if shard in str(path)]
    return max(path.stat().st_size for path in graphs)


# Looks from outside: a thread of this process would get no turn while a search is under way.
_WATCH = """
import os, sys
seen = set()
print("watching", flush=True)
while not os.path.exists(sys.argv[2]):
    seen.update(os.listdir(f"/proc/{sys.argv[1]}/task"))
print(*seen)
"""


def _threads_during(search: Callable[[], Any], end: Path) -> int:
    """How many threads begin while a search runs."""
    with subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(os.getpid()), str(end)],
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        before = {thread.name for thread in Path("/proc/self/task").iterdir()}
        search()
        end.touch()
        return len(set(watching.stdout.read().split()) - before)


Store = tuple[shoal.Client, Path]


def test_ef_search_widens_a_search_also_when_it_is_changed(store: Store, vectors: Vectors) -> None:
    client, _ = store
    books = _graphed(_create(client, "ef-search", vectors, ef_search=1))
    narrow = _recall(books, vectors)
    books.modify(configuration={"hnsw": {"ef_search": 400}})
    wide = _recall(client.get_collection("ef-search"), vectors)
    assert narrow < 0.9 < 0.98 < wide


def test_ef_construction_makes_better_links(store: Store, vectors: Vectors) -> None:
    client, _ = store
    poor = _graphed(_create(client, "poor", vectors, ef_construction=4, ef_search=20))
    good = _graphed(_create(client, "good", vectors, ef_construction=200, ef_search=20))
    assert _recall(poor, vectors) < _recall(good, vectors) - 0.02


def test_max_neighbors_makes_more_links(store: Store, vectors: Vectors) -> None:
    client, directory = store
    sizes, recalls = [], []
    for links in (4, 32):
        books = _graphed(_create(client, f"links-{links}", vectors, max_neighbors=links))
        sizes.append(_graph_bytes(books, directory))
        recalls.append(_recall(books, vectors))
    # A link is 4 to 6 bytes, and each vector has twice as many in the lowest layer.
    assert sizes[1] - sizes[0] > COUNT * 2 * (32 - 4) * 4 * 0.9
    assert recalls[0] < recalls[1]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="more threads than cores are never used")
def test_num_threads_bounds_the_threads_of_a_search(
    store: Store, vectors: Vectors, tmp_path: Path
) -> None:
    client, _ = store
    books = _graphed(_create(client, "threads", vectors, ef_search=2_000, num_threads=1))
    queries = np.random.default_rng(4).standard_normal((1_024, DIMENSION)).astype(np.float32)

    def search() -> None:
        books.query(queries, include=[])

    search()  # whatever starts threads once has started them
    alone = _threads_during(search, tmp_path / "alone")
    books.modify(configuration={"hnsw": {"num_threads": 2}})
    together = _threads_during(search, tmp_path / "together")
    assert (alone, together > 0) == (0, True)


@pytest.mark.parametrize("key", ["batch_size", "sync_threshold"])
def test_fresh_vectors_are_gathered_before_a_graph_takes_them_in(
    store: Store, vectors: Vectors, key: str
) -> None:
    client, _ = store
    early = _create(client, f"early-{key}", vectors, **{key: 2})
    late = _create(client, f"late-{key}", vectors, **{key: COUNT + 1})
    _graphed(early)
    assert _fresh_count(late) == COUNT
    # The one change by which there are enough.
    late.add("last", np.zeros(DIMENSION))
    _graphed(late)


@pytest.mark.parametrize("key", ["batch_size", "sync_threshold"])
def test_what_is_gathered_can_change(store: Store, vectors: Vectors, key: str) -> None:
    client, _ = store
    books = _create(client, f"changed-{key}", vectors, **{key: 100_000})
    assert _fresh_count(books) == COUNT
    books.modify(configuration={"hnsw": {key: 2}})
    _graphed(books)


def test_a_graph_takes_in_later_vectors_by_both_measures(store: Store, vectors: Vectors) -> None:
    client, _ = store
    more = np.random.default_rng(9).standard_normal((1_200, DIMENSION)).astype(np.float32)
    books = _graphed(
        _create(client, "later", vectors, batch_size=500, sync_threshold=1_000), COUNT - 1
    )
    held = COUNT - _fresh_count(books)
    for start in range(0, 900, 300):
        books.add([f"m{i}" for i in range(start, start + 300)], more[start : start + 300])
    assert _fresh_count(books) == 900 + COUNT - held
    books.add([f"m{i}" for i in range(900, 1_200)], more[900:])
    _graphed(books, 200)


@pytest.mark.parametrize(
    ("space", "nearest"), [("l2", "small"), ("cosine", "along"), ("ip", "long")]
)
def test_the_space_decides_what_is_near(store: Store, space: str, nearest: str) -> None:
    client, _ = store
    books = client.create_collection(
        f"space-{space}", {"hnsw": {"space": space}}, embedding_function=None
    )
    books.add(["small", "along", "long"], [[1, 1], [9, 0.1], [30, 20]])
    assert books.query([1, 0], n_results=1)["ids"] == [[nearest]]


def test_shards_divide_the_records(store: Store, vectors: Vectors) -> None:
    client, _ = store
    books = _create(client, "shards", vectors[:400], shards=4)
    plan = books.query([0.0] * DIMENSION, explain=True)["plan"]
    counts = [shard["record_count"] for shard in plan["shards"]]
    assert len(counts) == 4
    assert sum(counts) == 400
    assert min(counts) > 50


def test_the_quantization_is_the_graph_s(store: Store, vectors: Vectors) -> None:
    client, directory = store
    sizes = {}
    for kind in ("f32", "bf16", "i8"):
        books = _graphed(
            _create(client, f"graph-{kind}", vectors, quantization=kind, space="cosine")
        )
        sizes[kind] = _graph_bytes(books, directory)
    numbers = COUNT * DIMENSION
    assert sizes["f32"] - sizes["bf16"] == pytest.approx(2 * numbers, rel=0.1)
    assert sizes["bf16"] - sizes["i8"] == pytest.approx(numbers, rel=0.1)
