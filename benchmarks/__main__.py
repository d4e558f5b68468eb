"""`make bench`: see README.md."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks import data, ingest, search


def main() -> None:
    """Measure, print tables, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement")
    parser.add_argument("--count", type=int, default=50_000, help="vectors of the synthetic data")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()

    raw: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("shoal", "usearch", "grpcio", "protobuf", "numpy")},
    }
    for dataset in (data.passages(), data.mixture(options.count)):
        print(f"\n## {dataset.name}\n")
        figures = search.measure(dataset, options.rounds)
        print("| Search | queries/s | ratio to raw | recall@10 | p50 / p99 ms |")
        print("|---|---|---|---|---|")
        print("\n".join(search.rows(figures)))
        ingested = ingest.measure(dataset, options.rounds)
        print("\n| Ingest | records/s | ratio to raw |\n|---|---|---|")
        for figure in ingested:
            median, low, high = figure.ratio_to(ingested[0])
            print(f"| {figure.name} | {figure.median:,.0f} | {median:.2f} ({low:.2f}-{high:.2f}) |")
        raw[dataset.name] = {
            "search": [asdict(f) | {"latencies_s": []} for f in figures],
            "ingest": [asdict(f) for f in ingested],
        }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
