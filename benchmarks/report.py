"""`make bench-report`: writes RESULTS.md and its plots from the raw files.

    python -m benchmarks.report [--raw DIR] [--output FILE]

Every figure comes from a raw file; what is written by hand are the notes that RESULTS.md links to.
The same raw files give the same report, byte by byte.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import comparisons, drawing, leading
from benchmarks.judging import Verdict
from benchmarks.peers.tables import tables
from benchmarks.record import RESULTS, Run, load_all
from benchmarks.target_list import TARGETS
from benchmarks.targets import judged, summary, table

_HERE: Final = Path(__file__).parent
_NOTES: Final = {
    "PROFILE.md": "where a query's time goes, and what was done about it",
    "RESULTS-shard.md": "one shard: what was learnt, and what was tried",
    "RESULTS-filters.md": "filters: what was learnt, the planner's figures, what a field costs",
    "RESULTS-snapshots.md": "snapshots: why they take what they take",
    "RESULTS-throughput.md": "serving: what one caller pays for, and what several share",
}


def report(runs: Sequence[Run], plots: str) -> str:
    """Give the report of some runs.

    Args:
        runs: All that there are; of each data set of a benchmark the newest counts.
        plots: Where the plots lie, as seen from the report.
    """
    verdicts = judged(TARGETS, runs)
    lines = [
        "# Results",
        "",
        "<!-- Written by `make bench-report` from the raw files in results/: not by hand. -->",
        "",
        "Ratios are of what took turns in one run, round beside round: the median, and in brackets",
        "the lowest and the highest. Absolute figures say as much of the machine as of Shoal.",
        "",
        *_in_a_minute(runs, verdicts),
        *_plots(runs, plots),
        "## Targets",
        "",
        "What they say in full, and how they are measured, is in [targets.md](targets.md). Of the",
        "cases of each the hardest is shown.",
        "",
        table(verdicts),
        "",
        *leading.each(runs),
        *_beside_peers(runs),
        *_comparisons(runs),
        *_how(runs),
        "## Notes",
        "",
        *(f"- [{file}]({file}): {about}" for file, about in _NOTES.items()),
        "",
    ]
    return "\n".join(lines)


def _in_a_minute(runs: Sequence[Run], verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## In a minute"
    yield ""
    if not runs:
        yield "Nothing has been measured yet: `make bench-peers`, `make bench-targets` and `make"
        yield "bench-scaling` leave raw files, from which `make bench-report` writes this page."
        yield ""
    yield from leading.overview(runs)
    yield summary(verdicts)
    yield ""
    for verdict in verdicts:
        if verdict.is_met is False:
            worst = verdict.cases[0]
            told = worst.ratio if worst.ratio and not verdict.target.is_absolute else worst.judged
            yield f"- **{verdict.target.name}** is not met: {told}. {verdict.words}."
    yield ""


def _plots(runs: Sequence[Run], place: str) -> Iterator[str]:
    drawn = drawing.plots(runs)
    if drawn:
        yield "## Plots"
        yield ""
        for name, plot in drawn.items():
            yield f"![{plot.title}]({place}/{name}.svg)"
        yield ""


def _beside_peers(runs: Sequence[Run]) -> Iterator[str]:
    for run, dataset in leading.datasets(runs):
        yield f"## Beside others: {dataset}, {run.when[:10]}"
        yield ""
        for line in tables(_only(run, dataset)).splitlines():
            yield f"#{line}" if line.startswith("## ") else line
        yield ""


def _only(run: Run, dataset: str) -> Run:
    """What a run measured on one data set, and skipped there."""
    others = {m.dataset for m in run.measurements} - {dataset}
    return Run(
        run.benchmark,
        run.when,
        run.machine,
        run.versions,
        run.command,
        tuple(m for m in run.measurements if m.dataset == dataset),
        {what: why for what, why in run.skipped.items() if not what.endswith(tuple(others))},
    )


def _comparisons(runs: Sequence[Run]) -> Iterator[str]:
    found = [line for section in comparisons.SECTIONS for line in comparisons.lines(section, runs)]
    if found:
        yield "## Shoal by itself"
        yield ""
        yield from found


def _how(runs: Sequence[Run]) -> Iterator[str]:
    yield "## How it was measured"
    yield ""
    yield f"| Run | When | Command | Commit | Load, begin and end |\n{'|---' * 5}|"
    for run in runs:
        load = f"{run.machine.load_begin:g}, {run.machine.load_end:g}"
        commit = run.versions.get("shoal commit", "unknown")
        yield f"| {run.benchmark} | {run.when[:16]} | `{run.command}` | {commit} | {load} |"
    yield ""
    machines = {
        f"{m.cpu}, {m.cores} cores, {m.memory_bytes / 2**30:.0f} GiB, {m.system}"
        for m in (run.machine for run in runs)
    }
    yield from (f"- {machine}" for machine in sorted(machines))
    versions = {
        (name, number)
        for run in runs
        for name, number in run.versions.items()
        if name != "shoal commit"
    }
    yield "- " + ", ".join(f"{name} {number}" for name, number in sorted(versions))
    yield ""
    skipped = {(what, why) for run in runs for what, why in run.skipped.items()}
    if skipped:
        yield "Skipped:"
        yield ""
        yield from (f"- {what}: {why}" for what, why in sorted(skipped))
        yield ""


def write(raw: Path, output: Path) -> None:
    """Write the report of a directory of raw files, and its plots beside it."""
    runs = load_all(raw)
    plots = output.parent / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for name, plot in drawing.plots(runs).items():
        (plots / f"{name}.svg").write_text(plot.svg)
    output.write_text(report(runs, plots.name))


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--raw", type=Path, default=RESULTS, help="raw files; benchmarks/results")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS.md")
    options = parser.parse_args()
    write(options.raw, options.output)
    print(f"wrote {options.output}, from {len(load_all(options.raw))} runs")


if __name__ == "__main__":
    main()
