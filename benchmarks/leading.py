"""Shoal beside the best of the others that run alike: over all data sets, and for each.

A server is beside servers, and the embedded client beside everything that runs in the caller's
process; indexes alone only search. Everything is told as times as good: more of a rate, less of
memory, disk and time. How fast writes are acknowledged is left to the tables of all systems: what
an acknowledgement promises differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.judging import newest
from benchmarks.peers.kinds import EMBEDDED, KINDS, SERVER
from benchmarks.peers.starting import MEMORY_ANONYMOUS
from benchmarks.record import (
    DISK,
    INGEST_INDEXED,
    MEMORY,
    QUERY_RATE,
    RECALL,
    START,
    Measurement,
    Parameter,
    Ratio,
    Run,
    ratio,
    short,
)

__all__ = ["datasets", "each", "overview"]

_ORDER: Final = ("passages", "mixture", "sift", "mnist", "gaussian")
"""Data sets, the most real first, and last what no index is made for."""

_SEARCHES: Final[dict[str, dict[str, Parameter]]] = {
    "1 caller": {"callers": 1, "batch": 1, "include": "all"},
    "8 callers": {"callers": 8, "batch": 1, "include": "all"},
    "32 callers": {"callers": 32, "batch": 1, "include": "all"},
    "batches of 64": {"callers": 1, "batch": 64, "include": "all"},
    "1 caller, IDs and distances": {"callers": 1, "batch": 1, "include": "distances"},
    "batches of 64, IDs and distances": {"callers": 1, "batch": 64, "include": "distances"},
}
_OTHERS: Final = {
    "ingest until indexed": INGEST_INDEXED,
    "memory a vector": MEMORY,
    "memory, of it no file's": MEMORY_ANONYMOUS,
    "disk a vector": DISK,
    "start": START,
}
_LESS_IS_BETTER: Final = (MEMORY, MEMORY_ANONYMOUS, DISK, START)
_OURS: Final = (SERVER, EMBEDDED)


@dataclass(frozen=True, slots=True)
class _Lead:
    """What Shoal has, beside the best of the others.

    Attributes:
        ours: Shoal's; None if it does not reach the recall.
        best: Of the others; None if none of them does.
    """

    ours: Measurement | None
    best: Measurement | None

    @property
    def times(self) -> Ratio | None:
        """As good, of rounds beside each other."""
        if self.ours is None or self.best is None:
            return None
        if self.ours.what in _LESS_IS_BETTER:
            return ratio(self.best, self.ours)
        return ratio(self.ours, self.best)


def datasets(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Give each data set that others were measured on, with its newest run; real ones first."""
    found = [(run, name) for run, own in newest(runs, "peers") for name in sorted(own)]
    return sorted(found, key=lambda pair: (_place(pair[1]), pair[1]))


def _place(dataset: str) -> int:
    return next((n for n, start in enumerate(_ORDER) if dataset.startswith(start)), len(_ORDER))


def overview(runs: Sequence[Run]) -> Iterator[str]:
    """One table over all data sets: medians alone, and whether they are beyond the noise."""
    found = datasets(runs)
    if not found:
        return
    targets = sorted({target for run, dataset in found for target in _targets(run, dataset)})
    at = " and ".join(f"{target:g}" for target in targets)
    yield "Shoal beside the best of the others that run alike, **times as good**"
    yield f"(searches: queries/s at recall@10 {at}): bold where Shoal leads in every round, italic"
    yield "where it trails in every round; –: not measured, or not reached by both. Where IDs and"
    yield "distances are all that is asked, the others are also indexes alone, which store nothing."
    yield "With figures and spread: [below](#beside-the-best)."
    yield ""
    yield f"| | {' | '.join(dataset for _, dataset in found)} |\n|---{'|---' * len(found)}|"
    for ours in _OURS:
        for way, given in _SEARCHES.items():
            cells = [
                " · ".join(
                    _cell(_lead(run, dataset, ours, QUERY_RATE, {**given, "recall_target": target}))
                    for target in targets
                )
                for run, dataset in found
            ]
            yield from _unless_empty(f"{ours}: {way}", cells)
        for way, what in _OTHERS.items():
            cells = [_cell(_lead(run, dataset, ours, what, {})) for run, dataset in found]
            yield from _unless_empty(f"{ours}: {way}", cells)
    yield ""


def _unless_empty(what: str, cells: Sequence[str]) -> Iterator[str]:
    if any(set(cell) - set("– ·") for cell in cells):
        yield f"| {what} | {' | '.join(cells)} |"


def _cell(lead: _Lead) -> str:
    times = lead.times
    if times is None:
        return "–"
    mark = "**" if times.low > 1 else "_" if times.high < 1 else ""
    return f"{mark}{times.median:.2f}{mark}"


def each(runs: Sequence[Run]) -> Iterator[str]:
    """A table for each data set, with figures, who is best, and the spread."""
    found = datasets(runs)
    if found:
        yield "## Beside the best"
        yield ""
        yield "Shoal's figure, that of the best other, and times as good: above 1 Shoal leads."
        yield ""
    for run, dataset in found:
        yield f"### {dataset}, {run.when[:10]}"
        yield ""
        yield f"| What | Shoal | Best other | Times as good |\n{'|---' * 4}|"
        for ours in _OURS:
            for way, given in _SEARCHES.items():
                for target in _targets(run, dataset):
                    lead = _lead(run, dataset, ours, QUERY_RATE, {**given, "recall_target": target})
                    yield from _row(f"{way}, recall {target:g}", ours, lead)
            for way, what in _OTHERS.items():
                yield from _row(way, ours, _lead(run, dataset, ours, what, {}))
        yield ""


def _row(way: str, system: str, lead: _Lead) -> Iterator[str]:
    own, best = lead.ours, lead.best
    if own is None and best is None:
        return
    figures = f"{short(own.median)} {own.unit}" if own else "does not reach it"
    other = f"{best.system}, {short(best.median)} {best.unit}" if best else "none reaches it"
    times = f"**{lead.times}**" if lead.times else "–"
    yield f"| {way} | {system}, {figures} | {other} | {times} |"


def _targets(run: Run, dataset: str) -> list[float]:
    """The recalls at which searches were to be compared."""
    return sorted(
        {
            float(m.parameters["recall_target"])
            for m in run.find(RECALL, dataset=dataset)
            if "recall_target" in m.parameters
        }
    )


def _lead(
    run: Run, dataset: str, ours: str, what: str, parameters: Mapping[str, Parameter]
) -> _Lead:
    def plain(system: str | None) -> list[Measurement]:
        return [
            m
            for m in run.find(what, dataset=dataset, system=system, **parameters)
            if "matches_percent" not in m.parameters and "is_ingesting" not in m.parameters
        ]

    rivals = {
        kind.name
        for kind in KINDS
        if kind.beside == ours
        and not kind.name.startswith("shoal")
        and (what == QUERY_RATE or not kind.is_index)
    }
    own = next(iter(plain(ours)), None)
    others = [
        m
        for m in plain(None)
        if m.system in rivals and (own is None or len(m.rounds) == len(own.rounds))
    ]
    choose = min if what in _LESS_IS_BETTER else max
    return _Lead(own, choose(others, key=lambda m: m.median, default=None))
