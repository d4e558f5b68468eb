"""Texts as sparse vectors, for metadata keys that a collection declares for them.

These are not embedding functions of a collection, whose vectors have one dimension and are dense:
call them, and put what they give under the key.

```python
embed = Bm25EmbeddingFunction()
papers.add(ids, vectors, [{"terms": vector} for vector in embed(texts)], texts)
papers.search(Search().rank(Knn(embed.embed_query(["whales"])[0], key="terms")))
```
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from shoal.embedding_functions._extras import import_extra
from shoal.errors import InvalidArgumentError
from shoal.wire.languages import DEFAULT_LANGUAGE, check_language
from shoal.wire.sparse import SparseVector

__all__ = ["Bm25EmbeddingFunction", "SparseEncoderEmbeddingFunction"]

_WORD: Final = re.compile(r"\w+")

_LONG_WORD: Final = 64
"""Characters from where on a word is not stemmed: no language inflects one so long."""


class Bm25EmbeddingFunction:
    """The words of a text, weighted as BM25 weights them in a document.

    A word is put into NFKC and lower case, stemmed, and known by 32 bits of its digest, the same on
    every machine. A document's weight of a term that occurs f times among L is
    ``f (k1 + 1) / (f + k1 (1 - b + b L / average_length))``, a query's is 1 for each term. How rare
    a term is comes from the collection, whose key is declared with ``{"idf": True}``: together that
    is BM25 (Robertson and Zaragoza 2009), with an average length that is given and not counted.

    Unlike `shoal.Text`, which counts everything and needs no vectors, it can be put under several
    keys, for several texts of a record.

    Args:
        language: Of the texts, as Snowball calls its stemmers; needs ``shoal[sparse]``. None: words
            as they are.
        k1: How soon further occurrences cease to count, at least 0.
        b: How much the length counts, 0 to 1.
        average_length: Terms in a document, on average; above 0.

    Raises:
        InvalidArgumentError: An argument is not allowed.
    """

    def __init__(
        self,
        language: str | None = DEFAULT_LANGUAGE,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        average_length: float = 256.0,
    ) -> None:
        if language is not None:
            check_language(language, "language")
        if not k1 >= 0 or not 0 <= b <= 1 or not average_length > 0:
            raise InvalidArgumentError(
                f"k1 must be at least 0, b 0 to 1, average_length above 0; got {k1}, {b}, "
                f"{average_length}"
            )
        self._language = language
        self._k1 = k1
        self._b = b
        self._average_length = average_length
        self._loading = threading.Lock()
        self._stemmer: Any = (
            None  # Guarded by _loading, for its use, too: it keeps what it works on.
        )

    def __call__(self, input: Sequence[str]) -> list[SparseVector | None]:
        """Make vectors of documents; None for one without a word, which leaves its key out."""
        return [self._vector(self._terms(text), is_query=False) for text in input]

    def embed_query(self, input: Sequence[str]) -> list[SparseVector | None]:
        """Make vectors of queries; None for one without a word."""
        return [self._vector(self._terms(text), is_query=True) for text in input]

    def get_config(self) -> dict[str, Any]:
        """Return its arguments."""
        return {
            "language": self._language,
            "k1": self._k1,
            "b": self._b,
            "average_length": self._average_length,
        }

    def _terms(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise InvalidArgumentError(f"a text is needed, got {type(text).__name__}")
        words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
        if self._language is None:
            return words
        with self._loading:
            if self._stemmer is None:
                library = import_extra(
                    "snowballstemmer", "Bm25EmbeddingFunction", "pip install 'shoal[sparse]'"
                )
                self._stemmer = library.stemmer(self._language)
            return [w if len(w) > _LONG_WORD else self._stemmer.stemWord(w) for w in words]

    def _vector(self, terms: list[str], *, is_query: bool) -> SparseVector | None:
        if not terms:
            return None
        longer = self._k1 * (1 - self._b + self._b * len(terms) / self._average_length)
        weights: dict[int, float] = {}
        for term, count in Counter(terms).items():
            weight = 1.0 if is_query else count * (self._k1 + 1) / (count + longer)
            index = _index_of(term)
            # Of two terms with one number the greater counts: rare, and never above its due.
            weights[index] = max(weight, weights.get(index, 0.0))
        return SparseVector(list(weights), list(weights.values()))


def _index_of(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "little")


class SparseEncoderEmbeddingFunction:
    """Sparse vectors by a model of the sentence-transformers library (SPLADE and its like).

    Args:
        model_name: Of a model on Hugging Face, or a directory.
        device: For example ``cpu`` or ``cuda``; None: the library chooses.
        max_weights: The greatest weights of a vector that are kept, at least 1; None: all.

    Raises:
        InvalidArgumentError: An argument is not allowed.
    """

    def __init__(
        self,
        model_name: str = "naver/splade-cocondenser-ensembledistil",
        *,
        device: str | None = None,
        max_weights: int | None = None,
    ) -> None:
        if max_weights is not None and max_weights < 1:
            raise InvalidArgumentError(f"max_weights must be at least 1, got {max_weights}")
        self._model_name = model_name
        self._device = device
        self._max_weights = max_weights
        self._loading = threading.Lock()
        self._model: Any = None  # Guarded by _loading.

    def __call__(self, input: Sequence[str]) -> list[SparseVector | None]:
        """Make vectors of documents; None for one that the model gives no weight."""
        return self._vectors(self._loaded().encode_document, input)

    def embed_query(self, input: Sequence[str]) -> list[SparseVector | None]:
        """Make vectors of queries; None for one that the model gives no weight."""
        return self._vectors(self._loaded().encode_query, input)

    def get_config(self) -> dict[str, Any]:
        """Return its arguments."""
        return {
            "model_name": self._model_name,
            "device": self._device,
            "max_weights": self._max_weights,
        }

    def _loaded(self) -> Any:
        with self._loading:
            if self._model is None:
                library = import_extra(
                    "sentence_transformers",
                    "SparseEncoderEmbeddingFunction",
                    "pip install 'sentence-transformers>=5'",
                )
                self._model = library.SparseEncoder(self._model_name, device=self._device)
            return self._model

    def _vectors(self, encode: Any, texts: Sequence[str]) -> list[SparseVector | None]:
        encoded = encode(
            list(texts),
            convert_to_tensor=False,
            max_active_dims=self._max_weights,
            show_progress_bar=False,
        )
        found: list[SparseVector | None] = []
        for row in encoded:
            coalesced = row.coalesce()
            weights = dict(
                zip(coalesced.indices()[0].tolist(), coalesced.values().tolist(), strict=True)
            )
            kept = {index: weight for index, weight in weights.items() if weight}
            found.append(SparseVector(list(kept), list(kept.values())) if kept else None)
        return found
