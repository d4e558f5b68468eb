"""Text as terms: what BM25 counts in documents and in queries.

Unicode's compatibility forms and lower case, words as stretches of letters, digits and underscores,
without stop words, stemmed by Snowball. A query and the documents go through the same function, so
that which language it is decides what a term is, and nothing of it is stored.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Final

import snowballstemmer

from shoal.errors import InvalidArgumentError

__all__ = ["LANGUAGES", "Analyzer", "analyzer"]

LANGUAGES: Final = tuple(sorted(snowballstemmer.algorithms()))
"""The stemmers that can be asked for."""

_DEFAULT_LANGUAGE: Final = "english"

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

_WORD: Final = re.compile(r"\w+")


class Analyzer:
    """Cuts texts of one language into terms. May be used by several threads.

    Args:
        language: One of `LANGUAGES`.
    """

    def __init__(self, language: str) -> None:
        self._stop_words = _ENGLISH_STOP_WORDS if language == _DEFAULT_LANGUAGE else frozenset()

        @functools.lru_cache(maxsize=_STEMS_KEPT)
        def stem(word: str) -> str:
            # One for each word: a stemmer keeps the word it is at, and threads would mix theirs.
            return str(snowballstemmer.stemmer(language).stemWord(word))

        self._stem: Callable[[str], str] = stem

    def terms(self, text: str) -> list[str]:
        """Give the terms of a text, in its order, as often as they occur."""
        stem, stop_words = self._stem, self._stop_words
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        return [stem(word) for word in _WORD.findall(text.lower()) if word not in stop_words]


@functools.lru_cache(maxsize=len(LANGUAGES))
def _analyzer_of(language: str) -> Analyzer:
    return Analyzer(language)


def analyzer(language: str) -> Analyzer:
    """Give the analyzer of a language; the empty name is English.

    Raises:
        InvalidArgumentError: There is none.
    """
    name = language or _DEFAULT_LANGUAGE
    if name not in LANGUAGES:
        raise InvalidArgumentError(
            f"language {name[:40]!r} is not known; there are {', '.join(LANGUAGES)}"
        )
    return _analyzer_of(name)
