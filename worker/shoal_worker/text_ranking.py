"""BM25 over the documents of one shard (Robertson & Zaragoza 2009, with Lucene's weights).

A score needs counts over the whole collection, so that shards first give theirs (`measure`) and
then score with the sum of all (`rank`): one shard and eight give the same ranking. What is found of
a text for the first is kept for the second, as long as the shard stays at its sequence.

In the collection's language both ask the index of terms; in any other one, and where there is no
index at the moment, they read every document.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from shoal_worker.matching import Selection
from shoal_worker.occurrences import Begin, Best, Found, Part, RankedRows, find
from shoal_worker.segment_format import Contents
from shoal_worker.state import Pinned
from shoal_worker.terms_index import contents_of
from shoal_worker.text import Analyzer, analyzer, number_of

__all__ = ["Occurrences", "Scans", "Weights", "rank"]

_SCANNED_DOCUMENTS: Final = 1024
_SCANNED_BYTES: Final = 4 * 1024 * 1024
"""Documents that are counted at once; one is, whatever it weighs."""

_KEPT_BYTES: Final = 64 << 20
"""What the scans that are kept may weigh together."""

_MOST_SHARE: Final = 4
"""Of that, what the parts of one scan may weigh: a quarter."""

_ENTRY_BYTES: Final = 100_000
"""What a scan is taken to weigh beside its arrays: above the longest text, so that the bound also
bounds how many are kept."""


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Where the terms of a text occur in the documents of a shard at one sequence.

    Attributes:
        terms: The text's terms, each once, by ascending number.
        found: What was counted of their numbers; rows are documents, lengths are terms.
        analyzer: What made the terms.
        parts: The documents that have one; None if that is too much to be kept.
        size_bytes: What it weighs.
    """

    terms: tuple[str, ...]
    found: Found
    analyzer: Analyzer
    parts: Sequence[Part] | None
    size_bytes: int


class Scans:
    """Finds terms, and keeps what was found of late. May be used by several threads."""

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
            language: Of text and documents; empty: the one by which the shard indexes.
            check: Called now and then; what it raises ends the search.

        Raises:
            InvalidArgumentError: The language is not known.
        """
        index = pinned.indexes.terms
        chosen = index.analyzer if index is not None and not language else analyzer(language)
        meta = pinned.state.meta
        key = (meta.shard_id, meta.sequence, chosen.language, query)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        occurrences = _occurrences(pinned, query, chosen, check)
        with self._lock:
            if key not in self._kept and occurrences.size_bytes <= _KEPT_BYTES:
                self._kept[key] = occurrences
                self._kept_bytes += occurrences.size_bytes
                while self._kept_bytes > _KEPT_BYTES:
                    _, dropped = self._kept.popitem(last=False)
                    self._kept_bytes -= dropped.size_bytes
        return occurrences


def _occurrences(
    pinned: Pinned, query: str, chosen: Analyzer, check: Callable[[], None]
) -> Occurrences:
    numbered = {number_of(term): term for term in chosen.terms(query)}
    numbers = sorted(numbered)
    terms = tuple(numbered[number] for number in numbers)

    kept = _Kept()
    found = _found(pinned, numbers, chosen, kept.begin, check)
    size = kept.size_bytes + found.frequencies.nbytes + _ENTRY_BYTES
    return Occurrences(terms, found, chosen, kept.parts, size)


class _Kept:
    """Parts that are kept, unless they are too many."""

    def __init__(self) -> None:
        self.parts: list[Part] | None = []
        self.size_bytes = 0

    def begin(self) -> Callable[[Part], None]:
        self.parts, self.size_bytes = [], 0
        return self._take

    def _take(self, part: Part) -> None:
        if self.parts is None:
            return
        self.parts.append(part.kept())
        self.size_bytes += self.parts[-1].size_bytes
        if self.size_bytes > _KEPT_BYTES // _MOST_SHARE:
            self.parts, self.size_bytes = None, 0


def _found(
    pinned: Pinned,
    numbers: Sequence[int],
    chosen: Analyzer,
    begin: Begin,
    check: Callable[[], None],
) -> Found:
    txn, store, index = pinned.txn, pinned.store, pinned.indexes.terms

    def count(rows: Iterable[int] | None) -> Iterator[Contents]:
        if rows is None:
            return _counted(store.documents_of(txn), chosen)
        values = ((row, store.value(txn, store.documents, row)) for row in rows)
        return _counted(((row, value) for row, value in values if value is not None), chosen)

    usable = index if index is not None and index.analyzer is chosen else None
    return find(pinned, usable, numbers, begin, count, check)


def _counted(documents: Iterable[tuple[int, bytes]], chosen: Analyzer) -> Iterator[Contents]:
    walk = iter(documents)
    for first in walk:
        rows, texts, size = [first[0]], [first[1].decode()], len(first[1])
        for row, document in itertools.islice(walk, _SCANNED_DOCUMENTS - 1):
            rows.append(row)
            texts.append(document.decode())
            size += len(document)
            if size > _SCANNED_BYTES:
                break
        yield contents_of(np.array(rows, np.uint32), *chosen.numbers(texts))


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


def rank(
    pinned: Pinned,
    occurrences: Occurrences,
    weights: Weights,
    selection: Selection,
    limit: int,
    check: Callable[[], None],
) -> RankedRows:
    """Rank the documents of a shard that have one of the terms and match; negative scores are the
    distances.

    Raises:
        InvalidArgumentError: A filter is not one.
    """
    of_position = [weights.of_term.get(term, 0.0) for term in occurrences.terms]

    def distances_of(part: Part) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(part.rows), np.float64)
        share = weights.length_share
        lengths = part.lengths / (weights.average_length or 1.0)
        damping = weights.saturation * (1.0 - share + share * lengths)
        # Term by term in one order, so that the sum is the same number in every shard.
        for position, places, occurring in part.postings:
            counts = occurring.astype(np.float64)
            at = places.astype(np.intp)
            # Three times as fast as an indexed sum.
            np.add.at(scores, at, of_position[position] * (counts / (counts + damping[at])))
        return -scores

    best = Best(pinned, distances_of, selection, limit, check)
    if occurrences.parts is None:
        _found(pinned, occurrences.found.numbers, occurrences.analyzer, best.begin, check)
    else:
        for part in occurrences.parts:
            best.take(part)
    return best.ranked
