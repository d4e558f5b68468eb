"""Tables of other libraries, in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import shoal
from shoal import results
from shoal._tables import ColumnNames, from_arrow, from_dataframe

NAMES = ColumnNames("id", "embedding", "document", "uri", None)
COLUMNS: dict[str, list[Any]] = {
    "id": ["a", "b"],
    "embedding": [[1.0, 2.0], [3.0, 4.0]],
    "document": ["one", None],
    "year": [2001, 2002],
    "tag": ["x", None],
}


def _check(records: Any) -> None:
    assert records.ids == ["a", "b"]
    assert np.asarray(records.embeddings).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert records.documents == ["one", None]
    assert records.uris is None
    assert records.metadatas == [{"year": 2001, "tag": "x"}, {"year": 2002}]
    assert type(records.metadatas[0]["year"]) is int


def _get_result() -> results.GetResult:
    return results.GetResult(
        ids=["a", "b"],
        embeddings=np.array([[1, 2], [3, 4]], np.float32),
        documents=["one", None],
        uris=None,
        data=None,
        metadatas=[{"n": 1}, None],
        included=["embeddings", "documents", "metadatas"],
    )


def _query_result() -> results.QueryResult:
    return results.QueryResult(
        ids=[["a"], [], ["b", "a"]],
        embeddings=None,
        documents=[["one"], [], [None, "one"]],
        uris=None,
        data=None,
        metadatas=None,
        distances=[[0.5], [], [0.0, 1.5]],
        included=["documents", "distances"],
    )


def test_pandas_in() -> None:
    _check(from_dataframe(pandas.DataFrame(COLUMNS), NAMES))
    frame = pandas.DataFrame({"key": ["a"], "n": [np.nan], "t": [pandas.NaT]})
    records = from_dataframe(frame, ColumnNames("key", "e", "d", "u", None))
    assert records.metadatas == [None]


def test_pandas_out() -> None:
    frame = _get_result().to_pandas()
    assert list(frame.columns) == ["id", "embedding", "document", "metadata"]
    assert frame["embedding"][1].tolist() == [3.0, 4.0]
    frame = _query_result().to_pandas()
    assert frame["query"].tolist() == [0, 2, 2]
    assert frame["distance"].tolist() == [0.5, 0.0, 1.5]


def test_polars_in() -> None:
    frame = polars.DataFrame(COLUMNS)
    records = from_dataframe(frame, NAMES)
    _check(records)
    assert isinstance(records.embeddings, np.ndarray)
    fixed = frame.with_columns(polars.col("embedding").cast(polars.Array(polars.Float32, 2)))
    _check(from_dataframe(fixed, NAMES))
    ragged = polars.DataFrame({"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]})
    assert from_dataframe(ragged, NAMES).embeddings == [[1.0], [1.0, 2.0]]


def test_arrow_in() -> None:
    table = pyarrow.table(COLUMNS)
    for given in (
        table,
        table.to_batches()[0],
        pyarrow.concat_tables([table.slice(0, 1), table.slice(1, 1)]),
        table.set_column(
            1,
            "embedding",
            pyarrow.array(COLUMNS["embedding"], pyarrow.list_(pyarrow.float32(), 2)),
        ),
    ):
        records = from_arrow(given, NAMES)
        _check(records)
        assert isinstance(records.embeddings, np.ndarray)
    sliced = from_arrow(table.slice(1, 1), NAMES)
    assert np.asarray(sliced.embeddings).tolist() == [[3.0, 4.0]]


def test_arrow_out() -> None:
    table = _get_result().to_arrow()
    assert table.column("embedding").type == pyarrow.list_(pyarrow.float32(), 2)
    assert table.column("document").to_pylist() == ["one", None]
    assert table.column("metadata").to_pylist() == [{"n": 1}, None]
    assert _query_result().to_arrow().column("query").to_pylist() == [0, 2, 2]


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(shoal.InvalidArgumentError, match="pandas or polars DataFrame"):
        from_dataframe({"id": ["a"]}, NAMES)
    with pytest.raises(shoal.InvalidArgumentError, match="pyarrow Table"):
        from_arrow([1], NAMES)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(shoal.InvalidArgumentError, match="no column 'id'"):
        from_dataframe(pandas.DataFrame({"x": [1]}), NAMES)
    names = ColumnNames("id", "embedding", "document", "uri", ["nothing"])
    with pytest.raises(shoal.InvalidArgumentError, match="no column 'nothing'"):
        from_dataframe(pandas.DataFrame({"id": ["a"]}), names)


def test_tables_are_written(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    assert books.upsert_dataframe(pandas.DataFrame(COLUMNS)).added == 2
    assert books.add_arrow(pyarrow.table({**COLUMNS, "id": ["b", "c"]})).added == 1
    found = books.get(include=["embeddings", "metadatas", "documents"])
    assert found["ids"] == ["a", "b", "c"]
    assert found["metadatas"] == [{"year": 2001, "tag": "x"}, {"year": 2002}, {"year": 2002}]
    assert found["documents"] == ["one", None, None]


def test_what_was_read_can_be_written_again(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    books.add(
        ["a", "b"], [[1, 2], [3, 4]], [{"n": 1, "t": ["x"]}, None], ["one", None], ["u", None]
    )
    included = ["embeddings", "metadatas", "documents", "uris"]
    found = books.get(include=included)
    frame, table = found.to_pandas(), found.to_arrow()
    writes: list[tuple[str, Any]] = [
        ("upsert_dataframe", frame),
        ("upsert_dataframe", frame.set_index("id")),
        ("upsert_dataframe", polars.from_arrow(table)),
        ("add_arrow", table),
    ]
    for number, (method, given) in enumerate(writes):
        copy = client.create_collection(f"copy-{number}", embedding_function=None)
        assert getattr(copy, method)(given).added == 2
        assert repr(copy.get(include=included)) == repr(found)
        assert copy.get()["metadatas"] == [{"n": 1, "t": ["x"]}, None]


def test_metadata_that_no_arrow_type_holds_is_named() -> None:
    found = _get_result()
    found["metadatas"] = [{"n": 1}, {"n": "one"}]
    with pytest.raises(shoal.InvalidArgumentError, match="'n' holds int and str"):
        found.to_arrow()
    found["metadatas"] = [{"n": 1}, {"n": 2.5, "m": True}]
    assert found.to_arrow().column("metadata").to_pylist() == [
        {"n": 1.0, "m": None},
        {"n": 2.5, "m": True},
    ]


def test_a_result_of_nothing_is_a_table_of_nothing(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    included = ["embeddings", "metadatas", "documents"]
    assert books.get(include=included).to_arrow().num_rows == 0
    assert len(books.get(include=included).to_pandas()) == 0
    found = books.query([[1, 2], [3, 4]], include=[*included, "distances"])
    assert found.to_arrow().num_rows == 0
    assert found.rows() == [[], []]
