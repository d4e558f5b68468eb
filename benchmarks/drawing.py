"""Which plots a report has, and the figures in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import filters, scale_collections, scale_shards, scale_sizes
from benchmarks.judging import newest
from benchmarks.plots import Point, chart
from benchmarks.record import (
    DISK,
    INGEST_INDEXED,
    MEMORY,
    QUERY_CPU,
    QUERY_P50,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    Measurement,
    Parameter,
    Run,
    ratio,
    ratio_apart,
)

_RECALL: Final = 0.99
_LEAST_PERCENT: Final = 0.005

Lines = dict[str, list[Point]]


@dataclass(frozen=True, slots=True)
class Plot:
    """One drawing."""

    title: str
    svg: str


def plots(runs: Sequence[Run]) -> dict[str, Plot]:
    """Draw whatever was measured, by the names of files."""
    found: dict[str, Plot] = {}
    for benchmark, draw in (("peers", _peers), ("filters", _filters), ("scaling", _scaling)):
        for run, own in newest(runs, benchmark):
            for dataset in sorted(own):
                for name, plot in draw(run, dataset):
                    found[f"{name}-{_slug(dataset)}"] = plot
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace(",", "")).strip("-")


def _systems(run: Run, dataset: str) -> list[str]:
    return list(dict.fromkeys(m.system for m in run.measurements if m.dataset == dataset))


def _point(x: float, measured: Measurement) -> Point:
    return Point(x, measured.median, min(measured.rounds), max(measured.rounds))


def _drawn(
    name: str,
    title: str,
    axes: tuple[str, str],
    lines: Lines,
    *,
    is_x_log: bool = False,
    is_y_log: bool = True,
) -> Iterator[tuple[str, Plot]]:
    """Give a plot, unless there is nothing to draw."""
    shown = {line: points for line, points in lines.items() if points}
    if shown:
        yield name, Plot(title, chart(title, *axes, shown, is_x_log=is_x_log, is_y_log=is_y_log))


def _peers(run: Run, dataset: str) -> Iterator[tuple[str, Plot]]:
    systems = _systems(run, dataset)

    def lines(points: Callable[[str], list[Point]]) -> Lines:
        return {system: points(system) for system in systems}

    def against_recall(system: str) -> list[Point]:
        way: dict[str, Parameter] = {"callers": 1, "batch": 1, "include": "distances"}
        rates = run.find(QUERY_RATE, dataset=dataset, system=system, **way)
        return [
            _point(reached.median, rate)
            for rate in rates
            for reached in run.find(RECALL, dataset=dataset, system=system)
            if rate.parameters.get("recall_target", "none")
            == reached.parameters.get("recall_target")
        ]

    def against_callers(system: str) -> list[Point]:
        way: dict[str, Parameter] = {"batch": 1, "include": "all", "recall_target": _RECALL}
        found = run.find(QUERY_P50, dataset=dataset, system=system, **way)
        return [_point(float(m.parameters["callers"]), m) for m in found]

    def against_matches(system: str) -> list[Point]:
        found = [
            m
            for m in run.find(QUERY_P50, dataset=dataset, system=system)
            if "matches_percent" in m.parameters
        ]
        whole = [m for m in found if m.parameters["matches_percent"] == 100]
        return [_relative(m, whole[0], "matches_percent") for m in found if whole]

    yield from _drawn(
        "recall",
        f"Recall against rate: one caller, IDs and distances; {dataset}",
        ("recall@10", "queries/s"),
        lines(against_recall),
    )
    yield from _drawn(
        "callers",
        f"Latency against callers, recall@10 {_RECALL}; {dataset}",
        ("callers", "p50, ms"),
        lines(against_callers),
        is_x_log=True,
    )
    yield from _drawn(
        "filters",
        f"Queries under filters; {dataset}",
        ("% of the records that match", "p50, times that without a filter"),
        lines(against_matches),
        is_x_log=True,
    )


def _relative(measured: Measurement, base: Measurement, name: str) -> Point:
    found = ratio(measured, base)
    return Point(float(measured.parameters[name]), found.median, found.low, found.high)


def _filters(run: Run, dataset: str) -> Iterator[tuple[str, Plot]]:
    lines: Lines = {}
    for is_far, name in ((False, "shoal, evenly spread"), (True, "shoal, the farthest")):
        found = run.find(QUERY_P50, dataset=dataset, system=filters.SHOAL, is_far=is_far)
        whole = [m for m in found if m.parameters["filter"] == filters.UNFILTERED]
        ranges = (
            m for m in found
            if str(m.parameters["filter"]).endswith(("a range", "the farthest"))
            and float(m.parameters["matches_percent"]) > _LEAST_PERCENT
        )  # fmt: skip
        lines[name] = [_relative(m, whole[0], "matches_percent") for m in ranges if whole]
    yield from _drawn(
        "filter-sweep",
        f"Queries under filters, and under the hardest; {dataset}",
        ("% of the records that match", "p50, times that without a filter"),
        lines,
        is_x_log=True,
    )


def _scaling(run: Run, dataset: str) -> Iterator[tuple[str, Plot]]:
    def found(what: str, system: str, **given: Parameter) -> list[Measurement]:
        return run.find(what, dataset=dataset, system=system, **given)

    shards: Lines = {}
    for workers in scale_shards.WORKERS:
        for callers in scale_shards.CALLERS:
            who = "1 caller" if callers == 1 else f"{callers} callers"
            line = f"{workers} worker{'s' if workers > 1 else ''}, {who}"
            measured = found(QUERY_RATE, scale_shards.SHOAL, workers=workers, callers=callers,
                             recall_target=_RECALL)  # fmt: skip
            shards[line] = [_point(float(m.parameters["shards"]), m) for m in measured]
    yield from _drawn(
        "shards",
        f"Shards of one collection, recall@10 {_RECALL}; {dataset}",
        ("shards", "queries/s"),
        shards,
        is_x_log=True,
    )
    sizes: Lines = {}
    for line, what, given in (
        ("query p50", QUERY_P50, {"recall_target": _RECALL}),
        ("CPU a query", QUERY_CPU, {"recall_target": _RECALL}),
        ("memory a vector", MEMORY, {"kind": "Pss"}),
        ("disk a vector", DISK, {}),
        ("ingest until indexed", INGEST_INDEXED, {}),
    ):
        measured = found(what, scale_sizes.SHARD, **given)
        sizes[line] = _growth(measured, "count")
    yield from _drawn(
        "sizes",
        f"Records of one shard, recall@10 {_RECALL}; {dataset}",
        ("records", "times the smallest's"),
        sizes,
        is_x_log=True,
    )
    many: Lines = {}
    for line, what, given in (
        ("creation, p50", f"{scale_collections.CREATE}, p50", {}),
        ("description, p50", f"{scale_collections.DESCRIBE}, p50", {}),
        ("query p50", QUERY_P50, {}),
        ("query p99", QUERY_P99, {}),
        ("first query after a start, p50", f"{scale_collections.OPENING}, p50", {}),
    ):
        measured = [m for m in found(what, scale_collections.SHOAL, **given)
                    if "collections" in m.parameters]  # fmt: skip
        many[line] = [_point(float(m.parameters["collections"]), m) for m in measured]
    yield from _drawn(
        "collections",
        f"Collections of one worker; {dataset}",
        ("collections", "ms"),
        many,
        is_x_log=True,
    )


def _growth(measured: Sequence[Measurement], name: str) -> list[Point]:
    """Give figures as multiples of the smallest size's."""
    if not measured:
        return []
    ordered = sorted(measured, key=lambda m: float(m.parameters[name]))
    found = [(float(m.parameters[name]), ratio_apart(m, ordered[0])) for m in ordered]
    return [Point(x, r.median, r.low, r.high) for x, r in found]
