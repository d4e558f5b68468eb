"""A real cluster for tests: `shoal up` in a process of its own, and its public API by bare stubs.

Bare, because the SDK repeats what may succeed later: these tests want to see each answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    record_service_pb2,
    record_service_pb2_grpc,
    value_pb2,
)
from shoal.wire import status

DIMENSION: Final = 16
# No limits of speed: on a machine with much else to do a start takes a minute.
_START_S: Final = 240.0
_CALL_S: Final = 60.0


class RunningCluster:
    """`shoal up` on a directory.

    Args:
        data: Its directory.
        workers: As for `shoal up`.
        arguments: Further flags.
        environment: Further variables.
    """

    def __init__(
        self,
        data: Path,
        *,
        workers: int = 2,
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        self._lines: list[str] = []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "shoal_local", "up", f"--data={data}"),
                    *(f"--workers={workers}", "--port=0", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._channel: grpc.Channel | None = None
        if wait:
            self.wait_until_ready()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed
            for line in self.process.stdout:
                self._lines.append(line.strip())

    @property
    def printed(self) -> list[str]:
        """What `shoal up` has printed."""
        return list(self._lines)

    def logged(self) -> str:
        """What the processes have logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + _START_S
        while "ready" not in self._lines:
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"the cluster did not start:\n{self.logged()}")
            time.sleep(0.02)

    # Processes

    def state(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.data / "run.json").read_text())
        return content

    def role(self, name: str) -> dict[str, Any]:
        """A role's state: its process, ports, restarts."""
        return next(role for role in self.state()["roles"] if role["name"] == name)

    def processes(self) -> list[int]:
        """All processes of the cluster."""
        roles = [role["process"] for role in self.state()["roles"] if role["process"]]
        return [self.process.pid, *roles]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill a role, and give the ID that its process had."""
        while True:
            wait_for(lambda: self.role(name)["process"])  # 0 while it is being restarted
            process: int = self.role(name)["process"]
            assert process > 0, "0 would be the tests' own process group"
            try:
                os.kill(process, number)
            except ProcessLookupError:
                time.sleep(0.02)  # it has ended, and the state does not say so yet
            else:
                return process

    def wait_for_restart(self, name: str, former: int) -> None:
        """Wait until a role runs again, in another process than the former one, and answers."""
        wait_for(lambda: self.role(name)["process"] not in (0, former))
        port = self.role(name)["port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(_START_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End `shoal up`, and give its exit code."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(10)
            if self.process.stdout is not None:
                self.process.stdout.close()
        return code

    # The public API

    @property
    def port(self) -> int:
        port: int = self.role("gateway")["port"] if self.state()["worker_count"] else (
            self.role("all")["port"]
        )  # fmt: skip
        return port

    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return self._channel

    def call(self, service: str, method: str, request: Any, timeout_s: float = _CALL_S) -> Any:
        """Call the public API once, raising `ShoalError`."""
        stub = {
            "admin": admin_service_pb2_grpc.AdminServiceStub,
            "collections": collection_service_pb2_grpc.CollectionServiceStub,
            "records": record_service_pb2_grpc.RecordServiceStub,
        }[service](self.channel())
        try:
            return getattr(stub, method)(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            failed: Any = error
            trailer = next(
                (v for k, v in failed.trailing_metadata() or () if k == status.TRAILER), None
            )
            raise status.decode(failed.code().name, failed.details(), trailer) from None

    def status(self) -> admin_service_pb2.GetStatusResponse:
        answer: admin_service_pb2.GetStatusResponse = self.call(
            "admin", "GetStatus", admin_service_pb2.GetStatusRequest()
        )
        return answer

    def create(self, name: str, *, shards: int = 4) -> Collection:
        """Create a collection, or get the one that is there."""
        configuration = collection_pb2.CollectionConfiguration()
        configuration.hnsw.space = collection_pb2.SPACE_L2
        configuration.hnsw.dimension = DIMENSION
        configuration.hnsw.shards = shards
        answer = self.call(
            "collections",
            "CreateCollection",
            collection_service_pb2.CreateCollectionRequest(
                name=name, configuration=configuration, get_or_create=True
            ),
        )
        return Collection(self, answer.collection.id)


class Collection:
    """A collection of a running cluster, by ID."""

    def __init__(self, cluster: RunningCluster, collection_id: str) -> None:
        self.cluster = cluster
        self.id = collection_id
        self.reference = collection_pb2.CollectionReference(id=collection_id)

    def upsert(
        self,
        ids: Sequence[str],
        *,
        version: int = 0,
        write_id: bytes = b"",
        timeout_s: float = _CALL_S,
    ) -> Any:
        """Write records whose vectors and metadata follow from ID and version."""
        batch = value_pb2.RecordBatch(
            ids=ids,
            vectors=value_pb2.VectorBlock(
                dimension=DIMENSION, values=vectors_of(ids, version).astype("<f4").tobytes()
            ),
            documents=value_pb2.StringColumn(values=[f"{i} version {version}" for i in ids]),
        )
        for _ in ids:
            batch.metadatas.add().fields["version"].int_value = version
        request = record_service_pb2.UpsertRequest(
            collection=self.reference, records=batch, write_id=write_id or secrets.token_bytes(16)
        )
        return self.cluster.call("records", "Upsert", request, timeout_s)

    def delete(self, ids: Sequence[str]) -> Any:
        request = record_service_pb2.DeleteRequest(
            collection=self.reference,
            ids=value_pb2.IdList(values=ids),
            write_id=secrets.token_bytes(16),
        )
        return self.cluster.call("records", "Delete", request)

    def count(self, timeout_s: float = _CALL_S) -> int:
        request = record_service_pb2.CountRequest(collection=self.reference)
        count: int = self.cluster.call("records", "Count", request, timeout_s).count
        return count

    def read(self) -> dict[str, int]:
        """Read everything: each record's version by ID, checked against vector and document."""
        found: dict[str, int] = {}
        token = ""
        while True:
            answer = self.cluster.call(
                "records",
                "Get",
                record_service_pb2.GetRequest(
                    collection=self.reference,
                    page_token=token,
                    include=[
                        value_pb2.INCLUDE_VECTORS,
                        value_pb2.INCLUDE_METADATAS,
                        value_pb2.INCLUDE_DOCUMENTS,
                    ],
                ),
            )
            records = answer.records
            ids = list(records.ids)
            vectors = np.frombuffer(records.vectors.values, "<f4").reshape(len(ids), -1)
            for position, record_id in enumerate(ids):
                version = records.metadatas[position].fields["version"].int_value
                assert record_id not in found, f"{record_id} came twice"
                assert records.documents.values[position] == f"{record_id} version {version}"
                np.testing.assert_array_equal(
                    vectors[position], vectors_of([record_id], version)[0]
                )
                found[record_id] = version
            token = answer.next_page_token
            if not token:
                return found

    def read_at_last(self) -> dict[str, int]:
        """Read everything, after a flood: again while gRPC refuses calls, for all that waits to be
        looked at before them.
        """
        give_up_at = time.monotonic() + _START_S
        while True:
            try:
                return self.read()
            except errors.UnavailableError:
                assert time.monotonic() < give_up_at
                time.sleep(0.1)

    def query(
        self,
        vectors: npt.NDArray[np.float32],
        n_results: int = 10,
        *,
        allow_partial: bool = False,
        timeout_s: float = _CALL_S,
    ) -> record_service_pb2.QueryResponse:
        answer: record_service_pb2.QueryResponse = self.cluster.call(
            "records",
            "Query",
            record_service_pb2.QueryRequest(
                collection=self.reference,
                query_vectors=value_pb2.VectorBlock(
                    dimension=DIMENSION, values=vectors.astype("<f4").tobytes()
                ),
                n_results=n_results,
                include=[value_pb2.INCLUDE_DISTANCES],
                allow_partial=allow_partial,
                explain=True,
            ),
            timeout_s,
        )
        return answer


