"""`make bench-peers`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks import data
from benchmarks.data import Dataset
from benchmarks.peers.bench import Bench, Options
from benchmarks.peers.filtering import filters
from benchmarks.peers.kinds import KINDS
from benchmarks.peers.loading import load
from benchmarks.peers.mixing import mix
from benchmarks.peers.searching import search
from benchmarks.peers.starting import start
from benchmarks.peers.tables import tables
from benchmarks.peers.tuning import Tuned
from benchmarks.record import Recorder

PARTS: Final = ("ingest", "start", "memory", "search", "filters", "mixed")
DATA: Final[dict[str, Callable[[int], Dataset]]] = {
    "passages": data.passages_sized,
    "mixture": data.mixture,
    "gaussian": data.gaussian,
}


def main() -> None:
    """Measure, print tables, and keep the raw figures if asked to."""
    arguments = _arguments()
    # Ended from outside, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {line}", file=sys.stderr, flush=True)

    recorder = Recorder("peers")
    kinds = [k for k in KINDS if any(part in k.name for part in arguments.only)]
    options = Options(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        ingest_rounds=arguments.ingest_rounds,
        recalls=arguments.recall,
        write_rate=arguments.write_rate,
        parts=frozenset(arguments.what),
    )
    try:
        for make in _makers(arguments):
            dataset = make()
            say(dataset.name)
            with (
                _home(arguments.keep, dataset.name) as home,
                Bench(dataset, home, options, recorder, say) as bench,
            ):
                bench.take(kinds, arguments.peers)
                for part in _parts(bench):
                    say(part)
                    if arguments.output is not None:
                        recorder.write(arguments.output)
    finally:
        print(tables(recorder.run()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)

    def listed(text: str) -> list[str]:
        return text.split(",")

    def recalls(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser.add_argument("--rounds", type=int, default=2, help="of everything interleaved")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--ingest-rounds", type=int, default=1, help="of writing everything")
    parser.add_argument("--count", type=int, default=20_000, help="vectors, if not of a file")
    parser.add_argument("--recall", type=recalls, default=[0.95, 0.99], help="0.95,0.99")
    parser.add_argument(
        "--data", type=listed, help=f"of {','.join(DATA)}; passages if there is no file either"
    )
    parser.add_argument(
        "--file", type=Path, action="append", default=[], help=".npz: base, query, gt100 by L2"
    )
    parser.add_argument(
        "--only", type=listed, default=[""], help="systems whose names hold one of these"
    )
    parser.add_argument("--what", type=listed, default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--write-rate", type=float, default=500.0, help="records/s while searching")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin"))
    parser.add_argument(
        "--keep", type=Path, help="keep the loaded stores here, and use those that are there"
    )
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    arguments = parser.parse_args()
    if arguments.data is None:
        arguments.data = [] if arguments.file else ["passages"]
    for given, known in ((arguments.what, PARTS), (arguments.data, DATA)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    # As a path of its own: an environment's interpreter is a link to another's.
    arguments.peers = arguments.peers.absolute()
    return arguments


def _makers(arguments: argparse.Namespace) -> list[Callable[[], Dataset]]:
    def sized(make: Callable[[int], Dataset]) -> Callable[[], Dataset]:
        return lambda: make(arguments.count)

    def read(path: Path) -> Callable[[], Dataset]:
        return lambda: data.from_file(path)

    return [*(sized(DATA[name]) for name in arguments.data), *map(read, arguments.file)]


@contextlib.contextmanager
def _home(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is not None:
        yield (keep / re.sub(r"[^\w]+", "-", name)).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="shoal-peers-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _parts(bench: Bench) -> Iterator[str]:
    """Measure one part after another, and say which is done."""
    parts = bench.options.parts
    load(bench)
    yield "loaded"
    if parts & {"start", "memory"}:
        start(bench)
        yield "started"
    if not parts & {"search", "filters", "mixed"}:
        return
    tuned = Tuned(bench)
    yield "tuned"
    if "search" in parts:
        search(bench, tuned)
        yield "searched"
    if "filters" in parts:
        filters(bench, tuned)
        yield "filtered"
    if "mixed" in parts:
        mix(bench, tuned)
        yield "searched beside writes"


if __name__ == "__main__":
    main()
