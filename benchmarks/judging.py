"""What a target is, and whether raw figures meet it.

A target holds if it holds in each of its cases: on every data set, at every recall, under every
filter. The middle of the rounds decides; whether the bound lies within their spread is said, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.record import Measurement, Parameter, Ratio, Run, ratio, ratio_apart, short, spread

WORDS: Final = Path(__file__).with_name("targets.md")
DATASETS: Final = ("passages", "mixture", "iid", "collections", "texts", "sparse")
"""What the names of data sets begin with on which targets hold."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Which measurements.

    Attributes:
        what: Their quantity.
        system: Whose.
        parameters: What they must have.
        but: What they must not have; with None, a parameter that they must have.
    """

    what: str
    system: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    but: Mapping[str, Parameter | None] = field(default_factory=dict)

    def of(self, run: Run, dataset: str | None = None) -> list[Measurement]:
        """Find them in a run."""
        found = run.find(self.what, dataset=dataset, system=self.system, **self.parameters)
        return [
            m
            for m in found
            if m.dataset.startswith(DATASETS)
            and not any(m.parameters.get(name) == value for name, value in self.but.items())
        ]


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached.

    Attributes:
        name: Its ID in targets.md, which has its words.
        benchmark: Whose runs have the figures.
        ours: What is measured.
        beside: What it is compared with, if it is.
        at_least: The bound from below; of the ratio, unless `is_absolute`.
        at_most: The bound from above. Without any bound, a figure is only to be stated.
        is_absolute: The bound is of our figure itself; a ratio is told beside it.
        is_latency: Both are times, so that who takes half of the time is twice as fast.
        paired: Parameters in which both must be alike.
        took_turns: Whether rounds of both lay beside each other; sizes, say, cannot.
    """

    name: str
    benchmark: str
    ours: Pick
    beside: Pick | None = None
    at_least: float | None = None
    at_most: float | None = None
    is_absolute: bool = False
    is_latency: bool = False
    paired: Sequence[str] = ("recall_target",)
    took_turns: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A target in one case.

    Attributes:
        where: The data set, and what else tells the case from others.
        ours: Our figures.
        beside: The others'.
        ratio: Of the two.
        judged: What the bound is of: a ratio, or our own figures.
        is_met: Whether it holds; None if it is only to be stated.
        is_within_noise: The bound lies within the spread of the rounds.
    """

    where: str
    ours: Measurement
    beside: Measurement | None
    ratio: Ratio | None
    judged: Ratio
    is_met: bool | None
    is_within_noise: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a target.

    Attributes:
        target: Which.
        words: What it says.
        cases: All of them, the worst first; none if it was not measured.
        missing: Why it was not.
    """

    target: Target
    words: str
    cases: Sequence[Case]
    missing: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether it holds in all cases; None if it was not measured, or is only to be stated."""
        found = [case.is_met for case in self.cases]
        return None if not found or None in found else all(found)

    @property
    def answer(self) -> str:
        """Yes, no, or why neither."""
        if not self.cases:
            return "not measured"
        if self.is_met is None:
            return "stated"
        noise = ", within the noise" if self.cases[0].is_within_noise else ""
        return ("yes" if self.is_met else "no") + noise


def words_of_targets(path: Path = WORDS) -> dict[str, str]:
    """Read the words of each target, by ID."""
    rows = re.findall(r"^\| ([a-z][a-z0-9-]+) \| (.+?) \| .+ \|$", path.read_text(), re.MULTILINE)
    return dict(rows)


def newest(runs: Sequence[Run], benchmark: str) -> list[tuple[Run, set[str]]]:
    """Give a benchmark's runs, each with the data sets of which it is the newest run."""
    found: list[tuple[Run, set[str]]] = []
    seen: set[str] = set()
    for run in sorted(runs, key=lambda run: run.when, reverse=True):
        if run.benchmark == benchmark:
            own = {m.dataset for m in run.measurements} - seen
            seen |= own
            if own:
                found.append((run, own))
    return found


def judge(target: Target, words: str, runs: Sequence[Run]) -> Verdict:
    """Say whether a target is met by the newest figures of each data set."""
    current = newest(runs, target.benchmark)
    if not current:
        return Verdict(target, words, (), f"no run of `{target.benchmark}` is there")
    cases = cases_of(target, runs)
    if not cases:
        return Verdict(target, words, (), _why_missing(target, current))
    cases.sort(key=lambda case: _merit(target, case))
    return Verdict(target, words, tuple(cases))


def cases_of(target: Target, runs: Sequence[Run]) -> list[Case]:
    """Find all cases of a target in the newest figures of each data set."""
    current = newest(runs, target.benchmark)
    return [case for run, own in current for case in _cases(target, run, own)]


def _why_missing(target: Target, current: Sequence[tuple[Run, set[str]]]) -> str:
    systems = {target.ours.system} | ({target.beside.system} if target.beside else set())
    skipped = {
        f"{what}: {why}"
        for run, _ in current
        for what, why in run.skipped.items()
        if any(what.startswith(system) for system in systems)
    }
    return "; ".join(sorted(skipped)) or f"the run of `{target.benchmark}` left it out"


def _cases(target: Target, run: Run, datasets: set[str]) -> Iterator[Case]:
    for ours in target.ours.of(run):
        if ours.dataset not in datasets:
            continue
        if target.beside is None:
            yield _case(target, ours, None)
            continue
        for other in target.beside.of(run, ours.dataset):
            alike = (ours.parameters.get(name) == other.parameters.get(name)
                     for name in target.paired)  # fmt: skip
            if all(alike):
                yield _case(target, ours, other)


def _case(target: Target, ours: Measurement, other: Measurement | None) -> Case:
    found = None
    if other is not None:
        divide = ratio if target.took_turns else ratio_apart
        found = divide(other, ours) if target.is_latency else divide(ours, other)
    judged = spread(ours.rounds) if found is None or target.is_absolute else found
    bounds = [bound for bound in (target.at_least, target.at_most) if bound is not None]
    is_met = None
    if bounds:
        is_met = all(
            (
                target.at_least is None or judged.median >= target.at_least,
                target.at_most is None or judged.median <= target.at_most,
            )
        )
    is_within_noise = any(judged.low < bound < judged.high for bound in bounds)
    told = {*target.ours.parameters, "matches_percent"}
    own = {name: value for name, value in ours.parameters.items() if name not in told}
    where = ", ".join([ours.dataset, *(f"{name} {value}" for name, value in own.items())])
    return Case(where, ours, other, found, judged, is_met, is_within_noise)


def _merit(target: Target, case: Case) -> float:
    return -case.judged.median if target.at_most is not None else case.judged.median


def columns(verdict: Verdict) -> tuple[str, str, str, str, str]:
    """Give a verdict as cells: ID, words, the worst case, its figures, and whether it is met."""
    target = verdict.target
    if not verdict.cases:
        return (target.name, verdict.words, verdict.missing, "", verdict.answer)
    worst = verdict.cases[0]
    measured = f"{short(worst.ours.median)} {worst.ours.unit}".strip()
    if worst.beside is not None:
        measured += f" beside {short(worst.beside.median)}"
        measured += f": ratio {worst.ratio}"
    elif len(worst.ours.rounds) > 1:
        measured += f" ({short(min(worst.ours.rounds))}–{short(max(worst.ours.rounds))})"
    others = f"; worst of {len(verdict.cases)}" if len(verdict.cases) > 1 else ""
    return (target.name, verdict.words, worst.where + others, measured, verdict.answer)
