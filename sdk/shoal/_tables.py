"""Tables of other libraries (pandas, polars, pyarrow), in and out.

The libraries are imported only here, and only by who passes or wants one of theirs. Vectors go from
column to array whole, not number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shoal import errors
from shoal.embedding_functions._extras import import_extra
from shoal.wire.sparse import SparseVector
from shoal.wire.validation import invalid

# The column of dicts that results have, and that so can be written again.
_METADATA: Final = "metadata"

_HOW: Final = "pip install 'shoal[{extra}]'"


def to_pandas_frame(columns: Mapping[str, Any]) -> Any:
    """Make a pandas DataFrame of columns; a vector is a cell."""
    pandas = import_extra("pandas", "to_pandas()", _HOW.format(extra="pandas"))
    return pandas.DataFrame(
        {name: list(column) if name == "embedding" else column for name, column in columns.items()}
    )


def to_arrow_table(columns: Mapping[str, Any]) -> Any:
    """Make a pyarrow Table of columns.

    Raises:
        InvalidArgumentError: Under one key of the metadata are values of types that no type of
            Arrow's can hold together.
    """
    pyarrow = import_extra("pyarrow", "to_arrow()", _HOW.format(extra="arrow"))
    arrays = {}
    for name, column in columns.items():
        if name == "embedding":
            flat = pyarrow.array(np.ascontiguousarray(column).reshape(-1))
            # An Arrow list of width 0 cannot be empty; its type only matters where there is one.
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, max(column.shape[1], 1))
        elif name in ("document", "uri", "id"):
            arrays[name] = pyarrow.array(column, pyarrow.string())
        elif name == "distance":
            arrays[name] = pyarrow.array(column, pyarrow.float64())
        elif name == "metadata":
            arrays[name] = _metadata_array(pyarrow, column)
        else:
            arrays[name] = pyarrow.array(column, pyarrow.int64())
    return pyarrow.table(arrays)


def _metadata_array(pyarrow: Any, rows: Sequence[Mapping[str, Any] | None]) -> Any:
    try:
        return pyarrow.array([None if row is None else _plain(row) for row in rows])
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise errors.InvalidArgumentError(
            f"{_mixed_keys(rows)}, for which Arrow has no type; take rows() or to_pandas(), or "
            f"leave metadatas out of include ({error})"
        ) from None


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give metadata with sparse vectors as structs."""
    if not any(isinstance(value, SparseVector) for value in row.values()):
        return row
    return {
        key: {"indices": value.indices, "values": value.values}
        if isinstance(value, SparseVector)
        else value
        for key, value in row.items()
    }


def _mixed_keys(rows: Sequence[Mapping[str, Any] | None]) -> str:
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for key, value in (row or {}).items():
            kinds.setdefault(key, set()).add(type(value).__name__)
    mixed = [
        f"metadata {key!r} holds {' and '.join(sorted(of))}"
        for key, of in kinds.items()
        if len(of) > 1
    ]
    return "; ".join(mixed[:3]) or "metadata holds lists of several types"


