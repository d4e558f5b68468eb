"""What benchmarks leave behind can be read again, and compared only as it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import Measurement, Ratio, Recorder, load, load_all, ratio


def recorded() -> Recorder:
    recorder = Recorder("peers", {"chroma": "1.5.9"})
    for turn in range(3):
        recorder.add("mixture", "shoal", "query rate", "queries/s", 300.0 + turn, callers=8)
        recorder.add("mixture", "chroma", "query rate", "queries/s", 100.0, callers=8)
    recorder.skip("seekdb", "does not install")
    return recorder


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = recorded().write(tmp_path / "deeper" / "peers.json")
    assert load(tmp_path / "deeper" / "peers.json") == run
    assert [m.rounds for m in run.measurements] == [(300.0, 301.0, 302.0), (100.0, 100.0, 100.0)]
    assert run.versions["chroma"] == "1.5.9"
    assert run.versions["shoal commit"]
    assert run.machine.cores >= 1
    assert run.machine.memory_bytes > 2**20
    assert run.skipped == {"seekdb": "does not install"}


def test_what_is_skipped_names_no_path_of_a_machine() -> None:
    recorder = Recorder("peers")
    recorder.skip("a", "cannot open '/home/me/store/index.bin' behind http://localhost/api/v2")
    assert recorder.run().skipped == {"a": "cannot open 'index.bin' behind http://localhost/api/v2"}


def test_a_measurement_is_found_by_its_parameters() -> None:
    run = recorded().run()
    [found] = run.find("query rate", system="shoal", callers=8)
    assert found.median == 301.0
    assert run.find("query rate", callers=32) == []
    assert run.find("query rate", dataset="passages") == []
    assert len(run.find("query rate")) == 2


def test_a_ratio_is_of_the_rounds_pair_by_pair() -> None:
    ours = Measurement("d", "ours", "rate", "1/s", (30.0, 10.0, 80.0))
    other = Measurement("d", "other", "rate", "1/s", (10.0, 5.0, 10.0))
    assert ratio(ours, other) == Ratio(median=3.0, low=2.0, high=8.0, rounds=3)
    assert str(ratio(ours, other)) == "3.00 (2.00–8.00)"


def test_rounds_that_did_not_take_turns_are_no_ratio() -> None:
    ours = Measurement("d", "ours", "rate", "1/s", (30.0, 10.0))
    other = Measurement("d", "other", "rate", "1/s", (10.0,))
    with pytest.raises(ValueError, match="took turns"):
        ratio(ours, other)


def test_one_quantity_has_one_unit() -> None:
    recorder = recorded()
    with pytest.raises(ValueError, match="queries/s"):
        recorder.add("mixture", "shoal", "query rate", "ms", 1.0, callers=8)


def test_a_directory_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    for name, when in (("b", "2026-01-01T00:00:00+00:00"), ("a", "2026-02-01T00:00:00+00:00")):
        path = tmp_path / f"{name}.json"
        recorded().write(path)
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"when": when, "benchmark": name}))
    assert [run.benchmark for run in load_all(tmp_path)] == ["b", "a"]


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"other\.json is not a run of format 1"):
        load(tmp_path / "other.json")
