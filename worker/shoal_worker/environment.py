"""One LMDB environment: transactions, and a map that grows on its own.

LMDB's map has a fixed size while anything uses it: growing it under a live transaction or buffer
ends in SIGBUS. So every transaction of the process passes a gate. To grow (or to close) the gate is
shut for new transactions, the live ones are waited for, and then it opens again. A write that finds
the map full is aborted, the map doubled, and the write run again from its beginning: it must be
repeatable.

The commit is the sync: LMDB's defaults (sync, metasync, no writemap) are what law 1 demands. They
are changed for drafts alone: files that nobody relies on before they are synced as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias, TypeVar, cast

import lmdb

from shoal.server.cut_short import cut_short
from shoal_worker.allocation import reserving
from shoal_worker.metrics import SYNC_SECONDS

__all__ = [
    "STANDING_MAP_BYTES",
    "Cursor",
    "Database",
    "Environment",
    "EnvironmentClosedError",
    "Reader",
    "StandingReader",
    "StandingReaderEndedError",
    "Transaction",
]

# Values come out as memoryviews into the map: they must not outlive their transaction, nor, in a
# write transaction, the next change.
Transaction: TypeAlias = "lmdb.Transaction[memoryview]"
Cursor: TypeAlias = "lmdb.Cursor[memoryview]"
Database: TypeAlias = "lmdb._Database"

_T = TypeVar("_T")

INITIAL_MAP_BYTES: Final = 256 * 1024 * 1024
"""Address space, not disk: large enough that most shards never grow, and small enough that
thousands of open shards stay far below the 128 TiB a process has."""

MAX_READERS: Final = 254
"""Reader slots of an environment: searches on threads and on the event loop, far fewer."""

STANDING_MAP_BYTES: Final = 16 * 1024 * 1024 * 1024
"""Room in the map, address space alone, for what is written while a reader stands: minutes at the
speed of a disk. Beyond it the reader is ended, for the writers do not wait."""

_META_PAGES: Final = 2


class EnvironmentClosedError(Exception):
    """The environment was closed under a caller that had not begun its transaction yet."""


class Reader:
    """A read transaction as a context manager; what it gives must be copied before it ends."""

    __slots__ = ("_environment", "txn")

    def __init__(self, environment: Environment, txn: Transaction) -> None:
        self._environment = environment
        self.txn = txn

    def __enter__(self) -> Transaction:
        return self.txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the transaction."""
        self._environment.end_reading(self.txn)


class StandingReaderEndedError(Exception):
    """A standing reader was ended: its environment was closed, or its map had to grow."""


class StandingReader:
    """A read transaction that stands for minutes, used in short steps.

    Between two steps nobody waits for it: closing the environment, and growing its map, ends it
    instead. What a step reads must be copied before it ends. The pages of its state are not used
    again as long as it stands.
    """

    __slots__ = ("_environment", "_txn", "_wrong")

    def __init__(self, environment: Environment, txn: Transaction) -> None:
        self._environment = environment
        self._txn: Transaction | None = txn
        self._wrong = "it was ended"

    @contextmanager
    def step(self) -> Iterator[Transaction]:
        """Give the transaction for a step.

        Raises:
            StandingReaderEndedError: If it was ended.
        """
        try:
            self._environment._enter()
        except EnvironmentClosedError as error:
            raise StandingReaderEndedError("the shard was closed") from error
        try:
            if self._txn is None:
                raise StandingReaderEndedError(self._wrong)
            yield self._txn
        finally:
            self._environment._leave()

    def close(self) -> None:
        """End it; harmless if it was ended."""
        self._environment._end_standing(self)

    def _end(self, why: str) -> None:
        """With no transaction under way, or by its owner."""
        txn, self._txn = self._txn, None
        self._wrong = why
        if txn is not None:
            txn.abort()


