"""Which rows match: IDs and filters, evaluated in one read transaction.

The metadata index says of most rows whether they match. What changed since its coverage, and what
it calls doubtful, is looked at, and so is everything if the index cannot be used: the answer is the
same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal_worker.environment import Transaction
from shoal_worker.evaluation import Evaluation
from shoal_worker.filters import StoredFields, compile_document, compile_where
from shoal_worker.indexes import Indexes
from shoal_worker.rows import BitMap, rows_of
from shoal_worker.sealed import DamagedIndexError
from shoal_worker.store import Meta, Store
from shoal_worker.text_index import Bounds

__all__ = ["Selected", "Selection", "Source", "select"]

_CHECK_COST: Final = 512
"""Records that are looked at before the deadline is, or what is read of documents instead: 2 ms."""

_FIRST_PART: Final = 16
_PART: Final = 32
"""Documents that are read at once, at first and at most: 32 MiB, if each is as large as may be."""

_DOCUMENT_COST_BYTES: Final = 16
"""Bytes of documents that count as a record: the worst of expressions takes 1 s for 64 KiB."""

_LOOK_ROWS: Final = 256
"""Rows given by ID that are looked at rather than sought in the index."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are meant: those in every part given.

    Attributes:
        ids: Only these; unknown ones are ignored. None: all.
        where: On metadata, or None.
        where_document: On documents, or None.
        id_prefix: Only IDs that begin so.
    """

    ids: Sequence[str] | None = None
    where: Where | None = None
    where_document: WhereDocument | None = None
    id_prefix: str = ""

    @property
    def is_everything(self) -> bool:
        """Whether every record is meant."""
        return (
            self.ids is None
            and self.where is None
            and self.where_document is None
            and not self.id_prefix
        )

    @property
    def is_indexed(self) -> bool:
        """Whether few records have to be looked at, as long as indexes have taken in the rest."""
        return (
            (self.ids is None or len(self.ids) <= _LOOK_ROWS)
            and self.where_document is None
            and not self.id_prefix
        )

    def name(self, sequence: int) -> bytes | None:
        """Give what the rows that match at a sequence are remembered under; None: they are not."""
        if self.ids is not None or self.id_prefix:
            return None
        parts = [
            b"" if part is None else part.SerializeToString(deterministic=True)
            for part in (self.where, self.where_document)
        ]
        return struct.pack("<QI", sequence, len(parts[0])) + b"".join(parts)


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows are looked for: one transaction, and what lies in it.

    Attributes:
        txn: The transaction.
        store: The schema.
        indexes: What is derived from it.
        meta: The shard in that transaction.
        is_committed: Whether its state was published; what is computed for it may then be kept.
    """

    txn: Transaction
    store: Store
    indexes: Indexes
    meta: Meta
    is_committed: bool


@dataclass(frozen=True, slots=True)
class Selected:
    """The rows that match.

    Attributes:
        rows: The rows. Others may be given the same set: it must not be changed.
        examined_count: Rows whose values were looked at, because no index could tell.
    """

    rows: BitMap
    examined_count: int

    def array(self) -> npt.NDArray[np.uint32]:
        """Give the rows, ascending."""
        return rows_of(self.rows)


def select(
    source: Source,
    selection: Selection,
    *,
    first_row: int = 0,
    limit: int | None = None,
    check: Callable[[], None] | None = None,
) -> Selected:
    """Give the rows that match, exactly.

    Args:
        source: Where.
        selection: What is meant.
        first_row: Rows below are left out.
        limit: At most so many, the first ones.
        check: Called now and then; what it raises ends the search for them.

    Raises:
        InvalidArgumentError: If a filter is not one.
    """
    examiner = _Examiner(source, selection, check)
    name = None
    if source.is_committed and not (first_row or limit is not None):
        name = selection.name(source.meta.sequence)
        known = None if name is None else source.indexes.selected.get(name)
        if known is not None:
            return Selected(known, 0)
    certain, uncertain = _candidates(source, selection, check)
    unread = BitMap()
    if selection.where_document is not None:
        bounds = _document_bounds(source, selection.where_document, certain | uncertain)
        uncertain &= bounds.maybe
        unread = (certain & bounds.maybe) - bounds.surely
        certain &= bounds.surely
    if selection.id_prefix:
        unread |= certain
        certain = BitMap()
    looked_at = uncertain | unread
    certain.remove_range(0, first_row)
    looked_at.remove_range(0, first_row)
    if limit is not None:
        if limit == 0:
            return Selected(BitMap(), 0)
        if len(certain) > limit:
            # What lies beyond cannot be among the first.
            looked_at.remove_range(certain[limit - 1] + 1, 2**32)
            certain = certain[:limit]
    rows = certain | examiner.passing(looked_at, uncertain, limit)
    if name is not None and not examiner.count:
        source.indexes.selected.put(name, rows)
    return Selected(rows[:limit] if limit is not None else rows, examiner.count)


