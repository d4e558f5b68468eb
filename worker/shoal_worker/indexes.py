"""Derived indexes of a shard: taken in behind the acknowledgement, and exact at every sequence.

Each index lies in the shard's LMDB environment and covers the log up to a position, its *coverage*,
stored beside it. A reader that is pinned at sequence n asks the index, takes out of the answer
every row that changed between coverage and n (`Indexes.uncovered`), and examines those rows
directly. All of it is read in one transaction, so that nothing can be between two states.

A step of the background thread (`indexing`) brings an index forward: it *prepares* the changes in a
read transaction, to the last byte, without holding anybody up; then a short write transaction puts
the sorted result and the new coverage. Only that thread writes to indexes, so that what was
prepared is still right when it is put.

An index that is missing, of another format, damaged, or without an unbroken journal since its
coverage is dropped and built again from the records, in steps of rows from below; `row_end` says
how far it has come. What it does not hold is examined directly, so that answers stay exact.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

from shoal_worker.apply import DOCUMENT_CHANGES, IS_NEW, METADATA_CHANGES
from shoal_worker.environment import Database, Environment, Transaction
from shoal_worker.journal import DELETED, Journal, Position, RowChange, Window
from shoal_worker.rows import BitMap
from shoal_worker.sealed import DamagedIndexError, seal, unseal_derived
from shoal_worker.store import Meta, Store

if TYPE_CHECKING:
    from shoal_worker.keys_index import KeysIndex
    from shoal_worker.metadata_index import MetadataIndex
    from shoal_worker.sparse_index import SparseIndex
    from shoal_worker.terms_index import TermsIndex
    from shoal_worker.text_index import TextIndex

__all__ = ["Batch", "Coverage", "DerivedIndex", "HoldsRemains", "Indexes", "Step"]

COVERAGE_DATABASE: Final = "indexes"

_COVERAGE: Final = struct.Struct("<IQIQ")
_ALL_ROWS: Final = 2**32
"""`row_end` of an index that is built."""

_AFTER_ALL: Final = 2**63
"""A sequence that no log entry reaches."""

_REMEMBERED: Final = 16
"""Sets of uncovered rows that are kept for the next reader of the same state."""


class Coverage(NamedTuple):
    """What an index holds.

    Attributes:
        format: Version of its format.
        position: How far in the log it has come.
        row_end: It holds rows below this only.
    """

    format: int
    position: Position
    row_end: int

    @property
    def is_built(self) -> bool:
        """Whether it holds every row."""
        return self.row_end == _ALL_ROWS


@dataclass(slots=True)
class Batch:
    """What a step puts into databases and removes from them.

    Attributes:
        puts: For each database, keys and values, by ascending key.
        deletes: For each database, keys that are there.
    """

    puts: list[tuple[Database, Sequence[tuple[bytes, bytes]]]] = field(default_factory=list)
    deletes: list[tuple[Database, Sequence[bytes]]] = field(default_factory=list)


class DerivedIndex(Protocol):
    """What an index must be, to be kept up by the framework.

    Attributes:
        name: Of the index; it never changes.
        format: Version of what it stores; an index of another version is built again.
        databases: Its databases' names, which nothing else uses.
        concerns: Bits of change (`journal`) that concern it; new and deleted rows always do.
        reads: Which values `prepare` is given: METADATA_CHANGES, DOCUMENT_CHANGES or both.
        concerns_bare_rows: Whether it is given new records that have none of these values.
        step_rows: Rows that a step takes in at most, so that its transaction stays short.
        step_bytes: Bytes of values that a step is given at most, but for one row.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> int: ...
    @property
    def databases(self) -> Sequence[str]: ...
    @property
    def concerns(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def concerns_bare_rows(self) -> bool: ...
    @property
    def step_rows(self) -> int: ...
    @property
    def step_bytes(self) -> int: ...

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """Say what must be put and deleted so that the index holds the new values instead of the
        old ones.

        Args:
            txn: A read transaction in which the index is what it will be in the write.
            changes: Each row at most once.

        Raises:
            DamagedIndexError: If what the index has stored is not what it stored.
        """


@runtime_checkable
class HoldsRemains(Protocol):
    """An index that keeps parts of what is gone until it writes them again."""

    def cleaned(self, txn: Transaction) -> Mapping[str, Iterator[tuple[bytes, bytes]]]:
        """Give what its databases are to hold so that nothing of what is gone is in them.

        By their names, keys and values, by ascending key.

        Raises:
            DamagedIndexError: If what the index has stored is not what it stored. The iterators may
                raise it, too.
        """


@dataclass(frozen=True, slots=True)
class Step:
    """A prepared step of one index."""

    index: DerivedIndex
    before: Coverage
    after: Coverage
    batch: Batch
    change_count: int


class Remembered:
    """The sets of rows that were last computed, by name. Thread-safe.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._sets: dict[bytes, BitMap] = {}  # guarded by _lock; the last used one last

    def get(self, name: bytes) -> BitMap | None:
        """Give a set, which must not be changed; None if it is not remembered."""
        with self._lock:
            found = self._sets.pop(name, None)
            if found is not None:
                self._sets[name] = found
            return found

    def put(self, name: bytes, rows: BitMap) -> None:
        """Remember a set."""
        with self._lock:
            self._sets[name] = rows
            while len(self._sets) > self._count:
                del self._sets[next(iter(self._sets))]


class Indexes:
    """The indexes of one shard.

    Args:
        environment: The shard's.
        store: Its schema.
        journal: What changed.
        metadata: The index that filters on metadata ask.
        text: The index that filters on documents ask.
        keys: The index that exact scans ask.
        terms: The index that rankings of texts ask; None: there is none.
        sparse: The index that rankings of sparse vectors ask; None: there are none.
    """

    def __init__(
        self,
        environment: Environment,
        store: Store,
        journal: Journal,
        metadata: MetadataIndex,
        text: TextIndex,
        keys: KeysIndex,
        terms: TermsIndex | None = None,
        sparse: SparseIndex | None = None,
    ) -> None:
        self._databases: Mapping[str, Database] = environment.databases
        self._coverage_db = environment.databases[COVERAGE_DATABASE]
        self._store = store
        self.journal = journal
        self.metadata = metadata
        self.text = text
        self.keys = keys
        self.terms = terms
        self.sparse = sparse
        every = (metadata, text, keys, terms, sparse)
        self.all: tuple[DerivedIndex, ...] = tuple(index for index in every if index is not None)
        # Which rows match a filter, for the next who asks by it at the same sequence.
        self.selected = Remembered(_REMEMBERED)
        self._drop_count = 0  # of drops of any index; changes under _lock
        self._lock = threading.Lock()
        self._noted = (
            0  # guarded by _lock: changes since the shard was opened, and the backlog then
        )
        self._taken = {index.name: 0 for index in self.all}  # guarded by _lock
        self._uncovered: dict[tuple[str, Coverage, int], BitMap] = {}  # guarded by _lock
        self._damaged: set[str] = set()  # guarded by _lock: to be dropped
        self._unbuilt: set[str] = set()  # guarded by _lock: do not hold every row yet

    # Coverage.

    def coverage(self, txn: Transaction, index: DerivedIndex) -> Coverage | None:
        """Read what an index holds; None if it must not be used."""
        value = txn.get(index.name.encode(), db=self._coverage_db)
        if value is None:
            return None
        try:
            payload = unseal_derived(value, index.format, f"the coverage of {index.name}, format")
        except DamagedIndexError:
            return None
        version, sequence, offset, row_end = _COVERAGE.unpack(payload)
        if version != index.format:
            return None
        return Coverage(version, Position(sequence, offset), row_end)

    def version(self, txn: Transaction, index: DerivedIndex) -> tuple[Coverage | None, int]:
        """Name what an index holds in a transaction: the same name, the same content."""
        # An index that is built again comes to the same coverage, and lays itself out otherwise.
        return self.coverage(txn, index), self._drop_count

    def _put_coverage(self, txn: Transaction, index: DerivedIndex, coverage: Coverage) -> None:
        packed = _COVERAGE.pack(coverage.format, *coverage.position, coverage.row_end)
        txn.put(index.name.encode(), seal(packed, index.format), db=self._coverage_db)

    def begin(self, txn: Transaction) -> None:
        """Say of the indexes of an empty shard that they are complete."""
        for index in self.all:
            self._put_coverage(txn, index, Coverage(index.format, Position(0, 0), _ALL_ROWS))

    def unusable(self, txn: Transaction, meta: Meta) -> list[DerivedIndex]:
        """Give the indexes that must be built again."""
        with self._lock:
            damaged = set(self._damaged)
        found = []
        for index in self.all:
            coverage = self.coverage(txn, index)
            if (
                coverage is None
                or index.name in damaged
                or not self.journal.reaches_from(txn, coverage.position.sequence, meta)
            ):
                found.append(index)
        return found

    def drop(self, txn: Transaction, meta: Meta, unusable: Sequence[DerivedIndex]) -> None:
        """Empty indexes, to be built again from the records."""
        for index in unusable:
            for name in index.databases:
                txn.drop(self._databases[name], delete=False)
            self._put_coverage(
                txn, index, Coverage(index.format, Position(meta.sequence, 0), row_end=0)
            )
        if len(unusable) == len(self.all):
            self.journal.clear(txn)

    def dropped(self, unusable: Sequence[DerivedIndex]) -> None:
        """Take note that a drop was committed."""
        with self._lock:
            self._drop_count += 1
            self._damaged -= {index.name for index in unusable}
            for index in unusable:
                self._taken[index.name] = self._noted
                self._unbuilt.add(index.name)

    def report_damage(self, index: DerivedIndex) -> None:
        """Have an index dropped by the next step, and not used until then."""
        with self._lock:
            self._damaged.add(index.name)

    def is_damaged(self, index: DerivedIndex) -> bool:
        """Whether damage was reported and not dealt with yet."""
        return index.name in self._damaged

    # Erasing.

    def cleaned(self, txn: Transaction) -> dict[str, Iterator[tuple[bytes, bytes]]]:
        """Give what databases are to hold, by name, where indexes keep parts of what is gone.

        Raises:
            DamagedIndexError: If an index is not what was stored; it is reported.
        """
        found: dict[str, Iterator[tuple[bytes, bytes]]] = {}
        for index in self.all:
            if not isinstance(index, HoldsRemains):
                continue
            try:
                cleaned = index.cleaned(txn)
            except DamagedIndexError:
                self.report_damage(index)
                raise
            for name, items in cleaned.items():
                found[name] = self._reporting(index, items)
        return found

    def _reporting(
        self, index: DerivedIndex, items: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from items
        except DamagedIndexError:
            self.report_damage(index)
            raise

    # The backlog.

    def count_backlog(self, txn: Transaction) -> None:
        """Count what the indexes have not taken in, when the shard is opened."""
        left, unbuilt = {}, set()
        for index in self.all:
            coverage = self.coverage(txn, index)
            try:
                left[index.name] = (
                    self.journal.count_after(txn, coverage.position) if coverage else 0
                )
            except DamagedIndexError:
                # Nobody can say what changed: it is built again, and what is open stays so.
                left[index.name] = 0
                self.report_damage(index)
            if coverage is None or not coverage.is_built:
                unbuilt.add(index.name)
        with self._lock:
            self._unbuilt = unbuilt
            self._noted = max(left.values(), default=0)
            self._taken = {name: self._noted - count for name, count in left.items()}

    def noted(self, count: int) -> None:
        """Take note of changes that were committed."""
        with self._lock:
            self._noted += count

    @property
    def backlog(self) -> int:
        """Changes that some index has not taken in."""
        with self._lock:
            return self._noted - min(self._taken.values(), default=self._noted)

    @property
    def lag(self) -> bool:
        """Whether there is something to be taken in, dropped or built."""
        return bool(self._damaged or self._unbuilt or self.backlog)

    # Readers.

    def uncovered(
        self, txn: Transaction, index: DerivedIndex, meta: Meta, *, remember: bool
    ) -> BitMap | None:
        """Give the rows for which an index's answer does not count; None: for no row it does.

        Args:
            txn: The reader's transaction.
            index: Which index.
            meta: The shard in that transaction.
            remember: Whether the transaction is of a committed state, so that the next reader of
                the same state may be given the same answer.

        Raises:
            DamagedIndexError: If what is noted about changes is damaged.
        """
        coverage = self.coverage(txn, index)
        if coverage is None or coverage.row_end == 0 or self.is_damaged(index):
            return None
        key = (index.name, coverage, meta.sequence)
        if remember:
            with self._lock:
                known = self._uncovered.get(key)
            if known is not None:
                return known
        rows = self.journal.rows_after(txn, coverage.position, index.concerns)
        if coverage.row_end < meta.next_row:
            rows.add_range(coverage.row_end, meta.next_row)
        if remember:
            with self._lock:
                self._uncovered[key] = rows
                while len(self._uncovered) > _REMEMBERED:
                    del self._uncovered[next(iter(self._uncovered))]
        return rows

    # Steps.

    def prepare(self, txn: Transaction, index: DerivedIndex, meta: Meta) -> Step | None:
        """Prepare the next step of an index; None if it holds everything.

        Raises:
            DamagedIndexError: If the index, or what is noted about changes, is damaged.
        """
        coverage = self.coverage(txn, index)
        if coverage is None:
            raise DamagedIndexError(f"the coverage of {index.name} is missing")
        limit = index.step_rows
        while True:
            window = self.journal.window(txn, coverage.position, limit)
            if window.end != coverage.position:
                wanted = self._changes(txn, index, window, coverage.row_end)
                after = coverage._replace(position=window.end)
            elif not coverage.is_built:
                # The position is that of the transaction: what the records hold is what was there.
                end = min(coverage.row_end + limit, meta.next_row)
                wanted = self._existing(txn, index, coverage.row_end, end)
                after = coverage._replace(row_end=end if end < meta.next_row else _ALL_ROWS)
            else:
                return None
            # One row is taken whatever it weighs.
            changes = _bounded(wanted, index.step_bytes)
            if changes is not None:
                break
            limit = max(1, limit // 4)
        batch = index.prepare(txn, changes)
        return Step(index, coverage, after, batch, window.change_count)

    def _changes(
        self, txn: Transaction, index: DerivedIndex, window: Window, row_end: int
    ) -> Iterator[RowChange]:
        """Give what became of the rows of a window that the index holds or is to hold."""
        concerns = index.concerns | IS_NEW | DELETED
        for row, (first, last, bits) in window.rows.items():
            if row >= row_end or not bits & concerns:
                continue
            change = RowChange(row, not bits & IS_NEW, not bits & DELETED)
            if not change.was_there and not change.is_there:
                continue
            if not change.was_there and not bits & index.reads:
                # A new record without such a value: there is nothing to read.
                if index.concerns_bare_rows:
                    yield change
                continue
            if change.was_there:
                change.old_metadata, change.old_document = self._values(txn, index, row, first)
            if change.is_there:
                change.new_metadata, change.new_document = self._values(txn, index, row, last + 1)
            yield change

    def _existing(
        self, txn: Transaction, index: DerivedIndex, first: int, end: int
    ) -> Iterator[RowChange]:
        """Give the records of a range of rows as if they were new."""
        for row, _ in self._store.rows_from(txn, first):
            if row >= end:
                break
            metadata, document = self._values(txn, index, row, _AFTER_ALL)
            yield RowChange(row, False, True, new_metadata=metadata, new_document=document)

    def _values(
        self, txn: Transaction, index: DerivedIndex, row: int, sequence: int
    ) -> tuple[bytes | None, str | None]:
        """Give what a row held before an entry, as far as the index wants to know."""
        metadata = document = None
        store, journal = self._store, self.journal
        if index.reads & METADATA_CHANGES:
            current = store.value(txn, store.metadata, row)
            metadata = journal.value_before(txn, METADATA_CHANGES, row, sequence, current)
        if index.reads & DOCUMENT_CHANGES:
            current = store.value(txn, store.documents, row)
            found = journal.value_before(txn, DOCUMENT_CHANGES, row, sequence, current)
            document = None if found is None else found.decode()
        return metadata, document

    def take(self, txn: Transaction, steps: Sequence[Step]) -> None:
        """Put prepared steps, and trim what no index needs any more.

        Raises:
            DamagedIndexError: If an index is not what it was when the step was prepared, or what is
                to be trimmed is damaged.
        """
        for step in steps:
            if self.coverage(txn, step.index) != step.before:
                raise DamagedIndexError(f"the coverage of {step.index.name} has changed")
            for database, keys in step.batch.deletes:
                for key in keys:
                    txn.delete(key, db=database)
            for database, items in step.batch.puts:
                with txn.cursor(db=database) as cursor:
                    cursor.putmulti(items)
            self._put_coverage(txn, step.index, step.after)
        self.trim(txn)

    def trim(self, txn: Transaction) -> int:
        """Remove a step of what no index needs any more; give how many entries that were."""
        covered = [self.coverage(txn, index) for index in self.all]
        return self.journal.trim(
            txn, min((c.position.sequence for c in covered if c is not None), default=0)
        )

    def taken(self, steps: Sequence[Step]) -> None:
        """Take note that steps were committed."""
        with self._lock:
            for step in steps:
                self._taken[step.index.name] += step.change_count
                if step.after.is_built:
                    self._unbuilt.discard(step.index.name)


def _bounded(changes: Iterable[RowChange], max_bytes: int) -> list[RowChange] | None:
    """Give changes, or None if they weigh too much and are more than one."""
    taken: list[RowChange] = []
    size = 0
    for change in changes:
        taken.append(change)
        size += sum(
            len(value)
            for value in (
                change.old_metadata,
                change.new_metadata,
                change.old_document,
                change.new_document,
            )
            if value is not None
        )
        if size > max_bytes and len(taken) > 1:
            return None
    return taken
