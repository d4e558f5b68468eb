"""Which rows match: IDs and filters, evaluated in one read transaction.

Filters are evaluated by scanning. The seam is `matching_rows`: rows in ascending order, counted
exactly; an index will give the same rows faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal_worker.environment import Transaction
from shoal_worker.filters import (
    DocumentPredicate,
    Predicate,
    compile_document,
    compile_where,
    fields_of,
)
from shoal_worker.store import Store

__all__ = ["Selection", "matching_rows"]

_CHECK_EVERY: Final = 4096


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


def matching_rows(
    txn: Transaction,
    store: Store,
    selection: Selection,
    *,
    first_row: int = 0,
    limit: int | None = None,
    check: Callable[[], None] | None = None,
) -> npt.NDArray[np.uint32]:
    """Give the rows that match, ascending.

    Args:
        txn: A transaction on the shard.
        store: Its schema.
        selection: What is meant.
        first_row: Rows below are left out.
        limit: At most so many.
        check: Called now and then; what it raises ends the scan.

    Raises:
        InvalidArgumentError: If a filter is not one.
    """
    matcher = _Matcher(txn, store, selection)
    if selection.ids is not None:
        candidates = _rows_of_ids(txn, store, selection.ids, first_row)
    else:
        candidates = (row for row, _ in store.rows_from(txn, first_row))
    rows = matcher.matching(_checked(candidates, check))
    return np.fromiter(islice(rows, limit) if limit is not None else rows, np.uint32)


def _checked(rows: Iterator[int], check: Callable[[], None] | None) -> Iterator[int]:
    for i, row in enumerate(rows):
        if check is not None and i % _CHECK_EVERY == 0:
            check()
        yield row


def _rows_of_ids(
    txn: Transaction, store: Store, ids: Sequence[str], first_row: int
) -> Iterator[int]:
    found = (store.find(txn, record_id) for record_id in ids)
    # A set: the same ID twice is one record.
    return iter(sorted({r.row for r in found if r is not None and r.row >= first_row}))


class _Matcher:
    """The compiled parts of a selection that look into records."""

    def __init__(self, txn: Transaction, store: Store, selection: Selection) -> None:
        self._txn = txn
        self._store = store
        self._prefix = selection.id_prefix
        self._where: Predicate | None = None
        self._document: DocumentPredicate | None = None
        if selection.where is not None:
            self._where = compile_where(selection.where)
        if selection.where_document is not None:
            self._document = compile_document(selection.where_document)

    def matching(self, rows: Iterator[int]) -> Iterator[int]:
        if self._where is None and self._document is None and not self._prefix:
            return rows
        return (row for row in rows if self._matches(row))

    def _matches(self, row: int) -> bool:
        txn, store = self._txn, self._store
        if self._prefix:
            record = store.record(txn, row)
            if record is None or not record.id.startswith(self._prefix):
                return False
        if self._where is not None and not self._where(
            fields_of(store.value(txn, store.metadata, row))
        ):
            return False
        if self._document is None:
            return True
        stored = store.value(txn, store.documents, row)
        return self._document(None if stored is None else stored.decode())
