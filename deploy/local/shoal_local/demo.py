"""`make demo`: a cluster of processes, real data, real questions, a killed worker, nothing lost.

Starts `shoal up` as anyone would, talks to it by the client as anyone would, compares every answer
with brute force, kills a worker with SIGKILL while it is being written to, and counts what was
acknowledged. Ends with 0 if all was as promised.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import shoal
from shoal_local.access import ServerAccess
from shoal_local.passages import Passages, find_folder, load_passages
from shoal_local.state import RoleState, RunState
from shoal_local.status import ask

__all__ = ["main"]

_SHARDS: Final = 4
_WORKERS: Final = 2
_BATCH: Final = 1_000
_RESULTS: Final = 10
_START_S: Final = 60.0
_RESTART_S: Final = 30.0
# What the demo promises: the graph finds this share of the true ten nearest.
_RECALL_PROMISED: Final = 0.95
_WRITES_BEFORE_KILL: Final = 15
_WRITES_AFTER_RESTART: Final = 15
_WRITE_RECORDS: Final = 20


class DemoFailedError(Exception):
    """Something is not as promised."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="shoal demo",
        description="Start a cluster, load real data, search it, kill a worker, "
        "show that nothing is lost.",
    )
    parser.add_argument("--passages", type=Path, help="Folder of the data.", default=None)
    parser.add_argument("--keep", action="store_true", help="Keep the data directory.")
    given = parser.parse_args(arguments)
    base = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    say = _Story()
    try:
        with _cluster(base, say) as (state, data):
            _show(load_passages(find_folder(given.passages)), state, data, say)
    except (DemoFailedError, shoal.errors.ShoalError, OSError) as error:
        say.failure(str(error), base / "shoal.log")
        return 1
    except KeyboardInterrupt:
        say.failure("interrupted", None)
        return 128 + signal.SIGINT
    finally:
        if not given.keep:
            shutil.rmtree(base, ignore_errors=True)
    say.farewell(base / "data" if given.keep else None)
    return 0


class _Story:
    """What is printed: chapters, facts, answers."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._begin = time.perf_counter()
        self._width = min(shutil.get_terminal_size((100, 24)).columns, 100)

    def _styled(self, text: str, style: str) -> str:
        return f"\033[{style}m{text}\033[0m" if self._is_terminal else text

    def chapter(self, title: str) -> None:
        print(f"\n{self._styled(title, '1')}", flush=True)

    def fact(self, name: str, value: str) -> None:
        print(f"  {name:<26} {value}", flush=True)

    def question(self, text: str, condition: str) -> None:
        print(f"\n  {self._styled('?', '36')} {self._shortened(text, 4)}")
        if condition:
            print(f"    {self._styled('where ' + condition, '36')}")

    def answer(self, rank: int, distance: float, shard: str, text: str) -> None:
        head = f"    {rank}. distance {distance:.3f}, {shard}: "
        print(head + self._shortened(text, len(head)), flush=True)

    def _shortened(self, text: str, indent: int) -> str:
        return textwrap.shorten(text, max(self._width - indent, 30), placeholder=" …")

    def failure(self, message: str, log: Path | None) -> None:
        print(f"\n{self._styled('The demo failed', '31')}: {message}", file=sys.stderr)
        if log is not None and log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            print("The last lines of the cluster's log:", file=sys.stderr)
            for line in lines:
                print(f"  {line}", file=sys.stderr)

    def farewell(self, kept: Path | None) -> None:
        seconds = time.perf_counter() - self._begin
        print(f"\n{self._styled('All as promised', '32')}, in {seconds:.0f} s.")
        if kept is not None:
            print(f"The data is in {kept}.")
        command = _command()
        print(
            f"""
To keep a server running:

    {command} up --data my-data --workers 2

and to talk to it, from Python:

    import shoal
    client = shoal.Client()                       # localhost:7700
    books = client.get_or_create_collection("books", embedding_function=None)
    books.add(ids=["1"], embeddings=[[0.1, 0.2, 0.3]], documents=["A book"])
    print(books.query(query_embeddings=[[0.1, 0.2, 0.25]], n_results=1))

