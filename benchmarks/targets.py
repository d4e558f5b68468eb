"""`make bench-targets`: measure every target of targets.md, and print which are met.

    python -m benchmarks.targets                     all, well under an hour
    python -m benchmarks.targets --quick             all with small data, some minutes: a rehearsal
    python -m benchmarks.targets --only shard-query,serve-one
    python -m benchmarks.targets --from-raw DIR      judge what was measured before
    python -m benchmarks.targets --reuse             measure what no raw file has yet

Each benchmark runs in a process of its own, and leaves its raw figures in a file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.judging import Target, Verdict, columns, judge, words_of_targets
from benchmarks.record import RESULTS, Run, load_all
from benchmarks.target_list import TARGETS

PEERS: Final = Path(".venv-peers/bin")


@dataclass(frozen=True, slots=True)
class Step:
    """One benchmark, as targets need it.

    Attributes:
        benchmark: What its run is called.
        file: Where its raw figures go; where a command of its own measures more, another.
        module: Below `benchmarks`.
        arguments: For its full size.
        quick: For a rehearsal.
    """

    benchmark: str
    file: str
    module: str
    arguments: str
    quick: str


_PEERS: Final = "--only shoal,chroma,usearch --what ingest,search --recall 0.99"
STEPS: Final = (
    Step(
        *("shard-search", "shard-search.json", "shard_search", ""),
        "--count 5000 --data mixture --seconds 1",
    ),
    Step(
        *("shard-ingest", "shard-ingest.json", "shard_ingest", "--rounds 2"),
        "--count 5000 --data mixture --bytes-count 10000 --rounds 2",
    ),
    Step(
        *("filters", "filters.json", "filters", "--rounds 50"),
        "--count 5000 --kind mixture --rounds 10",
    ),
    Step(
        *("filtered-ingest", "filtered-ingest.json", "filtered_ingest", "--rounds 2"),
        "--count 2000 --rounds 2",
    ),
    Step(
        *("batching", "batching.json", "batching", "--rounds 4"),
        "--count 5000 --rounds 2 --seconds 1",
    ),
    Step(
        *("overload", "overload.json", "overload", "--times 3"),
        "--times 3 --seconds 2 --rounds 2 --count 5000",
    ),
    Step(
        *("snapshots", "snapshots.json", "snapshots", ""),
        "--count 5000 --rounds 2 --seconds 2",
    ),
    Step(
        *("scaling", "scaling-targets.json", "scaling"),
        "--lines collections,sizes --sizes 10000,100000,1000000 --collections 1,10,2000 --rounds 2",
        "--lines collections,sizes --sizes 3000,6000 --collections 10,50 --rounds 1",
    ),
    Step(
        *("peers", "peers-targets.json", "peers"),
        f"{_PEERS} --data passages,mixture --count 100000",
        f"{_PEERS} --rounds 1 --count 2000",
    ),
)
"""What targets need of each benchmark, which by itself may measure more."""


def steps_for(targets: Sequence[Target], runs: Sequence[Run]) -> list[Step]:
    """Give the steps that measure what no run has yet."""
    needed = {verdict.target.benchmark for verdict in judged(targets, runs) if not verdict.cases}
    return [step for step in STEPS if step.benchmark in needed]


def measure(steps: Sequence[Step], directory: Path, peers: Path, *, quick: bool) -> None:
    """Run benchmarks one after another, each into its file; one that fails is named."""
    for step in steps:
        if step.benchmark == "peers" and not peers.is_dir():
            continue
        arguments = (step.quick if quick else step.arguments).split()
        if step.benchmark == "peers":
            arguments += ["--peers", str(peers)]
        output = directory / step.file
        command = [sys.executable, "-m", f"benchmarks.{step.module}", *arguments]
        command += ["--output", str(output)]
        print(f"measuring: python -m benchmarks.{step.module} {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
            if done.returncode:
                log.seek(0)
                last = log.read().strip().splitlines()[-1:]
                print(f"  it failed: {' '.join(last)}", flush=True)


def judged(targets: Sequence[Target], runs: Sequence[Run]) -> list[Verdict]:
    """Judge targets by raw figures, with what to do about those that are missing."""
    words = words_of_targets()
    verdicts = []
    for target in targets:
        verdict = judge(target, words[target.name], runs)
        if not verdict.cases and target.benchmark == "peers" and "no run" in verdict.missing:
            advice = "Chroma is not installed, or was not measured: run `make bench-peers` first"
            verdict = Verdict(target, verdict.words, (), advice)
        verdicts.append(verdict)
    return verdicts


def table(verdicts: Sequence[Verdict]) -> str:
    """Give verdicts as a table."""
    head = "| ID | Target | Where it is hardest | Measured | Met |\n|---|---|---|---|---|"
    rows = ["| " + " | ".join(columns(verdict)) + " |" for verdict in verdicts]
    return "\n".join([head, *rows])


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count verdicts."""
    met = sum(verdict.is_met is True for verdict in verdicts)
    missed = [verdict.target.name for verdict in verdicts if verdict.is_met is False]
    unmeasured = [verdict.target.name for verdict in verdicts if not verdict.cases]
    stated = len(verdicts) - met - len(missed) - len(unmeasured)
    parts = [f"{met} of {len(verdicts)} targets are met", f"{stated} are only to be stated"]
    for what, names in (("not met", missed), ("not measured", unmeasured)):
        parts.append(f"{len(names)} {what}" + (f" ({', '.join(names)})" if names else ""))
    return "; ".join(parts) + "."


def main() -> None:
    """Measure, and print a table; raw figures are kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="IDs, with commas between")
    parser.add_argument("--quick", action="store_true", help="small data, raw files thrown away")
    parser.add_argument("--from-raw", type=Path, help="measure nothing; judge these raw files")
    parser.add_argument("--reuse", action="store_true", help="measure what no raw file has")
    parser.add_argument("--raw", type=Path, help="where raw files go; benchmarks/results")
    parser.add_argument("--peers", type=Path, default=PEERS, help="bin of the peers' environment")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    unknown = only - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no such targets: {', '.join(sorted(unknown))}")
    targets = [target for target in TARGETS if not only or target.name in only]
    if options.from_raw:
        _print(judged(targets, load_all(options.from_raw)))
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as temporary:
        directory = options.raw or (Path(temporary) if options.quick else RESULTS)
        runs = load_all(directory) if options.reuse else []
        steps = steps_for(targets, runs)
        measure(steps, directory, options.peers, quick=options.quick)
        _print(judged(targets, load_all(directory)))


def _print(verdicts: Sequence[Verdict]) -> None:
    print(f"\n{table(verdicts)}\n\n{summary(verdicts)}")


if __name__ == "__main__":
    main()
