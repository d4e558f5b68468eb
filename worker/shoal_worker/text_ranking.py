"""BM25 over the documents of one shard (Robertson & Zaragoza 2009, with Lucene's weights).

A score needs counts over the whole collection, so that shards first give theirs (`measure`) and
then score with the sum of all (`rank`): one shard and eight give the same ranking. Both read every
document of the pinned transaction; what the first found is kept for the second, as long as the
shard stays at its sequence.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from shoal_worker.matching import Selection, select
from shoal_worker.state import Pinned
from shoal_worker.text import analyzer

__all__ = ["Occurrences", "RankedRows", "Scans", "Weights", "rank"]

_CHECK_EVERY: Final = 256

_KEPT_BYTES: Final = 64 << 20
"""What the scans that are kept may weigh together."""

_ENTRY_BYTES: Final = 100_000
"""What a scan is taken to weigh beside its arrays: above the longest text, so that the bound also
bounds how many are kept."""


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Where the terms of a text occur in the documents of a shard at one sequence.

    Attributes:
        document_count: Records with a document.
        term_count: Terms in all of them together.
        terms: The text's terms, each once.
        rows: Of the documents with at least one of the terms, ascending, shape ``(n,)``.
        lengths: Terms in each of these, shape ``(n,)``.
        counts: How often each term occurs in each, shape ``(n, terms)``.
    """

    document_count: int
    term_count: int
    terms: tuple[str, ...]
    rows: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32]

    @property
    def document_frequencies(self) -> npt.NDArray[np.int64]:
        """Documents that each term occurs in."""
        frequencies: npt.NDArray[np.int64] = np.sum(self.counts > 0, axis=0, dtype=np.int64)
        return frequencies

    @property
    def size_bytes(self) -> int:
        """What it weighs."""
        return self.rows.nbytes + self.lengths.nbytes + self.counts.nbytes


class Scans:
    """Reads documents, and keeps what was found of late. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By shard, sequence, language and text; the last used last. Under the lock.
        self._kept: OrderedDict[tuple[UUID, int, str, str], Occurrences] = OrderedDict()
        self._kept_bytes = 0

    def occurrences(
        self, pinned: Pinned, query: str, language: str, check: Callable[[], None]
    ) -> Occurrences:
        """Find the terms of a text in the documents of a shard.

        Args:
            pinned: The shard.
            query: The text.
            language: Of text and documents.
            check: Called now and then; what it raises ends the scan.

        Raises:
            InvalidArgumentError: The language is not known.
        """
        meta = pinned.state.meta
        key = (meta.shard_id, meta.sequence, language, query)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = _scan(pinned, query, language, check)
        with self._lock:
            if key not in self._kept and found.size_bytes <= _KEPT_BYTES:
                self._kept[key] = found
                self._kept_bytes += found.size_bytes + _ENTRY_BYTES
                while self._kept_bytes > _KEPT_BYTES:
                    _, dropped = self._kept.popitem(last=False)
                    self._kept_bytes -= dropped.size_bytes + _ENTRY_BYTES
        return found


def _scan(pinned: Pinned, query: str, language: str, check: Callable[[], None]) -> Occurrences:
    terms_of = analyzer(language).terms
    terms = tuple(dict.fromkeys(terms_of(query)))
    places = {term: place for place, term in enumerate(terms)}
    rows: list[int] = []
    lengths: list[int] = []
    counts: list[list[int]] = []
    document_count = term_count = 0
    for row, document in pinned.store.documents_of(pinned.txn):
        if document_count % _CHECK_EVERY == 0:
            check()
        own = terms_of(document.decode())
        document_count += 1
        term_count += len(own)
        found = [place for term in own if (place := places.get(term)) is not None]
        if found:
            rows.append(row)
            lengths.append(len(own))
            counts.append(np.bincount(found, minlength=len(terms)).tolist())
    return Occurrences(
        document_count,
        term_count,
        terms,
        np.array(rows, np.uint32),
        np.array(lengths, np.uint32),
        np.array(counts, np.uint32).reshape(len(rows), len(terms)),
    )


@dataclass(frozen=True, slots=True)
class Weights:
    """How documents are scored, the same for all shards.

    Attributes:
        of_term: The inverse document frequency of each term.
        average_length: Terms in the collection's average document.
        saturation: k1.
        length_share: b.
    """

    of_term: dict[str, float]
    average_length: float
    saturation: float
    length_share: float


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Rows, best first, equal scores by row.

    Attributes:
        rows: Shape ``(n,)``.
        scores: Above 0, descending, shape ``(n,)``.
    """

    rows: npt.NDArray[np.uint32]
    scores: npt.NDArray[np.float64]


def rank(
    pinned: Pinned,
    occurrences: Occurrences,
    weights: Weights,
    selection: Selection,
    limit: int,
    check: Callable[[], None],
) -> RankedRows:
    """Rank the documents of a shard that have one of the terms and match.

    Raises:
        InvalidArgumentError: A filter is not one.
    """
    rows, scores = occurrences.rows, _scores(occurrences, weights)
    if not selection.is_everything and len(rows):
        matching = select(pinned.source, selection, check=check).array()
        kept = np.isin(rows, matching, assume_unique=True)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:limit]
    return RankedRows(rows[order], scores[order])


def _scores(occurrences: Occurrences, weights: Weights) -> npt.NDArray[np.float64]:
    scores = np.zeros(len(occurrences.rows), np.float64)
    lengths = occurrences.lengths / (weights.average_length or 1.0)
    share = weights.length_share
    damping = weights.saturation * (1.0 - share + share * lengths)
    # Term by term in one order, so that the sum is the same number in every shard.
    for place in _in_order(occurrences.terms):
        weight = weights.of_term.get(occurrences.terms[place], 0.0)
        counts = occurrences.counts[:, place].astype(np.float64)
        scores += weight * counts / (counts + damping)
    return scores


def _in_order(terms: Sequence[str]) -> list[int]:
    return sorted(range(len(terms)), key=terms.__getitem__)