class Environment:
    """An LMDB file with named databases.

    Args:
        path: The file; its directory must exist.
        databases: Names of the databases, created where missing if `create`.
        derived: Names of databases that can be made again: created where missing in any case.
        create: Whether the file may be made. Otherwise it must be there.
        initial_map_bytes: Address space to begin with.
        is_draft: Commits are not synced: for a file that is thrown away if anything happens before
            `sync` was called, and that nobody but its maker reads.

    Raises:
        FileNotFoundError: It is not there, and was not to be created.
        lmdb.Error: It cannot be opened, or lacks pages that it uses.
    """

    def __init__(
        self,
        path: Path,
        databases: Sequence[str],
        *,
        create: bool,
        derived: Sequence[str] = (),
        initial_map_bytes: int = INITIAL_MAP_BYTES,
        is_draft: bool = False,
    ) -> None:
        if not create and not path.is_file():
            # lmdb would create an empty environment: absence is never an instruction.
            raise FileNotFoundError(path)
        self._path = path
        size = path.stat().st_size if path.is_file() else 0
        # Power of two times the initial size, with room for the file to double.
        map_bytes = initial_map_bytes
        while map_bytes < 2 * size:
            map_bytes *= 2
        with reserving:
            self._environment = lmdb.open(
                str(path),
                subdir=False,
                map_size=map_bytes,
                max_dbs=len(databases) + len(derived),
                max_readers=MAX_READERS,
                create=create,
                # Reads touch scattered pages; the kernel's read-ahead would fetch their neighbours.
                readahead=False,
                sync=not is_draft,
                metasync=not is_draft,
            )
        self._map_bytes = map_bytes
        self._check_length()
        self.page_bytes: int = self._environment.stat()["psize"]
        # A killed process leaves its reader slots behind, and with them old pages pinned.
        self._environment.reader_check()
        self.databases: Mapping[str, Database] = self._open_databases(databases, derived, create)
        # Of the gate, as it is entered by those who need not wait: a condition's own way is written
        # in Python.
        self._gate_lock = threading.RLock()
        self._gate = threading.Condition(self._gate_lock)
        self._live = 0  # guarded by _gate: transactions that are under way
        self._shut = False  # guarded by _gate: no new transaction may begin
        self._closed = False  # guarded by _gate
        self._standing: set[StandingReader] = set()  # guarded by _gate

    def _check_length(self) -> None:
        last_page, page = self._environment.info()["last_pgno"], self._environment.stat()["psize"]
        wrong = cut_short(self._path, last_page, page)
        if wrong is not None:
            self._environment.close()
            raise lmdb.CorruptedError(wrong)

    def _open_databases(
        self, names: Sequence[str], derived: Sequence[str], create: bool
    ) -> dict[str, Database]:
        """Open all in one transaction: each of its own would sync each that it creates."""
        environment = self._environment
        try:
            # One that creates nothing writes nothing.
            with environment.begin(write=True) as txn:
                return {
                    name: environment.open_db(name.encode(), txn=txn, create=create or is_derived)
                    for group, is_derived in ((names, False), (derived, True))
                    for name in group
                }
        except lmdb.Error:
            environment.close()
            raise

    @property
    def map_bytes(self) -> int:
        """Address space that the environment has now."""
        return self._map_bytes

    @property
    def busy(self) -> bool:
        """Whether beginning a transaction would wait now."""
        return self._shut

    def _enter(self) -> None:
        with self._gate_lock:
            while self._shut and not self._closed:
                self._gate.wait()
            if self._closed:
                raise EnvironmentClosedError(str(self._path))
            self._live += 1

    def _leave(self) -> None:
        with self._gate_lock:
            self._live -= 1
            if self._live == 0 and self._shut:
                self._gate.notify_all()

    def read(self) -> Reader:
        """Begin a read transaction on the newest committed state."""
        return Reader(self, self.begin_reading())

    def begin_reading(self, *, copies: bool = False) -> Transaction:
        """Begin a read transaction on the newest committed state; `end_reading` must end it.

        Args:
            copies: Values come out as bytes: for who copies each of them anyway. That takes two
                thirds of the time of a view and a copy of it.
        """
        self._enter()
        try:
            return self._begin(copies=copies)
        except BaseException:
            self._leave()
            raise

    def renewed(self, txn: Transaction, *, copies: bool) -> Transaction:
        """Move a read transaction to the newest committed state."""
        txn.abort()
        return self._begin(copies=copies)

    def end_reading(self, txn: Transaction) -> None:
        """End a read transaction."""
        txn.abort()
        self._leave()

    def stand(self) -> StandingReader:
        """Begin a read transaction on the newest committed state, to be used in steps."""
        self._enter()
        try:
            reader = StandingReader(self, self._begin())
            with self._gate:
                self._standing.add(reader)
            return reader
        finally:
            self._leave()

    def _end_standing(self, reader: StandingReader) -> None:
        with self._gate:
            if reader in self._standing:
                self._standing.discard(reader)
                reader._end("it was closed")

    def _end_all_standing(self, why: str) -> None:
        """With the gate held and shut, and no transaction under way."""
        for reader in self._standing:
            reader._end(why)
        self._standing.clear()

    @property
    def has_standing_readers(self) -> bool:
        """Whether somebody reads one of its states in steps."""
        return bool(self._standing)

    def _begin(self, *, copies: bool = False) -> Transaction:
        # lmdb keeps the last transaction that ended for the next one: this is not an allocation.
        # Bytes can do whatever is done with views of values: be sliced, measured and decoded.
        if copies:
            return cast("Transaction", self._environment.begin())
        return self._environment.begin(buffers=True)

    def write(
        self, work: Callable[[Transaction], _T], before_commit: Callable[[_T], None] | None = None
    ) -> _T:
        """Run `work` in a write transaction and commit it, synced.

        Args:
            work: What to write; run again from its beginning if the map had to grow.
            before_commit: Called with what `work` gave, right before the commit. If the commit
                fails, the exception passes through and the caller must not rely on what it did.
        """
        while True:
            self._enter()
            txn: Transaction | None = None
            try:
                txn = self._environment.begin(write=True, buffers=True)
                result = work(txn)
                if before_commit:
                    before_commit(result)
                with SYNC_SECONDS.time():
                    txn.commit()
                return result
            except lmdb.MapFullError:
                if txn is not None:
                    txn.abort()
            except BaseException:
                if txn is not None:
                    txn.abort()
                raise
            finally:
                self._leave()
            self._grow()

    def _grow(self) -> None:
        with self._gate:
            if self._closed:
                raise EnvironmentClosedError(str(self._path))
            self._shut = True
            while self._live:
                self._gate.wait()
            try:
                self._end_all_standing("the map of the records had to grow")
                self._map_bytes *= 2
                self._environment.set_mapsize(self._map_bytes)
            finally:
                self._shut = False
                self._gate.notify_all()

    def copy_compacted(self, path: Path, txn: Transaction) -> None:
        """Copy the state of a transaction of `read`, without free pages, to a new file."""
        # Not through the gate: the transaction has passed it, and may be the one that is waited
        # for.
        self._environment.copy(str(path), compact=True, txn=txn)

    def reserve(self) -> None:
        """Grow the map now if it is half full, so that it need not while a long reader is alive."""
        if self.file_bytes > self._map_bytes // 2:
            self._grow()

    def reserve_for_standing(self, room_bytes: int = STANDING_MAP_BYTES) -> bool:
        """Grow the map so far that no writer comes to its end while a reader stands, if that can be
        done without anybody waiting: in a moment without transactions.

        Returns:
            Whether there is so much room. If not, another moment may be better.
        """
        used = self.file_bytes
        with self._gate:
            if self._closed or self._map_bytes >= used + room_bytes // 2:
                return True
            if self._live or self._shut or self._standing:
                return False
            self._map_bytes = max(self._map_bytes, used + room_bytes)
            self._environment.set_mapsize(self._map_bytes)
            return True

    def sync(self) -> None:
        """Make what a draft holds durable."""
        self._enter()
        try:
            self._environment.sync(True)
        finally:
            self._leave()

    @property
    def file_bytes(self) -> int:
        """Bytes of the file that were ever used."""
        self._enter()
        try:
            return int((self._environment.info()["last_pgno"] + 1) * self.page_bytes)
        finally:
            self._leave()

    def free_bytes(self) -> int:
        """Bytes of the file that hold nothing (any more), by counting those that do."""
        with self.read() as txn:
            stats = [self._environment.stat()]
            stats += [txn.stat(database) for database in self.databases.values()]
            used = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
            last = self._environment.info()["last_pgno"]
        return int(max(0, last + 1 - used - _META_PAGES) * self.page_bytes)

    def close(self) -> None:
        """Wait for the live transactions, and close. Later ones raise EnvironmentClosedError."""
        with self._gate:
            if self._closed:
                return
            self._shut = True
            self._closed = True
            self._gate.notify_all()
            while self._live:
                self._gate.wait()
            self._end_all_standing("the shard was closed")
            self._environment.close()
