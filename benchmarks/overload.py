"""What becomes of a server that is asked for more than it can do: see README.md.

First what it sustains, by 32 callers that wait for their answers. Then calls come at once, twice
and three times that rate, whether or not those before were answered, from processes that know
nothing of each other. A server that is overloaded well goes on to answer as many as it can, in
time, and tells the others at once to come back later; its memory stays where it was.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import shoal
from benchmarks import cluster, data, open_loop
from benchmarks.measure import percentile
from shoal.v1 import collection_pb2, record_service_pb2, value_pb2

_QUERY: Final = "/shoal.v1.RecordService/Query"
_UPSERT: Final = "/shoal.v1.RecordService/Upsert"
_NAME: Final = "overload"
_CLIENTS: Final = 2
_TIMEOUT_S: Final = 2.0
_STATUSES: Final = {0: "OK", 1: "CANCELLED", 4: "DEADLINE", 8: "EXHAUSTED", 14: "UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a cluster have used.

    Attributes:
        cpu_s: CPU time since they began, seconds.
        memory_bytes: Anonymous memory.
    """

    cpu_s: float
    memory_bytes: int


def _usage(directory: Path) -> Usage:
    """Add up the processes whose command line names the directory."""
    cpu, memory = 0, 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if str(directory).encode() not in command and b"shoal_gateway" not in command:
                continue
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            status = (entry / "status").read_text()
        except OSError:
            continue
        cpu += int(fields[11]) + int(fields[12])
        found = re.search(r"RssAnon:\s+(\d+)", status)
        memory += int(found[1]) * 1024 if found else 0
    return Usage(cpu / os.sysconf("SC_CLK_TCK"), memory)


def _queries(dataset: data.Dataset, n_results: int, each: int) -> list[str]:
    """Make requests: `each` queries a call, with their distances."""
    return [
        record_service_pb2.QueryRequest(
            collection=collection_pb2.CollectionReference(name=_NAME),
            query_vectors=value_pb2.VectorBlock(
                dimension=dataset.base.shape[1],
                values=dataset.queries[n : n + each].astype("<f4").tobytes(),
            ),
            n_results=n_results,
            include=[value_pb2.INCLUDE_DISTANCES],
        )
        .SerializeToString()
        .hex()
        for n in range(0, min(len(dataset.queries) - each, 200), each)
    ]


def _upserts(dataset: data.Dataset, each: int) -> list[str]:
    """Make requests: `each` records a call, over and over the same ones."""
    return [
        record_service_pb2.UpsertRequest(
            collection=collection_pb2.CollectionReference(name=_NAME),
            records=value_pb2.RecordBatch(
                ids=[f"record-{row}" for row in range(n, n + each)],
                vectors=value_pb2.VectorBlock(
                    dimension=dataset.base.shape[1],
                    values=dataset.base[n : n + each].astype("<f4").tobytes(),
                ),
            ),
        )
        .SerializeToString()
        .hex()
        for n in range(0, 20 * each, each)
    ]


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


def _row(name: str, account: open_loop.Account, seconds: float, peak: float, before: Usage,
         after: Usage) -> str:  # fmt: skip
    goodput = len(account.latencies_s) / seconds
    times = [
        f"{1000 * percentile(latencies, share):.0f}" if latencies else "–"
        for latencies in (account.latencies_s, account.refusal_latencies_s)
        for share in (0.5, 0.99)
    ]
    ended = ", ".join(
        f"{_STATUSES.get(status, str(status))} {count / max(1, account.sent):.0%}"
        for status, count in sorted(account.by_status.items())
    )
    return (
        f"| {name} | {account.sent / seconds:,.0f} | {goodput:,.0f} | {goodput / peak:.2f} | "
        f"{times[0]} / {times[1]} | {times[2]} / {times[3]} | {ended} | "
        f"{(after.cpu_s - before.cpu_s) / seconds:.2f} | {after.memory_bytes / 2**20:.0f} |"
    )


def main() -> None:
    """Measure, and print a table."""
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
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 3], help="loads to try")
    options = parser.parse_args()

    dataset = data.passages()
    if options.upserts:
        path, messages = _UPSERT, _upserts(dataset, options.upserts)
    else:
        path, messages = _QUERY, _queries(dataset, options.n_results, options.each)
    with cluster.temporary() as directory, cluster.running(options.workers, directory) as port:
        with shoal.Client(port=port) as client:
            collection = client.create_collection(
                _NAME,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine", "dimension": dataset.base.shape[1]}},
            )
            for first in range(0, min(options.count, len(dataset.base)), 2_000):
                rows = dataset.base[first : first + 2_000]
                ids = [f"record-{n}" for n in range(first, first + len(rows))]
                collection.add(ids=ids, embeddings=rows)
        time.sleep(options.count / 5_000)  # for the graph
        print("| load | calls/s | answered/s | of the peak | p50 / p99 ms | refused ms | ended | "
              "CPU | MiB |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        before = _usage(directory)
        account = _load(port, path, messages, 1, options.seconds, 32)
        peak = len(account.latencies_s) / options.seconds
        print(_row("32 callers", account, options.seconds, peak, before, _usage(directory)))
        for times in options.times:
            before = _usage(directory)
            account = _load(port, path, messages, times * peak, options.seconds, 0)
            after = _usage(directory)
            print(_row(f"{times:g} x", account, options.seconds, peak, before, after), flush=True)


if __name__ == "__main__":
    main()
