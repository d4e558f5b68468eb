"""Text as terms: what BM25 counts in documents and in queries.

Unicode's compatibility forms and lower case, words as stretches of letters, digits and underscores,
without stop words, stemmed by Snowball. A query and the documents go through the same function, so
that which language it is decides what a term is.

In an index a term is known by a number, 64 bits of its digest. Where documents are counted without
an index it is known by the same number, so that both count alike.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import snowballstemmer
import xxhash

from shoal.errors import InvalidArgumentError
from shoal.wire.languages import DEFAULT_LANGUAGE

__all__ = ["LANGUAGES", "Analyzer", "analyzer", "number_of"]

LANGUAGES: Final = tuple(sorted(snowballstemmer.algorithms()))
"""The stemmers that can be asked for."""

_ENGLISH_STOP_WORDS: Final = frozenset(
    word
    for line in (
        "a an and are as at be but by for if in into is it no not of on or such",
        "that the their then there these they this to was will with",
    )
    for word in line.split()
)
"""Lucene's list: short, so that no word that somebody may look for is lost. In the other languages
the weight of a frequent term, which is next to nothing, has to do."""

_STEMS_KEPT: Final = 65_536
"""Stems that are remembered for each language, some MB: a stemmer written in Python takes 20 µs for
a word, and the words of real text repeat."""

_NUMBERS_KEPT: Final = 131_072
"""Words whose numbers are remembered for each language, some 20 MB; then they are forgotten."""

_LONG_WORD: Final = 64
"""Characters from where on a word is neither stemmed nor remembered: no language inflects one so
long, a stemmer takes the square of its length (half a minute for one of 100,000), and what is
remembered is bounded by the number of words."""

_STOP: Final = 0
"""What stands for a stop word."""

_WORD: Final = re.compile(r"\w+")


def number_of(term: str) -> int:
    """Give the number that a term is known by: 64 bits, never 0."""
    return xxhash.xxh3_64_intdigest(term.encode()) or 1


class Analyzer:
    """Cuts texts of one language into terms. May be used by several threads.

    Args:
        language: One of `LANGUAGES`.
    """

    def __init__(self, language: str) -> None:
        stop_words = _ENGLISH_STOP_WORDS if language == DEFAULT_LANGUAGE else frozenset()

        @functools.lru_cache(maxsize=_STEMS_KEPT)
        def stem(word: str) -> str:
            # One for each word: a stemmer keeps the word it is at, and threads would mix theirs.
            return str(snowballstemmer.stemmer(language).stemWord(word))

        self.language = language
        self._stop_words = stop_words
        self._stem: Callable[[str], str] = lambda word: (
            stem(word) if len(word) < _LONG_WORD else word
        )
        self._numbers = _Numbers(self._stem, stop_words)

    @functools.cached_property
    def version(self) -> int:
        """Say by what terms are made: 32 bits that change with the language, the stemmer's release
        and Python's tables of Unicode."""
        stemmer = snowballstemmer.stemmer(self.language)
        parts = (
            self.language,
            type(stemmer).__module__,
            importlib.metadata.version("snowballstemmer"),
            unicodedata.unidata_version,
            " ".join(sorted(self._stop_words)),
        )
        return xxhash.xxh32_intdigest("\n".join(parts).encode())

    def terms(self, text: str) -> list[str]:
        """Give the terms of a text, in its order, as often as they occur."""
        stem, stop_words = self._stem, self._stop_words
        return [stem(word) for word in _words(text) if word not in stop_words]

    def numbers(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Give the numbers of the terms of texts, in their order, as often as they occur.

        Returns:
            Numbers, shape ``(terms,)``; and how many of them each text has, shape ``(texts,)``.
        """
        known = self._numbers
        found: list[int] = []
        ends = [0]
        for text in texts:
            found += map(known.__getitem__, _words(text))
            ends.append(len(found))
        numbers = np.array(found, np.uint64)
        is_term = numbers != _STOP
        before = np.concatenate(([0], np.cumsum(is_term)))
        return numbers[is_term], np.diff(before[ends])


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.lower())


class _Numbers(dict[str, int]):
    """The number of the term of each word that occurred; `_STOP` for stop words."""

    def __init__(self, stem: Callable[[str], str], stop_words: frozenset[str]) -> None:
        super().__init__()
        self._stem = stem
        self._stop_words = stop_words

    def __missing__(self, word: str) -> int:
        number = _STOP if word in self._stop_words else number_of(self._stem(word))
        if len(word) < _LONG_WORD:
            if len(self) >= _NUMBERS_KEPT:
                self.clear()
            self[word] = number
        return number


@functools.lru_cache(maxsize=len(LANGUAGES))
def _analyzer_of(language: str) -> Analyzer:
    return Analyzer(language)


def analyzer(language: str) -> Analyzer:
    """Give the analyzer of a language; the empty name is English.

    Raises:
        InvalidArgumentError: There is none.
    """
    name = language or DEFAULT_LANGUAGE
    if name not in LANGUAGES:
        raise InvalidArgumentError(
            f"language {name[:40]!r} is not known; there are {', '.join(LANGUAGES)}"
        )
    return _analyzer_of(name)
