"""Tables of a run: medians of the rounds, and ratios to Shoal with their spread, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from benchmarks.peers.kinds import KINDS
from benchmarks.peers.mixing import WRITE_RATE
from benchmarks.peers.searching import QUERY_CLIENT_CPU, WAYS
from benchmarks.peers.starting import MEMORY_ANONYMOUS, MEMORY_WHOLE
from benchmarks.peers.store import adapter
from benchmarks.record import (
    DISK,
    INGEST_ACKNOWLEDGED,
    INGEST_INDEXED,
    MEMORY,
    QUERY_CPU,
    QUERY_P50,
    QUERY_P95,
    QUERY_P99,
    QUERY_RATE,
    RECALL,
    SHORT_ANSWERS,
    START,
    Measurement,
    Parameter,
    Run,
    ratio,
    short,
)

_BESIDE: Final = {kind.name: kind.beside for kind in KINDS}
_ALL: Final[dict[str, Parameter]] = {"callers": 1, "batch": 1, "include": "all"}


def tables(run: Run) -> str:
    """Every table of a run, a section for each data set; then what was skipped, and why."""
    lines = systems(run)
    for dataset in dict.fromkeys(m.dataset for m in run.measurements):
        one = _Tables(run, dataset)
        lines += [f"\n## {dataset}", *one.searches(), *one.writing(), *one.filters(), *one.mixed()]
    lines += [f"\nSkipped: {what}: {why}" for what, why in run.skipped.items()]
    return "\n".join(lines)


def systems(run: Run) -> list[str]:
    """What was measured: version, settings, and what its answers and writes mean."""
    here = {m.system for m in run.measurements}
    lines = [
        _row("system", "version", "settings", "batches of queries", "an acknowledged write is"),
        _row(*["---"] * 5),
    ]
    for kind in KINDS:
        if kind.name in here:
            store = adapter(kind.adapter)
            version = f"{store.package} {run.versions.get(store.package, '')}".strip()
            lines.append(
                _row(kind.name, version, store.settings, store.batches, store.acknowledged)
            )
    return lines


class _Tables:
    def __init__(self, run: Run, dataset: str) -> None:
        self._run = run
        self._dataset = dataset
        here = {m.system for m in run.measurements if m.dataset == dataset}
        self._systems = [kind.name for kind in KINDS if kind.name in here]

    def _find(self, what: str, system: str, **given: Parameter) -> Measurement | None:
        found = self._run.find(what, dataset=self._dataset, system=system, **given)
        return found[0] if found else None

    def _value(self, what: str, system: str, **given: Parameter) -> str:
        found = self._find(what, system, **given)
        return short(found.median) if found else "–"

    def _beside(self, what: str, system: str, **given: Parameter) -> str:
        """Shoal's figure divided by this one's: more is better for rates, less for the others."""
        ours, own = self._find(what, _BESIDE[system], **given), self._find(what, system, **given)
        if ours is None or own is None or len(ours.rounds) != len(own.rounds) or ours is own:
            return "–"
        return str(ratio(ours, own))

    def searches(self) -> Iterable[str]:
        """One table for each recall and each way."""
        targets = {
            m.parameters["recall_target"]
            for m in self._run.find(RECALL, dataset=self._dataset)
            if "recall_target" in m.parameters
        }
        for target in sorted(targets, key=float):
            reached = {s: self._find(RECALL, s, recall_target=target) for s in self._systems}
            if not any(m and "effort" in m.parameters for m in reached.values()):
                highest = ", ".join(f"{s} {m.median:.3f}" for s, m in reached.items() if m)
                yield f"\nrecall@10 {target} is reached by none: at most {highest}"
                continue
            for callers, batch, include in WAYS:
                way: dict[str, Parameter] = {
                    "recall_target": target,
                    "callers": callers,
                    "batch": batch,
                    "include": include,
                }
                yield f"\nrecall@10 {target}, {_way(callers, batch, include)}\n"
                yield _row(
                    *("system", "queries/s", "Shoal's by this", "p50 / p95 / p99 ms"),
                    *("CPU µs a query (client)", "recall@10 (ef)"),
                )
                yield _row(*["---"] * 6)
                yield from filter(None, (self._searched(s, target, way) for s in self._systems))

    def _searched(self, system: str, target: Parameter, way: dict[str, Parameter]) -> str | None:
        recall = self._find(RECALL, system, recall_target=target)
        if recall is None:
            return None
        if "effort" not in recall.parameters:
            return _row(system, "does not reach it", "–", "–", "–", short(recall.median))
        if self._find(QUERY_RATE, system, **way) is None:
            return None
        times = [self._value(what, system, **way) for what in (QUERY_P50, QUERY_P95, QUERY_P99)]
        cpu = [self._value(what, system, **way) for what in (QUERY_CPU, QUERY_CLIENT_CPU)]
        return _row(
            system,
            self._value(QUERY_RATE, system, **way),
            self._beside(QUERY_RATE, system, **way),
            " / ".join(times),
            f"{cpu[0]} ({cpu[1]})",
            f"{recall.median:.3f} ({recall.parameters['effort']})",
        )

    def _table(
        self, title: str, head: Sequence[str], cells: Callable[[str], Sequence[str]]
    ) -> list[str]:
        """A table under its title, or nothing where nothing was measured."""
        rows = [[system, *cells(system)] for system in self._systems]
        kept = [_row(*row) for row in rows if set(row[1:]) != {"–"}]
        if not kept:
            return []
        return [f"\n{title}\n", _row("system", *head), _row(*["---"] * (len(head) + 1)), *kept]

    def writing(self) -> Iterable[str]:
        """Ingest, and what it leaves behind."""
        yield from self._table(
            "ingest",
            ("acknowledged, records/s", "Shoal's by this", "indexed, records/s", "Shoal's by this"),
            lambda system: (
                self._value(INGEST_ACKNOWLEDGED, system),
                self._beside(INGEST_ACKNOWLEDGED, system),
                self._value(INGEST_INDEXED, system),
                self._beside(INGEST_INDEXED, system),
            ),
        )
        yield from self._table(
            "memory, disk and start of loaded stores",
            (
                *("memory, MiB", "of it no file's", "bytes a vector"),
                *("disk, bytes a vector", "start, s", "Shoal's by this"),
            ),
            lambda system: (
                self._mebibytes(MEMORY_WHOLE, system),
                self._mebibytes(MEMORY_ANONYMOUS, system),
                *(self._value(what, system) for what in (MEMORY, DISK, START)),
                self._beside(START, system),
            ),
        )

    def _mebibytes(self, what: str, system: str) -> str:
        found = self._find(what, system)
        return short(found.median / 2**20) if found else "–"

    def filters(self) -> Iterable[str]:
        """One column for each filter."""
        shares = sorted(
            {
                float(m.parameters["matches_percent"])
                for m in self._run.find(RECALL, dataset=self._dataset)
                if "matches_percent" in m.parameters
            },
            reverse=True,
        )

        def cells(system: str) -> list[str]:
            return [self._filtered(system, share) for share in shares]

        if shares:
            title = "filters: recall@10, short answers, p50 beside the same without a filter"
            yield from self._table(title, [f"{share:g} % match" for share in shares], cells)

    def _filtered(self, system: str, share: float) -> str:
        recall = self._find(RECALL, system, matches_percent=share)
        few = self._find(SHORT_ANSWERS, system, matches_percent=share)
        own = self._find(QUERY_P50, system, matches_percent=share)
        whole = self._find(QUERY_P50, system, matches_percent=100.0)
        if recall is None or few is None or own is None or whole is None:
            return "–"
        shortness = f", {few.median:.0%} short" if few.median else ""
        return f"{recall.median:.3f}{shortness}, x {ratio(own, whole)}"

    def mixed(self) -> Iterable[str]:
        """Searches beside writes."""

        def cells(system: str) -> list[str]:
            rest, beside = (
                {**_ALL, "is_ingesting": is_ingesting} for is_ingesting in (False, True)
            )
            return [
                self._pair(system, rest),
                self._pair(system, beside),
                *(self._slower(what, system, rest, beside) for what in (QUERY_P50, QUERY_P99)),
                self._value(WRITE_RATE, system),
            ]

        yield from self._table(
            "searches beside writes, one caller",
            (
                *("p50 / p99 ms at rest", "p50 / p99 ms beside writes", "p50 slower by"),
                *("p99 slower by", "written, records/s"),
            ),
            cells,
        )

    def _pair(self, system: str, way: dict[str, Parameter]) -> str:
        values = [self._find(what, system, **way) for what in (QUERY_P50, QUERY_P99)]
        return " / ".join(short(m.median) for m in values if m is not None) or "–"

    def _slower(
        self, what: str, system: str, rest: dict[str, Parameter], beside: dict[str, Parameter]
    ) -> str:
        own, whole = self._find(what, system, **beside), self._find(what, system, **rest)
        return "–" if own is None or whole is None else str(ratio(own, whole))


def _way(callers: int, batch: int, include: str) -> str:
    who = "1 caller" if callers == 1 else f"{callers} callers"
    each = "" if batch == 1 else f", batches of {batch}"
    return who + each + ("" if include == "all" else ", IDs and distances alone")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