What runs, and where: {command} status --data my-data
From other languages: the proto files in protos/shoal/v1, on the same port (with reflection).
""",
            end="",
        )


def _command() -> str:
    """How the reader can call `shoal` from where they are."""
    if shutil.which("shoal"):
        return "shoal"
    script = Path(sys.executable).with_name("shoal")
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return str(script)


# The cluster


@contextlib.contextmanager
def _cluster(base: Path, say: _Story) -> Iterator[tuple[RunState, Path]]:
    """Run `shoal up` in a process of its own, as a user does."""
    say.chapter("Starting a cluster: a coordinator, two workers, a gateway")
    data = base / "data"
    begin = time.perf_counter()
    with (base / "shoal.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "shoal_local", "up", f"--data={data}"),
                *(f"--workers={_WORKERS}", "--port=0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        _wait_for_ready(process)
        state = RunState.read(data)
        if state is None:
            raise DemoFailedError("the cluster is ready, but does not say what runs")
        for role in state.roles:
            say.fact(role.name, f"process {role.process}, {role.host}:{role.port}")
        say.fact("ready after", f"{time.perf_counter() - begin:.1f} s")
        yield state, data
        begin = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        code = process.wait(_START_S)
        say.chapter("Stopped in order: gateway, workers, coordinator")
        say.fact("after", f"{time.perf_counter() - begin:.1f} s, exit code {code}")
        if code != 0:
            raise DemoFailedError(f"the cluster stopped with exit code {code}")
    finally:
        if process.poll() is None:
            process.kill()  # the roles end with it
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_for_ready(process: subprocess.Popen[str]) -> None:
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        if process.stdout is not None:
            for line in process.stdout:
                lines.put(line.strip())
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    give_up_at = time.monotonic() + _START_S
    while True:
        try:
            line = lines.get(timeout=max(give_up_at - time.monotonic(), 0.01))
        except queue.Empty:
            raise DemoFailedError(f"the cluster was not ready within {_START_S:.0f} s") from None
        if line == "ready":
            return
        if line == "":
            raise DemoFailedError(f"the cluster ended at its start with {process.wait()}")


# The chapters


def _show(passages: Passages, state: RunState, data: Path, say: _Story) -> None:
    with shoal.Client(port=state.gateway.port) as client:
        collection = client.create_collection(
            "passages",
            configuration={"hnsw": {"space": "cosine", "shards": _SHARDS}},
            metadata={"source": "Debian 12", "language": "en"},
            embedding_function=None,
        )
        _load(collection, passages, say)
        _ask(collection, passages, _shard_names(state, str(collection.id)), say)
        _measure(collection, passages, say)
        _kill(collection, passages, data, say)


def _shard_names(state: RunState, collection_id: str) -> dict[str, str]:
    """Names of the collection's shards that a reader can tell apart, by their UUIDs."""
    status = asyncio.run(ask(ServerAccess(f"{state.gateway.host}:{state.gateway.port}")))
    roles = {f"{role.host}:{role.port}": role.name for role in state.roles}
    workers = {worker.worker_id: roles[worker.address] for worker in status.workers}
    shards = [s for s in status.shards if s.collection_id == collection_id]
    return {
        shard.shard_id: f"shard {number} on {workers[shard.worker_id]}"
        for number, shard in enumerate(shards, start=1)
    }


def _load(collection: Any, passages: Passages, say: _Story) -> None:
    count = len(passages.ids)
    say.chapter(f"Loading {count:,} descriptions of Debian packages, with MiniLM vectors")
    begin = time.perf_counter()
    for first in range(0, count, _BATCH):
        part = slice(first, first + _BATCH)
        collection.add(
            ids=passages.ids[part],
            embeddings=passages.vectors[part],
            documents=passages.documents[part],
            metadatas=passages.metadatas[part],
        )
    seconds = time.perf_counter() - begin
    if collection.count() != count:
        raise DemoFailedError(f"{collection.count()} records are there, {count} were added")
    say.fact("acknowledged, on disk", f"{count:,} in {seconds:.1f} s ({count / seconds:,.0f}/s)")
    say.fact("vectors", f"{passages.vectors.shape[1]} dimensions, cosine, {_SHARDS} shards")
    example = passages.metadatas[0]
    fields = ("section", "installed_kb", "size_mb", "team", "tags")
    say.fact("metadata", ", ".join(f"{name}={example[name]!r}" for name in fields) + ", …")


