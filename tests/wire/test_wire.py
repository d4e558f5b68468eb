"""What both ends of the wire share: errors, names, values, vectors, filters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import errors
from shoal.server.buckets import bucket_of, buckets_of
from shoal.server.clock import COUNTER_BITS, MAX_AHEAD_MS, HybridClock
from shoal.v1 import filter_pb2, value_pb2
from shoal.wire import filters, metadata, status, validation, vectors
from shoal.wire.limits import Limits

TESTDATA = Path(__file__).parents[2] / "protos" / "testdata"


def _classes(root: type[errors.ShoalError]) -> list[type[errors.ShoalError]]:
    return [d for child in root.__subclasses__() for d in (child, *_classes(child))]


@pytest.mark.parametrize("cls", _classes(errors.ShoalError))
def test_an_error_travels_as_itself(cls: type[errors.ShoalError]) -> None:
    error = cls(
        "what, which",
        metadata={"shard": "s1"},
        violations=[errors.FieldViolation("ids[3]", "is empty")],
        retry_after_s=1.5,
    )

    decoded = status.decode(error.code, error.message, status.encode(error))

    assert type(decoded) is cls
    assert str(decoded) == "what, which"
    assert decoded.metadata == error.metadata
    assert decoded.violations == error.violations
    assert decoded.retry_after_s == 1.5


@pytest.mark.parametrize("cls", _classes(errors.ShoalError))
def test_a_reason_is_the_name_of_its_class(cls: type[errors.ShoalError]) -> None:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).upper()
    assert cls.reason == name
    assert cls.code in status.CODES


def test_a_partial_write_travels_within_a_trailer_however_many_records_it_has() -> None:
    outcomes = [
        errors.ShardOutcome("a" * 36, "applied", tuple(range(9_000))),
        errors.ShardOutcome("b" * 36, "unknown", (9_001, 9_005), "UNAVAILABLE", "gone"),
        *(errors.ShardOutcome(f"{i:036}", "refused", (i,), "OVERLOADED", "x") for i in range(256)),
    ]
    error = errors.PartialWriteError(
        "half", shards=outcomes, metadata={"written_count": str(9_000)}
    )

    trailer = status.encode(error)
    decoded = status.decode("ABORTED", "half", trailer)

    assert len(trailer) < 6_000
    assert isinstance(decoded, errors.PartialWriteError)
    assert decoded.written_count == 9_000
    assert decoded.shards[0].outcome == "applied"
    assert decoded.shards[1].reason == "UNAVAILABLE"


@pytest.mark.parametrize("trailer", [None, b"", b"\xff\xff\xff", b"\x0a\x05abc"])
def test_a_status_without_our_details_is_still_an_error(trailer: bytes | None) -> None:
    assert isinstance(status.decode("UNAVAILABLE", "down", trailer), errors.UnavailableError)


def test_another_domain_does_not_choose_our_class() -> None:
    trailer = status.encode(errors.DuplicateIDError("x")).replace(b"shoal", b"other")
    assert type(status.decode("INVALID_ARGUMENT", "x", trailer)) is errors.InvalidArgumentError


@pytest.mark.parametrize("name", ["abc", "A.b-c_9", "0" * 512, "1.2.3", "1.2.3.4.5", "256.1.1.1"])
def test_a_good_name_is_accepted(name: str) -> None:
    validation.check_name("collection", name)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "a" * 513, "-abc", "abc.", "a..b", "a b c", "äbc", "10.0.0.1", "abc\n", "a/b"],
)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="collection name"):
        validation.check_name("collection", name)


def test_ids_are_checked_for_number_length_and_repetition() -> None:
    limits = Limits(max_batch_records=3)
    validation.check_record_ids(["a", "é" * 512, "c"], limits)
    with pytest.raises(errors.InvalidArgumentError, match="position 1 is empty"):
        validation.check_record_ids(["a", ""], limits)
    with pytest.raises(errors.InvalidArgumentError, match="1026 bytes; at most 1024"):
        validation.check_record_ids(["a", "é" * 513], limits)
    with pytest.raises(errors.BatchTooLargeError, match="4 IDs; at most 3"):
        validation.check_record_ids(list("abcd"), limits)
    with pytest.raises(errors.DuplicateIDError, match="'a' is given twice, at positions 0 and 2"):
        validation.check_record_ids(["a", "b", "a"], limits)
    with pytest.raises(errors.InvalidArgumentError, match="at least one ID"):
        validation.check_record_ids([], limits)


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
)
KEYS = st.text(min_size=1, max_size=20).filter(lambda key: key[0] not in "$#")


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=8))
def test_metadata_comes_back_with_its_types(given_metadata: dict[str, Any]) -> None:
    message = metadata.metadata_to_message(given_metadata)
    validation.check_metadata(message)
    found = metadata.metadata_from_message(
        value_pb2.Metadata.FromString(message.SerializeToString())
    )

    assert found == given_metadata
    for key, value in given_metadata.items():
        assert type(found[key]) is type(value)
        if isinstance(value, list):
            assert [type(v) for v in found[key]] == [type(v) for v in value]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ([], "empty list"),
        ([1, 2.0], "float and int"),
        ([True, 1], "bool and int"),
        ([[1]], "list of list"),
        ({"a": 1}, "dict"),
        (b"raw", "bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_value_that_metadata_cannot_hold_is_refused(value: Any, words: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=words):
        metadata.metadata_to_message({"key": value})


@given(
    st.lists(
        # Few keys and values, so that the same key comes with other kinds, and with none.
        st.dictionaries(
            st.sampled_from("abc"),
            st.sampled_from(["", "x", 0, 7, 0.0, 0.5, False, True, [0], ["x"], None]),
        ),
        max_size=6,
    )
)
def test_metadata_of_several_records_comes_back_as_that_of_each(
    records: list[dict[str, Any]],
) -> None:
    messages = [
        metadata.metadata_to_message(record) if record else value_pb2.Metadata()
        for record in records
    ]

    found = metadata.metadatas_from_messages(messages)

    expected = [record or None for record in records]
    assert found == expected
    # 0, 0.0 and False are equal, and not the same.
    kinds = [[type(v) for _, v in sorted((record or {}).items())] for record in found]
    assert kinds == [[type(v) for _, v in sorted((record or {}).items())] for record in expected]


@pytest.mark.parametrize("key", ["", "$a", "#a", "chroma:document", "x" * 257])
def test_a_key_that_metadata_cannot_hold_is_refused(key: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        metadata.metadata_to_message({key: 1})


def test_numpy_scalars_are_values() -> None:
    message = metadata.metadata_to_message(
        {"i": np.int32(3), "f": np.float32(0.5), "b": np.bool_(True), "l": np.arange(3)}
    )
    assert metadata.metadata_from_message(message) == {"b": True, "f": 0.5, "i": 3, "l": [0, 1, 2]}


def test_metadata_that_is_too_large_is_refused() -> None:
    message = metadata.metadata_to_message({"k": "x" * 65_536})
    with pytest.raises(errors.InvalidArgumentError, match="65537 bytes; at most 65536"):
        validation.check_metadata(message)
    validation.check_metadata(metadata.metadata_to_message({"k": "x" * 65_535}))
    many = metadata.metadata_to_message({f"k{i}": i for i in range(257)})
    with pytest.raises(errors.InvalidArgumentError, match="257 keys"):
        validation.check_metadata(many)


def test_a_value_without_a_kind_is_refused() -> None:
    message = value_pb2.Metadata(fields={"k": value_pb2.Value()})
    with pytest.raises(errors.InvalidArgumentError, match="no value"):
        validation.check_metadata(message)


def test_vectors_come_back_bit_for_bit() -> None:
    given_vectors = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    block = vectors.encode_vectors(given_vectors)
    found = vectors.decode_vectors(block, 7)
    assert found.tobytes() == given_vectors.tobytes()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0, 0], [np.nan, 1]], "position 1 is nan"),
        ([[np.inf, 0], [0, 1]], "position 0 is inf"),
        ([[1, 2], [3e38, 3e38]], "overflows float32"),
    ],
)
def test_a_vector_without_a_finite_norm_is_refused(rows: Any, words: str) -> None:
    block = vectors.encode_vectors(np.array(rows, np.float32))
    with pytest.raises(errors.InvalidArgumentError, match=words):
        vectors.decode_vectors(block, 2)


@pytest.mark.parametrize(
    "block",
    [
        value_pb2.VectorBlock(dimension=0, values=b""),
        value_pb2.VectorBlock(dimension=16_385, values=b"\0" * 4 * 16_385),
        value_pb2.VectorBlock(dimension=2, values=b"\0" * 7),
        value_pb2.VectorBlock(dimension=2, values=b""),
        value_pb2.VectorBlock(dimension=2**32 - 1, values=b"\0" * 8),
    ],
    ids=["no dimension", "dimension", "odd bytes", "no bytes", "huge dimension"],
)
@pytest.mark.parametrize("count", [1, None])
def test_a_vector_block_of_a_wrong_size_is_refused(
    block: value_pb2.VectorBlock, count: int | None
) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        vectors.decode_vectors(block, count)


@pytest.mark.parametrize(
    "where",
    [
        {"a": 1},
        {"a": {"$eq": "x"}},
        {"a": {"$in": [1, 2]}},
        {"a": {"$gt": 1.5}},
        {"a": {"$gte": "m"}},
        {"a": {"$contains": True}},
        {"a": {"$exists": False}},
        {"$and": [{"a": 1}, {"$or": [{"b": 2}, {"$not": {"c": True}}]}]},
    ],
)
def test_a_good_filter_is_accepted(where: dict[str, Any]) -> None:
    filters.where_from_dict(where)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({}, "exactly one key, got 0"),
        ({"a": 1, "b": 2}, "exactly one key, got 2"),
        ({"a": {}}, "exactly one key"),
        ({"a": {"$gt": 1, "$lt": 2}}, "exactly one key"),
        ({"a": {"$like": "x"}}, "unknown operator '\\$like'"),
        ({"$xor": []}, "unknown operator"),
        ({"$and": [{"a": 1}]}, "at least two"),
        ({"$or": []}, "at least two"),
        ({"$and": {"a": 1}}, "list of clauses"),
        ({"a": {"$gt": True}}, "needs a number or a string, got bool"),
        ({"a": {"$in": []}}, "empty list"),
        ({"a": {"$in": [1, "x"]}}, "list of int and str"),
        ({"a": {"$in": 1}}, "non-empty list"),
        ({"a": {"$eq": [1]}}, "got int list"),
        ({"a": [1]}, "got int list"),
        ({"a": None}, "NoneType"),
        ({"a": float("nan")}, "finite"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"#a": 1}, "reserved"),
        ({1: 1}, "not a string"),
        ([], "must be a dict"),
    ],
)
def test_a_bad_filter_is_refused(where: Any, words: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=words):
        filters.where_from_dict(where)


@pytest.mark.parametrize(
    ("where_document", "words"),
    [
        ({}, "exactly one key"),
        ({"$contains": ""}, "not empty"),
        ({"$contains": 1}, "needs a string"),
        ({"$like": "x"}, "unknown operator"),
        ({"$and": [{"$contains": "x"}]}, "at least two"),
        ({"$regex": "a" * 5_000}, "at most 4096"),
    ],
)
def test_a_bad_document_filter_is_refused(where_document: Any, words: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=words):
        filters.where_document_from_dict(where_document)


def _nested(depth: int) -> dict[str, Any]:
    where: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        where = {"$not": where}
    return where


def test_a_filter_is_bounded_in_depth_and_clauses() -> None:
    filters.where_from_dict(_nested(32))
    with pytest.raises(errors.InvalidArgumentError, match="deep"):
        filters.where_from_dict(_nested(33))
    with pytest.raises(errors.InvalidArgumentError, match="deep"):
        filters.where_from_dict(_nested(50_000))
    filters.where_from_dict({"$or": [{"a": i} for i in range(1_023)]})
    with pytest.raises(errors.InvalidArgumentError, match="more than 1024 clauses"):
        filters.where_from_dict({"$or": [{"a": i} for i in range(1_024)]})


def test_a_filter_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="no kind known"):
        filters.check_where(filter_pb2.Where())
    condition = filter_pb2.FieldCondition(field="a", operand=value_pb2.Value(int_value=1))
    with pytest.raises(errors.InvalidArgumentError, match="no operator known"):
        filters.check_where(filter_pb2.Where(condition=condition))


def test_buckets_are_those_of_the_test_vectors() -> None:
    cases = json.loads((TESTDATA / "buckets.json").read_text())["cases"]
    assert len(cases) > 10
    for case in cases:
        assert bucket_of(case["id"]) == case["bucket"]
    assert buckets_of([c["id"] for c in cases]).tolist() == [c["bucket"] for c in cases]


def test_vector_blocks_are_those_of_the_test_vectors() -> None:
    cases = json.loads((TESTDATA / "vector_blocks.json").read_text())["cases"]
    assert len(cases) > 3
    for case in cases:
        given_vectors = np.array(case["vectors"], np.float32)
        block = vectors.encode_vectors(given_vectors)
        assert block.dimension == case["dimension"]
        assert block.values.hex() == case["values_hex"]


class _Wall:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def test_the_clock_never_falls_and_never_repeats() -> None:
    wall = _Wall()
    clock = HybridClock(wall)
    first = clock.reserve(10)
    wall.ms -= 500
    second = clock.reserve(5)
    assert first == 1_000_000 << COUNTER_BITS
    assert second == first + 10
    wall.ms += 1_000
    assert clock.reserve(1) == 1_000_500 << COUNTER_BITS


def test_the_clock_follows_others_but_not_into_the_far_future() -> None:
    wall = _Wall()
    clock = HybridClock(wall)
    near = (wall.ms + MAX_AHEAD_MS) << COUNTER_BITS
    assert clock.merge(near)
    assert clock.reserve(1) == near + 1
    assert not clock.merge((wall.ms + MAX_AHEAD_MS + 1) << COUNTER_BITS)
    assert clock.reserve(1) == near + 2
