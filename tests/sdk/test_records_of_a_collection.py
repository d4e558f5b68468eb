"""Writing and reading records, by every way in, on one shard and on several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import shoal
from tests.sdk.ways import EVERY_WAY

THREE = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


@pytest.fixture(params=EVERY_WAY)
def way(request: pytest.FixtureRequest) -> str:
    """Bare stubs are a way in, too."""
    name: str = request.param
    return name


def _three(books: Any) -> None:
    books.add(
        ["a", "b", "c"],
        THREE,
        [{"n": 1, "tag": "x"}, {"n": 2.5}, None],
        ["one", "two", None],
        ["u:a", None, None],
    )


def test_what_was_added_comes_back(books: Any) -> None:
    vectors = np.array([[0.1, 1 / 3], [1e-45, -0.0]], np.float32)
    result = books.add(
        ["a", "b"],
        vectors,
        [{"s": "é", "i": 2**63 - 1, "f": 2.0, "b": True, "l": [1, 2], "t": ["x"]}, None],
        ["one", ""],
        [None, "u"],
    )
    assert result == {"added": 2, "updated": 0, "ignored": 0}
    found = books.get(include=["embeddings", "metadatas", "documents", "uris"])
    assert found["ids"] == ["a", "b"]
    assert found["embeddings"].dtype == np.float32
    assert found["embeddings"].tobytes() == vectors.tobytes()
    metadata = found["metadatas"][0]
    assert metadata == {"s": "é", "i": 2**63 - 1, "f": 2.0, "b": True, "l": [1, 2], "t": ["x"]}
    assert {key: type(value) for key, value in metadata.items()} == {
        "s": str, "i": int, "f": float, "b": bool, "l": list, "t": list,
    }  # fmt: skip
    assert found["metadatas"][1] is None
    assert found["documents"] == ["one", ""]
    assert found["uris"] == [None, "u"]
    assert found["data"] is None
    assert found["included"] == ["embeddings", "metadatas", "documents", "uris"]


def test_all_keys_are_always_there(books: Any) -> None:
    _three(books)
    keys = {"ids", "embeddings", "documents", "uris", "data", "metadatas", "included"}
    assert set(books.get(include=[])) == keys
    assert set(books.query([1, 0], include=[])) == {*keys, "distances"}
    nothing = books.get(include=[])
    assert nothing["documents"] is nothing["metadatas"] is nothing["embeddings"] is None
    found = books.query([1, 0], n_results=1)
    assert found["embeddings"] is found["uris"] is None


def test_scalars_stand_for_lists_of_one(books: Any) -> None:
    assert books.add("a", [1, 2], {"x": 1}, "one", "u").added == 1
    assert books.get("a")["documents"] == ["one"]
    assert books.delete("a") == {"deleted": 1}


def test_add_leaves_what_exists(books: Any) -> None:
    _three(books)
    result = books.add(["b", "d"], [[9.0, 9.0], [8.0, 8.0]], [{"n": 9}, {"n": 8}], ["x", "y"])
    assert (result.added, result.ignored) == (1, 1)
    found = books.get(["b"], include=["embeddings", "metadatas", "documents"])
    assert found["embeddings"].tolist() == [[0.0, 1.0]]
    assert (found["metadatas"], found["documents"]) == ([{"n": 2.5}], ["two"])
    assert books.count() == 4


def test_upsert_merges_and_adds(books: Any) -> None:
    _three(books)
    result = books.upsert(
        ["a", "d"], [[5.0, 5.0], [6.0, 6.0]], [{"tag": None, "m": 3}, {"q": None, "r": 1}]
    )
    assert (result.added, result.updated) == (1, 1)
    found = books.get(include=["embeddings", "metadatas", "documents", "uris"])
    assert found["ids"] == ["a", "b", "c", "d"]
    assert found["metadatas"] == [{"n": 1, "m": 3}, {"n": 2.5}, None, {"r": 1}]
    assert found["documents"] == ["one", "two", None, None]
    assert found["uris"][0] == "u:a"
    assert found["embeddings"][0].tolist() == [5.0, 5.0]


def test_update_merges_and_ignores_what_is_unknown(books: Any) -> None:
    _three(books)
    result = books.update(["c", "nobody", "a"], metadatas=[{"n": 3}, {"n": 4}, {"n": None}])
    assert (result.updated, result.ignored) == (2, 1)
    assert books.get()["metadatas"] == [{"tag": "x"}, {"n": 2.5}, {"n": 3}]
    books.update("a", metadatas={"tag": None})
    assert books.get("a")["metadatas"] == [None]
    books.update("a", embeddings=[7, 7], uris="new")
    found = books.get("a", include=["embeddings", "documents", "uris"])
    assert found["embeddings"].tolist() == [[7.0, 7.0]]
    assert (found["documents"], found["uris"]) == (["one"], ["new"])


def test_an_update_of_nothing_counts_what_exists(books: Any) -> None:
    _three(books)
    assert books.update(["a", "nobody"]) == {"added": 0, "updated": 1, "ignored": 1}
    assert books.get("a")["metadatas"] == [{"n": 1, "tag": "x"}]


def test_none_leaves_a_key_out_of_an_added_record(books: Any) -> None:
    books.add(["a", "b"], [[1, 2], [3, 4]], [{"x": None, "y": 1}, {"x": None}])
    assert books.get()["metadatas"] == [{"y": 1}, None]


def test_the_order_is_that_of_insertion(books: Any) -> None:
    ids = [f"id{i}" for i in range(50)]
    books.add(ids[:25], np.ones((25, 2)))
    books.add(ids[25:], np.ones((25, 2)))
    assert books.get(include=[])["ids"] == ids
    assert books.get(list(reversed(ids)), include=[])["ids"] == ids
    books.update(ids[3], metadatas={"x": 1})
    books.upsert(ids[4], [5, 5])
    assert books.get(include=[])["ids"] == ids
    books.delete(ids[0])
    books.add(ids[0], [1, 1])
    assert books.get(include=[])["ids"] == [*ids[1:], ids[0]]


def test_limit_and_offset(books: Any) -> None:
    ids = [f"id{i:02}" for i in range(20)]
    books.add(ids, np.ones((20, 2)), [{"even": i % 2 == 0} for i in range(20)])
    assert books.get(limit=3)["ids"] == ids[:3]
    assert books.get(limit=3, offset=4)["ids"] == ids[4:7]
    assert books.get(offset=18)["ids"] == ids[18:]
    assert books.get(offset=99)["ids"] == []
    assert books.get(limit=0)["ids"] == []
    assert books.get(limit=99)["ids"] == ids
    assert books.get(where={"even": True}, limit=2, offset=1)["ids"] == ["id02", "id04"]
    assert books.get(ids[5:9], limit=2, offset=1)["ids"] == ids[6:8]
    empty = books.get(limit=0, include=["embeddings", "metadatas"])
    assert empty["embeddings"].shape[0] == 0
    assert empty["metadatas"] == []


def test_peek_and_count(books: Any) -> None:
    assert books.count() == 0
    _three(books)
    assert books.count() == 3
    assert books.count(where={"n": {"$gt": 1}}) == 1
    assert books.count(where_document={"$contains": "o"}) == 2
    peeked = books.peek(2)
    assert peeked["ids"] == ["a", "b"]
    assert peeked["embeddings"].shape == (2, 2)


def test_missing_ids_are_left_out(books: Any) -> None:
    _three(books)
    assert books.get(["nobody", "c"])["ids"] == ["c"]
    assert books.get("nobody")["ids"] == []


def test_iterate_walks_everything_in_order(books: Any) -> None:
    ids = [f"id{i}" for i in range(23)]
    books.add(ids, np.arange(46).reshape(23, 2), [{"n": i} for i in range(23)])
    batches = list(books.iterate(5, include=["embeddings"]))
    assert [i for batch in batches for i in batch["ids"]] == ids
    assert max(len(batch["ids"]) for batch in batches) <= 5
    assert np.concatenate([b["embeddings"] for b in batches])[22].tolist() == [44.0, 45.0]
    some = [i for batch in books.iterate(4, where={"n": {"$lt": 6}}) for i in batch["ids"]]
    assert some == ids[:6]


def test_list_ids_by_prefix_and_page(books: Any) -> None:
    ids = [f"{'ab'[i % 2]}-{i}" for i in range(11)]
    books.add(ids, np.ones((11, 2)))
    assert books.list_ids() == ids
    of_a = [i for i in ids if i.startswith("a")]
    assert books.list_ids(prefix="a") == of_a
    first = books.list_ids("a", limit=4)
    assert first == of_a[:4]
    rest = books.list_ids("a", limit=4, page_token=first.next_page_token)
    assert rest == of_a[4:]
    assert rest.next_page_token is None
    assert books.list_ids(limit=0) == []


def test_delete_says_what_was_really_deleted(books: Any) -> None:
    _three(books)
    assert books.delete(["a", "nobody"]) == {"deleted": 1}
    assert books.delete(["a"]).deleted == 0
    assert books.delete(where={"n": 2.5}).deleted == 1
    assert books.get()["ids"] == ["c"]
    assert books.delete(where_document={"$not_contains": "x"}).deleted == 1
    assert books.count() == 0


def test_delete_by_ids_and_filter_intersects_and_limit_takes_the_first(books: Any) -> None:
    ids = [f"id{i}" for i in range(10)]
    books.add(ids, np.ones((10, 2)), [{"n": i} for i in range(10)])
    assert books.delete(ids[:3], where={"n": {"$gte": 2}}).deleted == 1
    assert books.delete(where={"n": {"$gte": 3}}, limit=2).deleted == 2
    assert books.get(include=[])["ids"] == ["id0", "id1", *ids[5:]]
    assert books.delete(where={"n": {"$gte": 0}}, limit=0).deleted == 0


def test_update_where(books: Any) -> None:
    _three(books)
    assert books.update_where({"n": {"$gte": 1}}, {"seen": True}, dry_run=True) == {
        "matched": 2,
        "updated": 0,
    }
    assert books.update_where({"n": {"$gte": 1}}, {"seen": True, "n": None}).updated == 2
    assert books.get()["metadatas"] == [{"tag": "x", "seen": True}, {"seen": True}, None]
    found = books.update_where(None, {"d": 1}, where_document={"$contains": "one"})
    assert found.matched == 1


def test_a_query_gives_the_nearest_first(books: Any) -> None:
    _three(books)
    found = books.query([[1.0, 0.1], [0.0, 0.9]], n_results=2)
    assert found["ids"] == [["a", "c"], ["b", "c"]]
    assert found["documents"] == [["one", None], ["two", None]]
    assert found["metadatas"][1][0] == {"n": 2.5}
    assert found["distances"][0] == pytest.approx([0.01, 0.81], abs=1e-6)
    assert books.query([1, 0], n_results=99)["ids"] == [["a", "c", "b"]]


def test_a_query_with_embeddings_has_one_array_a_query(books: Any) -> None:
    _three(books)
    found = books.query(np.array(THREE[:2]), n_results=2, include=["embeddings"])
    assert [part.shape for part in found["embeddings"]] == [(2, 2), (2, 2)]
    assert found["embeddings"][0][0].tolist() == [1.0, 0.0]
    assert found["distances"] is None


def test_equal_distances_come_in_order_of_insertion(books: Any) -> None:
    ids = [f"id{i}" for i in range(30)]
    books.add(ids, np.ones((30, 2)))
    assert books.query([0, 0], n_results=12, include=[])["ids"] == [ids[:12]]


def test_an_empty_collection_gives_empty_lists(books: Any) -> None:
    found = books.query([[1, 2], [3, 4]], include=["embeddings", "distances", "documents"])
    assert found["ids"] == found["distances"] == found["documents"] == [[], []]
    assert [len(part) for part in found["embeddings"]] == [0, 0]


def test_a_query_among_ids_and_filters(books: Any) -> None:
    _three(books)
    assert books.query([1, 0], ids=["b", "c", "nobody", "b"])["ids"] == [["c", "b"]]
    assert books.query([1, 0], where={"n": {"$gt": 1}})["ids"] == [["b"]]
    assert books.query([1, 0], where_document={"$regex": "^o"})["ids"] == [["a"]]
    assert books.query([1, 0], ids=["a"], where={"n": 2.5})["ids"] == [[]]


def test_a_query_by_stored_records(books: Any) -> None:
    _three(books)
    assert books.query(query_ids=["b", "a"], n_results=1)["ids"] == [["b"], ["a"]]
    with pytest.raises(shoal.NotFoundError, match="nobody"):
        books.query(query_ids=["b", "nobody"])


def test_explain_tells_how_the_answer_was_found(books: Any, shards: int) -> None:
    _three(books)
    plan = books.query([[1, 0], [0, 1]], n_results=3, explain=True)["plan"]
    assert len(plan["shards"]) == shards
    assert sum(shard["record_count"] for shard in plan["shards"]) == 3
    known = {shard["shard_id"] for shard in plan["shards"]}
    assert [len(matches) for matches in plan["match_shards"]] == [3, 3]
    assert {shard for matches in plan["match_shards"] for shard in matches} <= known
    assert {shard["method"] for shard in plan["shards"]} <= {"exact", "nothing", "graph"}


def test_an_answer_that_may_be_partial_lists_what_is_missing(books: Any) -> None:
    _three(books)
    assert books.query([1, 0], allow_partial=True)["unsearched_shards"] == []


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_distances_are_exact(client: Any, shards: int, space: str) -> None:
    random = np.random.default_rng(7)
    stored = random.normal(size=(300, 24)).astype(np.float32)
    stored[5] = 0
    queries = random.normal(size=(4, 24)).astype(np.float32)
    books = client.create_collection(
        "spaces", {"hnsw": {"space": space, "shards": shards}}, embedding_function=None
    )
    books.add([str(i) for i in range(300)], stored)
    found = books.query(queries, n_results=300, include=["distances"])
    a, b = queries.astype(np.float64), stored.astype(np.float64)
    dots = a @ b.T
    if space == "l2":
        expected = ((a[:, None] - b[None]) ** 2).sum(-1)
    elif space == "ip":
        expected = 1 - dots
    else:
        norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
        expected = 1 - np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    for query in range(4):
        order = np.argsort(expected[query], kind="stable")
        assert found["ids"][query] == [str(i) for i in order]
        given = np.array(found["distances"][query])
        wanted = expected[query][order]
        assert (np.abs(given - wanted) <= 1e-6 * np.maximum(1, np.abs(wanted))).all()


def test_a_batch_of_any_size_is_split(client: Any, way: str) -> None:
    if way == "raw":
        pytest.skip("the client's work")
    books = client.create_collection("large", embedding_function=None)
    count = 10_001
    vectors = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    assert books.add([str(i) for i in range(count)], vectors).added == count
    assert books.count() == count
    assert books.get(include=[])["ids"] == [str(i) for i in range(count)]
    everything = [str(i) for i in reversed(range(count))]
    assert books.get(everything, include=[], limit=2, offset=count - 2)["ids"] == ["9999", "10000"]
    assert books.delete(everything).deleted == count


def test_the_dimension_is_fixed_by_the_first_vector_and_stays(books: Any) -> None:
    assert books.dimension is None
    books.add("a", [1, 2])
    assert books.dimension == books.configuration["hnsw"]["dimension"] == 2
    for call in (books.add, books.upsert, books.update):
        with pytest.raises(shoal.DimensionMismatchError, match="dimension 2, got 3"):
            call("b", [1, 2, 3])
    with pytest.raises(shoal.DimensionMismatchError):
        books.query([1, 2, 3])
    books.delete("a")
    with pytest.raises(shoal.DimensionMismatchError):
        books.add("a", [1, 2, 3])


def test_results_as_rows_and_text(books: Any, way: str) -> None:
    if way == "raw":
        pytest.skip("the client's work")
    _three(books)
    rows = books.get(include=["documents", "embeddings"]).rows()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[2]["document"] is None
    assert set(rows[0]) == {"id", "document", "embedding"}
    found = books.query([1, 0], n_results=2)
    assert found.rows()[0][0]["distance"] == 0
    assert "one" in repr(found)
    assert "<td>one</td>" in found._repr_html_()
    assert "books" in repr(books)
    assert "books" in books._repr_html_()


@pytest.mark.long
def test_answers_beyond_a_message_come_in_parts(client: Any, way: str) -> None:
    books = client.create_collection("large", {"hnsw": {"shards": 2}}, embedding_function=None)
    count, size = 40, 2**20
    if way == "raw":
        # As other languages would: a page ends early, and a query is told to ask for less.
        for start in (0, count // 2):
            ids = [str(i) for i in range(start, start + count // 2)]
            books.add(ids, np.ones((len(ids), 2)), None, ["x" * size] * len(ids))
        pages = [len(batch["ids"]) for batch in books.iterate()]
        assert sum(pages) == count
        with pytest.raises(shoal.OverloadedError, match="include") as caught:
            books.query(np.ones((2, 2)), n_results=count)
        assert caught.value.metadata["limit"] == "max_answer_bytes"
        return
    added = books.add(
        [str(i) for i in range(count)], np.ones((count, 2)), None, ["x" * size] * count
    )
    assert added.added == count
    found = books.query(np.ones((2, 2)), n_results=count, include=["documents"])
    assert [len(documents) for documents in found["documents"]] == [count] * 2
    assert found["ids"] == [[str(i) for i in range(count)]] * 2
