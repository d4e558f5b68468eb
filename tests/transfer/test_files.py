"""Collections as files: what is exported comes back the same, and what is wrong is named."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shoal
from shoal.transfer import Columns, export_collection, import_collection

EVERYTHING: Any = ("embeddings", "metadatas", "documents", "uris")

VALUES: list[Any] = [
    {"whole": 2**63 - 1, "small": -(2**63), "real": 1.0, "tiny": 5e-324, "yes": True},
    None,
    {"texts": ["a", "ü \u2028 \U0001f41f"], "wholes": [1, 2**53 + 1], "reals": [0.1, 1e300]},
    {"mixed": 1},
    {"mixed": 1.0},
    {"mixed": True, "truths": [True, False]},
    {"mixed": "1"},
]


@pytest.fixture
def client() -> Iterator[shoal.Client]:
    with shoal.EphemeralClient() as client:
        yield client


def _vectors(count: int, dimension: int) -> Any:
    bits = np.random.default_rng(5).integers(0, 2**32, (count, dimension), np.uint32)
    vectors = bits.view(np.float32)
    # Any bits that a vector may have, subnormal ones too; huge ones have no finite norm.
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(vectors) & (np.abs(vectors) < 1e18)
    return np.where(usable, vectors, np.float32(0.1))


def _source(client: shoal.Client, count: int = 2_500) -> shoal.Collection:
    books = client.create_collection(
        "books",
        {"hnsw": {"space": "cosine", "ef_search": 77, "shards": 2}},
        {"owner": "me", "year": 2026},
        embedding_function=None,
    )
    books.add(
        [f"id \u00e9 {i}" for i in range(count)],
        _vectors(count, 3),
        [VALUES[i % len(VALUES)] for i in range(count)],
        [None if i % 3 == 0 else f"line\nof {i} \u2029" for i in range(count)],
        [f"u:{i}" if i % 2 else None for i in range(count)],
    )
    return books


def _same(one: shoal.Collection, other: shoal.Collection) -> bool:
    a, b = one.get(include=EVERYTHING), other.get(include=EVERYTHING)
    vectors = a.pop("embeddings").tobytes() == b.pop("embeddings").tobytes()
    kinds = [
        [[(key, type(value)) for key, value in (found or {}).items()] for found in of]
        for of in (a["metadatas"] or [], b["metadatas"] or [])
    ]
    return vectors and kinds[0] == kinds[1] and bool(a == b)


@pytest.mark.parametrize("name", ["books.parquet", "books.jsonl", "books.ndjson"])
def test_what_is_exported_comes_back_the_same(
    client: shoal.Client, tmp_path: Path, name: str
) -> None:
    books = _source(client)
    done = export_collection(books, tmp_path / name)
    assert (done.collection, done.count) == ("books", 2_500)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    again = import_collection(client, tmp_path / name, "again")
    assert (again.count, again.added, again.updated) == (2_500, 2_500, 0)
    copy = client.get_collection("again")
    assert _same(books, copy)
    assert copy.metadata == books.metadata
    assert copy.configuration == books.configuration
    with pytest.raises(shoal.CollectionExistsError):
        import_collection(client, tmp_path / name)
    repeated = import_collection(client, tmp_path / name, into_existing=True)
    assert (repeated.added, repeated.updated) == (0, 2_500)
    assert _same(books, copy)


@pytest.mark.parametrize("name", ["sparse.parquet", "sparse.jsonl"])
def test_sparse_vectors_come_back_the_same(client: shoal.Client, tmp_path: Path, name: str) -> None:
    papers = client.create_collection(
        "papers", {"sparse_vectors": {"terms": {"idf": True}}}, embedding_function=None
    )
    vectors = [shoal.SparseVector([2**32 - 1, 7], [0.1, 1e-40]), shoal.SparseVector([0], [-3.5])]
    papers.add(["a", "b"], [[1, 0], [0, 1]], [{"terms": v, "n": 1} for v in vectors])
    export_collection(papers, tmp_path / name)
    import_collection(client, tmp_path / name, "again")
    again = client.get_collection("again")
    assert again.get()["metadatas"] == papers.get()["metadatas"]
    assert again.configuration == papers.configuration


@pytest.mark.parametrize("name", ["empty.parquet", "empty.jsonl"])
@pytest.mark.parametrize("dimension", [None, 4])
def test_an_empty_collection(
    client: shoal.Client, tmp_path: Path, name: str, dimension: int | None
) -> None:
    hnsw = {"dimension": dimension} if dimension else {}
    empty = client.create_collection("empty", {"hnsw": hnsw}, embedding_function=None)
    assert export_collection(empty, tmp_path / name).count == 0
    import_collection(client, tmp_path / name, "again")
    again = client.get_collection("again")
    assert again.count() == 0
    assert again.dimension == dimension


def test_filters_choose_what_is_exported(client: shoal.Client, tmp_path: Path) -> None:
    books = _source(client, 70)
    export_collection(books, tmp_path / "some.parquet", {"mixed": {"$eq": "1"}})
    import_collection(client, tmp_path / "some.parquet", "some")
    some = client.get_collection("some").get()
    assert some["ids"] == books.get(where={"mixed": "1"})["ids"]
    assert len(some["ids"]) == 10
    export_collection(books, tmp_path / "some.jsonl", where_document={"$contains": "of 4"})
    assert len((tmp_path / "some.jsonl").read_bytes().splitlines()) - 1 == books.count(
        where_document={"$contains": "of 4"}
    )


def test_standard_output_and_input(client: shoal.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    books = _source(client, 20)
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    export_collection(books, "-")
    monkeypatch.undo()
    text = out.buffer.getvalue()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    import_collection(client, "-", "again")
    assert _same(books, client.get_collection("again"))


def test_a_failed_export_leaves_the_old_file(client: shoal.Client, tmp_path: Path) -> None:
    books = _source(client, 20)
    target = tmp_path / "books.parquet"
    export_collection(books, target)
    before = target.read_bytes()
    client.delete_collection("books")
    with pytest.raises(shoal.CollectionNotFoundError):
        export_collection(books, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["books.parquet"]
    with pytest.raises(shoal.InvalidArgumentError, match=r"\.csv must end in \.parquet"):
        export_collection(books, tmp_path / "books.csv")
    with pytest.raises(shoal.InvalidArgumentError, match="cannot be written"):
        export_collection(books, tmp_path / "missing" / "books.jsonl")


def test_json_lines_from_elsewhere(client: shoal.Client, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(
        '{"id": "a", "embedding": [1, 0], "metadata": {"n": 1}}\n\n'
        '{"id": "b", "embedding": [0, 1.5], "document": "two"}\n'
    )
    with pytest.raises(shoal.InvalidArgumentError, match="say what the new one is to be called"):
        import_collection(client, file)
    import_collection(client, file, "some", configuration={"hnsw": {"space": "ip"}})
    some = client.get_collection("some")
    found = some.get(include=EVERYTHING)
    assert found["ids"] == ["a", "b"]
    assert np.asarray(found["embeddings"]).tolist() == [[1, 0], [0, 1.5]]
    assert found["metadatas"] == [{"n": 1}, None]
    assert found["documents"] == [None, "two"]
    assert some.configuration["hnsw"]["space"] == "ip"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3 is no JSON"),
        ("[1]", "line 3 is no object, but list"),
        ('{"embedding": [1, 2]}', "line 3 has no id that is a string"),
        ('{"id": "c", "vector": [1, 2]}', "line 3 has 'vector'"),
        ('{"id": "c", "embedding": [1, "x"]}', "lines 1 to 3: every embedding must be a list"),
        ('{"id": "c", "embedding": [1]}', "lines 1 to 3: every embedding must be a list"),
        ('{"id": "c"}', "lines 1 to 3: every embedding must be a list"),
        ('{"id": "a", "embedding": [1, 2]}', "'a'"),
        ('{"id": "c", "embedding": [1, 2], "metadata": {"n": null, "m": {}}}', "'m'"),
    ],
)
def test_what_is_wrong_in_a_line_is_named(
    client: shoal.Client, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(
        '{"id": "a", "embedding": [1, 0]}\n{"id": "b", "embedding": [0, 1]}\n' + line + "\n"
    )
    with pytest.raises(shoal.ShoalError, match=message):
        import_collection(client, file, "some")
    assert client.get_collection("some").count() == 0


def test_a_later_failure_says_how_far_it_came(client: shoal.Client, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    lines = [json.dumps({"id": str(i), "embedding": [1, i]}) for i in range(1_500)]
    file.write_text("\n".join(lines) + '\n{"id"')
    with pytest.raises(shoal.PartialWriteError, match="1,000 records are in 'some'") as failure:
        import_collection(client, file, "some")
    assert failure.value.written_count == 1_000
    file.write_text("\n".join(lines))
    done = import_collection(client, file, "some", into_existing=True)
    assert (done.added, done.updated) == (500, 1_000)


def test_damaged_and_newer_files(client: shoal.Client, tmp_path: Path) -> None:
    books = _source(client, 2_500)
    file = tmp_path / "books.parquet"
    export_collection(books, file)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-10], whole[: len(whole) // 2] + whole[-10_000:]):
        file.write_bytes(damaged)
        with pytest.raises(shoal.ShoalError):
            import_collection(client, file, "damaged")
        if client.has_collection("damaged"):
            client.delete_collection("damaged")
    with pytest.raises(shoal.InvalidArgumentError, match="no Parquet file"):
        import_collection(client, tmp_path / "missing.parquet", "x")
    with pytest.raises(shoal.InvalidArgumentError, match="cannot be read"):
        import_collection(client, tmp_path / "missing.jsonl", "x")
    newer = tmp_path / "newer.jsonl"
    newer.write_text('{"shoal_collection": {"format": 2, "collection": {"name": "x"}}}\n')
    with pytest.raises(shoal.InvalidArgumentError, match="is of format 2; this release reads 1"):
        import_collection(client, newer)
    newer.write_text('{"shoal_collection": {"format": 1, "collection": {"name": "x", "new": 1}}}\n')
    with pytest.raises(shoal.InvalidArgumentError, match="its header is damaged"):
        import_collection(client, newer)


def test_parquet_from_elsewhere(client: shoal.Client, tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": ["a", "b"],
            "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64())),
            "text": ["one", None],
            "year": [2025, None],
            "left_out": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "foreign.parquet")
    import_collection(
        client,
        tmp_path / "foreign.parquet",
        "foreign",
        columns=Columns(id="key", embedding="vector", document="text", metadata=["year"]),
    )
    found = client.get_collection("foreign").get(include=EVERYTHING)
    assert found["ids"] == ["a", "b"]
    assert np.asarray(found["embeddings"]).tolist() == [[1, 2], [3, 4]]
    assert found["documents"] == ["one", None]
    assert found["metadatas"] == [{"year": 2025}, None]


def test_an_embedding_function_that_is_not_known_here_is_kept(
    client: shoal.Client, tmp_path: Path
) -> None:
    def letters_counted(texts: list[str]) -> Any:
        return np.array([[len(text), 1] for text in texts], np.float32)

    source = client.create_collection("named", embedding_function=letters_counted)
    source.add(["a"], documents=["text"])
    export_collection(source, tmp_path / "named.parquet")
    import_collection(client, tmp_path / "named.parquet", "again")
    again = client.get_collection("again", embedding_function=letters_counted)
    assert again.configuration["embedding_function"] == source.configuration["embedding_function"]
    assert again.query(query_texts="text", n_results=1)["ids"] == [["a"]]
