"""Records to be written: what is refused before anything is sent, and how they are cut."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import _limits, errors
from shoal._records import Records, check_records, parts, to_batch
from shoal._writing import Account, groups
from shoal.wire.limits import DEFAULT_LIMITS

V = [[1.0, 0.0], [0.0, 1.0]]

# What is given, the error, and what its message says.
BAD: list[tuple[dict[str, Any], type[errors.ShoalError], str]] = [
    ({"ids": []}, errors.InvalidArgumentError, "ids is empty"),
    ({"ids": ["a", "a"], "embeddings": V}, errors.DuplicateIDError, "'a' is given twice"),
    ({"ids": ["a", 7], "embeddings": V}, errors.InvalidArgumentError, r"ids\[1\].*int"),
    ({"ids": ["a", ""], "embeddings": V}, errors.InvalidArgumentError, "position 1 is empty"),
    ({"ids": ["a", "b" * 1025], "embeddings": V}, errors.InvalidArgumentError, "1025 bytes"),
    ({"ids": ["a", "é" * 513], "embeddings": V}, errors.InvalidArgumentError, "1026 bytes"),
    ({"ids": ["a", "\ud800"], "embeddings": V}, errors.InvalidArgumentError, "UTF-8"),
    ({"ids": b"ab", "embeddings": V}, errors.InvalidArgumentError, "bytes"),
    ({"ids": {"a": 1}, "embeddings": V}, errors.InvalidArgumentError, "dict"),
    ({"ids": 7, "embeddings": V}, errors.InvalidArgumentError, "int"),
    ({"ids": ["a"], "embeddings": V}, errors.InvalidArgumentError, "2 entries for 1 IDs"),
    ({"ids": ["a", "b"], "metadatas": [None]}, errors.InvalidArgumentError, "metadatas has 1"),
    ({"ids": ["a", "b"], "documents": ["x"]}, errors.InvalidArgumentError, "documents has 1"),
    ({"ids": ["a", "b"], "uris": ["x"] * 3}, errors.InvalidArgumentError, "uris has 3"),
    ({"ids": "a", "metadatas": {}}, errors.InvalidArgumentError, "empty dict"),
    ({"ids": "a", "metadatas": [3]}, errors.InvalidArgumentError, r"metadatas\[0\] must be a dict"),
    ({"ids": "a", "metadatas": {"$x": 1}}, errors.InvalidArgumentError, "reserved"),
    ({"ids": "a", "metadatas": {"#x": 1}}, errors.InvalidArgumentError, "reserved"),
    ({"ids": "a", "metadatas": {"chroma:document": 1}}, errors.InvalidArgumentError, "reserved"),
    ({"ids": "a", "metadatas": {"": 1}}, errors.InvalidArgumentError, "empty"),
    ({"ids": "a", "metadatas": {1: 1}}, errors.InvalidArgumentError, "not a string"),
    ({"ids": "a", "metadatas": {"x": 2**63}}, errors.InvalidArgumentError, "64 bits"),
    ({"ids": "a", "metadatas": {"x": float("nan")}}, errors.InvalidArgumentError, "finite"),
    ({"ids": "a", "metadatas": {"x": []}}, errors.InvalidArgumentError, "empty list"),
    ({"ids": "a", "metadatas": {"x": [1, "a"]}}, errors.InvalidArgumentError, "one type"),
    ({"ids": "a", "metadatas": {"x": {"y": 1}}}, errors.InvalidArgumentError, "dict"),
    ({"ids": "a", "metadatas": {"x": b"y"}}, errors.InvalidArgumentError, "bytes"),
    ({"ids": "a", "metadatas": {"x" * 257: 1}}, errors.InvalidArgumentError, "257 bytes"),
    (
        {"ids": "a", "metadatas": {f"k{i}": i for i in range(257)}},
        errors.InvalidArgumentError,
        "257 keys",
    ),
    ({"ids": "a", "metadatas": {"x": "y" * 65_537}}, errors.InvalidArgumentError, "65538 bytes"),
    ({"ids": "a", "documents": [7]}, errors.InvalidArgumentError, r"documents\[0\]"),
    ({"ids": "a", "documents": "x" * (2**20 + 1)}, errors.InvalidArgumentError, "1048577 bytes"),
    ({"ids": "a", "documents": "\udfff"}, errors.InvalidArgumentError, "UTF-8"),
]


def _check(**given: Any) -> Records:
    columns = dict.fromkeys(("ids", "embeddings", "metadatas", "documents", "uris"))
    return check_records(**{**columns, **given}, limits=DEFAULT_LIMITS, sparse_keys=())


@pytest.mark.parametrize(("given", "error", "match"), BAD)
def test_bad_input_is_refused_naming_the_offender(
    given: dict[str, Any], error: type[errors.ShoalError], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        _check(**given)
    assert isinstance(caught.value, ValueError)


def test_a_scalar_stands_for_a_list_of_one() -> None:
    records = _check(ids="a", embeddings=[1, 2], metadatas={"x": 1}, documents="d", uris="u")
    assert records.ids == ["a"]
    assert records.vectors is not None
    assert records.vectors.tolist() == [[1.0, 2.0]]
    assert (records.documents, records.uris) == (["d"], ["u"])
    assert records.metadatas is not None
    assert records.metadatas[0] is not None


def test_what_is_none_is_absent_on_the_wire() -> None:
    batch = to_batch(_check(ids=["a", "b"], metadatas=[None, {"x": 1}], documents=[None, ""]))
    assert [bool(m.fields) for m in batch.metadatas] == [False, True]
    assert list(batch.documents.absent) == [0]
    assert not batch.HasField("vectors")
    assert not batch.HasField("uris")


def test_vectors_travel_bit_for_bit() -> None:
    vectors = np.array([[np.pi, 1e-45], [-0.0, 1 / 3]], np.float32)
    batch = to_batch(_check(ids=["a", "b"], embeddings=vectors))
    assert batch.vectors.values == vectors.tobytes()


@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(0, 5_000),
)
def test_parts_are_all_records_in_order_within_the_limits(
    sizes: list[int], most: int, spare: int
) -> None:
    limits = replace(
        DEFAULT_LIMITS,
        max_batch_records=most,
        max_message_bytes=_limits.MESSAGE_HEADROOM_BYTES + 3_200 + spare,
    )
    records = Records(
        [str(i) for i in range(len(sizes))], None, None, ["x" * size for size in sizes], None
    )
    cut = list(parts(records, limits))
    assert cut[0][0] == 0
    assert cut[-1][1] == len(sizes)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
    for start, stop in cut:
        assert 1 <= stop - start <= most
        size = to_batch(records.slice(start, stop)).ByteSize()
        assert size <= limits.max_message_bytes - _limits.MESSAGE_HEADROOM_BYTES


def test_add_and_upsert_need_a_vector_or_a_text_for_each_record() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="add needs embeddings, or documents"):
        groups("add", _check(ids=["a"], metadatas=[{"x": 1}]))
    with pytest.raises(errors.InvalidArgumentError, match="'b' at position 1 has neither"):
        groups("upsert", _check(ids=["a", "b"], documents=["x", None]))
    (group,) = groups("add", _check(ids=["a", "b"], documents=["x", ""]))
    assert group.embeds


def test_documents_are_only_stored_if_there_are_embeddings() -> None:
    (group,) = groups("add", _check(ids=["a", "b"], embeddings=V, documents=["x", "y"]))
    assert not group.embeds


def test_update_embeds_only_new_documents() -> None:
    found = groups("update", _check(ids=list("abc"), documents=["x", None, "z"], uris=["u"] * 3))
    assert [(g.embeds, g.records.ids, list(g.positions)) for g in found] == [
        (False, ["b"], [1]),
        (True, ["a", "c"], [0, 2]),
    ]
    (nothing,) = groups("update", _check(ids=["a"]))
    assert not nothing.embeds


def test_a_failure_of_a_later_part_says_how_far_the_write_came() -> None:
    (group,) = groups("add", _check(ids=list("abcd"), embeddings=[[1.0]] * 4))
    account = Account("add", 4)
    account.add(2, added=2)
    failure = account.failure(errors.UnavailableError("gone"), group.slice(2, 4))
    assert isinstance(failure, errors.PartialWriteError)
    assert failure.written_count == 2
    assert "2 of 4 records were written; then: gone" in str(failure)


def test_positions_of_a_half_written_part_are_those_of_the_call() -> None:
    (group,) = groups("add", _check(ids=list("abcd"), embeddings=[[1.0]] * 4))
    account = Account("add", 4)
    account.add(2, added=2)
    half = errors.PartialWriteError(
        "half",
        shards=[
            errors.ShardOutcome("s", "applied", (0,)),
            errors.ShardOutcome("t", "refused", (1,), "OVERLOADED", "full"),
        ],
    )
    failure = account.failure(half, group.slice(2, 4))
    assert isinstance(failure, errors.PartialWriteError)
    assert failure.written_count == 3
    assert [shard.positions for shard in failure.shards] == [(2,), (3,)]


def test_a_failure_of_the_only_part_is_itself() -> None:
    (group,) = groups("add", _check(ids=["a"], embeddings=[1.0]))
    account = Account("add", 1)
    error = errors.UnavailableError("gone")
    assert account.failure(error, group) is error
    half = errors.PartialWriteError("half")
    assert account.failure(half, group) is half
