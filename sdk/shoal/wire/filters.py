"""Filters: from the Mongo-like dicts that users write to messages, and the rules both keep.

On the wire a filter is a tree of messages. `where_from_dict` and `where_document_from_dict` build
it; `check_where` and `check_where_document` are the rules for a tree from anywhere. Evaluating one
is the worker's business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from shoal.v1 import filter_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal.wire.metadata import value_to_message
from shoal.wire.validation import check_metadata_key, check_value, invalid, shown

__all__ = [
    "check_where",
    "check_where_document",
    "check_where_keys",
    "where_document_from_dict",
    "where_from_dict",
]

_OPERATORS: Final = {
    "$eq": filter_pb2.WHERE_OPERATOR_EQ,
    "$ne": filter_pb2.WHERE_OPERATOR_NE,
    "$gt": filter_pb2.WHERE_OPERATOR_GT,
    "$gte": filter_pb2.WHERE_OPERATOR_GTE,
    "$lt": filter_pb2.WHERE_OPERATOR_LT,
    "$lte": filter_pb2.WHERE_OPERATOR_LTE,
    "$in": filter_pb2.WHERE_OPERATOR_IN,
    "$nin": filter_pb2.WHERE_OPERATOR_NIN,
    "$contains": filter_pb2.WHERE_OPERATOR_CONTAINS,
    "$not_contains": filter_pb2.WHERE_OPERATOR_NOT_CONTAINS,
    "$exists": filter_pb2.WHERE_OPERATOR_EXISTS,
}
_NAMES: Final = {number: name for name, number in _OPERATORS.items()}

_DOCUMENT_OPERATORS: Final = {
    "$contains": filter_pb2.DOCUMENT_OPERATOR_CONTAINS,
    "$not_contains": filter_pb2.DOCUMENT_OPERATOR_NOT_CONTAINS,
    "$regex": filter_pb2.DOCUMENT_OPERATOR_REGEX,
    "$not_regex": filter_pb2.DOCUMENT_OPERATOR_NOT_REGEX,
}
_DOCUMENT_NAMES: Final = {number: name for name, number in _DOCUMENT_OPERATORS.items()}

_SCALARS: Final = ("string_value", "int_value", "double_value", "bool_value")
_LISTS: Final = ("string_list", "int_list", "double_list", "bool_list")
_ORDERED: Final = ("string_value", "int_value", "double_value")
# What each operator may be given, and how to say so.
_SCALAR_OPERAND: Final = (_SCALARS, "a string, int, float or bool")
_ORDERED_OPERAND: Final = (_ORDERED, "a number or a string")
_LIST_OPERAND: Final = (_LISTS, "a non-empty list of strings, ints, floats or bools")
_OPERANDS: Final = {
    filter_pb2.WHERE_OPERATOR_EQ: _SCALAR_OPERAND,
    filter_pb2.WHERE_OPERATOR_NE: _SCALAR_OPERAND,
    filter_pb2.WHERE_OPERATOR_GT: _ORDERED_OPERAND,
    filter_pb2.WHERE_OPERATOR_GTE: _ORDERED_OPERAND,
    filter_pb2.WHERE_OPERATOR_LT: _ORDERED_OPERAND,
    filter_pb2.WHERE_OPERATOR_LTE: _ORDERED_OPERAND,
    filter_pb2.WHERE_OPERATOR_IN: _LIST_OPERAND,
    filter_pb2.WHERE_OPERATOR_NIN: _LIST_OPERAND,
    filter_pb2.WHERE_OPERATOR_CONTAINS: _SCALAR_OPERAND,
    filter_pb2.WHERE_OPERATOR_NOT_CONTAINS: _SCALAR_OPERAND,
    filter_pb2.WHERE_OPERATOR_EXISTS: (("bool_value",), "true or false"),
}

# A pattern this long is no search for a text any more, and its automaton takes memory.
MAX_REGEX_BYTES: Final = 4_096
MAX_CONTAINS_BYTES: Final = 65_536


def where_from_dict(where: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> filter_pb2.Where:
    """Build a metadata filter from a dict.

    Args:
        where: ``{field: literal}``, ``{field: {operator: operand}}``,
            ``{"$and" | "$or": [at least 2 clauses]}`` or ``{"$not": clause}``.
        limits: Bounds of depth and clauses.

    Raises:
        InvalidArgumentError: It is none of these, or breaks a rule of `check_where`.
    """
    message = _where(where, "where", limits.max_filter_depth)
    check_where(message, limits)
    return message


def _only_item(clause: Any, path: str) -> tuple[str, Any]:
    if not isinstance(clause, Mapping):
        raise invalid(path, f"{path} must be a dict, got {type(clause).__name__}")
    if len(clause) != 1:
        raise invalid(
            path,
            f"{path} must have exactly one key, got {len(clause)}"
            + (
                f" ({', '.join(map(repr, clause))}): combine them with $and or $or"
                if clause
                else ""
            ),
        )
    [(key, operand)] = clause.items()
    if not isinstance(key, str):
        raise invalid(path, f"{path}: key {key!r} is not a string")
    return key, operand


def _clauses(operator: str, operand: Any, path: str) -> Sequence[Any]:
    if not isinstance(operand, list | tuple):
        raise invalid(
            path, f"{path}: {operator} needs a list of clauses, got {type(operand).__name__}"
        )
    return operand


def _check_depth(depth_left: int, path: str) -> None:
    # While building, so that a hostile nesting ends here and not in the interpreter's stack.
    if depth_left <= 0:
        raise invalid(path, f"{path[:60]}… is nested deeper than the server's limit")


def _where(clause: Any, path: str, depth_left: int) -> filter_pb2.Where:
    _check_depth(depth_left, path)
    key, operand = _only_item(clause, path)
    message = filter_pb2.Where()
    if key in ("$and", "$or"):
        target = message.all_of if key == "$and" else message.any_of
        target.SetInParent()
        for index, child in enumerate(_clauses(key, operand, path)):
            target.clauses.append(_where(child, f"{path}.{key}[{index}]", depth_left - 1))
    elif key == "$not":
        message.negation.CopyFrom(_where(operand, f"{path}.$not", depth_left - 1))
    elif key.startswith("$"):
        raise invalid(
            path, f"{path}: unknown operator {key!r}; here belong a field, $and, $or or $not"
        )
    else:
        message.condition.CopyFrom(_condition(key, operand, f"{path}.{key}"))
    return message


def _condition(name: str, operand: Any, path: str) -> filter_pb2.FieldCondition:
    operator = "$eq"
    if isinstance(operand, Mapping):
        operator, operand = _only_item(operand, path)
        if operator not in _OPERATORS:
            raise invalid(
                path, f"{path}: unknown operator {operator!r}; known are {', '.join(_OPERATORS)}"
            )
    return filter_pb2.FieldCondition(
        field=name,
        operator=_OPERATORS[operator],
        operand=value_to_message(operand, f"{path} ({operator})"),
    )


def where_document_from_dict(
    where_document: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS
) -> filter_pb2.WhereDocument:
    """Build a document filter from a dict.

    Args:
        where_document: ``{"$contains" | "$not_contains" | "$regex" | "$not_regex": text}``,
            ``{"$and" | "$or": [at least 2 clauses]}`` or ``{"$not": clause}``.
        limits: Bounds of depth and clauses.

    Raises:
        InvalidArgumentError: It is none of these, or breaks a rule of `check_where_document`.
    """
    message = _where_document(where_document, "where_document", limits.max_filter_depth)
    check_where_document(message, limits)
    return message


def _where_document(clause: Any, path: str, depth_left: int) -> filter_pb2.WhereDocument:
    _check_depth(depth_left, path)
    key, operand = _only_item(clause, path)
    message = filter_pb2.WhereDocument()
    if key in ("$and", "$or"):
        target = message.all_of if key == "$and" else message.any_of
        target.SetInParent()
        for index, child in enumerate(_clauses(key, operand, path)):
            target.clauses.append(_where_document(child, f"{path}.{key}[{index}]", depth_left - 1))
    elif key == "$not":
        message.negation.CopyFrom(_where_document(operand, f"{path}.$not", depth_left - 1))
    elif key not in _DOCUMENT_OPERATORS:
        raise invalid(
            path,
            f"{path}: unknown operator {key!r}; known are {', '.join(_DOCUMENT_OPERATORS)}, "
            "$and, $or, $not",
        )
    elif not isinstance(operand, str):
        raise invalid(path, f"{path}: {key} needs a string, got {type(operand).__name__}")
    else:
        # Through the translation of values, which refuses text without a UTF-8 form.
        text = value_to_message(operand, f"{path} ({key})").string_value
        message.condition.operator = _DOCUMENT_OPERATORS[key]
        message.condition.operand = text
    return message


def check_where(where: filter_pb2.Where, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check a metadata filter from anywhere.

    Raises:
        InvalidArgumentError: A clause is empty, a field's name, operator or operand not allowed, or
            the tree deeper or larger than the limits.
    """
    for condition in _walk(where, "where", limits):
        _check_condition(condition, limits)


