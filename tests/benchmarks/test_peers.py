"""The harness that measures Shoal beside other stores: what it says is what was measured."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from usearch.index import Index

from benchmarks.data import Dataset, from_file
from benchmarks.measure import EFFORTS
from benchmarks.peers.bench import Bench, Options
from benchmarks.peers.calling import Callers
from benchmarks.peers.driver import Driver
from benchmarks.peers.filtering import MATCHING
from benchmarks.peers.kinds import KINDS
from benchmarks.peers.loading import load
from benchmarks.peers.store import thousandth
from benchmarks.peers.systems import Kind
from benchmarks.peers.tables import tables
from benchmarks.peers.tuning import Tuned
from benchmarks.record import QUERY_P50, QUERY_RATE, RECALL, Parameter, Recorder

DIMENSION = 16
OPTIONS = Options(
    rounds=1,
    seconds=0.1,
    ingest_rounds=1,
    recalls=(0.9,),
    write_rate=100.0,
    parts=frozenset({"ingest"}),
)


def dataset(metric: str = "l2", count: int = 2_000) -> Dataset:
    rng = np.random.default_rng(5)
    base = rng.standard_normal((count, DIMENSION)).astype(np.float32)
    queries = rng.standard_normal((40, DIMENSION)).astype(np.float32)
    bare = Dataset("noise", base, queries, np.empty((0, 10), np.int64), metric)
    return Dataset("noise", base, queries, bare.truth_among(np.arange(count)), metric)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    recorder = Recorder("peers")
    with Bench(dataset(), tmp_path, OPTIONS, recorder, lambda _: None) as bench:
        yield bench


RAW = Kind("raw usearch", "usearch:Usearch", "raw usearch", is_own=True, is_index=True)


@pytest.mark.parametrize("below", MATCHING)
def test_a_filter_matches_so_many_of_a_thousand(below: int) -> None:
    assert sum(thousandth(n) < below for n in range(5_000)) == 5 * below


def test_the_true_neighbours_are_those_of_a_double_loop() -> None:
    data = dataset(count=200)
    rows = np.arange(0, 200, 7)
    for query, found in zip(data.queries, data.truth_among(rows), strict=True):
        distances = [float(np.square(data.base[row] - query).sum()) for row in rows]
        assert found.tolist() == [int(rows[n]) for n in np.argsort(distances)[:10]]


def test_fewer_match_than_are_wanted() -> None:
    assert dataset(count=200).truth_among(np.arange(3)).shape == (40, 3)


def test_a_file_brings_its_own_truth(tmp_path: Path) -> None:
    data = dataset(count=300)
    gt100 = np.tile(data.truth, 10)
    np.savez(tmp_path / "sift5k_128_l2.npz", base=data.base, query=data.queries, gt100=gt100)
    read = from_file(tmp_path / "sift5k_128_l2.npz")
    assert read.name == "sift5k 300 x 16"
    assert read.metric == "l2"
    assert read.truth.tolist() == data.truth.tolist()


def test_callers_call_at_once_and_share_the_queries() -> None:
    lock = threading.Lock()
    seen: list[int] = []
    together = threading.Barrier(3, timeout=240)

    def call(number: int) -> None:
        with lock:
            seen.append(number)
            is_first = len(seen) <= 3
        if is_first:
            together.wait()  # passes only if all three are calling

    answer = Callers(call, 3, []).run(0.05)
    assert sorted(seen[:3]) == [0, 1, 2]
    assert len(set(seen[3:])) == len(seen[3:])
    assert answer["rate"] > 0
    assert answer["p50_s"] <= answer["p95_s"] <= answer["p99_s"]


def test_a_call_that_fails_ends_all_callers() -> None:
    def call(number: int) -> None:
        if number == 2:
            raise ValueError("no such collection")

    with pytest.raises(RuntimeError, match="no such collection"):
        Callers(call, 3, []).run(60.0)


def driver(tmp_path: Path, base: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> Driver:
    for name, array in (("base", base), ("queries", queries), ("truth", truth)):
        np.save(tmp_path / f"{name}.npy", array)
    own = Driver("usearch:Usearch", {"dimension": base.shape[1], "metric": "l2"}, str(tmp_path))
    own.prepare()
    own.open(str(tmp_path / "data"))
    own.load()
    return own


def test_the_recall_is_the_share_of_the_true_ten(tmp_path: Path) -> None:
    data = dataset()
    own = driver(tmp_path, data.base, data.queries, data.truth)
    own.tune(EFFORTS[0])
    index: Any = Index.restore(str(tmp_path / "data" / "bench.usearch"))
    assert index is not None
    index.expansion_search = EFFORTS[0]
    found = index.search(data.queries, 10, threads=1).keys
    pairs = zip(found.tolist(), data.truth.tolist(), strict=True)
    share = sum(len(set(rows) & set(true)) for rows, true in pairs) / data.truth.size
    assert 0.3 < share < 1.0
    assert own.recall()["recall"] == pytest.approx(share)


def test_of_equally_near_ones_any_counts(tmp_path: Path) -> None:
    data = dataset(count=40)
    base = np.repeat(data.base, 20, axis=0)  # each vector 20 times
    nearest = data.truth[:, :1] * 20
    own = driver(tmp_path, base, data.queries, nearest + np.arange(10, 20))
    own.tune(EFFORTS[-1])
    assert own.recall()["recall"] > 0.99


def test_one_that_does_not_install_is_skipped_and_the_others_go_on(
    bench: Bench, tmp_path: Path
) -> None:
    absent = Kind("hnswlib", "hnswlib:Hnswlib", "raw usearch", is_index=True)
    nowhere = Kind("lancedb", "lance:Lance", "raw usearch")
    bench.take([absent, RAW], Path(sys.executable).parent)
    bench.take([nowhere], tmp_path / "bin")
    load(bench)
    assert [system.name for system in bench.systems] == ["raw usearch"]
    text = tables(bench.recorder.run())
    assert (
        "Skipped: hnswlib, noise: prepare: ModuleNotFoundError: No module named 'hnswlib'" in text
    )
    assert "Skipped: lancedb, noise: its environment is not there" in text
    assert "| raw usearch | " in text


def test_the_least_effort_that_reaches_the_recall_is_found(tmp_path: Path) -> None:
    # Two threads build another graph each time; with the least effort none has this recall.
    options = replace(OPTIONS, recalls=(0.97,))
    with Bench(dataset(), tmp_path, options, Recorder("peers"), lambda _: None) as bench:
        bench.take([RAW], Path(sys.executable).parent)
        load(bench)
        (system,) = bench.systems
        effort = Tuned(bench).effort(system, 0.97)
        assert effort is not None
        recalls = []
        for tried in (effort, EFFORTS[EFFORTS.index(effort) - 1]):
            system.do("tune", effort=tried)
            recalls.append(system.do("recall")["recall"])
    assert recalls[0] >= 0.97 > recalls[1]


def test_a_loaded_store_is_found_again(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        without = replace(OPTIONS, parts=frozenset())
        with Bench(dataset(), tmp_path, without, Recorder("peers"), said.append) as bench:
            bench.take([RAW], Path(sys.executable).parent)
            load(bench)
            assert bench.systems[0].do("recall")["recall"] > 0.5
    assert len([line for line in said if "written" in line]) == 1


def test_tables_divide_shoal_by_the_others_round_by_round() -> None:
    recorder = Recorder("peers")
    way: dict[str, Parameter] = {"recall_target": 0.95, "callers": 8, "batch": 1, "include": "all"}
    for system, rates in (("shoal embedded", (100.0, 300.0)), ("qdrant edge", (200.0, 200.0))):
        recorder.add("noise", system, RECALL, "share", 0.951, recall_target=0.95, effort=40)
        for rate in rates:
            recorder.add("noise", system, QUERY_RATE, "queries/s", rate, **way)
            recorder.add("noise", system, QUERY_P50, "ms", 1e3 / rate, **way)
    recorder.add("noise", "lancedb", RECALL, "share", 0.62, recall_target=0.95)
    text = tables(recorder.run())
    assert "| qdrant edge | 200 | 1.00 (0.50–1.50) | 5.00 / – / – |" in text
    assert "| lancedb | does not reach it |" in text


def test_a_recall_that_none_reaches_is_one_line_with_the_highest() -> None:
    recorder = Recorder("peers")
    for system, recall in (("shoal embedded", 0.951), ("qdrant edge", 0.977)):
        recorder.add("noise", system, RECALL, "share", recall, recall_target=0.99)
    text = tables(recorder.run())
    assert (
        "recall@10 0.99 is reached by none: at most shoal embedded 0.951, qdrant edge 0.977" in text
    )
    assert "does not reach it" not in text


def test_every_system_is_compared_with_one_of_shoal_that_comes_before() -> None:
    names = [kind.name for kind in KINDS]
    for kind in KINDS:
        assert kind.beside.startswith("shoal")
        assert names.index(kind.beside) <= names.index(kind.name)
