"""`python -m benchmarks.batching`: what it gains that queries arriving together travel together.

Two clusters of two workers and two shards take turns; in the second's gateway every query leaves by
itself. Load comes from processes that share nothing, 32 calls under way.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Final

import shoal
from benchmarks import data, open_loop
from benchmarks.cluster import Cluster, started, temporary
from benchmarks.measure import percentile
from benchmarks.record import (
    QUERY_CPU,
    QUERY_P50,
    QUERY_P99,
    QUERY_RATE,
    Recorder,
    print_run,
)
from benchmarks.requests import QUERY_PATH, query_messages
from benchmarks.search import load, wait_until_built

BATCHING: Final = "shoal server, 2 workers"
ALONE: Final = "shoal server, 2 workers, without batching"

_NAME: Final = "batching"
_CALLERS: Final = 32
_CLIENTS: Final = 2
_TIMEOUT_S: Final = 30.0

_WITHOUT: Final = """
import sys

if "shoal_gateway" in sys.orig_argv:
    from shoal_gateway import batching

    # A query that fills a batch by itself waits for no other.
    batching._fills_a_batch = lambda *_: True
"""
"""Runs in each process of a cluster before its own code does."""


def _measured(
    recorder: Recorder, dataset: data.Dataset, system: str, cluster: Cluster, seconds: float
) -> None:
    plans = [
        open_loop.Plan(
            *(cluster.port, QUERY_PATH, query_messages(_NAME, dataset, 10, 1), 0, seconds),
            timeout_s=_TIMEOUT_S,
            seed=client,
            callers=_CALLERS // _CLIENTS,
        )
        for client in range(_CLIENTS)
    ]
    used = cluster.cpu_s()
    account = open_loop.run(plans)
    used = cluster.cpu_s() - used
    answered = len(account.latencies_s)
    if answered < account.sent - _CALLERS:
        raise RuntimeError(f"{system}: calls ended otherwise than with OK: {account.by_status}")
    add = recorder.series(dataset.name, system, callers=_CALLERS, workers=2, shards=2)
    add(QUERY_RATE, "queries/s", answered / seconds)
    add(QUERY_CPU, "us", 1e6 * used / answered)
    add(QUERY_P50, "ms", 1e3 * percentile(account.latencies_s, 0.5))
    add(QUERY_P99, "ms", 1e3 * percentile(account.latencies_s, 0.99))


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="vectors of the mixture")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round")
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    options = parser.parse_args()
    recorder = Recorder("batching")
    dataset = data.mixture(options.count)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(temporary())
        (home / "sitecustomize.py").write_text(_WITHOUT)
        clusters = {
            BATCHING: stack.enter_context(started(2)),
            ALONE: stack.enter_context(started(2, variables={"PYTHONPATH": str(home)})),
        }
        for cluster in clusters.values():
            with shoal.Client(port=cluster.port, timeout=600) as client:
                wait_until_built(load(client, _NAME, dataset, 2))
        for turn in range(options.rounds + 1):
            for system, cluster in clusters.items():
                counted = recorder if turn else Recorder("warm")
                _measured(counted, dataset, system, cluster, options.seconds)
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
