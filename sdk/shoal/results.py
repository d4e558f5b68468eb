"""What reads and writes return: dicts with their keys always there, and methods on top.

Columns follow Chroma's shapes: lists of equal length, nested once more for queries. A column that
was not asked for is None.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, overload

import numpy as np
import numpy.typing as npt

from shoal._rendering import render_html, render_text
from shoal._tables import to_arrow_table, to_pandas_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "DeleteResult",
    "GetResult",
    "IdPage",
    "QueryPlan",
    "QueryResult",
    "Row",
    "ShardPlan",
    "UnsearchedShard",
    "UpdateWhereResult",
    "WriteResult",
]

StoredMetadata = dict[str, Any]
"""A record's metadata as it is stored: str, int, float, bool, or lists of one of these."""

Vectors = npt.NDArray[np.float32]

# Column of a result -> key of a row.
_ROW_KEYS: Final = {
    "embeddings": "embedding",
    "documents": "document",
    "uris": "uri",
    "metadatas": "metadata",
    "distances": "distance",
}


class Row(TypedDict, total=False):
    """One record of a result; holds what was included."""

    id: str
    embedding: Vectors
    document: str | None
    uri: str | None
    metadata: StoredMetadata | None
    distance: float


class UnsearchedShard(TypedDict):
    """A shard that is missing from an answer which may be partial."""

    shard_id: str
    reason: str
    message: str


class ShardPlan(TypedDict):
    """How one shard answered a query.

    Attributes:
        shard_id: The shard.
        worker_id: The worker that holds it.
        method: ``nothing``, ``exact`` or ``graph``.
        record_count: Records in the shard.
        matching_count: Of these, those that match the filters.
        fresh_count: Records not yet in the graph.
        candidate_count: Candidates whose exact distance was computed, over all queries.
        examined_count: Records that were looked at to tell whether they match, because no index
            could tell.
        seconds: Time in the worker.
        filter_seconds: Of this, what finding the matching records took.
        sequence: Position of the shard's last write that the answer includes.
    """

    shard_id: str
    worker_id: str
    method: str
    record_count: int
    matching_count: int
    fresh_count: int
    candidate_count: int
    examined_count: int
    seconds: float
    filter_seconds: float
    sequence: int


class QueryPlan(TypedDict):
    """How a query was answered.

    Attributes:
        shards: One for each shard that was asked.
        match_shards: For each query, for each match, the ID of its shard.
        gateway_seconds: Time in the gateway, from the decoded request to the merged answer.
    """

    shards: list[ShardPlan]
    match_shards: list[list[str]]
    gateway_seconds: float


