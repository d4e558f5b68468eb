"""The rules of a collection, each a line of one table, by every way in, on one shard and several.

A line is what somebody does with a collection that holds three records, and what comes of it: a
value, or an error by its class and by words of its message. What is refused has changed nothing.
Lines of what only Python can say (a set for a list, an array of bytes) are for the client alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import shoal
from tests.sdk.ways import EVERY_WAY

INVALID = shoal.InvalidArgumentError
TWO = [[1.0, 2.0], [3.0, 4.0]]
ALL = ["embeddings", "metadatas", "documents", "uris"]


@dataclass(frozen=True)
class Refused:
    """What is not done.

    Attributes:
        error: The class, exactly.
        words: A pattern that the message holds.
    """

    error: type[shoal.ShoalError]
    words: str = ""


@dataclass(frozen=True)
class Rule:
    """A line of the table.

    Attributes:
        does: What is done, with a collection that `_three` has filled.
        gives: What comes of it.
        is_of_python: Whether only Python can say it.
    """

    does: Callable[[Any], Any]
    gives: Any
    is_of_python: bool = False


def refused(
    does: Callable[[Any], Any], words: str = "", error: type[shoal.ShoalError] = INVALID
) -> Rule:
    return Rule(does, Refused(error, words))


def of_python(rule: Rule) -> Rule:
    return Rule(rule.does, rule.gives, is_of_python=True)


def _three(books: Any) -> None:
    books.add(
        ["a", "b", "c"],
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
        [{"n": 1, "tag": "x"}, {"n": 2.5}, None],
        ["one", "two", None],
        ["u:a", None, None],
    )


def _then(*steps: Any) -> Any:
    """What the last of several steps gave."""
    return steps[-1]


def _add(**metadata: Any) -> Callable[[Any], Any]:
    """Add a record with metadata, and get that back."""
    return lambda c: _then(c.add(["z"], [[1, 2]], [metadata]), c.get(["z"])["metadatas"][0])


def _record(books: Any, record_id: str) -> Any:
    found = books.get([record_id], include=ALL)
    return (
        found["embeddings"][0].tolist(),
        found["metadatas"][0],
        found["documents"][0],
        found["uris"][0],
    )


def _ids(**arguments: Any) -> Callable[[Any], Any]:
    return lambda c: c.get(**arguments)["ids"]


def _nearest(**arguments: Any) -> Callable[[Any], Any]:
    return lambda c: c.query([[1.0, 0.0]], **arguments)["ids"]


def _same_order(books: Any) -> Any:
    """Update, upsert, and delete and add again."""
    books.update(["a"], metadatas=[{"n": 9}])
    books.upsert(["b"], [[5, 5]])
    books.delete(["a"])
    books.add(["a"], [[1, 0]])
    return books.get(["a", "c", "b"])["ids"]


def _walk(books: Any, **arguments: Any) -> Any:
    return [batch["ids"] for batch in books.iterate(**arguments)]


def _as_type(dtype: str) -> Callable[[Any], Any]:
    return lambda c: _then(c.add(["x"], np.array([[1, 2]], dtype)), _record(c, "x")[0])


def _set(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda c: _then(
        c.modify(configuration={"hnsw": {key: value}}), c.configuration["hnsw"][key]
    )


def _rename(name: str) -> Callable[[Any], Any]:
    return lambda c: c.modify(name=name)


def _pages(books: Any) -> Any:
    first = books.list_ids(limit=2)
    rest = books.list_ids(limit=2, page_token=first.next_page_token)
    return [list(first), list(rest), rest.next_page_token]


LONG = "k" * 256

RULES: dict[str, list[Rule]] = {
    "record IDs": [
        refused(lambda c: c.add([], []), "at least one"),
        refused(lambda c: c.add(["x", ""], TWO), "position 1 is empty"),
        refused(lambda c: c.add(["é" * 513], TWO[:1]), "1026 bytes; at most 1024"),
        Rule(lambda c: c.add(["é" * 512], TWO[:1]).added, 1),
        Rule(lambda c: c.add(["\n \0"], TWO[:1]).added, 1),
        refused(
            lambda c: c.add(["x", "y", "x"], [*TWO, [5, 6]]),
            "'x' .*positions 0 and 2",
            shoal.DuplicateIDError,
        ),
        *(
            refused(does, "'a'", shoal.DuplicateIDError)
            for does in (
                lambda c: c.upsert(["a", "a"], TWO),
                lambda c: c.update(["a", "a"], TWO),
                lambda c: c.delete(["a", "a"]),
                lambda c: c.get(["a", "a"]),
            )
        ),
        of_python(refused(lambda c: c.add([1], TWO[:1]), r"ids\[0\] is of type int")),
        of_python(refused(lambda c: c.add(["\ud800"], TWO[:1]), "UTF-8|surrogate")),
        of_python(refused(lambda c: c.add({"x", "y"}, TWO), "order")),
        of_python(refused(lambda c: c.add({"x": 1}, TWO[:1]), "list")),
        of_python(refused(lambda c: c.query(query_ids={"a", "b"}), "order")),
        of_python(Rule(lambda c: c.get({"a", "c"})["ids"], ["a", "c"])),
        of_python(Rule(lambda c: c.delete({"a", "c"}).deleted, 2)),
        of_python(Rule(lambda c: c.add("x", [1, 2], {"q": 1}, "d", "u").added, 1)),
        of_python(Rule(lambda c: c.add(("x", "y"), ((1, 2), (3, 4))).added, 2)),
        of_python(Rule(lambda c: c.add(np.array(["x", "y"]), np.eye(2)).added, 2)),
    ],
    "metadata": [
        Rule(_add(s="é", i=2**63 - 1, f=2.0, b=True),
             {"s": "é", "i": 2**63 - 1, "f": 2.0, "b": True}),
        Rule(_add(i=-(2**63), l=[1, 2], t=["x"]), {"i": -(2**63), "l": [1, 2], "t": ["x"]}),
        Rule(_add(f=[0.5, 1.0], b=[True, False]), {"f": [0.5, 1.0], "b": [True, False]}),
        Rule(lambda c: type(_add(f=2.0)(c)["f"]), float),
        Rule(lambda c: type(_add(i=2)(c)["i"]), int),
        Rule(lambda c: type(_add(b=True)(c)["b"]), bool),
        Rule(_add(x=None, y=1), {"y": 1}),
        Rule(_add(x=None), None),
        Rule(_add(**{LONG: 1}), {LONG: 1}),
        Rule(_add(**{f"k{n}": n for n in range(256)}), {f"k{n}": n for n in range(256)}),
        refused(_add(**{f"k{n}": n for n in range(257)}), "257 keys; at most 256"),
        refused(_add(**{LONG + "k": 1}), "257 bytes; at most 256"),
        refused(_add(k="x" * 66_000), "bytes; at most 65536"),
        refused(_add(**{"": 1}), "empty"),
        refused(_add(**{"$k": 1}), "reserved"),
        refused(_add(**{"#k": 1}), "reserved"),
        refused(_add(**{"chroma:document": 1}), "reserved"),
        refused(_add(k=float("nan")), "nan.*finite"),
        refused(_add(k=float("inf")), "inf.*finite"),
        refused(_add(k=[1.0, float("nan")]), "finite"),
        refused(_add(k=[]), "empty list"),
        refused(lambda c: c.add(["x", "y"], TWO, [{"a": 1}]), "1 entries for 2 IDs"),
        of_python(refused(_add(), "empty dict")),
        of_python(refused(_add(i=2**63), "64 bits")),
        of_python(refused(_add(k=[1, "x"]), "one type")),
        of_python(refused(_add(k=[1, 2.5]), "one type")),
        of_python(refused(_add(k={"a": 1}), "dict")),
        of_python(refused(_add(k=b"x"), "bytes")),
        of_python(refused(lambda c: c.add(["z"], TWO[:1], [{1: 1}]), "not a string")),
        of_python(refused(lambda c: c.add(["z"], TWO[:1], ["x"]), "dict")),
        of_python(Rule(_add(i=np.int64(3), f=np.float32(0.5), b=np.bool_(True)),
                       {"i": 3, "f": 0.5, "b": True})),
    ],
    "documents and URIs": [
        Rule(lambda c: _then(c.add(["x", "y"], TWO, None, ["", None], [None, ""]),
                             c.get(["x", "y"], include=ALL)["documents"]), ["", None]),
        Rule(lambda c: c.add(["x"], TWO[:1], None, ["é" * 2**19]).added, 1),
        refused(lambda c: c.add(["x"], TWO[:1], None, ["é" * 2**19 + "x"]), "1048577 bytes"),
        refused(lambda c: c.add(["x"], TWO[:1], None, None, ["x" * 65_537]), "65537 bytes"),
        refused(lambda c: c.add(["x", "y"], TWO, None, ["d"]), "1 entries for 2 IDs"),
        refused(lambda c: c.add(["x", "y"], TWO, None, None, ["u"]), "1 entries for 2 IDs"),
        of_python(refused(lambda c: c.add(["x"], TWO[:1], None, [1]), "string")),
        of_python(refused(lambda c: c.add(["x", "y"], TWO, None, {"d", "e"}), "order")),
    ],
    "vectors": [
        Rule(lambda c: _then(c.add(["x"], [[1e-45, -0.0]]), str(_record(c, "x")[0])),
             str([float(np.float32(1e-45)), -0.0])),
        refused(lambda c: c.add(["x", "y"], [[1, 2], [3, float("nan")]]), "position 1.*nan"),
        refused(lambda c: c.add(["x"], [[1, float("-inf")]]), "inf"),
        refused(lambda c: c.add(["x"], [[1e20, 0]]), "squared norm"),
        refused(lambda c: c.add(["x", "y"], TWO[:1]), "1 .*2 IDs|8 bytes"),
        refused(lambda c: c.add(["x"], [[1, 2, 3]]), "dimension 2, got 3",
                shoal.DimensionMismatchError),
        refused(lambda c: c.upsert(["a"], [[1]]), "dimension 2, got 1",
                shoal.DimensionMismatchError),
        refused(lambda c: c.update(["nobody"], [[1]]), "dimension 2, got 1",
                shoal.DimensionMismatchError),
        refused(lambda c: c.query([[1, 2, 3]]), "dimension 2, got 3",
                shoal.DimensionMismatchError),
        refused(lambda c: c.add(["x"], np.ones((1, 16_385))), "1 to 16384"),
        refused(lambda c: c.add(["x"]), "embedding|vector"),
        refused(lambda c: c.upsert(["a"], None, [{"n": 3}]), "embedding|vector"),
        refused(lambda c: c.query([[float("nan"), 1]]), "position 0.*nan"),
        of_python(refused(lambda c: c.add(["x", "y"], [[1, 2], [1]]), r"embeddings\[1\] has 1")),
        of_python(refused(lambda c: c.add(["x", "y"], [[1, 2], None]), r"embeddings\[1\] is None")),
        of_python(refused(lambda c: c.add(["x"], [[]]), r"embeddings\[0\] is empty")),
        of_python(refused(lambda c: c.add(["x"], []), "empty")),
        of_python(refused(lambda c: c.add(["x"], [[True, False]]), "bool")),
        of_python(refused(lambda c: c.add(["x"], np.array([[True, False]])), "bool")),
        of_python(refused(lambda c: c.add(["x"], np.array([[1, 2]], np.uint8)), "uint8")),
        of_python(refused(lambda c: c.add(["x"], np.array([[1j, 2]])), "complex")),
        of_python(refused(lambda c: c.add(["x"], np.ones((1, 2, 2))), r"\(1, 2, 2\)")),
        of_python(refused(lambda c: c.add(["x"], ["ab"]), "str")),
        of_python(refused(lambda c: c.add(["x"], [["1", "2"]]), "str")),
        of_python(refused(lambda c: c.add(["x"], [[1e300, 0]]), "inf")),
        of_python(refused(lambda c: c.add(["x"], documents=["text"]), "embedding_function=None")),
        of_python(refused(lambda c: c.update(["a"], documents=["new"]), "embedding_function=None")),
        of_python(refused(lambda c: c.query(query_texts="text"), "embedding_function=None")),
        *(
            of_python(Rule(_as_type(dtype), [1.0, 2.0]))
            for dtype in ("f2", "f4", ">f4", "f8", "i1", "i2", "i4", "i8", "u2", "u4", "u8")
        ),
    ],
    "add": [
        Rule(lambda c: dict(c.add(["b", "d"], TWO, [{"n": 9}, None], ["x", "y"])),
             {"added": 1, "updated": 0, "ignored": 1}),
        Rule(lambda c: _then(c.add(["b"], TWO[:1], [{"n": 9}], ["x"], ["u"]), _record(c, "b")),
             ([0.0, 1.0], {"n": 2.5}, "two", None)),
        Rule(lambda c: _then(c.add(["x"], TWO[:1]), _record(c, "x")),
             ([1.0, 2.0], None, None, None)),
    ],
    "upsert": [
        Rule(lambda c: dict(c.upsert(["a", "d"], TWO)), {"added": 1, "updated": 1, "ignored": 0}),
        Rule(lambda c: _then(c.upsert(["a"], TWO[:1]), _record(c, "a")),
             ([1.0, 2.0], {"n": 1, "tag": "x"}, "one", "u:a")),
        Rule(lambda c: _then(c.upsert(["a"], TWO[:1], [{"n": None, "m": 2}], ["1"], ["v"]),
                             _record(c, "a")), ([1.0, 2.0], {"tag": "x", "m": 2}, "1", "v")),
        Rule(lambda c: _then(c.upsert(["a", "d"], TWO, [None, {"p": None, "q": 1}], [None, "d"]),
                             [_record(c, "a")[1:3], _record(c, "d")[1:3]]),
             [({"n": 1, "tag": "x"}, "one"), ({"q": 1}, "d")]),
        Rule(lambda c: _then(c.upsert(["a"], TWO[:1], [{"n": None, "tag": None}]),
                             _record(c, "a")[1]), None),
    ],
    "update": [
        Rule(lambda c: dict(c.update(["a", "nobody"], TWO)),
             {"added": 0, "updated": 1, "ignored": 1}),
        Rule(lambda c: _then(c.update(["nobody"], TWO[:1]), c.count()), 3),
        Rule(lambda c: _then(c.update(["a"], metadatas=[{"n": 2, "m": [1]}]), _record(c, "a")),
             ([1.0, 0.0], {"n": 2, "tag": "x", "m": [1]}, "one", "u:a")),
        Rule(lambda c: _then(c.update(["a"], metadatas=[{"n": None, "tag": None, "no": None}]),
                             _record(c, "a")[1]), None),
        Rule(lambda c: _then(c.update(["c"], metadatas=[{"n": 7}]), _record(c, "c")[1]), {"n": 7}),
        Rule(lambda c: _then(c.update(["a", "b"], metadatas=[None, {"m": 1}]),
                             c.get()["metadatas"][:2]),
             [{"n": 1, "tag": "x"}, {"n": 2.5, "m": 1}]),
        Rule(lambda c: _then(c.update(["a"], [[7, 7]], None, ["new"], [None]), _record(c, "a")),
             ([7.0, 7.0], {"n": 1, "tag": "x"}, "new", "u:a")),
        Rule(lambda c: dict(c.update(["a", "nobody"])), {"added": 0, "updated": 1, "ignored": 1}),
        refused(lambda c: c.update([]), "at least one"),
        # What results may break a limit that its parts keep.
        refused(lambda c: _then(c.update(["a"], metadatas=[{f"k{n}": n for n in range(255)}])),
                "257|256"),
        of_python(Rule(lambda c: _then(c.update(["a"], documents=[None]), _record(c, "a")[2]),
                       "one")),
        of_python(refused(lambda c: c.update(["a"], metadatas=[{}]), "empty dict")),
    ],
    "delete": [
        Rule(lambda c: [dict(c.delete(["a", "nobody"])), c.get()["ids"]],
             [{"deleted": 1}, ["b", "c"]]),
        Rule(lambda c: [c.delete(where={"n": {"$gt": 0}}).deleted, c.get()["ids"]], [2, ["c"]]),
        Rule(lambda c: c.delete(where_document={"$not_contains": "o"}).deleted, 1),
        Rule(lambda c: [c.delete(["a", "c"], {"n": {"$gt": 0}}, {"$contains": "o"}).deleted,
                        c.get()["ids"]], [1, ["b", "c"]]),
        Rule(lambda c: [c.delete(where={"n": {"$gt": 0}}, limit=1).deleted, c.get()["ids"]],
             [1, ["b", "c"]]),
        Rule(lambda c: c.delete(["c", "b"], {"n": {"$gt": 0}}, limit=5).deleted, 1),
        Rule(lambda c: c.delete(where={"n": {"$gt": 0}}, limit=0).deleted, 0),
        refused(lambda c: c.delete(), "ids, where"),
        refused(lambda c: c.delete([]), "at least one"),
        refused(lambda c: c.delete(["a"], limit=1), "limit"),
        refused(lambda c: c.delete(["a"], where_document={}) , "clause|key"),
        of_python(refused(lambda c: c.delete(where={"n": 1}, limit=-1), "at least 0")),
    ],
    "update_where": [
        Rule(lambda c: dict(c.update_where({"n": {"$gte": 1}}, {"s": 1}, dry_run=True)),
             {"matched": 2, "updated": 0}),
        Rule(lambda c: [dict(c.update_where({"n": {"$gte": 1}}, {"s": 1, "n": None})),
                        c.get()["metadatas"]],
             [{"matched": 2, "updated": 2}, [{"tag": "x", "s": 1}, {"s": 1}, None]]),
        Rule(lambda c: dict(c.update_where({"n": 99}, {"s": 1})), {"matched": 0, "updated": 0}),
        refused(lambda c: c.update_where(None, {"s": 1}), "where"),
        refused(lambda c: c.update_where({"n": 1}, {}), "metadata"),
        refused(lambda c: c.update_where({"n": 1}, {"$s": 1}), "reserved"),
        refused(lambda c: c.update_where({"n": 1}, {f"k{i}": 1 for i in range(255)}), "257|256"),
    ],
    "get": [
        Rule(_ids(), ["a", "b", "c"]),
        Rule(_ids(ids=["c", "nobody", "a"]), ["a", "c"]),
        Rule(_same_order, ["b", "c", "a"]),
        Rule(_ids(limit=2), ["a", "b"]),
        Rule(_ids(offset=1), ["b", "c"]),
        Rule(_ids(limit=1, offset=1), ["b"]),
        Rule(_ids(offset=3), []),
        Rule(_ids(limit=0), []),
        Rule(_ids(limit=2**40), ["a", "b", "c"], is_of_python=True),
        Rule(_ids(ids=["c", "b"], limit=1, offset=1), ["c"]),
        Rule(_ids(where={"n": {"$gt": 0}}, ids=["b", "c"], where_document={"$contains": "t"}),
             ["b"]),
        Rule(lambda c: c.get(ids=["b"]), {
            "ids": ["b"], "embeddings": None, "documents": ["two"], "uris": None, "data": None,
            "metadatas": [{"n": 2.5}], "included": ["metadatas", "documents"]}),
        Rule(lambda c: [v for k, v in c.get(include=[]).items() if k != "ids"],
             [None, None, None, None, None, []]),
        Rule(lambda c: c.get(["b"], include=["uris"])["uris"], [None]),
        Rule(lambda c: c.get(["nobody"], include=["embeddings"])["embeddings"].shape[0], 0),
        refused(_ids(ids=[]), "at least one"),
        refused(_ids(include=["distances"]), "distances"),
        of_python(refused(_ids(limit=-1), "at least 0")),
        of_python(refused(_ids(limit=1.5), "whole number")),
        of_python(refused(_ids(limit=True), "whole number")),
        of_python(refused(_ids(offset=-1), "at least 0")),
        of_python(refused(_ids(include=["data"]), "data")),
        of_python(refused(_ids(include=["documents", "documents"]), "twice")),
        of_python(refused(_ids(include=None), "list")),
    ],
    "peek, count, iterate, list_ids": [
        Rule(lambda c: [c.peek(1)[k] is not None for k in ("embeddings", "metadatas", "documents")],
             [True, True, True]),
        Rule(lambda c: c.peek(2)["ids"], ["a", "b"]),
        Rule(lambda c: [c.count(), c.count({"n": 1}), c.count(None, {"$contains": "o"}),
                        c.count({"n": 1}, {"$contains": "t"})], [3, 1, 2, 0]),
        Rule(lambda c: _walk(c, batch_size=2), [["a", "b"], ["c"]]),
        Rule(lambda c: _walk(c, batch_size=2, where={"n": 99}), []),
        Rule(lambda c: _walk(c, where_document={"$contains": "w"}, include=[]), [["b"]]),
        Rule(lambda c: list(c.list_ids()), ["a", "b", "c"]),
        Rule(lambda c: list(c.list_ids(prefix="b")), ["b"]),
        Rule(lambda c: list(c.list_ids(limit=0)), []),
        Rule(_pages, [["a", "b"], ["c"], None]),
        refused(lambda c: c.count({}), "clause|key"),
        refused(lambda c: c.list_ids(page_token="nonsense"), "page"),
        refused(lambda c: c.list_ids("a", page_token=c.list_ids(limit=1).next_page_token), "page"),
        of_python(refused(lambda c: c.iterate(0), "at least 1")),
        of_python(refused(lambda c: c.list_ids(limit=-1), "at least 0")),
        of_python(refused(lambda c: c.list_ids(prefix=1), "string")),
    ],
    "query": [
        Rule(_nearest(), [["a", "c", "b"]]),
        Rule(_nearest(n_results=2), [["a", "c"]]),
        Rule(_nearest(n_results=16_384), [["a", "c", "b"]]),
        Rule(lambda c: c.query([[1, 0], [0, 1]], n_results=1)["ids"], [["a"], ["b"]]),
        Rule(lambda c: c.query([[1, 0]], n_results=2)["distances"], [[0.0, 1.0]]),
        Rule(_nearest(ids=["b", "nobody", "c", "b"]), [["c", "b"]]),
        Rule(_nearest(ids=["nobody"]), [[]]),
        Rule(_nearest(where={"n": {"$gt": 1}}), [["b"]]),
        Rule(_nearest(where_document={"$regex": "^o"}), [["a"]]),
        Rule(_nearest(where={"n": 1}, where_document={"$contains": "one"}, ids=["a", "b"]),
             [["a"]]),
        Rule(_nearest(where={"n": 99}), [[]]),
        Rule(lambda c: c.query(query_ids=["c", "a"], n_results=1)["ids"], [["c"], ["a"]]),
        Rule(lambda c: c.query(query_ids=["c", "c"], n_results=1)["ids"], [["c"], ["c"]]),
        Rule(lambda c: c.query([[0.5, 0.5]], include=[])["ids"], [["a", "b", "c"]]),
        Rule(lambda c: set(c.query([[1, 0]], include=[])), {
            "ids", "embeddings", "documents", "uris", "data", "metadatas", "included",
            "distances"}),
        Rule(lambda c: [e.shape for e in c.query(TWO, n_results=2, include=["embeddings"])[
            "embeddings"]], [(2, 2), (2, 2)]),
        Rule(lambda c: c.query([[1, 0]], allow_partial=True)["unsearched_shards"], []),
        Rule(lambda c: sum(s["record_count"] for s in c.query([[1, 0]], explain=True)["plan"][
            "shards"]), 3),
        Rule(lambda c: _then(c.delete(["a", "b", "c"]), c.query(TWO)["ids"]), [[], []]),
        refused(lambda c: c.query(), "query_embeddings|query_vectors"),
        refused(lambda c: c.query([[1, 0]], query_ids=["a"]), "exactly one"),
        refused(_nearest(n_results=0), "1 to 16384"),
        refused(_nearest(n_results=16_385), "1 to 16384"),
        refused(_nearest(ids=[]), "at least one"),
        refused(lambda c: c.query(query_ids=[]), "query_ids"),
        refused(lambda c: c.query(query_ids=["a", "nobody"]), "nobody", shoal.NotFoundError),
        of_python(Rule(lambda c: c.query([1, 0], n_results=np.int64(1))["ids"], [["a"]])),
        of_python(Rule(lambda c: c.query(query_ids="a", n_results=1)["ids"], [["a"]])),
        of_python(Rule(lambda c: len(c.query(np.ones((1_025, 2)), n_results=1)["ids"]), 1_025)),
        of_python(refused(_nearest(n_results=1.0), "whole number")),
        of_python(refused(_nearest(n_results=True), "whole number")),
        of_python(refused(_nearest(include=["scores"]), "scores")),
        of_python(refused(lambda c: c.query([]), "empty")),
    ],
    "where": [
        *(
            refused(_ids(where=where), words)
            for where, words in [
                ({"$k": 1}, "reserved|operator"),
                ({"": 1}, "empty"),
                ({"n": {"$foo": 1}}, "operator"),
                ({"n": {"$gt": True}}, "bool"),
                ({"n": {"$lte": [1]}}, "list"),
                ({"n": {"$eq": None}}, "None|null"),
                ({"n": {"$eq": [1]}}, "list"),
                ({"n": {"$in": []}}, "empty list"),
                ({"n": {"$in": 1}}, "list"),
                ({"n": {"$contains": [1]}}, "list"),
                ({"n": {"$exists": 1}}, "true or false"),
                ({"n": float("nan")}, "finite"),
                ({"$and": [{"n": 1}]}, "two clauses"),
                ({"$or": []}, "two clauses"),
                ({}, "clause|key"),
                ({"$not": {}}, "clause|key"),
            ]
        ),
        *(
            of_python(refused(_ids(where=where), words))
            for where, words in [
                ({"n": 1, "tag": "x"}, "exactly one key"),
                ({"n": {"$gt": 1, "$lt": 2}}, "exactly one key"),
                ({"n": {"$in": [1, "x"]}}, "one type"),
                ({"$and": {"n": 1}}, "list"),
                ({1: 1}, "not a string"),
                ("x", "dict"),
                ([], "dict"),
            ]
        ),
    ],
    "where_document": [
        *(
            refused(_ids(where_document=where), words)
            for where, words in [
                ({}, "clause|key"),
                ({"$contains": ""}, "not empty"),
                ({"$regex": "("}, "regex|pattern|parenthes|missing"),
                ({"$regex": "(?=x)"}, "regex|pattern|look|perl"),
                ({"$regex": "\\1"}, "regex|pattern|escape|back"),
                ({"$regex": "x" * 4_097}, "4096"),
                ({"$foo": "x"}, "operator"),
                ({"$and": [{"$contains": "x"}]}, "two clauses"),
            ]
        ),
        of_python(refused(_ids(where_document={"$contains": 1}), "string")),
        of_python(refused(_ids(where_document={"$contains": "a", "$regex": "b"}), "exactly one")),
    ],
    "the collection": [
        Rule(lambda c: _then(c.modify(metadata={"a": 1, "f": 1.5, "b": True}), c.metadata),
             {"a": 1, "f": 1.5, "b": True}),
        Rule(lambda c: _then(c.modify(metadata={"a": 1}), c.modify(metadata={"b": 2}), c.metadata),
             {"b": 2}),
        Rule(lambda c: _then(c.modify(), c.modify(name=c.name), c.count()), 3),
        Rule(lambda c: _then(c.delete(["a", "b", "c"]), c.dimension), 2),
        *(
            Rule(_set(key, value), value)
            for key, value in {"ef_search": 7, "num_threads": 2, "batch_size": 9,
                               "sync_threshold": 11, "resize_factor": 2.5}.items()
        ),
        *(
            refused(_set(key, value), key)
            for key, value in {"space": "ip", "dimension": 3, "max_neighbors": 8,
                               "ef_construction": 50, "shards": 2, "quantization": "f32",
                               "ef_search": 0, "num_threads": 257, "batch_size": 1,
                               "sync_threshold": 1, "resize_factor": 0.5}.items()
        ),
        *(refused(_rename(name), "name")
          for name in ("x", "x" * 513, "_abc", "abc_", "a..b", "a b", "127.0.0.1", "äbc")),
        refused(lambda c: c.modify(metadata={"a": [1]}), "'a'"),
        refused(lambda c: c.modify(metadata={"$a": 1}), "reserved"),
        refused(lambda c: c.modify(metadata={"a": float("nan")}), "finite"),
        refused(lambda c: c.modify(metadata={"a": None}), "'a'"),
        of_python(refused(lambda c: c.modify(metadata={}), "empty")),
        of_python(refused(lambda c: c.modify(configuration={"hnsw": {"foo": 1}}), "'foo'")),
        of_python(refused(lambda c: c.modify(configuration={"foo": {}}), "'foo'")),
    ],
}  # fmt: skip


@pytest.fixture(params=EVERY_WAY)
def way(request: pytest.FixtureRequest) -> str:
    """Bare stubs are a way in, too."""
    name: str = request.param
    return name


def _refill(books: Any) -> None:
    """Give a collection its three records again."""
    ids = books.list_ids()
    if ids:
        books.delete(list(ids))
    _three(books)


def _contents(client: Any, books: Any) -> str:
    """All that is known of a collection."""
    described = client.get_collection_by_id(books.id)
    found = books.get(include=ALL)
    return repr(
        [
            (described.name, described.metadata, described.configuration),
            *(found[column] for column in ("ids", *ALL)),
        ]
    )


def _problem(rule: Rule, books: Any) -> str | None:
    """Say how what happens differs from what the rule says."""
    try:
        result = rule.does(books)
    except shoal.ShoalError as error:
        if not isinstance(rule.gives, Refused):
            return f"raised {error!r}"
        if type(error) is not rule.gives.error:
            return f"raised {type(error).__name__}"
        if not re.search(rule.gives.words, str(error), re.DOTALL):
            return f"says {str(error)!r}"
        if error.code != rule.gives.error.code or error.reason != rule.gives.error.reason:
            return f"has {error.code}/{error.reason}"
        return None
    if isinstance(rule.gives, Refused):
        return f"gave {result!r}"
    return None if result == rule.gives else f"gave {result!r} for {rule.gives!r}"


@pytest.mark.parametrize("part", RULES)
def test_every_rule_is_kept(books: Any, client: Any, way: str, shards: int, part: str) -> None:
    problems = []
    _three(books)
    contents = _contents(client, books)
    for number, rule in enumerate(RULES[part]):
        # What only Python can say is the same in the end, however many shards there are.
        if rule.is_of_python and (way == "raw" or shards > 1):
            continue
        problem = _problem(rule, books)
        if not isinstance(rule.gives, Refused):
            _refill(books)
            contents = _contents(client, books)
        elif _contents(client, books) != contents:
            problem = problem or "changed something"
        if problem:
            problems.append(f"{part}, rule {number}: {problem}")
    assert not problems, "\n".join(problems)


def _new(name: Any = "papers", **hnsw: Any) -> Callable[[Any], Any]:
    """Create a collection, and tell what is in force of what was given."""

    def does(client: Any) -> Any:
        configuration = {"hnsw": hnsw} if hnsw else None
        made = client.create_collection(name, configuration, embedding_function=None)
        in_force = made.configuration["hnsw"]
        return made.name, {key: in_force[key] for key in hnsw}

    return does


def _kept(name: Any = "papers", **hnsw: Any) -> Rule:
    return Rule(_new(name, **hnsw), (name, hnsw))


def _with_metadata(**metadata: Any) -> Callable[[Any], Any]:
    return lambda c: c.create_collection("papers", None, metadata, embedding_function=None).metadata


def _again(**hnsw: Any) -> Callable[[Any], Any]:
    """Create a collection, and get or create it with another configuration."""

    def does(client: Any) -> Any:
        given = {"hnsw": {"space": "cosine", "dimension": 3}}
        client.create_collection("papers", given, {"a": 1}, embedding_function=None)
        same = client.get_or_create_collection(
            "papers",
            configuration={"hnsw": hnsw} if hnsw else None,
            metadata={"b": 2},
            embedding_function=None,
        )
        return same.metadata, same.configuration["hnsw"]["ef_search"]

    return does


# What somebody does with a client of an empty database.
CREATIONS: list[Rule] = [
    *(_kept(name) for name in ("abc", "a" * 512, "a.b-c_d", "1.2.3", "256.1.1.1", "A-9")),
    *(
        refused(_new(name), "name")
        for name in ("ab", "a" * 513, "_ab", "ab_", ".ab", "a..b", "a b", "abé", "127.0.0.1")
    ),
    *(
        _kept(**{key: value})
        for key, values in {
            "space": ("l2", "cosine", "ip"), "ef_construction": (1, 10_000),
            "ef_search": (1, 10_000), "max_neighbors": (2, 512), "batch_size": (2, 2**32 - 1),
            "sync_threshold": (2, 2**32 - 1), "num_threads": (1, 256), "resize_factor": (1.0, 9.5),
            "dimension": (1, 16_384), "quantization": ("f32", "f16", "bf16"), "replicas": (1,),
        }.items()
        for value in values
    ),
    _kept(quantization="i8", space="cosine"),
    *(
        refused(_new(**{key: value}), key)
        for key, values in {
            "space": ("manhattan",), "ef_construction": (0, 10_001), "ef_search": (0, 10_001),
            "max_neighbors": (1, 513), "batch_size": (1,), "sync_threshold": (1,),
            "num_threads": (0, 257), "resize_factor": (0.9, float("nan")),
            "dimension": (0, 16_385), "quantization": ("f64",), "shards": (0, 257),
            "replicas": (0,),
        }.items()
        for value in values
    ),
    refused(_new(quantization="i8", space="l2"), "cosine"),
    refused(_new(replicas=2), "", shoal.UnimplementedError),
    Rule(_with_metadata(s="x", i=2**63 - 1, f=1.5, b=True),
         {"s": "x", "i": 2**63 - 1, "f": 1.5, "b": True}),
    refused(_with_metadata(a=[1]), "'a'"),
    refused(_with_metadata(a=None), "'a'"),
    refused(_with_metadata(a=float("nan")), "finite"),
    refused(_with_metadata(**{"$a": 1}), "reserved"),
    of_python(refused(_with_metadata(), "empty")),
    of_python(refused(_with_metadata(i=2**63), "64 bits")),
    of_python(Rule(lambda c: _new(space="euclidean")(c)[1], {"space": "l2"})),
    of_python(Rule(lambda c: _new(space="inner_product")(c)[1], {"space": "ip"})),
    of_python(refused(_new(foo=1), "'foo'")),
    Rule(_again(), ({"a": 1}, 100)),
    Rule(_again(space="cosine", dimension=3, ef_search=7), ({"a": 1}, 100)),
    Rule(lambda c: c.list_collections(limit=0), []),
    Rule(lambda c: c.list_collections(offset=9), []),
    Rule(lambda c: _then(_new("zzz")(c), _new("aaa")(c),
                         [[x.name for x in c.list_collections(limit=limit, offset=offset)]
                          for limit, offset in ((None, None), (1, None), (1, 1), (None, 1))]),
         [["zzz", "aaa"], ["zzz"], ["aaa"], ["aaa"]]),
    Rule(lambda c: c.count_collections(), 0),
    refused(lambda c: c.get_collection("nobody"), "'nobody'", shoal.CollectionNotFoundError),
    refused(lambda c: c.delete_collection("nobody"), "'nobody'", shoal.CollectionNotFoundError),
    refused(lambda c: c.get_collection_by_id("00000000-0000-4000-8000-000000000000"), "0000",
            shoal.CollectionNotFoundError),
    refused(lambda c: c.reset(), "allow_reset", shoal.PermissionDeniedError),
]  # fmt: skip

CONTRADICTIONS: list[Rule] = [
    refused(_again(space="l2"), "cosine.*l2"),
    refused(_again(dimension=4), "3.*4"),
    refused(lambda c: _then(_new("papers")(c), _new("papers")(c)), "'papers'",
            shoal.CollectionExistsError),
]  # fmt: skip


def test_every_rule_of_creation_is_kept(client: Any, way: str) -> None:
    problems = []
    for number, rule in enumerate([*CREATIONS, *CONTRADICTIONS]):
        if rule.is_of_python and way == "raw":
            continue
        problem = _problem(rule, client)
        left = client.list_collections()
        if problem is None and left and isinstance(rule.gives, Refused) and rule in CREATIONS:
            problem = "left something"
        if problem:
            problems.append(f"rule {number}: {problem}")
        for collection in left:
            client.delete_collection(collection.name)
    assert not problems, "\n".join(problems)
