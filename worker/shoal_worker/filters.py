"""What a filter matches: the exact semantics of `where` and `where_document`, and nothing else.

A filter is compiled once to a predicate over a record's metadata (a mapping from key to a plain
Python value) and its document. The rules of comparison:

- integers and floats compare as numbers, exactly (Python compares an int with a float without
  rounding either), but a bool is only ever equal to a bool, and a string to a string;
- `$gt` and its kin match numbers for a number, strings by code point for a string;
- `$contains` is type-strict: an integer is not an element of a list of floats;
- complements (`$ne`, `$nin`, `$not_contains`, `$not_regex`, `$not`) match all that the plain
  operator does not, also records without the key or without a document.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import re2

from shoal.errors import InvalidArgumentError
from shoal.v1.filter_pb2 import (
    DocumentCondition,
    DocumentOperator,
    FieldCondition,
    Where,
    WhereDocument,
    WhereOperator,
)
from shoal.v1.value_pb2 import Metadata, Value

__all__ = [
    "DocumentPredicate",
    "Field",
    "Fields",
    "Predicate",
    "Scalar",
    "StoredFields",
    "compile_document",
    "compile_where",
    "elements_of",
    "fields_of",
    "ordered_of",
    "scalar_of",
]

Scalar: TypeAlias = str | int | float | bool
Field: TypeAlias = Scalar | list[Scalar]


class Fields(Protocol):
    """Metadata, as predicates ask for it."""

    def get(self, name: str, /) -> Field | None: ...
    def __contains__(self, name: object, /) -> bool: ...


Predicate: TypeAlias = Callable[[Fields], bool]
DocumentPredicate: TypeAlias = Callable[[bytes | None], bool]

_REGEX_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""What RE2 may spend on one expression; a larger one is refused when it is compiled."""

_REGEX_INSTRUCTIONS: Final = 4_000
"""Of a compiled expression. RE2's time is linear in the text, and at worst in their product: with
8,000 of them one that is made to be slow takes 30 s for a document of 1 MiB, and nothing can
interrupt it. `.{0,400}` has 3,200."""

_SCALAR_KINDS: Final = frozenset({"string_value", "int_value", "double_value", "bool_value"})
_LIST_KINDS: Final = frozenset({"string_list", "int_list", "double_list", "bool_list"})


def fields_of(encoded: bytes | None) -> Mapping[str, Field]:
    """Give the plain values of serialised metadata; empty for None."""
    if not encoded:
        return {}
    return {
        key: field
        for key, value in Metadata.FromString(encoded).fields.items()
        if (field := _plain(value)) is not None
    }


class StoredFields:
    """Metadata as it is stored, of which only what is asked for is made plain.

    Args:
        encoded: Serialised; None: there is none.
    """

    __slots__ = ("_values",)

    def __init__(self, encoded: bytes | None) -> None:
        self._values = Metadata.FromString(encoded or b"").fields

    def get(self, name: str) -> Field | None:
        """Give a field's value; None if it is not there."""
        # Asked first: the message makes what is not there.
        return _plain(self._values[name]) if name in self._values else None

    def __contains__(self, name: object) -> bool:
        return name in self._values and _plain(self._values[str(name)]) is not None


def _plain(value: Value) -> Field | None:
    kind = value.WhichOneof("kind")
    if kind in _SCALAR_KINDS:
        scalar: Scalar = getattr(value, kind)
        return scalar
    if kind in _LIST_KINDS:
        return list(getattr(value, kind).values)
    # A sparse vector is present, and equal to nothing.
    return [] if kind == "sparse_vector" else None


def compile_where(where: Where) -> Predicate:
    """Compile a filter on metadata.

    Raises:
        InvalidArgumentError: If it is not a filter.
    """
    match where.WhichOneof("clause"):
        case "condition":
            return _compile_condition(where.condition)
        case "all_of":
            return _all([compile_where(clause) for clause in where.all_of.clauses])
        case "any_of":
            return _any([compile_where(clause) for clause in where.any_of.clauses])
        case "negation":
            return _not(compile_where(where.negation))
        case _:
            raise InvalidArgumentError("a clause of `where` is empty: set exactly one kind")


