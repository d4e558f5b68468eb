"""What becomes of a server that is asked for more than it can do: see README.md.

First what it sustains, by 32 callers that wait for their answers. Then calls come at once, twice
and three times that rate, whether or not those before were answered, from processes that know
nothing of each other. A server that is overloaded well goes on to answer as many as it can, in
time, and tells the others at once to come back later; its memory stays where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import shoal
from benchmarks import cluster, data, open_loop
from benchmarks.measure import percentile
from benchmarks.record import Parameter, Recorder, print_run
from benchmarks.requests import QUERY_PATH, UPSERT_PATH, query_messages, upsert_messages
from benchmarks.search import wait_until_built

SHOAL: Final = "shoal server"
PEAK: Final = "32 callers that wait"
GOODPUT: Final = "answered in time"
MEMORY: Final = "memory"
_NAME: Final = "overload"
_CLIENTS: Final = 2
_TIMEOUT_S: Final = 2.0
_STATUSES: Final = {0: "OK", 1: "CANCELLED", 4: "DEADLINE", 8: "EXHAUSTED", 14: "UNAVAILABLE"}


def _load(port: int, path: str, messages: Sequence[str], rate: float, seconds: float, callers: int
          ) -> open_loop.Account:  # fmt: skip
    return open_loop.run(
        [
            open_loop.Plan(
                port,
                path,
                messages,
                rate / _CLIENTS,
                seconds,
                _TIMEOUT_S,
                seed=n,
                callers=callers // _CLIENTS,
            )
            for n in range(_CLIENTS)
        ]
    )


def _measured(
    recorder: Recorder,
    dataset: str,
    server: cluster.Cluster,
    calls: Callable[[], open_loop.Account],
    seconds: float,
    **parameters: Parameter,
) -> float:
    """Put a load on the server; record and give what it answered in time, calls a second."""
    add = recorder.series(dataset, SHOAL, **parameters)
    used = server.cpu_s()
    account = calls()
    goodput = len(account.latencies_s) / seconds
    add("calls sent", "calls/s", account.sent / seconds)
    add(GOODPUT, "calls/s", goodput)
    add("CPU", "s/s", (server.cpu_s() - used) / seconds)
    add(MEMORY, "bytes", server.memory()["Anonymous"])
    for name, latencies in (
        ("answered", account.latencies_s),
        ("refused", account.refusal_latencies_s),
    ):
        for share in (0.5, 0.99):
            if latencies:
                add(f"{name} p{100 * share:.0f}", "ms", 1e3 * percentile(latencies, share))
    for status, count in sorted(account.by_status.items()):
        add(f"ended {_STATUSES.get(status, status)}", "share", count / max(1, account.sent))
    return goodput


def main() -> None:
    """Measure, print, and keep the raw figures if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument(
        "--workers", type=int, default=0, help="worker processes; 0 for one process"
    )
    parser.add_argument("--count", type=int, default=20_000, help="records")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--each", type=int, default=1, help="queries of a call")
    parser.add_argument("--n-results", type=int, default=10, help="matches of a query")
    parser.add_argument(
        "--upserts", type=int, default=0, help="records of a call, to write instead"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="keep the raw figures here, as JSON")
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 3], help="loads to try")
    options = parser.parse_args()

    dataset = data.passages()
    if options.upserts:
        path, messages = UPSERT_PATH, upsert_messages(_NAME, dataset, options.upserts)
    else:
        path = QUERY_PATH
        messages = query_messages(_NAME, dataset, options.n_results, options.each)
    recorder = Recorder("overload")
    name = f"{dataset.name.split(' ')[0]} {min(options.count, len(dataset.base)):,}"
    with cluster.started(options.workers) as server:
        with shoal.Client(port=server.port) as client:
            collection = client.create_collection(
                _NAME,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine", "dimension": dataset.base.shape[1]}},
            )
            for first in range(0, min(options.count, len(dataset.base)), 2_000):
                rows = dataset.base[first : first + 2_000]
                ids = [f"record-{n}" for n in range(first, first + len(rows))]
                collection.add(ids=ids, embeddings=rows)
            wait_until_built(collection)

        def load(rate: float, callers: int) -> Callable[[], open_loop.Account]:
            return lambda: _load(server.port, path, messages, rate, options.seconds, callers)

        common = {"each": options.upserts or options.each, "workers": options.workers}
        for _ in range(options.rounds):
            peak = _measured(
                *(recorder, name, server, load(1, 32), options.seconds), load=PEAK, **common
            )
            for times in options.times:
                _measured(
                    *(recorder, name, server, load(times * peak, 0), options.seconds),
                    load=f"{times:g} x",
                    **common,
                )
    print_run(recorder, options.output)


if __name__ == "__main__":
    main()
