"""The report says what the raw files say: ratios with their spread, what is missed or skipped."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.plots import Point, chart
from benchmarks.report import write
from tests.benchmarks import canned


@pytest.fixture
def told(tmp_path: Path) -> str:
    raw = tmp_path / "raw"
    raw.mkdir()
    write(canned.everything(raw), tmp_path / "RESULTS.md")
    return (tmp_path / "RESULTS.md").read_text()


def test_the_summary_comes_first_and_names_missed_targets(told: str) -> None:
    summary = told.partition("## In a minute")[2].partition("\n## ")[0]
    assert "**serve-ingest** is not met: 1.50 (1.50–1.50)." in summary
    assert "**serve-one**" not in summary


def test_shoal_is_told_beside_the_best_other(told: str) -> None:
    assert "| 8 callers, recall 0.99 | shoal server, 500 queries/s | " in told
    assert "| chroma server, 100 queries/s | **4.98 (4.96–5.00)** |" in told


def test_leads_over_all_data_sets_come_first_with_the_noise_marked(told: str) -> None:
    summary = told.partition("## In a minute")[2].partition("\n## ")[0]
    assert f"| | {canned.PASSAGES} | {canned.MIXTURE} |" in summary
    assert "| shoal server: 8 callers | **4.98** | – |" in summary
    assert "| shoal server: 1 caller, IDs and distances | 1.00 | _0.50_ |" in summary


def test_a_recall_that_nobody_else_reaches_is_no_lead(told: str) -> None:
    assert "| 1 caller, recall 0.99 | shoal server, 7.00 queries/s | none reaches it | – |" in told


def test_figures_of_scale_are_ratios_to_the_smallest(told: str) -> None:
    assert "| query p50 | mixture x 128, count 1000000, recall_target 0.99, " in told
    assert "| 4.00 ms | 1.00 | 4.00 (1 round) |" in told


def test_what_was_skipped_is_named_with_its_reason(told: str) -> None:
    assert "- seekdb embedded: it does not install here" in told


def test_machine_versions_and_commands_are_told(told: str) -> None:
    how = told.partition("## How it was measured")[2]
    assert "chroma 1.5.9" in how
    assert " cores, " in how
    assert how.count("| peers |") == 2


def test_each_plot_that_is_shown_is_there_and_well_formed(told: str, tmp_path: Path) -> None:
    shown = {part.partition(")")[0] for part in told.split("](plots/")[1:]}
    assert shown == {path.name for path in (tmp_path / "plots").glob("*.svg")}
    kinds = ("recall", "callers", "filter-sweep", "shards", "sizes", "collections")
    assert all(any(name.startswith(f"{kind}-") for name in shown) for kind in kinds)
    for path in (tmp_path / "plots").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.stat().st_size < 20_000


def test_each_note_that_is_linked_is_there(told: str) -> None:
    notes = told.partition("## Notes")[2]
    linked = [
        line.partition("](")[2].partition(")")[0] for line in notes.splitlines() if "](" in line
    ]
    assert linked
    home = Path(__file__).parents[2] / "benchmarks"
    assert [name for name in linked if not (home / name).exists()] == []


def test_the_same_raw_files_give_the_same_report(told: str, tmp_path: Path) -> None:
    write(tmp_path / "raw", tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == told


def test_plots_of_what_is_no_longer_measured_go(told: str, tmp_path: Path) -> None:
    (tmp_path / "raw" / "filters.json").unlink()
    assert list((tmp_path / "plots").glob("filter-sweep-*"))
    write(tmp_path / "raw", tmp_path / "RESULTS.md")
    assert not list((tmp_path / "plots").glob("filter-sweep-*"))


def test_a_report_of_nothing_says_that_nothing_was_measured(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw", tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "Nothing has been measured yet" in text
    assert "0 of " in text
    assert "## Plots" not in text


def test_a_point_stands_where_its_value_is() -> None:
    drawn = ElementTree.fromstring(
        chart("t", "x", "y", {"a": [Point(1, 10, 5, 20), Point(10, 100, 90, 110)]}, is_x_log=True)
    )
    circles = list(drawn.iter("{http://www.w3.org/2000/svg}circle"))
    places = [(float(c.get("cx", "0")), float(c.get("cy", "0"))) for c in circles]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        chart("t", "x", "y", {"a": []})