def _all(clauses: list[Predicate]) -> Predicate:
    return lambda fields: all(clause(fields) for clause in clauses)


def _any(clauses: list[Predicate]) -> Predicate:
    return lambda fields: any(clause(fields) for clause in clauses)


def _not(clause: Predicate) -> Predicate:
    return lambda fields: not clause(fields)


_ORDERS: Final[Mapping[int, Callable[[Any, Any], bool]]] = {
    WhereOperator.WHERE_OPERATOR_GT: operator.gt,
    WhereOperator.WHERE_OPERATOR_GTE: operator.ge,
    WhereOperator.WHERE_OPERATOR_LT: operator.lt,
    WhereOperator.WHERE_OPERATOR_LTE: operator.le,
}


def _compile_condition(condition: FieldCondition) -> Predicate:
    field = condition.field
    if condition.operator in _ORDERS:
        return _compares(field, ordered_of(condition), _ORDERS[condition.operator])
    match condition.operator:
        case WhereOperator.WHERE_OPERATOR_EQ:
            return _equals(field, scalar_of(condition))
        case WhereOperator.WHERE_OPERATOR_NE:
            return _not(_equals(field, scalar_of(condition)))
        case WhereOperator.WHERE_OPERATOR_IN:
            return _any([_equals(field, element) for element in elements_of(condition)])
        case WhereOperator.WHERE_OPERATOR_NIN:
            return _not(_any([_equals(field, element) for element in elements_of(condition)]))
        case WhereOperator.WHERE_OPERATOR_CONTAINS:
            return _contains(field, scalar_of(condition))
        case WhereOperator.WHERE_OPERATOR_NOT_CONTAINS:
            return _not(_contains(field, scalar_of(condition)))
        case WhereOperator.WHERE_OPERATOR_EXISTS:
            wanted = scalar_of(condition)
            if not isinstance(wanted, bool):
                raise InvalidArgumentError(f"$exists on {field!r} takes true or false")
            return lambda fields: (field in fields) is wanted
        case unknown:
            raise InvalidArgumentError(f"the operator {unknown} on {field!r} is not known")


def scalar_of(condition: FieldCondition) -> Scalar:
    """Give the operand of a condition that compares with one value.

    Raises:
        InvalidArgumentError: If it is not one.
    """
    kind = condition.operand.WhichOneof("kind")
    if kind not in _SCALAR_KINDS:
        raise InvalidArgumentError(
            f"the operand of {_name(condition)} on {condition.field!r} must be a string, "
            f"integer, double or bool, got {kind}"
        )
    value: Scalar = getattr(condition.operand, kind)
    return value


def ordered_of(condition: FieldCondition) -> str | int | float:
    """Give the operand of a condition that compares by order.

    Raises:
        InvalidArgumentError: If it has no order.
    """
    value = scalar_of(condition)
    if isinstance(value, bool):
        raise InvalidArgumentError(
            f"the operand of {_name(condition)} on {condition.field!r} must be a number or a "
            "string: a bool has no order"
        )
    return value


def elements_of(condition: FieldCondition) -> list[Scalar]:
    """Give the operands of a condition that compares with several values.

    Raises:
        InvalidArgumentError: If it is not a list, or an empty one.
    """
    operand: Value = condition.operand
    kind = operand.WhichOneof("kind")
    if kind not in _LIST_KINDS or not getattr(operand, kind).values:
        raise InvalidArgumentError(
            f"the operand of {_name(condition)} on {condition.field!r} must be a non-empty list"
        )
    return list(getattr(operand, kind).values)


def _name(condition: FieldCondition) -> str:
    name = WhereOperator.Name(condition.operator).removeprefix("WHERE_OPERATOR_")
    return f"${name.lower()}"