_EXAMPLES: Final[tuple[tuple[int, str, dict[str, Any] | None], ...]] = (
    (2, "", None),
    (0, "section is net or utils", {"section": {"$in": ["net", "utils"]}}),
    (
        1,
        "size_mb < 0.1 and has_homepage and tags contains implemented-in::perl",
        {
            "$and": [
                {"size_mb": {"$lt": 0.1}},
                {"has_homepage": True},
                {"tags": {"$contains": "implemented-in::perl"}},
            ]
        },
    ),
)


def _ask(collection: Any, passages: Passages, names: dict[str, str], say: _Story) -> None:
    say.chapter("Asking: the nearest of all, and the nearest of those that match")
    for query, words, where in _EXAMPLES:
        found = collection.query(
            query_embeddings=passages.query_vectors[query],
            n_results=3,
            where=where,
            include=["documents", "distances", "metadatas"],
            explain=True,
        )
        say.question(passages.query_texts[query], words)
        for position, shard_id in enumerate(found["plan"]["match_shards"][0]):
            distance = found["distances"][0][position]
            text = found["documents"][0][position]
            say.answer(position + 1, distance, names[shard_id], text)
        if not found["ids"][0]:
            raise DemoFailedError(f"nothing was found where {words}")


def _measure(collection: Any, passages: Passages, say: _Story) -> None:
    queries = passages.query_vectors
    say.chapter(f"Comparing {len(queries)} held-out queries with brute force")
    wish: dict[str, Any] = {"n_results": _RESULTS, "include": ["distances"]}
    perl = np.array([m["section"] == "perl" for m in passages.metadatas])
    everything = np.ones(len(passages.ids), bool)
    for name, where, mask in (
        (f"all {len(everything):,}", None, everything),
        (f"the {perl.sum()} in section perl", {"section": "perl"}, perl),
    ):
        truth = _brute_force(passages, mask)
        times = []
        found_ids = []
        for vector in queries:
            begin = time.perf_counter()
            found = collection.query(query_embeddings=vector, where=where, **wish)
            times.append(time.perf_counter() - begin)
            found_ids.append(found["ids"][0])
        begin = time.perf_counter()
        together = collection.query(query_embeddings=queries, where=where, explain=True, **wish)
        seconds = time.perf_counter() - begin
        methods = Counter(shard["method"] for shard in together["plan"]["shards"])
        how = ", ".join(f"{count} shards {method}" for method, count in sorted(methods.items()))
        wanted = min(_RESULTS, int(mask.sum()))
        recall = _recall(found_ids, truth, wanted)
        recall_together = _recall(together["ids"], truth, wanted)
        say.fact(f"{name}:", f"recall@{_RESULTS} {recall:.4f} ({how})")
        p50, p99 = np.quantile(times, [0.5, 0.99]) * 1e3
        say.fact("  one at a time", f"{p50:.1f} ms (median), {p99:.1f} ms (99 %)")
        say.fact("  all in one call", f"{seconds / len(queries) * 1e3:.2f} ms a query")
        if min(recall, recall_together) < _RECALL_PROMISED:
            raise DemoFailedError(f"recall@{_RESULTS} is {recall:.4f}, below {_RECALL_PROMISED}")


def _brute_force(passages: Passages, mask: npt.NDArray[np.bool_]) -> list[set[str]]:
    """The true nearest of each query; of those at the same distance as the last, all."""
    rows = np.flatnonzero(mask)
    distances = _cosine(passages.query_vectors, passages.vectors[rows])
    last = np.sort(distances, axis=1)[:, min(_RESULTS, len(rows)) - 1]
    return [
        {passages.ids[rows[i]] for i in np.flatnonzero(line <= bound + 1e-9)}
        for line, bound in zip(distances, last, strict=True)
    ]


def _recall(found: list[list[str]], truth: list[set[str]], wanted: int) -> float:
    """The share of the true nearest that was found."""
    hits = sum(len(nearest & set(ids)) for ids, nearest in zip(found, truth, strict=True))
    return hits / (wanted * len(truth))