def _document_bounds(source: Source, where: WhereDocument, rows: BitMap) -> Bounds:
    """Give which rows surely match a filter on documents, and which may, among some."""
    txn, indexes = source.txn, source.indexes
    index = indexes.text
    try:
        uncovered = indexes.uncovered(txn, index, source.meta, remember=source.is_committed)
        if uncovered is not None:
            bounds = index.bounds(txn, where, rows)
            return Bounds(bounds.surely - uncovered, bounds.maybe | uncovered)
    except DamagedIndexError:
        indexes.report_damage(index)
    return Bounds(BitMap(), rows)


def _candidates(
    source: Source, selection: Selection, check: Callable[[], None] | None
) -> tuple[BitMap, BitMap]:
    """Give the rows that match but for documents and prefix, and those of which that is not known.

    Nothing is in both.
    """
    given: BitMap | None = None
    if selection.ids is not None:
        found = (source.store.find(source.txn, record_id) for record_id in selection.ids)
        given = BitMap([record.row for record in found if record is not None])
        if selection.where is None:
            return given, BitMap()
        if len(given) <= _LOOK_ROWS:
            return BitMap(), given
    certain, uncertain = _from_index(source, selection, check)
    if given is not None:
        certain &= given
        uncertain &= given
    return certain, uncertain


def _from_index(
    source: Source, selection: Selection, check: Callable[[], None] | None
) -> tuple[BitMap, BitMap]:
    txn, indexes = source.txn, source.indexes
    index = indexes.metadata
    try:
        uncovered = indexes.uncovered(txn, index, source.meta, remember=source.is_committed)
        if uncovered is not None:
            version = indexes.version(txn, index) if source.is_committed else None
            evaluation = Evaluation(txn, index, version, check)
            where = selection.where
            rows = index.alive(txn) if where is None else evaluation.rows(where)
            uncertain = uncovered | evaluation.doubtful
            return rows - uncertain, uncertain
    except DamagedIndexError:
        indexes.report_damage(index)
    return BitMap(), BitMap([row for row, _ in source.store.rows_from(txn, 0)])


def _parts(rows: BitMap, first: int, most: int) -> Iterator[list[int]]:
    """Give rows in parts that grow, so that who needs few does not read many."""
    left, size, at = rows_of(rows), first, 0
    while at < len(left):
        yield left[at : at + size].tolist()
        at, size = at + size, min(2 * size, most)


class _Examiner:
    """Looks at records, where no index can tell."""

    def __init__(
        self, source: Source, selection: Selection, check: Callable[[], None] | None
    ) -> None:
        self._txn = source.txn
        self._store = source.store
        self._check = check
        self._prefix = selection.id_prefix
        # Compiled also if the index answers: a filter that is not one is refused in any case.
        self._where = None if selection.where is None else compile_where(selection.where)
        self._document = (
            None if selection.where_document is None else compile_document(selection.where_document)
        )
        self.count = 0
        self._unchecked_cost = 0

    def passing(self, rows: BitMap, uncertain: BitMap, limit: int | None) -> BitMap:
        """Give the first `limit` of the rows that match.

        Args:
            rows: Which to look at.
            uncertain: Those among them of which neither is known that they exist, nor that their
                metadata match.
            limit: How many.
        """
        if self._document is not None and not self._prefix and not uncertain:
            return self._passing_documents(rows, limit)
        found: list[int] = []
        for row in rows:
            if self._check is not None and self._unchecked_cost >= _CHECK_COST:
                self._unchecked_cost = 0
                self._check()
            self.count += 1
            self._unchecked_cost += 1
            if self._matches(row, row in uncertain):
                found.append(row)
                if len(found) == limit:
                    break
        return BitMap(found)

    def _passing_documents(self, rows: BitMap, limit: int | None) -> BitMap:
        """Do so where only the documents are in question, reading many at once."""
        assert self._document is not None
        matches, found = self._document, list[int]()
        for part in _parts(rows, _FIRST_PART, _PART):
            for row, value in zip(
                part, self._store.values(self._txn, self._store.documents, part), strict=True
            ):
                if self._check is not None and self._unchecked_cost >= _CHECK_COST:
                    self._unchecked_cost = 0
                    self._check()
                self.count += 1
                self._unchecked_cost += 1 + (len(value) // _DOCUMENT_COST_BYTES if value else 0)
                if matches(value):
                    found.append(row)
                    if len(found) == limit:
                        return BitMap(found)
        return BitMap(found)

    def _matches(self, row: int, is_uncertain: bool) -> bool:
        txn, store = self._txn, self._store
        if is_uncertain:
            metadata = store.value(txn, store.metadata, row)
            if metadata is None and not store.has_row(txn, row):
                return False
            if self._where is not None and not self._where(StoredFields(metadata)):
                return False
        if self._prefix:
            record = store.record(txn, row)
            if record is None or not record.id.startswith(self._prefix):
                return False
        if self._document is None:
            return True
        stored = store.value(txn, store.documents, row)
        if stored is None:
            return self._document(None)
        self._unchecked_cost += len(stored) // _DOCUMENT_COST_BYTES
        return self._document(stored)