@dataclass(frozen=True, slots=True)
class TableRecords:
    """Columns of a table, as the arguments of a write."""

    ids: list[str]
    embeddings: Any
    metadatas: list[dict[str, Any] | None] | None
    documents: list[str | None] | None
    uris: list[str | None] | None


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Which columns of a table hold what.

    Attributes:
        id: Of the IDs.
        embedding: Of the vectors; may be missing.
        document: Of the documents; may be missing.
        uri: Of the URIs; may be missing.
        metadata: Each a key of the metadata; None: all others.
    """

    id: str
    embedding: str
    document: str
    uri: str
    metadata: Sequence[str] | None


def from_dataframe(frame: Any, names: ColumnNames) -> TableRecords:
    """Take records from a pandas or polars DataFrame.

    Raises:
        InvalidArgumentError: It is neither, or lacks a column.
    """
    library = type(frame).__module__.partition(".")[0]
    if library == "pandas":
        if names.id not in frame.columns and frame.index.name == names.id:
            frame = frame.reset_index()
        return _records(
            [str(c) if isinstance(c, str) else c for c in frame.columns],
            lambda name: frame[name].tolist(),
            lambda name: frame[name].tolist(),
            names,
        )
    if library == "polars":
        return _records(
            list(frame.columns),
            lambda name: frame[name].to_list(),
            lambda name: _polars_vectors(frame[name]),
            names,
        )
    raise errors.InvalidArgumentError(
        f"a pandas or polars DataFrame is needed, got {type(frame).__name__}"
    )


def from_arrow(table: Any, names: ColumnNames) -> TableRecords:
    """Take records from a pyarrow Table or RecordBatch.

    Raises:
        InvalidArgumentError: It is neither, or lacks a column.
    """
    if type(table).__module__.partition(".")[0] != "pyarrow" or not hasattr(table, "column_names"):
        raise errors.InvalidArgumentError(
            f"a pyarrow Table or RecordBatch is needed, got {type(table).__name__}"
        )
    return _records(
        list(table.column_names),
        lambda name: table.column(name).to_pylist(),
        lambda name: _arrow_vectors(table.column(name)),
        names,
    )


def _records(
    columns: list[Any],
    values_of: Callable[[str], list[Any]],
    vectors_of: Callable[[str], Any],
    names: ColumnNames,
) -> TableRecords:
    def texts_of(name: str) -> list[str | None] | None:
        if name not in columns:
            return None
        return [None if _is_missing(value) else value for value in values_of(name)]

    if names.id not in columns:
        raise invalid("ids", f"the table has no column {names.id!r}, which holds the IDs")
    own = (names.id, names.embedding, names.document, names.uri)
    keys = [c for c in columns if c not in own] if names.metadata is None else list(names.metadata)
    for key in keys:
        if key not in columns:
            raise invalid("metadatas", f"the table has no column {key!r}")
        if not isinstance(key, str):
            raise invalid("metadatas", f"column {key!r} has no name that is a string")
    ids = values_of(names.id)
    metadatas = None
    if keys:
        cells = [values_of(key) for key in keys]
        metadatas = [
            _metadata_row(keys, [column[position] for column in cells])
            for position in range(len(ids))
        ]
    return TableRecords(
        ids,
        vectors_of(names.embedding) if names.embedding in columns else None,
        metadatas,
        texts_of(names.document),
        texts_of(names.uri),
    )


def _metadata_row(keys: Sequence[str], values: Sequence[Any]) -> dict[str, Any] | None:
    """Metadata of one row: a cell without a value leaves its key out."""
    row: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if key == _METADATA and isinstance(value, Mapping):
            row |= {k: v for k, v in value.items() if not _is_missing(v)}
        elif not _is_missing(value):
            row[key] = value
    return row or None


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    # pandas.NA and NaT, without importing pandas.
    return type(value).__name__ in ("NAType", "NaTType")


def _polars_vectors(series: Any) -> Any:
    if series.null_count():
        return series.to_list()
    kind = type(series.dtype).__name__
    if kind == "Array":
        return series.to_numpy()
    if kind == "List":
        lengths = series.list.len()
        if len(series) and lengths.min() == lengths.max() and lengths[0]:
            return series.explode().to_numpy().reshape(len(series), lengths[0])
    return series.to_list()


def _arrow_vectors(column: Any) -> Any:
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    kind = str(array.type)
    if array.null_count or not len(array) or "list" not in kind:
        return array.to_pylist()
    flat = array.flatten()
    if flat.null_count or len(flat) % len(array):
        return array.to_pylist()
    if not kind.startswith("fixed_size_list"):
        offsets = array.offsets.to_numpy()
        if len(set(np.diff(offsets).tolist())) != 1:
            return array.to_pylist()
    return flat.to_numpy(zero_copy_only=False).reshape(len(array), -1)
