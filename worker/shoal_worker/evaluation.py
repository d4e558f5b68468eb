"""A filter on metadata, evaluated by the index.

The answer is a set of rows, right at the index's coverage, and a set of doubtful rows, for which
only the metadata itself can tell: those whose long strings are known by a digest, and those that it
is cheaper to look at than to go on reading the index. `compile_where` (in `filters`) is what the
semantics are; this gives the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from shoal.errors import InvalidArgumentError
from shoal.v1.filter_pb2 import FieldCondition, Where, WhereOperator
from shoal_worker.environment import Transaction
from shoal_worker.filters import Scalar, elements_of, ordered_of, scalar_of
from shoal_worker.metadata_index import (
    EXISTS,
    STRING,
    MetadataIndex,
    element_term,
    is_long,
    long_terms_like,
    scalar_term,
    string_term,
)
from shoal_worker.rows import BitMap
from shoal_worker.runs import first_entry, last_entry

__all__ = ["Evaluation"]

_LOOK_ROWS: Final = 256
"""Rows that are looked at rather than intersected with a range: reading a record's metadata costs
4 µs, and a range over all of a million numbers milliseconds."""

_FIRST: Final = b"\x00" * 16
_LAST: Final = b"\xff" * 16

_AFTER_STRINGS: Final = bytes([STRING[0] + 1])

_RANGES: Final = frozenset(
    {
        WhereOperator.WHERE_OPERATOR_GT,
        WhereOperator.WHERE_OPERATOR_GTE,
        WhereOperator.WHERE_OPERATOR_LT,
        WhereOperator.WHERE_OPERATOR_LTE,
    }
)


class Evaluation:
    """The evaluation of one filter in one transaction.

    Args:
        txn: The transaction.
        index: The index.
        version: Names what the index holds in the transaction; None: nothing is remembered.
        check: Called now and then; what it raises ends the evaluation.

    Attributes:
        doubtful: Rows for which the answer does not count.
    """

    def __init__(
        self,
        txn: Transaction,
        index: MetadataIndex,
        version: object = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._txn = txn
        self._index = index
        self._version = version
        self._check = check
        self._alive: BitMap | None = None
        self._numbers: dict[str, bytes | None] = {}
        self.doubtful = BitMap()

    def rows(self, where: Where) -> BitMap:
        """Give the rows that match; the receiver may change the set.

        Raises:
            InvalidArgumentError: If it is not a filter.
            DamagedIndexError: If the index is not what was stored.
        """
        match where.WhichOneof("clause"):
            case "condition":
                return self._condition(where.condition)
            case "all_of":
                return self._all(where.all_of.clauses)
            case "any_of":
                return BitMap.union(*[self.rows(clause) for clause in where.any_of.clauses])
            case "negation":
                return self._complement(self.rows(where.negation))
            case _:
                raise InvalidArgumentError("a clause of `where` is empty: set exactly one kind")

    def _complement(self, rows: BitMap) -> BitMap:
        if self._alive is None:
            self._alive = self._index.alive(self._txn)
        return self._alive - rows

    def _all(self, clauses: Sequence[Where]) -> BitMap:
        """Intersect, beginning with what is cheap to read; ranges of one field are one range."""
        bounds: defaultdict[str, list[bytes]] = defaultdict(lambda: [_FIRST, _LAST])
        found: list[BitMap] = []
        for clause in clauses:
            condition = clause.condition if clause.WhichOneof("clause") == "condition" else None
            if condition is not None and _is_number_range(condition):
                low, high = _number_bounds(condition)
                bound = bounds[condition.field]
                bounds[condition.field] = [max(bound[0], low), min(bound[1], high)]
            else:
                found.append(self.rows(clause))
        rows = BitMap.intersection(*found) if found else None
        for field, (low, high) in bounds.items():
            if rows is not None and len(rows) <= _LOOK_ROWS:
                self.doubtful |= rows
                return rows
            inside = self._between(field, low, high)
            rows = inside if rows is None else rows & inside
        return BitMap() if rows is None else rows

    # Conditions.

    def _number(self, field: str) -> bytes | None:
        if field not in self._numbers:
            self._numbers[field] = self._index.field_number(self._txn, field)
        return self._numbers[field]

    def _condition(self, condition: FieldCondition) -> BitMap:
        field = condition.field
        match condition.operator:
            case WhereOperator.WHERE_OPERATOR_EQ:
                return self._equal(field, scalar_of(condition))
            case WhereOperator.WHERE_OPERATOR_NE:
                return self._complement(self._equal(field, scalar_of(condition)))
            case WhereOperator.WHERE_OPERATOR_IN:
                return self._any_equal(field, elements_of(condition))
            case WhereOperator.WHERE_OPERATOR_NIN:
                return self._complement(self._any_equal(field, elements_of(condition)))
            case WhereOperator.WHERE_OPERATOR_CONTAINS:
                return self._has_element(field, scalar_of(condition))
            case WhereOperator.WHERE_OPERATOR_NOT_CONTAINS:
                return self._complement(self._has_element(field, scalar_of(condition)))
            case WhereOperator.WHERE_OPERATOR_EXISTS:
                return self._exists(condition)
            case range_operator if range_operator in _RANGES:
                if _is_number_range(condition):
                    return self._between(field, *_number_bounds(condition))
                return self._strings(condition)
            case unknown:
                raise InvalidArgumentError(f"the operator {unknown} on {field!r} is not known")

    def _any_equal(self, field: str, values: Sequence[Scalar]) -> BitMap:
        return BitMap.union(*[self._equal(field, value) for value in values])

    def _equal(self, field: str, value: Scalar) -> BitMap:
        if isinstance(value, str | bool):
            rows = self._term(field, scalar_term(value))
            if isinstance(value, str) and is_long(value):
                self.doubtful |= rows
            return rows
        return self._between(field, first_entry(value), last_entry(value))

    def _has_element(self, field: str, value: Scalar) -> BitMap:
        rows = self._term(field, element_term(value))
        if isinstance(value, str) and is_long(value):
            self.doubtful |= rows
        return rows

    def _exists(self, condition: FieldCondition) -> BitMap:
        wanted = scalar_of(condition)
        if not isinstance(wanted, bool):
            raise InvalidArgumentError(f"$exists on {condition.field!r} takes true or false")
        rows = self._term(condition.field, EXISTS)
        return rows if wanted else self._complement(rows)

    def _term(self, field: str, term: bytes) -> BitMap:
        number = self._number(field)
        return BitMap() if number is None else self._index.rows_of_term(self._txn, number + term)

    def _between(self, field: str, low: bytes, high: bytes) -> BitMap:
        number = self._number(field)
        if number is None or low > high:
            return BitMap()
        return self._index.rows_of_numbers(self._txn, number, low, high, self._version, self._check)

    def _strings(self, condition: FieldCondition) -> BitMap:
        """Give the rows whose strings lie on one side of a bound."""
        number = self._number(condition.field)
        bound = ordered_of(condition)
        if number is None or not isinstance(bound, str):
            return BitMap()
        kind = number + STRING
        low, high = kind, number + _AFTER_STRINGS
        if is_long(bound):
            first, end = (kind + place for place in long_terms_like(bound))
            self.doubtful |= self._index.rows_of_terms(self._txn, first, end, self._check)
            before, after = first, end
        else:
            term = kind + string_term(bound)
            # What follows the bound's own term follows its end mark.
            past = term[:-1] + b"\x01"
            is_after = condition.operator in (
                WhereOperator.WHERE_OPERATOR_GT,
                WhereOperator.WHERE_OPERATOR_LTE,
            )
            before = after = past if is_after else term
        if condition.operator in (
            WhereOperator.WHERE_OPERATOR_GT,
            WhereOperator.WHERE_OPERATOR_GTE,
        ):
            low = after
        else:
            high = before
        return self._index.rows_of_terms(self._txn, low, high, self._check)


def _is_number_range(condition: FieldCondition) -> bool:
    return condition.operator in _RANGES and not isinstance(ordered_of(condition), str)


def _number_bounds(condition: FieldCondition) -> tuple[bytes, bytes]:
    """Give the first and the last entry of a range."""
    value = ordered_of(condition)
    assert not isinstance(value, str)
    match condition.operator:
        case WhereOperator.WHERE_OPERATOR_GT:
            return _next(last_entry(value)), _LAST
        case WhereOperator.WHERE_OPERATOR_GTE:
            return first_entry(value), _LAST
        case WhereOperator.WHERE_OPERATOR_LT:
            return _FIRST, _previous(first_entry(value))
        case _:
            return _FIRST, last_entry(value)


def _next(entry: bytes) -> bytes:
    return (int.from_bytes(entry, "big") + 1).to_bytes(len(entry), "big")


def _previous(entry: bytes) -> bytes:
    return (int.from_bytes(entry, "big") - 1).to_bytes(len(entry), "big")