def _is_number(value: object) -> bool:
    # The exact type: bool is a subclass of int.
    return type(value) is int or type(value) is float


def _equals(field: str, wanted: Scalar) -> Predicate:
    if _is_number(wanted):

        def equals_number(fields: Fields) -> bool:
            value = fields.get(field)
            return _is_number(value) and value == wanted

        return equals_number
    kind = type(wanted)

    def equals(fields: Fields) -> bool:
        value = fields.get(field)
        return type(value) is kind and value == wanted

    return equals


def _compares(
    field: str, bound: str | int | float, compare: Callable[[Any, Any], bool]
) -> Predicate:
    if isinstance(bound, str):

        def compares_text(fields: Fields) -> bool:
            value = fields.get(field)
            return type(value) is str and compare(value, bound)

        return compares_text

    def compares_number(fields: Fields) -> bool:
        value = fields.get(field)
        return _is_number(value) and compare(value, bound)

    return compares_number


def _contains(field: str, wanted: Scalar) -> Predicate:
    kind = type(wanted)

    def contains(fields: Fields) -> bool:
        value = fields.get(field)
        return (
            isinstance(value, list) and bool(value) and type(value[0]) is kind and wanted in value
        )

    return contains


def compile_document(where: WhereDocument) -> DocumentPredicate:
    """Compile a filter on documents, in UTF-8: what is a substring is one there, too.

    Raises:
        InvalidArgumentError: If it is not a filter, or an expression is not RE2's or too large.
    """
    match where.WhichOneof("clause"):
        case "condition":
            return _compile_document_condition(where.condition)
        case "all_of":
            every = [compile_document(clause) for clause in where.all_of.clauses]
            return lambda document: all(clause(document) for clause in every)
        case "any_of":
            some = [compile_document(clause) for clause in where.any_of.clauses]
            return lambda document: any(clause(document) for clause in some)
        case "negation":
            clause = compile_document(where.negation)
            return lambda document: not clause(document)
        case _:
            raise InvalidArgumentError(
                "a clause of `where_document` is empty: set exactly one kind"
            )


def _compile_document_condition(condition: DocumentCondition) -> DocumentPredicate:
    operand = condition.operand
    if not operand:
        raise InvalidArgumentError("the operand of a condition on documents must not be empty")
    encoded = operand.encode()
    match condition.operator:
        case DocumentOperator.DOCUMENT_OPERATOR_CONTAINS:
            return lambda document: document is not None and encoded in document
        case DocumentOperator.DOCUMENT_OPERATOR_NOT_CONTAINS:
            return lambda document: document is None or encoded not in document
        case DocumentOperator.DOCUMENT_OPERATOR_REGEX:
            search = _compile_regex(operand)
            return lambda document: document is not None and search(document)
        case DocumentOperator.DOCUMENT_OPERATOR_NOT_REGEX:
            search = _compile_regex(operand)
            return lambda document: document is None or not search(document)
        case unknown:
            raise InvalidArgumentError(f"the document operator {unknown} is not known")


def _compile_regex(expression: str) -> Callable[[bytes], bool]:
    options = re2.Options()
    options.max_mem = _REGEX_MEMORY_BYTES
    # Otherwise RE2 writes what it does not understand to the standard error itself.
    options.log_errors = False
    # Nobody asks what a group matched.
    options.never_capture = True
    try:
        compiled = re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise InvalidArgumentError(
            f"the regular expression {expression!r} is not one of RE2's: {reason}"
        ) from error
    if compiled.programsize > _REGEX_INSTRUCTIONS:
        raise InvalidArgumentError(
            f"the regular expression {expression[:200]!r} is too large: compiled it has "
            f"{compiled.programsize} instructions, at most {_REGEX_INSTRUCTIONS} are allowed; "
            "repeat less often"
        )

    return lambda document: compiled.search(document) is not None
