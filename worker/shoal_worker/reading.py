"""Pages of records in order of insertion, and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from shoal_worker.columns import Column, ColumnReader, Columns
from shoal_worker.environment import Transaction
from shoal_worker.matching import Selection, select
from shoal_worker.sealed import DamagedValueError
from shoal_worker.state import Pinned
from shoal_worker.store import Record, Store

__all__ = ["Page", "PageRequest", "count", "first_row_after", "page"]

_CHECK_EVERY: Final = 1024


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which records, from where, how many.

    Attributes:
        selection: Among which.
        after: Ordinal and ID of the record after which the page begins; None: at the beginning.
        offset: Matching records to pass over.
        limit: Records at most.
        max_bytes: Bound of the page; it holds at least one record all the same.
        include: What to return of them.
        ordinals_only: Nothing but ordinals.
        check: Called now and then; what it raises ends the reading.
    """

    selection: Selection
    after: tuple[int, str] | None
    offset: int
    limit: int
    max_bytes: int
    include: frozenset[Column]
    ordinals_only: bool
    check: Callable[[], None]


@dataclass(slots=True)
class Page:
    """Records in order.

    Attributes:
        columns: The records.
        more: Whether more records match after the last one.
        sequence: What was read.
    """

    columns: Columns
    more: bool
    sequence: int


def page(pinned: Pinned, request: PageRequest) -> Page:
    """Read a page."""
    sequence = pinned.state.meta.sequence
    reader = ColumnReader(pinned.txn, pinned.store, request.include, request.max_bytes)
    more = False
    for taken, record in enumerate(_records(pinned, request)):
        if taken % _CHECK_EVERY == 0:
            request.check()
        if taken == request.limit:
            more = True
            break
        if request.ordinals_only:
            reader.columns.ordinals.append(record.ordinal)
        elif not reader.add(record):
            more = True
            break
    return Page(reader.columns, more, sequence)


def _records(pinned: Pinned, request: PageRequest) -> Iterator[Record]:
    """Give the records of the page, and one more if there is one."""
    txn, store, meta = pinned.txn, pinned.store, pinned.state.meta
    first = 0
    if request.after is not None:
        first = first_row_after(txn, store, meta.next_row, *request.after)
    if request.selection.is_everything:
        offset = request.offset
        if first == 0 and meta.record_count == meta.next_row:
            # Nothing was ever deleted: the n-th record is row n.
            first, offset = min(offset, meta.next_row), 0
        for i, (row, value) in enumerate(store.rows_from(txn, first)):
            if i >= offset:
                yield store.decode_record(row, value)
            elif i % _CHECK_EVERY == 0:
                request.check()
        return
    selected = select(
        pinned.source,
        request.selection,
        first_row=first,
        limit=request.offset + request.limit + 1,
        check=request.check,
    )
    for row in selected.array()[request.offset :].tolist():
        record = store.record(txn, row)
        if record is None:
            raise DamagedValueError(f"row {row} matches and has no record")
        yield record


def first_row_after(
    txn: Transaction, store: Store, next_row: int, ordinal: int, record_id: str
) -> int:
    """Give the lowest row whose record comes after a place in the order of insertion.

    Rows rise with ordinals, so that a binary search over rows finds it: O(log n) records are read.
    """
    low, high = 0, next_row
    while low < high:
        middle = (low + high) // 2
        entry = next(store.rows_from(txn, middle), None)
        if entry is None:
            high = middle
            continue
        row, value = entry
        record = store.decode_record(row, value)
        if (record.ordinal, record.id) > (ordinal, record_id):
            high = middle
        else:
            low = row + 1
    return low


def count(pinned: Pinned, selection: Selection, check: Callable[[], None]) -> int:
    """Count the records that match."""
    if selection.is_everything:
        return pinned.state.meta.record_count
    return len(select(pinned.source, selection, check=check).rows)
