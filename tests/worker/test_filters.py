"""A filter evaluated by the worker == the same filter evaluated by a plain reading of the rules."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shoal.errors import InvalidArgumentError
from shoal.v1.filter_pb2 import Where, WhereDocument, WhereOperator
from shoal.wire.filters import where_document_from_dict, where_from_dict
from shoal.wire.metadata import metadata_to_message
from shoal_worker.filters import compile_document, compile_where, fields_of

BIG = 2**63 - 1
INTS = st.sampled_from([0, 1, -1, 2, 2**53, 2**53 + 1, BIG, -(2**63)]) | st.integers(-3, 3)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 0.5, float(2**53), float(2**63), -1.5, 1e300])
STRINGS = st.sampled_from(["", "a", "A", "ab", "b", "é", "\U0001f600", "\uffff"])
SCALARS = st.one_of(INTS, FLOATS, STRINGS, st.booleans())
LISTS = st.one_of(
    *(st.lists(kind, min_size=1, max_size=3) for kind in (INTS, FLOATS, STRINGS, st.booleans()))
)
KEYS = st.sampled_from(["k", "l", "m"])
METADATA = st.dictionaries(KEYS, SCALARS | LISTS, max_size=3)
CONDITIONS = st.one_of(
    st.builds(lambda k, v: {k: v}, KEYS, SCALARS),
    st.builds(
        lambda k, o, v: {k: {o: v}},
        KEYS,
        st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]),
        SCALARS,
    ),
    st.builds(
        lambda k, o, v: {k: {o: v}},
        KEYS,
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        INTS | FLOATS | STRINGS,
    ),
    st.builds(lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["$in", "$nin"]), LISTS),
    st.builds(lambda k, v: {k: {"$exists": v}}, KEYS, st.booleans()),
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(
            lambda o, c: {o: c},
            st.sampled_from(["$and", "$or"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
        st.builds(lambda c: {"$not": c}, inner),
    ),
    max_leaves=6,
)


def kind(value: object) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def comparable(value: Any) -> Any:
    """A number without rounding, a string by its code points."""
    return Fraction(value) if kind(value) == "number" else list(map(ord, value))


def same(value: Any, wanted: Any) -> bool:
    if kind(value) != kind(wanted):
        return False
    if kind(value) == "number":
        return bool(comparable(value) == comparable(wanted))
    return bool(value == wanted)


def has(value: Any, wanted: Any) -> bool:
    return isinstance(value, list) and any(type(v) is type(wanted) and v == wanted for v in value)


COMPLEMENTS = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}


def oracle(where: dict[str, Any], metadata: dict[str, Any]) -> bool:
    """The table of the rules, read literally."""
    ((key, operand),) = where.items()
    if key == "$and":
        return all(oracle(c, metadata) for c in operand)
    if key == "$or":
        return any(oracle(c, metadata) for c in operand)
    if key == "$not":
        return not oracle(operand, metadata)
    ((operator, wanted),) = (operand if isinstance(operand, dict) else {"$eq": operand}).items()
    if operator in COMPLEMENTS:
        return not oracle({key: {COMPLEMENTS[operator]: wanted}}, metadata)
    if operator == "$exists":
        return (key in metadata) is wanted
    return key in metadata and compared(operator, metadata[key], wanted)


def compared(operator: str, value: Any, wanted: Any) -> bool:
    if operator == "$eq":
        return same(value, wanted)
    if operator == "$in":
        return any(same(value, w) for w in wanted)
    if operator == "$contains":
        return has(value, wanted)
    if kind(value) != kind(wanted) or kind(value) not in ("number", "str"):
        return False
    a, b = comparable(value), comparable(wanted)
    return bool({"$gt": a > b, "$gte": a >= b, "$lt": a < b, "$lte": a <= b}[operator])


@given(FILTERS, METADATA)
@example({"k": {"$eq": float(2**53)}}, {"k": 2**53 + 1})
@example({"k": {"$lt": float(2**63)}}, {"k": BIG})
@example({"k": 1}, {"k": True})
def test_a_filter_matches_what_the_rules_say(
    where: dict[str, Any], metadata: dict[str, Any]
) -> None:
    stored = metadata_to_message(metadata).SerializeToString()

    assert compile_where(where_from_dict(where))(fields_of(stored)) is oracle(where, metadata)


DOCUMENTS = [None, "", "a", "abc", "ABC", "a\nb", "naïve", "tab\tc", "aa"]


def encoded(document: str | None) -> bytes | None:
    return None if document is None else document.encode()


EXPRESSIONS = ["a", "^a", "b$", "a.b", "(?s)a.b", "[A-C]+", "a{2}", "ï", r"\bc", "(?i)abc"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_regular_expression_is_unanchored(expression: str) -> None:
    matches = compile_document(where_document_from_dict({"$regex": expression}))
    complement = compile_document(where_document_from_dict({"$not_regex": expression}))

    for document in DOCUMENTS:
        expected = document is not None and re.search(expression, document) is not None
        assert matches(encoded(document)) is expected
        assert complement(encoded(document)) is not expected


@pytest.mark.parametrize("part", ["a", "bc", "A", "\n", "ï"])
def test_a_substring_is_case_sensitive(part: str) -> None:
    matches = compile_document(where_document_from_dict({"$contains": part}))
    complement = compile_document(where_document_from_dict({"$not_contains": part}))

    for document in DOCUMENTS:
        assert matches(encoded(document)) is (document is not None and part in document)
        assert complement(encoded(document)) is not matches(encoded(document))


@pytest.mark.parametrize("expression", ["a{1000}", "[a-q][^u-z]{400}x", "(x+x+)+y", "(a|aa)+$"])
def test_an_expression_takes_time_in_proportion_to_the_text(expression: str) -> None:
    matches = compile_document(where_document_from_dict({"$regex": expression}))

    began = time.thread_time()
    assert not matches(b"abcdefgh" * 4096)
    assert time.thread_time() - began < 5.0


def test_an_expression_that_would_take_long_in_any_text_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="8006 instructions, at most 4000"):
        compile_document(where_document_from_dict({"$regex": "[a-q][^u-z]{1000}x"}))


@pytest.mark.parametrize("expression", ["(", "a(?=b)", r"(a)\1", "(?:a{1000}){1000}"])
def test_what_is_not_a_regular_expression_of_re2_is_refused(expression: str) -> None:
    where = WhereDocument()
    where.condition.operator = 3  # type: ignore[assignment]
    where.condition.operand = expression

    with pytest.raises(InvalidArgumentError, match="RE2"):
        compile_document(where)


def test_a_filter_without_a_clause_or_with_an_unknown_operator_is_refused() -> None:
    unknown = Where()
    unknown.condition.field = "k"
    unknown.condition.operator = 99  # type: ignore[assignment]
    unspecified = Where()
    unspecified.condition.field = "k"
    wrong_operand = Where()
    wrong_operand.condition.field = "k"
    wrong_operand.condition.operator = WhereOperator.WHERE_OPERATOR_GT
    wrong_operand.condition.operand.bool_value = True

    for where in (Where(), unknown, unspecified, wrong_operand):
        with pytest.raises(InvalidArgumentError):
            compile_where(where)
    with pytest.raises(InvalidArgumentError):
        compile_document(WhereDocument())
