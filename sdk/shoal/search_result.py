"""What searches by ranking return."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from shoal._decoding import Columns
from shoal._ranking import Selected
from shoal._rendering import render_html, render_text
from shoal.results import StoredMetadata, Vectors
from shoal.v1 import ranking_pb2

__all__ = ["SearchResult"]

_ROW_KEYS: Final = {
    "documents": "document",
    "embeddings": "embedding",
    "metadatas": "metadata",
    "uris": "uri",
    "scores": "score",
}

ScoreOrder = Literal["ascending", "descending"]


class SearchResult(dict[str, Any]):
    """What searches found, best first, one list for each. All keys are always there.

    `ids`, `documents`, `embeddings`, `metadatas`, `uris`, `scores`: one entry for each search,
    which is None where the search did not select the column. `select`: what each selected.
    `score_order`: ``ascending`` where lower scores are better, ``descending`` where higher ones
    are.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["ids", "select"], /) -> list[list[str]]: ...
        @overload
        def __getitem__(
            self, key: Literal["documents", "uris"], /
        ) -> list[list[str | None] | None]: ...
        @overload
        def __getitem__(self, key: Literal["embeddings"], /) -> list[Vectors | None]: ...
        @overload
        def __getitem__(
            self, key: Literal["metadatas"], /
        ) -> list[list[StoredMetadata | None] | None]: ...
        @overload
        def __getitem__(self, key: Literal["scores"], /) -> list[list[float] | None]: ...
        @overload
        def __getitem__(self, key: Literal["score_order"], /) -> ScoreOrder: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def rows(self) -> list[list[dict[str, Any]]]:
        """For each search one dict for each record, with what was selected."""
        return [
            [
                {"id": record_id}
                | {
                    name: self[column][search][place]
                    for column, name in _ROW_KEYS.items()
                    if self[column][search] is not None
                }
                for place, record_id in enumerate(ids)
            ]
            for search, ids in enumerate(self["ids"])
        ]

    def __repr__(self) -> str:
        parts = [f"SearchResult, scores {self['score_order']}"]
        for search, rows in enumerate(self.rows()):
            parts += [f"search {search}: {len(rows)} found", render_text(rows)]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>search {search}: {html.escape(str(len(rows)))} found</p>" + render_html(rows)
            for search, rows in enumerate(self.rows())
        )


def search_result(
    answers: Sequence[ranking_pb2.RankedRecords],
    selected: Sequence[Selected],
    dimension: int | None,
    score_order: ScoreOrder,
) -> SearchResult:
    """Make the result of some searches.

    Args:
        answers: One for each search.
        selected: What each asked for.
        dimension: Of the collection.
        score_order: Of all of them.
    """
    result = SearchResult(
        ids=[],
        documents=[],
        embeddings=[],
        metadatas=[],
        uris=[],
        scores=[],
        select=[list(own.select) for own in selected],
        score_order=score_order,
    )
    for answer, own in zip(answers, selected, strict=True):
        columns = Columns(own.include)
        columns.extend(answer.records)
        found: dict[str, Any] = {
            "documents": columns.documents,
            "metadatas": columns.metadatas,
            "uris": columns.uris,
        }
        result["ids"].append(columns.ids)
        result["scores"].append(list(answer.scores) if own.scores else None)
        if "embeddings" in own.include:
            result["embeddings"].append(columns.all_vectors(dimension))
        else:
            result["embeddings"].append(None)
        for name, column in found.items():
            result[name].append(column if name in own.include else None)
    return result