def check_where_keys(where: filter_pb2.Where, sparse_keys: Collection[str]) -> None:
    """Check a filter that keeps its other rules against the keys of a collection.

    Raises:
        InvalidArgumentError: A sparse vector is compared with something: it only exists or not.
    """
    for condition in _walk(where, "where", _ANY_SIZE):
        if condition.field in sparse_keys and (
            condition.operator != filter_pb2.WHERE_OPERATOR_EXISTS
        ):
            path = f"where.{condition.field}"
            raise invalid(
                path,
                f"{path}: {_NAMES[condition.operator]} cannot be asked of sparse vectors; "
                "$exists can",
            )


def check_where_document(
    where_document: filter_pb2.WhereDocument, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Check a document filter from anywhere.

    Raises:
        InvalidArgumentError: A clause is empty, an operator or operand not allowed, or the tree
            deeper or larger than the limits.
    """
    for condition in _walk(where_document, "where_document", limits):
        _check_document_condition(condition)


_Condition = TypeVar("_Condition", covariant=True)


_ANY_SIZE: Final = Limits(max_filter_depth=2**31, max_filter_clauses=2**31)
"""For a filter whose size was checked before."""


class _Clauses(Protocol):
    @property
    def clauses(self) -> Sequence[Any]: ...


class _Tree(Protocol[_Condition]):
    """What the two kinds of filter have in common."""

    @property
    def condition(self) -> _Condition: ...
    @property
    def all_of(self) -> _Clauses: ...
    @property
    def any_of(self) -> _Clauses: ...
    @property
    def negation(self) -> Any: ...
    def WhichOneof(self, oneof_group: Any, /) -> Any: ...


def _walk(root: _Tree[_Condition], path: str, limits: Limits) -> list[_Condition]:
    """Check a tree's shape, and give its conditions."""
    conditions: list[_Condition] = []
    pending: list[tuple[_Tree[_Condition], int]] = [(root, 1)]
    count = 0
    while pending:
        clause, depth = pending.pop()
        count += 1
        if depth > limits.max_filter_depth:
            raise invalid(
                path,
                f"{path} is nested {depth} deep; at most {limits.max_filter_depth} is allowed",
            )
        if count > limits.max_filter_clauses:
            raise invalid(
                path, f"{path} has more than {limits.max_filter_clauses} clauses, the limit"
            )
        match clause.WhichOneof("clause"):
            case "condition":
                conditions.append(clause.condition)
            case "negation":
                pending.append((clause.negation, depth + 1))
            case ("all_of" | "any_of") as name:
                children = getattr(clause, name).clauses
                if len(children) < 2:
                    shown_name = "$and" if name == "all_of" else "$or"
                    raise invalid(
                        path,
                        f"{path}: {shown_name} needs at least two clauses, got {len(children)}",
                    )
                pending.extend((child, depth + 1) for child in children)
            case _:
                raise invalid(path, f"{path} holds a clause of no kind known to this server")
    return conditions


def _check_condition(condition: filter_pb2.FieldCondition, limits: Limits) -> None:
    path = f"where.{condition.field}"
    check_metadata_key(condition.field, limits, "where")
    expected = _OPERANDS.get(condition.operator)
    if expected is None:
        raise invalid(path, f"{path} has no operator known to this server ({condition.operator})")
    kinds, words = expected
    operator = _NAMES[condition.operator]
    kind = condition.operand.WhichOneof("kind")
    if kind not in kinds:
        got = "nothing" if kind is None else kind.replace("_value", "").replace("_", " ")
        raise invalid(path, f"{path}: {operator} needs {words}, got {got}")
    check_value(condition.operand, path, condition.field)


def _check_document_condition(condition: filter_pb2.DocumentCondition) -> None:
    name = _DOCUMENT_NAMES.get(condition.operator)
    if name is None:
        raise invalid(
            "where_document",
            f"where_document has no operator known to this server ({condition.operator})",
        )
    if not condition.operand:
        raise invalid("where_document", f"where_document: {name} needs a text that is not empty")
    maximum = MAX_REGEX_BYTES if "regex" in name else MAX_CONTAINS_BYTES
    size = len(condition.operand.encode())
    if size > maximum:
        raise invalid(
            "where_document",
            f"where_document: {name} {shown(condition.operand, 30)} has {size} bytes; "
            f"at most {maximum} are allowed",
        )