def vectors_of(ids: Sequence[str], version: int) -> npt.NDArray[np.float32]:
    """Vectors that follow from ID and version, shape ``(n, DIMENSION)``."""
    rows = [
        np.random.default_rng([version, *i.encode()]).standard_normal(DIMENSION, np.float32)
        for i in ids
    ]
    return np.stack(rows)


class Writer:
    """Upserts and deletes batches from a thread, and keeps account of what was acknowledged.

    Each batch has IDs of its own, of which a record is in every shard, and passes through versions:
    so that a batch half applied, or an acknowledged one lost, shows in what is read afterwards.
    """

    BATCH: Final = 40

    def __init__(self, collection: Collection, seed: int) -> None:
        self._collection = collection
        self._seed = seed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        # By batch: the versions that its records may have. One if acknowledged; after an error
        # also the one that was attempted. -1 stands for "not there".
        self.allowed: dict[int, set[int]] = {}
        self.acknowledged_count = 0
        self.errors: list[errors.ShoalError] = []
        self.crashed: BaseException | None = None

    def ids(self, batch: int) -> list[str]:
        return [f"w{self._seed}-b{batch}-{n}" for n in range(self.BATCH)]

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(180)
        assert not self._thread.is_alive()
        if self.crashed is not None:
            raise self.crashed

    def wait_for(self, acknowledged: int) -> None:
        """Wait for so many acknowledgements more."""
        wanted = self.acknowledged_count + acknowledged
        wait_for(lambda: self.acknowledged_count >= wanted or self.crashed is not None)

    def _write(self) -> None:
        chance = np.random.default_rng(self._seed)
        version = 0
        try:
            while not self._stop.is_set():
                version += 1
                batch = int(chance.integers(0, 25))
                is_delete = chance.random() < 0.2
                before = self.allowed.get(batch, {-1})
                after = -1 if is_delete else version
                try:
                    if is_delete:
                        self._collection.delete(self.ids(batch))
                    else:
                        self._collection.upsert(self.ids(batch), version=version, timeout_s=5)
                except errors.ShoalError as error:
                    # Not known whether, and in which shards, it was applied.
                    self.allowed[batch] = before | {after}
                    self.errors.append(error)
                    time.sleep(0.05)
                else:
                    self.allowed[batch] = {after}
                    self.acknowledged_count += 1
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.crashed = error

    def check(self, found: dict[str, int], shard_of: dict[str, str] | None = None) -> None:
        """Compare what was read with what was acknowledged."""
        for batch, allowed in self.allowed.items():
            by_id = {i: found.get(i, -1) for i in self.ids(batch)}
            wrong = {i: v for i, v in by_id.items() if v not in allowed}
            assert not wrong, f"batch {batch} may have versions {sorted(allowed)}: {wrong}"
            if shard_of is None:
                continue
            for shard in {shard_of[i] for i in by_id if i in shard_of}:
                versions = {v for i, v in by_id.items() if shard_of.get(i) == shard}
                assert len(versions) == 1, f"batch {batch} is half applied in {shard}: {versions}"


def wait_for(condition: Any, timeout_s: float = 240.0) -> None:
    """Wait until a condition holds."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    found = re.search(r"\) (\S)", stat)
    return found is not None and found[1] != "Z"


def running_in(data: Path) -> list[int]:
    """Processes whose command line names a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if str(data) in line and is_running(int(entry.name)):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def clusters(base: Path) -> Iterator[Any]:
    """Give a function that starts clusters; all are ended, and nothing may be left."""
    started: list[RunningCluster] = []

    def start(data: Path | None = None, **options: Any) -> RunningCluster:
        cluster = RunningCluster(data or base / "data", **options)
        started.append(cluster)
        return cluster

    try:
        yield start
    finally:
        for cluster in started:
            cluster.stop(signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not running_in(base), 20)
        for process in running_in(base):
            os.kill(process, signal.SIGKILL)
