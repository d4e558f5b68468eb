"""The index of terms: which documents have a term, how often, and how long they are.

Terms are those of one language, the collection's. What makes them is part of the index's format: a
release that stems otherwise builds the index again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.apply import DOCUMENT_CHANGES
from shoal_worker.environment import Database, Transaction
from shoal_worker.indexes import Batch
from shoal_worker.journal import RowChange
from shoal_worker.segment_format import Contents
from shoal_worker.segments import Segments
from shoal_worker.text import Analyzer

__all__ = ["TermsIndex", "contents_of"]

_FORMAT: Final = 0  # 0: the first


class TermsIndex:
    """The index of terms of one shard; see `indexes.DerivedIndex`.

    Args:
        databases: The shard's.
        analyzer: Makes the terms.
    """

    name: Final = "terms"
    databases: Final = ("term_segments", "term_blocks")
    concerns: Final = DOCUMENT_CHANGES
    reads: Final = DOCUMENT_CHANGES
    concerns_bare_rows: Final = False
    step_rows: Final = 2048
    step_bytes: Final = 4 * 1024 * 1024

    def __init__(self, databases: Mapping[str, Database], analyzer: Analyzer) -> None:
        self.analyzer = analyzer
        self.format = _FORMAT ^ analyzer.version
        segments, blocks = self.databases
        self.segments = Segments(databases[segments], databases[blocks], "terms")

    def prepare(self, txn: Transaction, changes: Sequence[RowChange]) -> Batch:
        """See `indexes.DerivedIndex`."""
        gone: list[int] = []
        rows: list[int] = []
        documents: list[str] = []
        for change in changes:
            if change.new_document == change.old_document and change.was_there == change.is_there:
                continue
            if change.old_document is not None:
                gone.append(change.row)
            if change.new_document is not None:
                rows.append(change.row)
                documents.append(change.new_document)
        if not rows and not gone:
            return Batch()
        numbers, lengths = self.analyzer.numbers(documents)
        contents = contents_of(np.array(rows, np.uint32), numbers, lengths)
        return self.segments.changed(txn, np.array(sorted(gone), np.uint32), contents)

    def cleaned(self, txn: Transaction) -> Mapping[str, Iterator[tuple[bytes, bytes]]]:
        """See `indexes.HoldsRemains`."""
        return dict(zip(self.databases, self.segments.cleaned(txn), strict=True))


def contents_of(
    rows: npt.NDArray[np.uint32],
    numbers: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.int64],
) -> Contents:
    """Count terms.

    Args:
        rows: Of the documents, shape ``(n,)``.
        numbers: The terms of one document after the other.
        lengths: Terms of each document, shape ``(n,)``.
    """
    places = np.repeat(np.arange(len(rows)), lengths)
    # Stable: of equal numbers the places stay in order.
    order = np.argsort(numbers, kind="stable")
    numbers, places = numbers[order], places[order]
    is_first = np.ones(len(numbers), np.bool_)
    is_first[1:] = (numbers[1:] != numbers[:-1]) | (places[1:] != places[:-1])
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(numbers)))
    return Contents(
        rows,
        lengths.astype(np.uint32),
        numbers[starts],
        places[starts].astype(np.uint16),
        counts.astype(np.uint32),
    )
