"""After a power cut at any moment, whatever of the unsynced reached the disk, what was acknowledged
is there.

A worker is recorded by a library that is preloaded before libc (`recorder.c`): its writes, syncs,
renames, removals, in order. The recording is then replayed up to some event into a model of a disk
that keeps what was synced, and of the rest any part: of a file any of its writes, of a directory
its changes up to any of them. What the disk may hold then is laid out in a directory, opened by a
worker, and compared with what was acknowledged up to there.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shoal.errors import FailedPreconditionError, ShoalError
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, collection_entry, plain, started
from tests.worker.traced import (
    ACKNOWLEDGED_FILE,
    BULK,
    MAIN,
    SHARDS_FILE,
    State,
    after,
    states,
)

OPENED, WRITTEN, SYNCING, SYNCED, RENAMED, UNLINKED, MADE_DIRECTORY, TRUNCATED = range(1, 9)
HEADER = struct.Struct("<BBIIQQQ")

LostSync = Callable[[str, int], bool]
"""Whether a sync of a path, after so many acknowledgements, does not happen."""

Shards = dict[str, list[str]]
"""By name, each shard's ID and its collection's."""

Recording = tuple[str, list["Event"], Shards]
"""What a worker did: the root, the events, the shards."""


@dataclass(frozen=True)
class Event:
    kind: int
    flag: int
    path: str
    other: str
    offset: int
    number: int
    data: bytes


def events_of(trace: bytes) -> Iterator[Event]:
    place = 0
    while place < len(trace):
        kind, flag, first, second, offset, number, length = HEADER.unpack_from(trace, place)
        place += HEADER.size
        path = trace[place : place + first].decode()
        other = trace[place + first : place + first + second].decode()
        place += first + second
        yield Event(kind, flag, path, other, offset, number, trace[place : place + length])
        place += length


def written(content: bytearray, offset: int, data: bytes | None) -> None:
    """Apply a write to a file's content; None: it is cut at the offset."""
    if data is None:
        del content[offset:]
        data = b""
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass(eq=False)
class File:
    """A file: what is on the disk, and what may be."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    syncing: dict[int, int] = field(default_factory=dict)

    def sync(self, count: int) -> None:
        for offset, data in self.pending[:count]:
            written(self.durable, offset, data)
        del self.pending[:count]
        self.syncing = {n: max(0, c - count) for n, c in self.syncing.items()}

    def outcome(self, choose: random.Random, share: float) -> bytes:
        content = bytearray(self.durable)
        for offset, data in self.pending:
            if choose.random() < share:
                written(content, offset, data)
        return bytes(content)


Entries = dict[str, "File | Directory"]


@dataclass(eq=False)
class Directory:
    """A directory: its names now, on the disk, and the changes that may be there."""

    entries: Entries = field(default_factory=dict)
    durable: Entries = field(default_factory=dict)
    pending: list[Callable[[Entries], None]] = field(default_factory=list)
    syncing: dict[int, int] = field(default_factory=dict)

    def change(self, change: Callable[[Entries], None]) -> None:
        change(self.entries)
        self.pending.append(change)

    def sync(self, count: int) -> None:
        for change in self.pending[:count]:
            change(self.durable)
        del self.pending[:count]
        self.syncing = {n: max(0, c - count) for n, c in self.syncing.items()}

    def outcome(self, choose: random.Random, share: float) -> Entries:
        entries = dict(self.durable)
        for change in self.pending:
            if choose.random() >= share:
                break  # a journal keeps the changes of a directory in order
            change(entries)
        return entries


class Disk:
    """The disk below a root that is there."""

    def __init__(self, root: str, lost_sync: LostSync) -> None:
        self.root = root
        self.top = Directory()
        self.acknowledged = 0
        self._lost_sync = lost_sync

    def _find(self, path: str) -> tuple[Directory, str]:
        *parents, name = path[len(self.root) :].strip("/").split("/")
        place = self.top
        for parent in parents:
            below = place.entries[parent]
            assert isinstance(below, Directory)
            place = below
        return place, name

    def _node(self, path: str) -> File | Directory | None:
        if path == self.root:
            return self.top
        place, name = self._find(path)
        return place.entries.get(name)

    def take(self, event: Event) -> None:
        match event.kind:
            case 1 | 2 | 8:
                self._write(event)
            case 3 | 4:
                self._sync(event)
            case 5:
                self._rename(event)
            case 6:
                place, name = self._find(event.path)
                place.change(lambda entries: void(entries.pop(name, None)))
            case 7:
                place, name = self._find(event.path)
                made = Directory()
                place.change(lambda entries: entries.update({name: made}))
            case _:
                raise AssertionError(event.kind)

    def _write(self, event: Event) -> None:
        node = self._node(event.path)
        if node is None:
            place, name = self._find(event.path)
            node = created = File()
            place.change(lambda entries: entries.update({name: created}))
        if isinstance(node, Directory):
            return
        if event.kind == WRITTEN:
            if event.flag:
                # O_DSYNC: on the disk when it returns, and nothing else with it.
                written(node.durable, event.offset, event.data)
            else:
                node.pending.append((event.offset, event.data))
        elif event.kind == TRUNCATED or event.flag:
            node.pending.append((event.offset, None))

    def _sync(self, event: Event) -> None:
        node = self._node(event.path)
        if node is None or self._lost_sync(event.path, self.acknowledged):
            return
        if event.kind == SYNCING:
            node.syncing[event.number] = len(node.pending)
        elif event.number in node.syncing:
            node.sync(node.syncing.pop(event.number))

    def _rename(self, event: Event) -> None:
        source, old = self._find(event.path)
        target, new = self._find(event.other)
        node = source.entries[old]
        assert source is target, "the model knows renames within a directory"

        def change(entries: Entries) -> None:
            entries.pop(old, None)
            entries[new] = node

        source.change(change)

    def lay_out(self, target: Path, choose: random.Random, share: float) -> None:
        """Lay out what the disk may hold.

        Args:
            target: Where.
            choose: What is kept of the unsynced.
            share: How much of it.
        """
        self._lay_out(self.top, target, choose, share)

    def _lay_out(
        self, directory: Directory, target: Path, choose: random.Random, share: float
    ) -> None:
        target.mkdir()
        for name, node in directory.outcome(choose, share).items():
            if isinstance(node, Directory):
                self._lay_out(node, target / name, choose, share)
            elif not name.endswith("-lock"):
                (target / name).write_bytes(node.outcome(choose, share))


def void(_: object) -> None:
    """Drop a value."""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine: the recorder cannot be made")
    made = tmp_path_factory.mktemp("recording")
    library, trace, root = made / "recorder.so", made / "trace", made / "root"
    root.mkdir()
    source = Path(__file__).with_name("recorder.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    environment = dict(
        os.environ,
        LD_PRELOAD=str(library),
        SHOAL_TRACE_ROOT=str(root),
        SHOAL_TRACE_FILE=str(trace),
    )
    subprocess.run(
        [sys.executable, "-m", "tests.worker.traced", str(root)],
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=600,
        stdout=subprocess.DEVNULL,
    )
    lines = (root / SHARDS_FILE).read_text().splitlines()
    shards = {name: ids for name, *ids in map(str.split, lines)}
    return str(root), list(events_of(trace.read_bytes())), shards


class LostError(AssertionError):
    """Something acknowledged is not there."""


async def check(data_dir: Path, shards: Shards, acknowledged: int) -> None:
    """Check that what was acknowledged is there, and what was under way whole or not."""
    possible = states()[acknowledged : acknowledged + 2]
    worker = await started(data_dir)
    try:
        await _check_main(_shard(worker, shards[MAIN]), possible)
        for name, ids in shards.items():
            if name != MAIN:
                fates = {state.others.get(name) for state in possible}
                found = await _fate(worker, ids)
                if found not in fates:
                    raise LostError(f"shard {name} is {found} instead of {fates}")
    finally:
        await worker.close()


def _shard(worker: Worker, ids: list[str], epoch: int = 1) -> SingleShard:
    reference = pb.ShardReference(shard_id=ids[0], collection_id=ids[1], epoch=epoch)
    return SingleShard(worker, reference)


async def _check_main(single: SingleShard, possible: list[State]) -> None:
    answer = await single.get()
    if answer.HasField("error"):
        raise LostError(answer.error.message)
    found = plain(answer)
    bulk = sum(name.startswith("bulk-") for name in found)
    rest = {n: str(r["document"]) for n, r in found.items() if not n.startswith("bulk-")}
    if rest not in [state.documents for state in possible]:
        raise LostError(f"{sorted(rest)} instead of {[sorted(s.documents) for s in possible]}")
    if bulk not in {BULK * state.has_bulk for state in possible}:
        raise LostError(f"{bulk} of the bulk")
    matches = await single.search([0.0] * 4, 5000)
    if set(matches.records.ids) != set(found):
        raise LostError("the search finds other records")


async def _fate(worker: Worker, ids: list[str]) -> str | None:
    """Say what has become of a shard, in the words of `State`; None: it was never created."""
    for epoch, words in ((1, ("empty", "filled")), (2, ("moved", "moved"))):
        answer = await _shard(worker, ids, epoch).get()
        if not answer.HasField("error"):
            return words[len(answer.records.ids)]
        if answer.error.reason != "STALE_ROUTE":
            return str(answer.error.reason)
    shard_id = uuid.UUID(ids[0])
    if worker.directory.shard_path(shard_id).exists():
        return "a directory that is not held"
    try:
        worker.held.create(shard_id, collection_entry(worker, *ids))
    except FailedPreconditionError:
        return "deleted"
    return None


async def replayed(
    recording: Recording,
    tmp_path: Path,
    count: int,
    lost_sync: LostSync = lambda path, acknowledged: False,
) -> None:
    """Cut the power at so many moments, spread over the recording."""
    root, events, shards = recording
    disk = Disk(root, lost_sync)
    choose = random.Random(11)
    acknowledgements = [
        i
        for i, event in enumerate(events)
        if event.kind == WRITTEN and event.path.endswith(ACKNOWLEDGED_FILE)
    ]
    first = acknowledgements[0] + 1
    moments = set(choose.sample(range(first, len(events)), min(count, len(events) - first)))
    moments |= {i + 1 for i in acknowledgements}
    # A compaction's rename, a shard's deletion: each step of these.
    moments |= {i + 1 for i, e in enumerate(events) if e.kind == RENAMED and i >= first}
    for i, event in enumerate(events):
        if i in moments:
            share = choose.choice([0.0, 0.0, 0.5, 0.9, 1.0])
            target = tmp_path / f"cut-{i}"
            disk.lay_out(target, choose, share)
            try:
                await check(target / "worker", shards, disk.acknowledged)
            except (OSError, AssertionError) as error:
                raise LostError(
                    f"after event {i} of {len(events)} ({event.kind} {event.path}), with "
                    f"{share} of the unsynced: {error}"
                ) from error
            shutil.rmtree(target)
        if event.path.endswith(ACKNOWLEDGED_FILE):
            disk.acknowledged += event.kind == WRITTEN
        elif not event.path.endswith(SHARDS_FILE):
            disk.take(event)


async def test_a_power_cut_loses_nothing_acknowledged(recording: Recording, tmp_path: Path) -> None:
    await replayed(recording, tmp_path, 40)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_power_cut_at_any_of_many_moments_loses_nothing_acknowledged(
    recording: Recording, tmp_path: Path
) -> None:
    await replayed(recording, tmp_path, 600)


def of(end: str, *, since: int = 0) -> LostSync:
    """The syncs of paths with an end, from an acknowledgement on."""
    return lambda path, acknowledged: path.endswith(end) and acknowledged >= since


def of_shards(*, since: int = 0) -> LostSync:
    """The syncs of the shards' own directories, from an acknowledgement on."""
    return lambda path, acknowledged: Path(path).parent.name == "shards" and acknowledged >= since


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(of("/root"), id="of what is above the directory"),
        pytest.param(of("records.mdb"), id="of the records"),
        pytest.param(of("records.mdb.new"), id="of the compacted copy"),
        pytest.param(
            of_shards(since=after("compact", "erasing") - 1), id="of a compaction's rename"
        ),
        pytest.param(of_shards(), id="of a shard's directory"),
        pytest.param(of("/shards"), id="of the shards' directory"),
        pytest.param(
            of("/shards", since=after("create", "empty") - 1), id="of a later shard's name"
        ),
        pytest.param(of("manifest.mdb"), id="of the manifest"),
        pytest.param(
            of("manifest.mdb", since=after("delete", "short-lived") - 1), id="of a deletion"
        ),
        pytest.param(of("identity.tmp"), id="of the identity"),
        pytest.param(of("identity.tmp", since=after("move", "moving") - 1), id="of another epoch"),
    ],
)
async def test_a_sync_that_is_taken_out_is_noticed(
    recording: Recording, tmp_path: Path, lost: LostSync
) -> None:
    with pytest.raises((LostError, ShoalError)):
        await replayed(recording, tmp_path, 120, lost)
