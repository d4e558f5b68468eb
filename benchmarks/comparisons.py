"""What raw figures are told beside, in reports: sections of comparisons without a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import batching, filters, overload, scale_collections, scale_sizes, snapshots, text
from benchmarks import filtered_ingest as writing
from benchmarks import scale_shards as shards
from benchmarks import shard_ingest as ingest
from benchmarks import shard_search as shard
from benchmarks.judging import Case, Pick, Target, cases_of
from benchmarks.record import (
    DISK,
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    MEMORY,
    QUERY_CPU,
    QUERY_P50,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    START,
    Parameter,
    Run,
    short,
)

Given = Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Section:
    """Comparisons under one heading.

    Attributes:
        heading: The heading.
        beside: What the figures are told beside.
        comparisons: Each gives as many rows as there are cases.
    """

    heading: str
    beside: str
    comparisons: Sequence[Target]


def _compared(
    benchmark: str,
    what: str,
    ours: tuple[str, Given],
    beside: tuple[str, Given],
    *,
    but: Given | None = None,
    paired: Sequence[str] = ("recall_target",),
    took_turns: bool = True,
) -> Target:
    return Target(
        what,
        benchmark,
        Pick(what, *ours, but=but or {}),
        Pick(what, *beside),
        paired=paired,
        took_turns=took_turns,
    )


def _shard_searches() -> list[Target]:
    return [
        _compared("shard-search", what, (system, {}), (shard.RAW, {}),
                  paired=("recall_target", "batch"))
        for what in (QUERY_P50, QUERY_CPU)
        for system in (shard.SHARD, shard.SERVICE)
    ]  # fmt: skip


def _filtered() -> list[Target]:
    return [
        _compared(
            "filters",
            what,
            (filters.SHOAL, {"is_far": is_far}),
            (filters.SHOAL, {"is_far": is_far, "filter": filters.UNFILTERED}),
            but={"filter": filters.UNFILTERED},
        )
        for is_far in (False, True)
        for what in (QUERY_P50, RECALL)
    ]


def _scaled(
    system: str,
    whats: Sequence[str],
    name: str,
    first: Parameter,
    paired: Sequence[str],
    *,
    took_turns: bool = True,
) -> list[Target]:
    return [
        _compared(
            *("scaling", what, (system, {}), (system, {name: first})),
            but={name: first},
            paired=paired,
            took_turns=took_turns,
        )
        for what in whats
    ]


_CREATE, _DESCRIBE, _OPENING, _DELETE = (
    f"{what}, p50"
    for what in (
        scale_collections.CREATE,
        scale_collections.DESCRIBE,
        scale_collections.OPENING,
        scale_collections.DELETE,
    )
)

SECTIONS: Final = (
    Section("One shard, searched", "raw USearch at the same recall", _shard_searches()),
    Section(
        "One shard, written",
        "raw `index.add`",
        [
            _compared("shard-ingest", what, (ingest.SHARD, {}), (ingest.RAW, {}), paired=("burst",))
            for what in (INGEST_INDEXED, INGEST_ACKNOWLEDGED, ingest.BUILDER_CPU)
        ],
    ),
    Section("Filter sweep", "the query without a filter", _filtered()),
    Section(
        "Reads by filter",
        "the same by scanning",
        [
            _compared(
                "filters",
                filters.READ_P50,
                (filters.SHOAL, {}),
                (system, {}),
                paired=("read",),
            )
            for system in (filters.SCAN, filters.PYTHON)
        ],
    ),
    Section(
        "Writes with indexes",
        "the same until acknowledged, with indexing held still",
        [
            Target(
                what,
                "filtered-ingest",
                Pick(what, writing.SHOAL, {"is_indexed": True}),
                Pick(INGEST_ACKNOWLEDGED, writing.SHOAL, {"is_indexed": False}),
                paired=("records",),
            )
            for what in (INGEST_ACKNOWLEDGED, INGEST_INDEXED)
        ],
    ),
    Section(
        "Rankings by texts and sparse vectors",
        "reading all of them",
        [
            _compared("text", what, (text.SHOAL, {}), (text.READING, {}), paired=("ranking",))
            for what in (QUERY_P50, QUERY_CPU)
        ],
    ),
    Section(
        "Batching in the gateway",
        "every query by itself",
        [
            _compared("batching", what, (batching.BATCHING, {}), (batching.ALONE, {}))
            for what in (QUERY_RATE, QUERY_CPU, QUERY_P50, QUERY_P99)
        ],
    ),
    Section(
        "Overload",
        "32 callers that wait for their answers",
        [
            _compared(
                "overload",
                what,
                (overload.SHOAL, {}),
                (overload.SHOAL, {"load": overload.PEAK}),
                but={"load": overload.PEAK},
                paired=("each", "workers"),
            )
            for what in (overload.GOODPUT, "answered p50", "answered p99", "CPU", overload.MEMORY)
        ],
    ),
    Section(
        "Snapshots",
        "a copy of the same bytes, synced",
        [
            Target(
                what,
                "snapshots",
                Pick(what, snapshots.SHOAL),
                Pick(snapshots.COPY, snapshots.SHOAL),
                paired=("shards", "workers"),
            )
            for what in (snapshots.SNAPSHOT, snapshots.SNAPSHOT_AGAIN, snapshots.RESTORATION)
        ],
    ),
    Section(
        "Beside snapshots",
        "the same at rest",
        [
            _compared(
                "snapshots",
                f"{kind} {share}",
                (snapshots.SHOAL, {"during_snapshots": True}),
                (snapshots.SHOAL, {"during_snapshots": False}),
                paired=("shards", "workers"),
            )
            for kind in (snapshots.QUERY, snapshots.WRITE)
            for share in ("p50", "p99", "longest")
        ],
    ),
    Section(
        "Shards",
        "one shard on as many workers",
        _scaled(
            shards.SHOAL,
            (QUERY_RATE, QUERY_P99, QUERY_CPU, INGEST_INDEXED),
            "shards",
            1,
            ("workers", "recall_target", "callers"),
        ),
    ),
    Section(
        "Two workers",
        "one worker with as many shards",
        _scaled(
            shards.SHOAL,
            (QUERY_RATE, QUERY_CPU, INGEST_INDEXED),
            "workers",
            1,
            ("shards", "recall_target", "callers"),
        ),
    ),
    Section(
        "Records of one shard",
        "10,000 records",
        _scaled(
            scale_sizes.SHARD,
            (QUERY_P50, QUERY_CPU, INGEST_INDEXED, MEMORY, DISK, START),
            "count",
            scale_sizes.SIZES[0],
            ("recall_target", "kind", "state"),
            took_turns=False,
        ),
    ),
    Section(
        "Collections of one worker",
        "10 collections",
        _scaled(
            scale_collections.SHOAL,
            (
                *(_CREATE, _DESCRIBE, QUERY_P50, _OPENING, _DELETE),
                *(scale_collections.LIST, scale_collections.MEMORY, scale_collections.REST, START),
            ),
            "collections",
            10,
            ("kind", "state"),
            took_turns=False,
        ),
    ),
)


def lines(section: Section, runs: Sequence[Run]) -> list[str]:
    """Give a section as lines of Markdown; none, if nothing of it was measured."""
    rows = [
        _row(comparison.name, case)
        for comparison in section.comparisons
        for case in cases_of(comparison, runs)
    ]
    if not rows:
        return []
    head = f"| What | Where | Measured | Beside | Ratio |\n{'|---' * 5}|"
    return [f"### {section.heading}, beside {section.beside}", "", head, *rows, ""]


def _row(what: str, case: Case) -> str:
    assert case.beside is not None
    where = f"{case.where}, {case.ours.system}"
    ours = f"{short(case.ours.median)} {case.ours.unit}".strip()
    return f"| {what} | {where} | {ours} | {short(case.beside.median)} | {case.ratio} |"
