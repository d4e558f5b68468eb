"""`python -m benchmarks.scaling`: how cost grows with shards and workers, records, collections.

    --lines shards        1, 2, 4, 8 shards on 1 and 2 workers at equal recall, 1, 8, 32 callers
    --lines sizes         10,000 to 1,000,000 vectors in one shard
    --lines collections   1 to 2,000 collections on one worker

All by default: about half an hour. `--shards`, `--sizes` and `--collections` take other numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import data, scale_collections, scale_shards, scale_sizes
from benchmarks.record import Recorder, print_run
from benchmarks.shard import WRITE_BATCH
from shoal_worker.building import MINIMUM_GRAPH_VECTORS


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lines", default="collections,shards,sizes")
    parser.add_argument("--shards", type=_numbers, default=scale_shards.SHARDS)
    parser.add_argument("--count", type=int, default=50_000, help="vectors that shards divide")
    parser.add_argument("--recalls", default="0.99", help="of the line `shards`, with commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each search of `shards`")
    parser.add_argument("--sizes", type=_numbers, default=scale_sizes.SIZES)
    parser.add_argument("--lost", action="store_true", help="open the largest without its graph")
    parser.add_argument("--collections", type=_numbers, default=scale_collections.COLLECTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    unfit = [size for size in options.sizes if size % WRITE_BATCH or size < MINIMUM_GRAPH_VECTORS]
    if unfit:
        few = MINIMUM_GRAPH_VECTORS
        parser.error(f"sizes are multiples of {WRITE_BATCH}, {few} and more: not {unfit}")
    recorder = Recorder("scaling")
    lines = options.lines.split(",")
    if "collections" in lines:
        scale_collections.measure(recorder, options.collections)
    if "shards" in lines:
        scale_shards.measure(
            recorder,
            data.mixture(options.count),
            shards=options.shards,
            recalls=[float(recall) for recall in options.recalls.split(",")],
            rounds=options.rounds,
            seconds=options.seconds,
        )
    if "sizes" in lines:
        scale_sizes.measure(recorder, options.sizes, options.rounds, is_lost=options.lost)
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
