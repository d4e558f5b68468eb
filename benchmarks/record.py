"""Raw figures: what a run of a benchmark leaves behind, and what reports are made of.

A run is one file of JSON: the machine, the versions, the command, and of everything measured the
value of each round. Medians, ratios and their spread are computed when it is read, so that nobody
has to believe them. Ratios are pair by pair, round beside round of one run, since what takes turns
shares the machine's moods.

    recorder = Recorder("peers")
    recorder.add("mixture 100,000 x 384", "shoal server", QUERY_RATE, "queries/s", 812.5, callers=8)
    recorder.skip("seekdb embedded", "does not install on Python 3.14")
    recorder.write(Path("benchmarks/results/peers-mixture.json"))
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

RESULTS: Final = Path(__file__).parent / "results"

_PATH: Final = re.compile(r"(?<![\w:/.])/(?:[\w.@+-]+/)+([\w.@+-]+)")

FORMAT: Final = 1
"""Rises when a file means something else than before; another is refused."""

# What is measured in more than one system has one name in all of them: reports find it by that.
# Rates are in queries/s or records/s, latencies in ms, CPU in us, sizes in bytes, a start in s.
#
# Their parameters, too:
#   recall_target   0.95 or 0.99: at equal recall, by the least effort that reaches it
#   effort          of a sweep, recall against rate: what was set (ef); RECALL has it, too
#   callers, batch  threads of one client; queries of a call
#   include         "all" (texts and metadata too) or "distances" (IDs and distances alone)
#   matches_percent, is_far   of a filter: how many match; whether they lie at the query's far side
#   is_ingesting    whether records came meanwhile
#   shards, workers, count, collections   of what is scaled
QUERY_RATE: Final = "query rate"
QUERY_P50: Final = "query p50"
QUERY_P95: Final = "query p95"
QUERY_P99: Final = "query p99"
QUERY_CPU: Final = "CPU a query"
RECALL: Final = "recall@10"
SHORT_ANSWERS: Final = "short answers"
INGEST_ACKNOWLEDGED: Final = "ingest until acknowledged"
INGEST_INDEXED: Final = "ingest until indexed"
MEMORY: Final = "memory a vector"
DISK: Final = "disk a vector"
START: Final = "start until the first answer"

Parameter = str | int | float | bool
Key = tuple[str, str, str, tuple[tuple[str, Parameter], ...]]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran.

    Attributes:
        cpu: The model.
        cores: That the process may use.
        memory_bytes: Of the whole machine.
        system: Name of the operating system, and its kernel's release.
        load_begin: Load average of the last minute when the run began.
        load_end: And when it ended.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    load_begin: float
    load_end: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quantity, of one system, on one data set, round by round.

    Attributes:
        dataset: With its size: "mixture 100,000 x 384".
        system: What was measured: "shoal server", "chroma server", "raw usearch".
        what: Which quantity, without its unit: one of the names above, or the benchmark's own.
        unit: Of the values.
        rounds: The raw value of each round.
        parameters: What else it depends on: `callers`, `batch`, `shards`; a recall that was aimed
            at is `recall_target`.
    """

    dataset: str
    system: str
    what: str
    unit: str
    rounds: tuple[float, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """All but unit and values."""
        return (self.dataset, self.system, self.what, tuple(sorted(self.parameters.items())))

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How one quantity compares to another: of the rounds, pair by pair.

    Attributes:
        median: Of the ratios.
        low: The least of them.
        high: The greatest.
        rounds: How many there are.
    """

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        if self.rounds == 1:
            return f"{_times(self.median)} (1 round)"
        return f"{_times(self.median)} ({_times(self.low)}–{_times(self.high)})"


def _times(value: float) -> str:
    """Give a ratio; below ten, hundredths are enough."""
    return f"{value:.2f}" if abs(value) < 10 else short(value)


def short(value: float) -> str:
    """Give a value with three digits, or all that are before its point."""
    size = abs(value)
    digits = 3 if 0 < size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}"


def ratio(ours: Measurement, other: Measurement) -> Ratio:
    """Divide our rounds by the other's; both must be of one run.

    Raises:
        ValueError: They have not the same number of rounds.
    """
    if len(ours.rounds) != len(other.rounds):
        raise ValueError(
            f"{ours.key} has {len(ours.rounds)} rounds, {other.key} has {len(other.rounds)}: "
            "a ratio is of rounds that took turns"
        )
    return spread(a / b for a, b in zip(ours.rounds, other.rounds, strict=True))


def ratio_apart(ours: Measurement, other: Measurement) -> Ratio:
    """Divide our rounds by the other's median: of what could not take turns, as sizes cannot."""
    return spread(value / other.median for value in ours.rounds)


def spread(values: Iterable[float]) -> Ratio:
    """Give the median, the least and the greatest of some ratios."""
    found = list(values)
    return Ratio(statistics.median(found), min(found), max(found), len(found))


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run of a benchmark measured.

    Attributes:
        benchmark: Which: "peers".
        when: It began, ISO 8601 in UTC.
        machine: Where.
        versions: Of Python, of Shoal's commit, of packages and of systems beside it.
        command: That repeats it.
        measurements: In the order in which they were first recorded.
        skipped: What could not be measured, and why.
    """

    benchmark: str
    when: str
    machine: Machine
    versions: Mapping[str, str]
    command: str
    measurements: tuple[Measurement, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def find(
        self,
        what: str,
        *,
        dataset: str | None = None,
        system: str | None = None,
        **given: Parameter,
    ) -> list[Measurement]:
        """Give the measurements that have these values; others may differ.

        Args:
            what: Which quantity.
            dataset: Of this data set alone.
            system: Of this system alone.
            **given: Parameters that must be there and have these values.
        """
        return [
            m
            for m in self.measurements
            if m.what == what
            and (dataset is None or m.dataset == dataset)
            and (system is None or m.system == system)
            and all(m.parameters.get(name) == value for name, value in given.items())
        ]


class Series(Protocol):
    """Records one more round of something, of one system and data set."""

    def __call__(self, what: str, unit: str, value: float, **parameters: Parameter) -> None:
        """Record a value."""
        ...


class Recorder:
    """Collects a run while it goes on.

    Args:
        benchmark: Its name.
        versions: Of systems that this process does not import.
    """

    def __init__(self, benchmark: str, versions: Mapping[str, str] | None = None) -> None:
        self._began = Run(
            benchmark=benchmark,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=_machine(),
            versions=_versions() | dict(versions or {}),
            command=_command(),
            measurements=(),
        )
        self._units: dict[Key, str] = {}
        self._values: dict[Key, list[float]] = {}
        self._versions = dict(self._began.versions)
        self._skipped: dict[str, str] = {}

    def add(
        self, dataset: str, system: str, what: str, unit: str, value: float, **parameters: Parameter
    ) -> None:
        """Record the value of one more round."""
        key = Measurement(dataset, system, what, unit, (), parameters).key
        if self._units.setdefault(key, unit) != unit:
            raise ValueError(f"{key} was recorded in {self._units[key]}, and now in {unit}")
        self._values.setdefault(key, []).append(float(value))

    def series(self, dataset: str, system: str, **common: Parameter) -> Series:
        """Give what records values of one system and data set, with parameters common to all."""

        def add(what: str, unit: str, value: float, **parameters: Parameter) -> None:
            self.add(dataset, system, what, unit, value, **common, **parameters)

        return add

    def skip(self, what: str, why: str) -> None:
        """Say what is not measured, and why; without the paths of a machine."""
        self._skipped[what] = _PATH.sub(r"\1", why)

    def version(self, system: str, number: str) -> None:
        """Say which version of something was measured."""
        self._versions[system] = number

    def run(self) -> Run:
        """Give what was recorded so far."""
        measurements = (
            Measurement(dataset, system, what, self._units[key], tuple(values), dict(parameters))
            for key, values in self._values.items()
            for dataset, system, what, parameters in [key]
        )
        return replace(
            self._began,
            machine=replace(self._began.machine, load_end=_load()),
            versions=dict(self._versions),
            measurements=tuple(measurements),
            skipped=dict(self._skipped),
        )

    def write(self, path: Path) -> Run:
        """Keep what was recorded in a file, and give it."""
        run = self.run()
        write(run, path)
        return run


def print_run(recorder: Recorder, output: Path | None) -> None:
    """Print what was measured, and keep it in a file if one is given."""
    run = recorder.run()
    if output is not None:
        write(run, output)
    print(f"\n{run.benchmark}: {len(run.measurements)} measurements, medians of their rounds\n")
    for m in run.measurements:
        parameters = ", ".join(f"{name}={value}" for name, value in m.parameters.items())
        values = f"{short(m.median)} ({short(min(m.rounds))}–{short(max(m.rounds))}) {m.unit}"
        print(f"| {m.dataset} | {m.system} | {m.what} | {parameters} | {values} |")
    for what, why in run.skipped.items():
        print(f"| skipped: {what} | {why} |")


def write(run: Run, path: Path) -> None:
    """Keep a run: a measurement a line, so that files can be compared."""
    content: dict[str, Any] = {"format": FORMAT} | asdict(run)
    lines = [json.dumps(m, ensure_ascii=False) for m in content.pop("measurements")]
    head = json.dumps(content, ensure_ascii=False, indent=1).removesuffix("\n}")
    body = ",\n  ".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head},\n "measurements": [\n  {body}\n ]\n}}\n')


def load(path: Path) -> Run:
    """Read a run.

    Raises:
        ValueError: The file is of another format.
    """
    content = json.loads(path.read_text())
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{path.name} is not a run of format {FORMAT}")
    content["machine"] = Machine(**content["machine"])
    content["measurements"] = tuple(
        Measurement(**(m | {"rounds": tuple(m["rounds"])})) for m in content["measurements"]
    )
    return Run(**content)


def load_all(directory: Path) -> list[Run]:
    """Read the runs of a directory, the oldest first."""
    return sorted((load(path) for path in directory.glob("*.json")), key=lambda run: run.when)


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def _machine() -> Machine:
    cpu = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    system = f"{platform.system()} {platform.release()}"
    return Machine(cpu, cores, pages * page_bytes, system, _load(), _load())


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "shoal commit": _commit()}
    for package in ("shoal", "usearch", "numpy", "grpcio", "protobuf", "lmdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a client alone has no server's packages
    return found


def _commit() -> str:
    """The commit that is measured; "+" says that files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def _command() -> str:
    """The command line, without the paths of a machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name
    arguments = [Path(a).name if a.startswith("/") else a for a in sys.argv[1:]]
    return " ".join(["python -m", module, *arguments])
