"""The store in the caller's process: shared, locked, closed, whatever kind of program uses it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal import errors
from shoal._embedded import Store, open_store
from shoal.v1 import admin_service_pb2 as admin

_ADMIN = "shoal.v1.AdminService"

_PROGRAM = """
import sys
import numpy as np
import shoal
client = {client}
collection = client.get_or_create_collection("books", embedding_function=None)
vectors = np.random.default_rng(1).standard_normal(({count}, 8), dtype=np.float32)
collection.upsert(ids=[str(n) for n in range({count})], embeddings=vectors)
found = collection.query(query_embeddings=vectors[:1], n_results=1)
print(found["ids"], collection.count(), flush=True)
"""


def _tenant(store: Store, name: str, timeout_s: float = 10.0) -> bytes:
    request = admin.CreateTenantRequest(name=name).SerializeToString()
    return store.call(_ADMIN, "CreateTenant", request, timeout_s)


def _has_tenant(store: Store, name: str) -> bool:
    request = admin.GetTenantRequest(name=name).SerializeToString()
    try:
        store.call(_ADMIN, "GetTenant", request, 10.0)
    except errors.TenantNotFoundError:
        return False
    return True


def _run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def ephemeral() -> Iterator[Store]:
    with open_store(None) as store:
        yield store


def test_it_answers_and_raises(ephemeral: Store) -> None:
    answer = admin.CreateTenantResponse.FromString(_tenant(ephemeral, "acme"))
    assert answer.tenant.name == "acme"
    with pytest.raises(errors.TenantExistsError, match="acme"):
        _tenant(ephemeral, "acme")
    with pytest.raises(errors.InvalidArgumentError, match="not a serialised"):
        ephemeral.call(_ADMIN, "CreateTenant", b"\xff", 10.0)
    with pytest.raises(errors.DeadlineExceededError):
        _tenant(ephemeral, "late", timeout_s=-1.0)
    assert not _has_tenant(ephemeral, "late")


def test_it_answers_any_thread_and_any_loop(ephemeral: Store) -> None:
    names = [f"tenant-{n}" for n in range(20)]
    threads = [threading.Thread(target=_tenant, args=(ephemeral, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(_has_tenant(ephemeral, name) for name in names)

    async def from_a_loop() -> bytes:
        return await ephemeral.call_async(_ADMIN, "GetVersion", b"", 10.0)

    for _ in range(2):
        assert admin.GetVersionResponse.FromString(asyncio.run(from_a_loop())).version


def test_ephemeral_stores_are_apart_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_store(None) as first, open_store(None) as second:
        assert len(list(tmp_path.iterdir())) == 2
        _tenant(first, "acme")
        assert not _has_tenant(second, "acme")
    assert not list(tmp_path.iterdir())


def test_a_path_is_shared_until_the_last_is_closed(tmp_path: Path) -> None:
    first = open_store(tmp_path / "data")
    second = open_store(str(tmp_path / "x" / ".." / "data"))
    _tenant(first, "acme")
    first.close()
    first.close()
    with pytest.raises(errors.FailedPreconditionError, match="closed"):
        _tenant(first, "b")
    assert _has_tenant(second, "acme")
    second.close()
    with open_store(tmp_path / "data") as again:
        assert _has_tenant(again, "acme")


def test_another_process_is_refused_as_long_as_it_is_open(tmp_path: Path) -> None:
    program = _PROGRAM.format(client=f"shoal.PersistentClient({str(tmp_path)!r})", count=10)
    with open_store(tmp_path):
        refused = _run(program)
        assert refused.returncode == 1
        assert "DataDirectoryLockedError" in refused.stderr
        assert f"in use by process {os.getpid()}" in refused.stderr
    assert _run(program).stdout == "[['0']] 10\n"


def test_a_path_is_opened_alike(tmp_path: Path) -> None:
    with open_store(tmp_path, allow_reset=True) as store:
        store.call(_ADMIN, "Reset", b"", 10.0)
        with pytest.raises(errors.FailedPreconditionError, match="allow_reset=True"):
            open_store(tmp_path)
    with open_store(tmp_path) as store, pytest.raises(errors.PermissionDeniedError):
        store.call(_ADMIN, "Reset", b"", 10.0)


def test_what_cannot_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("99\n")
    with pytest.raises(errors.FailedPreconditionError, match="format '99'"):
        open_store(tmp_path)
    (tmp_path / "format").unlink()
    open_store(tmp_path).close()


@pytest.mark.parametrize("kind", ["EphemeralClient()", "PersistentClient({path!r})"])
def test_a_script_without_guard_and_without_close(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "script.py"
    client = "shoal." + kind.format(path=str(tmp_path / "data"))
    # Enough for a graph, so that the builder runs.
    script.write_text(_PROGRAM.format(client=client, count=6000))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        # Nothing but what the script prints: no logs, no complaints at the end.
        assert (done.returncode, done.stdout, done.stderr) == (0, "[['0']] 6000\n", "")
    assert not list(temporary.iterdir())


def test_the_interactive_interpreter(tmp_path: Path) -> None:
    lines = _PROGRAM.format(client=f"shoal.PersistentClient({str(tmp_path)!r})", count=10)
    done = subprocess.run(
        [sys.executable, "-i", "-q"], input=lines, capture_output=True, text=True, timeout=240
    )
    assert "[['0']] 10" in done.stdout
    assert "Error" not in done.stderr


def test_a_killed_program_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    program = _PROGRAM.format(client=f"shoal.PersistentClient({str(tmp_path)!r})", count=6000)
    process = subprocess.Popen(
        [sys.executable, "-c", program + "\nimport time; time.sleep(600)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "[['0']] 6000\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    helpers = [int(child) for child in children.read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    give_up_at = time.monotonic() + 120
    while any(Path(f"/proc/{helper}").exists() for helper in helpers):
        assert time.monotonic() < give_up_at, "a helper outlives its program"
        time.sleep(0.05)
    assert _run(program).stdout == "[['0']] 6000\n"


def _in_child(path: Path, store: Store, results: multiprocessing.Queue[str]) -> None:
    try:
        _tenant(store, "child")
    except errors.ShoalError as error:
        results.put(type(error).__name__)
    store.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_part_in_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    with open_store(tmp_path) as store:
        child = context.Process(target=_in_child, args=(tmp_path, store, results))
        child.start()
        assert results.get(timeout=120) == "FailedPreconditionError"
        child.join(120)
        assert child.exitcode == 0
        _tenant(store, "parent")


def test_without_the_server_s_packages_the_error_names_them() -> None:
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lmdb":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import shoal
shoal.Client().close()
try:
    shoal.EphemeralClient()
except ImportError as error:
    print(error)
"""
    done = _run(program)
    assert "shoal[server]" in done.stdout, done.stderr
    assert "missing: lmdb" in done.stdout


def test_the_client_alone_imports_nothing_of_the_server() -> None:
    program = """
import sys
import shoal
shoal.Client().close()
print(sorted({name.partition(".")[0] for name in sys.modules} & {
    "lmdb", "usearch", "structlog", "prometheus_client", "xxhash",
    "shoal_worker", "shoal_gateway", "shoal_coordinator", "shoal_local"}))
"""
    assert _run(program).stdout == "[]\n"


def test_a_program_that_reads_no_events_loads_nothing_to_write_them() -> None:
    program = """
import sys
import shoal
with shoal.EphemeralClient() as client:
    client.create_collection("books").add(ids=["a"], embeddings=[[1.0, 0.0]])
print(sorted({name.partition(".")[0] for name in sys.modules} & {"structlog", "rich"}))
"""
    assert _run(program).stdout == "[]\n"


def test_a_program_that_reads_events_gets_them_by_its_own_logging() -> None:
    program = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
import shoal
with shoal.EphemeralClient() as client:
    client.create_collection("books")
"""
    assert "INFO:shoal_coordinator.coordinator:event='coordinator_started'" in _run(program).stdout