class _CountResult(dict[str, int]):
    """Counts by name."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={count:,}" for name, count in self.items())
        return f"{type(self).__name__}({counts})"


class WriteResult(_CountResult):
    """What became of the records of an add, upsert or update."""

    def __init__(self, *, added: int = 0, updated: int = 0, ignored: int = 0) -> None:
        super().__init__(added=added, updated=updated, ignored=ignored)

    @property
    def added(self) -> int:
        """Records that were new."""
        return self["added"]

    @property
    def updated(self) -> int:
        """Records that existed and were merged into."""
        return self["updated"]

    @property
    def ignored(self) -> int:
        """Records left out: for add those that exist, for update those that do not."""
        return self["ignored"]


class DeleteResult(_CountResult):
    """What a delete did."""

    def __init__(self, *, deleted: int) -> None:
        super().__init__(deleted=deleted)

    @property
    def deleted(self) -> int:
        """Records that existed and are gone."""
        return self["deleted"]


class UpdateWhereResult(_CountResult):
    """What an update by filter did."""

    def __init__(self, *, matched: int, updated: int) -> None:
        super().__init__(matched=matched, updated=updated)

    @property
    def matched(self) -> int:
        """Records that match."""
        return self["matched"]

    @property
    def updated(self) -> int:
        """Records that were changed."""
        return self["updated"]


class IdPage(list[str]):
    """IDs in order of insertion, and where to go on.

    Attributes:
        next_page_token: For the next call; None if these were all.
    """

    def __init__(self, ids: Sequence[str], next_page_token: str | None) -> None:
        super().__init__(ids)
        self.next_page_token = next_page_token


class GetResult(dict[str, Any]):
    """Records, in order of insertion. All keys are always there.

    `ids`; `embeddings`, one float32 array of shape ``(n, d)``; `documents`, `uris` and `metadatas`,
    lists with None for a record that has none; `data`, which is always None; `included`.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["ids"], /) -> list[str]: ...
        @overload
        def __getitem__(self, key: Literal["embeddings"], /) -> Vectors | None: ...
        @overload
        def __getitem__(self, key: Literal["documents", "uris"], /) -> list[str | None] | None: ...
        @overload
        def __getitem__(
            self, key: Literal["metadatas"], /
        ) -> list[StoredMetadata | None] | None: ...
        @overload
        def __getitem__(self, key: Literal["data"], /) -> None: ...
        @overload
        def __getitem__(self, key: Literal["included"], /) -> list[str]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def rows(self) -> list[Row]:
        """One dict for each record, with what was included."""
        return _rows(self, self["ids"])

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame: `id`, a column for each that was included."""
        return to_pandas_frame(self._columns())

    def to_arrow(self) -> pa.Table:
        """A pyarrow Table; embeddings as a fixed-size list of float32, metadata as a struct."""
        return to_arrow_table(self._columns())

    def _columns(self) -> dict[str, Any]:
        return _flat_columns(self)

    def __repr__(self) -> str:
        return f"GetResult of {_plural(len(self['ids']), 'record')}\n" + render_text(self.rows())

    def _repr_html_(self) -> str:
        return f"<p>{_plural(len(self['ids']), 'record')}</p>" + render_html(self.rows())


class QueryResult(dict[str, Any]):
    """Matches, one list for each query, nearest first. All keys are always there.

    As a `GetResult`, nested once more: `embeddings` is a list of arrays, one of shape ``(n, d)``
    for each query; and `distances`, smaller is nearer. `plan` is there if it was asked for, and
    `unsearched_shards` if the answer may be partial.
    """

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: Literal["ids"], /) -> list[list[str]]: ...
        @overload
        def __getitem__(self, key: Literal["embeddings"], /) -> list[Vectors] | None: ...
        @overload
        def __getitem__(
            self, key: Literal["documents", "uris"], /
        ) -> list[list[str | None]] | None: ...
        @overload
        def __getitem__(
            self, key: Literal["metadatas"], /
        ) -> list[list[StoredMetadata | None]] | None: ...
        @overload
        def __getitem__(self, key: Literal["distances"], /) -> list[list[float]] | None: ...
        @overload
        def __getitem__(self, key: Literal["data"], /) -> None: ...
        @overload
        def __getitem__(self, key: Literal["included"], /) -> list[str]: ...
        @overload
        def __getitem__(self, key: Literal["plan"], /) -> QueryPlan: ...
        @overload
        def __getitem__(self, key: Literal["unsearched_shards"], /) -> list[UnsearchedShard]: ...
        @overload
        def __getitem__(self, key: str, /) -> Any: ...
        def __getitem__(self, key: str, /) -> Any: ...

    def rows(self) -> list[list[Row]]:
        """For each query one dict for each match, with what was included."""
        return [_rows(self, ids, query) for query, ids in enumerate(self["ids"])]

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame of all matches; `query` is the position of the query."""
        return to_pandas_frame(self._columns())

    def to_arrow(self) -> pa.Table:
        """A pyarrow Table of all matches; `query` is the position of the query."""
        return to_arrow_table(self._columns())

    def _columns(self) -> dict[str, Any]:
        numbers = [query for query, ids in enumerate(self["ids"]) for _ in ids]
        flat: dict[str, Any] = {"ids": [i for ids in self["ids"] for i in ids]}
        for column in _ROW_KEYS:
            nested = self[column]
            if column == "embeddings" and nested is not None:
                filled = [part for part in nested if len(part)]
                flat[column] = np.concatenate(filled) if filled else np.empty((0, 0), np.float32)
            else:
                flat[column] = (
                    None if nested is None else [item for part in nested for item in part]
                )
        return {"query": numbers, **_flat_columns(flat)}

    def __repr__(self) -> str:
        parts = [f"QueryResult of {_plural(len(self['ids']), 'query', 'queries')}"]
        for query, rows in enumerate(self.rows()):
            parts.append(f"query {query}: {_plural(len(rows), 'match', 'matches')}")
            parts.append(render_text(rows))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>query {query}: {html.escape(_plural(len(rows), 'match', 'matches'))}</p>"
            + render_html(rows)
            for query, rows in enumerate(self.rows())
        )


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _rows(result: dict[str, Any], ids: list[str], query: int | None = None) -> list[Row]:
    columns = {
        key: column if query is None else column[query]
        for name, key in _ROW_KEYS.items()
        if (column := result.get(name)) is not None
    }
    return [
        # The keys are those of Row, which a type checker cannot follow.
        {"id": record_id, **{key: column[i] for key, column in columns.items()}}  # type: ignore[typeddict-item]
        for i, record_id in enumerate(ids)
    ]


def _flat_columns(result: dict[str, Any]) -> dict[str, Any]:
    return {"id": result["ids"]} | {
        key: column for name, key in _ROW_KEYS.items() if (column := result.get(name)) is not None
    }