def _cosine(
    queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Cosine distances in double precision, shape ``(queries, vectors)``."""
    a = queries.astype(np.float64)
    b = vectors.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return np.asarray(1.0 - a @ b.T)


class _Writes:
    """Batches written from a thread while a worker is killed, and what was acknowledged of them."""

    def __init__(self, collection: Any, passages: Passages) -> None:
        self._collection = collection
        self._passages = passages
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: dict[str, int] = {}
        self.longest_s = 0.0
        self.error: BaseException | None = None

    def __enter__(self) -> _Writes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, batches: int) -> None:
        """Wait until so many batches more were acknowledged."""
        wanted = len(self.acknowledged) + batches * _WRITE_RECORDS
        give_up_at = time.monotonic() + _RESTART_S
        while len(self.acknowledged) < wanted and self.error is None:
            if time.monotonic() > give_up_at:
                raise DemoFailedError(f"no write was acknowledged within {_RESTART_S:.0f} s")
            time.sleep(0.01)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        batch = 0
        count = len(self._passages.ids)
        try:
            while not self._stop.is_set():
                rows = [(batch * _WRITE_RECORDS + i) % count for i in range(_WRITE_RECORDS)]
                ids = [f"copy-{batch}:{self._passages.ids[row]}" for row in rows]
                begin = time.perf_counter()
                self._collection.add(
                    ids=ids,
                    embeddings=self._passages.vectors[rows],
                    documents=[self._passages.documents[row] for row in rows],
                    metadatas=[{"batch": batch}] * len(rows),
                )
                self.longest_s = max(self.longest_s, time.perf_counter() - begin)
                self.acknowledged.update(zip(ids, rows, strict=True))
                batch += 1
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.error = error


def _kill(collection: Any, passages: Passages, data: Path, say: _Story) -> None:
    say.chapter("Killing a worker while it is being written to")
    with _Writes(collection, passages) as writes:
        writes.wait_for(_WRITES_BEFORE_KILL)
        before = _worker(data)
        os.kill(before.process, signal.SIGKILL)
        begin = time.perf_counter()
        say.fact("SIGKILL", f"{before.name}, process {before.process}")
        while (after := _worker(data)).process in (0, before.process):
            if time.perf_counter() - begin > _RESTART_S:
                raise DemoFailedError(f"{before.name} was not started again")
            time.sleep(0.01)
        say.fact("started again", f"process {after.process}, on the same port {after.port}")
        writes.wait_for(_WRITES_AFTER_RESTART)
    if writes.error is not None:
        raise writes.error
    ids = list(writes.acknowledged)
    say.fact("acknowledged meanwhile", f"{len(ids):,} records; the client repeated what it had to")
    say.fact("longest write", f"{writes.longest_s:.2f} s, across the restart")
    missing = 0
    for first in range(0, len(ids), _BATCH):
        part = ids[first : first + _BATCH]
        found = collection.get(ids=part, include=["documents", "embeddings"])
        missing += len(part) - len(found["ids"])
        for position, record_id in enumerate(found["ids"]):
            row = writes.acknowledged[record_id]
            same = found["documents"][position] == passages.documents[row] and np.array_equal(
                found["embeddings"][position], passages.vectors[row]
            )
            if not same:
                raise DemoFailedError(f"record {record_id!r} is not what was acknowledged")
    if missing:
        raise DemoFailedError(f"{missing} of {len(ids)} acknowledged records are gone")
    say.fact("there, bit for bit", f"{len(ids):,} of {len(ids):,}")
    count = collection.count()
    expected = len(passages.ids) + len(ids)
    if count != expected:
        raise DemoFailedError(f"{count} records are there, {expected} were acknowledged")
    say.fact("records in all", f"{count:,}, as many as were acknowledged")


def _worker(data: Path) -> RoleState:
    """The last worker, as it is now."""
    state = RunState.read(data)
    if state is None:
        raise DemoFailedError("the cluster does not say any more what runs")
    return [role for role in state.roles if role.role == "worker"][-1]


if __name__ == "__main__":
    sys.exit(main())
