"""Targets are judged by raw figures as their words say, and what is missing is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.judging import DATASETS, Verdict, words_of_targets
from benchmarks.record import load_all
from benchmarks.target_list import TARGETS
from benchmarks.targets import STEPS, judged, steps_for, summary, table
from tests.benchmarks import canned


def verdict(path: Path, name: str) -> Verdict:
    [target] = [target for target in TARGETS if target.name == name]
    [found] = judged([target], load_all(path))
    return found


def test_each_target_of_the_list_is_measured_and_none_besides() -> None:
    assert sorted(target.name for target in TARGETS) == sorted(words_of_targets())
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_each_target_is_measured_by_a_step() -> None:
    assert {target.benchmark for target in TARGETS} == {step.benchmark for step in STEPS}


def test_a_target_that_is_met_says_yes_with_ratio_and_spread(tmp_path: Path) -> None:
    canned.peers(tmp_path)
    found = verdict(tmp_path, "serve-one")
    assert found.is_met is True
    assert found.answer == "yes"
    assert "300 queries/s beside 100: ratio 2.99 (2.98–3.00)" in table([found])


def test_a_target_that_is_missed_says_no(tmp_path: Path) -> None:
    canned.peers(tmp_path)
    found = verdict(tmp_path, "serve-ingest")
    assert found.is_met is False
    assert table([found]).splitlines()[-1].endswith("ratio 1.50 (1.50–1.50) | no |")


def test_the_hardest_case_decides(tmp_path: Path) -> None:
    canned.filtered(tmp_path)
    found = verdict(tmp_path, "filter-cost")
    assert found.is_met is False
    assert [case.is_met for case in found.cases] == [False, True]
    assert "0.10%, a range; worst of 2" in table([found])


def test_who_takes_half_of_the_time_is_twice_as_fast(tmp_path: Path) -> None:
    canned.shard_searches(tmp_path, at_95=0.4)
    found = verdict(tmp_path, "shard-query")
    assert [round(case.judged.median, 2) for case in found.cases] == [0.73, 1.82]
    assert found.is_met is True


def test_a_bound_within_the_spread_is_said_to_be(tmp_path: Path) -> None:
    canned.shard_searches(tmp_path, at_95=0.4)
    # 0.8 ms beside 1.0 to 1.2: the bound of 0.7 lies between the slowest round and the middle one.
    assert verdict(tmp_path, "shard-query").answer == "yes, within the noise"


def test_what_was_not_measured_is_neither_met_nor_missed(tmp_path: Path) -> None:
    found = verdict(tmp_path, "serve-one")
    assert found.is_met is None
    assert found.answer == "not measured"
    assert "make bench-peers" in found.missing


def test_what_was_skipped_says_why(tmp_path: Path) -> None:
    canned.peers(tmp_path)
    path = tmp_path / "peers.json"
    raw = json.loads(path.read_text())
    raw["measurements"] = [m for m in raw["measurements"] if m["system"] != "chroma server"]
    raw["skipped"] = {"chroma server, passages": "it did not start"}
    path.write_text(json.dumps(raw))
    assert verdict(tmp_path, "serve-one").missing == "chroma server, passages: it did not start"


def test_a_figure_without_a_bound_is_only_stated(tmp_path: Path) -> None:
    canned.scaling(tmp_path)
    found = verdict(tmp_path, "million-start")
    assert found.answer == "stated"
    assert found.cases[0].ratio is not None
    assert found.cases[0].ratio.median == pytest.approx(2.0)


def test_the_newest_run_of_a_data_set_counts(tmp_path: Path) -> None:
    canned.peers(tmp_path)
    [run] = load_all(tmp_path)
    slower = tuple(
        dataclasses.replace(m, rounds=tuple(r / 3 for r in m.rounds))
        if m.system == "shoal server"
        else m
        for m in run.measurements
    )
    [target] = [target for target in TARGETS if target.name == "serve-one"]
    for when, is_met in (("2020-01-01", True), ("2100-01-01", False)):
        other = dataclasses.replace(run, when=when, measurements=slower)
        [found] = judged([target], [run, other])
        assert found.is_met is is_met


def test_targets_are_not_judged_on_the_worst_case_that_no_user_has(tmp_path: Path) -> None:
    assert not "gaussian 20,000 x 384".startswith(DATASETS)
    canned.peers(tmp_path)
    path = tmp_path / "peers.json"
    path.write_text(path.read_text().replace(canned.PASSAGES, "gaussian 1,000 x 384"))
    assert verdict(tmp_path, "serve-one").cases == ()


def test_the_command_judges_raw_files_and_counts(tmp_path: Path) -> None:
    canned.everything(tmp_path)
    command = [sys.executable, "-m", "benchmarks.targets", "--from-raw", str(tmp_path)]
    only = ["--only", "serve-one,serve-ingest,snapshot-tail,million-start"]
    done = subprocess.run([*command, *only], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == (
        "1 of 4 targets are met; 1 are only to be stated; 1 not met (serve-ingest); "
        "1 not measured (snapshot-tail)."
    )


def test_only_what_no_raw_file_has_is_measured_again(tmp_path: Path) -> None:
    assert steps_for(TARGETS, []) == list(STEPS)
    canned.everything(tmp_path)
    some = [t for t in TARGETS if t.name in {"serve-one", "million-start", "snapshot-tail"}]
    assert [step.benchmark for step in steps_for(some, load_all(tmp_path))] == ["snapshots"]


def test_an_unknown_target_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.targets", "--only", "serve-one,no-such"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such targets: no-such" in done.stderr


def test_the_summary_names_what_is_missed(tmp_path: Path) -> None:
    canned.everything(tmp_path)
    told = summary(judged(TARGETS, load_all(tmp_path)))
    assert "filter-cost" in told.partition("not met (")[2].partition(")")[0]
    assert "serve-batch" in told.partition("not measured (")[2].partition(")")[0]
