"""Between Python's values and Shoal's messages: vectors, metadata, filters, columns."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from shoal.v1 import filter_pb2, value_pb2

Scalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, Scalar | Sequence[Scalar] | None]


def pack(vectors: Sequence[Sequence[float]]) -> value_pb2.VectorBlock:
    """Pack vectors of one dimension as float32, little-endian.

    With NumPy it is `vectors.astype("<f4").tobytes()`.
    """
    numbers = array.array("f", (number for vector in vectors for number in vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return value_pb2.VectorBlock(dimension=len(vectors[0]), values=numbers.tobytes())


def unpack(block: value_pb2.VectorBlock) -> list[array.array[float]]:
    """Unpack a block into its vectors."""
    numbers = array.array("f", block.values)
    if sys.byteorder == "big":
        numbers.byteswap()
    starts = range(0, len(numbers), block.dimension)
    return [numbers[start : start + block.dimension] for start in starts]


def value(given: Scalar | Sequence[Scalar] | None) -> value_pb2.Value:
    """Make a Value of what Python holds; None removes a key."""
    match given:
        case None:
            return value_pb2.Value(null_value=value_pb2.Null())
        case bool():  # before int, which it is in Python, too
            return value_pb2.Value(bool_value=given)
        case int():
            return value_pb2.Value(int_value=given)
        case float():
            return value_pb2.Value(double_value=given)
        case str():
            return value_pb2.Value(string_value=given)
        case _:
            return value_list(list(given))


def value_list(given: list[Any]) -> value_pb2.Value:
    """Make a Value of a list, whose elements are of one type."""
    match given:
        case [bool(), *_]:
            return value_pb2.Value(bool_list=value_pb2.BoolList(values=given))
        case [int(), *_]:
            return value_pb2.Value(int_list=value_pb2.IntList(values=given))
        case [float(), *_]:
            return value_pb2.Value(double_list=value_pb2.DoubleList(values=given))
        case [str(), *_]:
            return value_pb2.Value(string_list=value_pb2.StringList(values=given))
        case _:
            raise ValueError(f"metadata cannot hold {given!r}")


def metadata(given: Metadata) -> value_pb2.Metadata:
    """Make the metadata of one record."""
    return value_pb2.Metadata(fields={key: value(held) for key, held in given.items()})


def show(held: value_pb2.Value) -> str:
    """Tell a value with its type."""
    match held.WhichOneof("kind"):
        case "string_value":
            return f"string {held.string_value}"
        case "int_value":
            return f"int {held.int_value}"
        case "double_value":
            return f"double {held.double_value:.3f}"
        case "bool_value":
            return f"bool {held.bool_value}".lower()
        case "string_list":
            return f"strings {', '.join(held.string_list.values)}"
        case "int_list":
            return f"ints {', '.join(map(str, held.int_list.values))}"
        case "double_list":
            return f"doubles {', '.join(f'{number:.3f}' for number in held.double_list.values)}"
        case "bool_list":
            return f"bools {', '.join(map(str, held.bool_list.values))}".lower()
        case other:
            raise ValueError(f"this client does not know the kind {other}")


def condition(
    field: str, operator: filter_pb2.WhereOperator.ValueType, operand: Scalar | Sequence[Scalar]
) -> filter_pb2.Where:
    """Make a condition on one field."""
    return filter_pb2.Where(
        condition=filter_pb2.FieldCondition(field=field, operator=operator, operand=value(operand))
    )


def all_of(*clauses: filter_pb2.Where) -> filter_pb2.Where:
    """All clauses match."""
    return filter_pb2.Where(all_of=filter_pb2.WhereList(clauses=clauses))


def negation(clause: filter_pb2.Where) -> filter_pb2.Where:
    """The clause does not match."""
    return filter_pb2.Where(negation=clause)


def document(
    operator: filter_pb2.DocumentOperator.ValueType, operand: str
) -> filter_pb2.WhereDocument:
    """Make a condition on the document."""
    return filter_pb2.WhereDocument(
        condition=filter_pb2.DocumentCondition(operator=operator, operand=operand)
    )


def column(values: Sequence[str | None]) -> value_pb2.StringColumn:
    """Make a column of strings, some of which may be absent."""
    return value_pb2.StringColumn(
        values=[held or "" for held in values],
        absent=[position for position, held in enumerate(values) if held is None],
    )


def column_values(held: value_pb2.StringColumn) -> list[str | None]:
    """Read a column of strings, None where there is none."""
    absent = set(held.absent)
    return [None if n in absent else text for n, text in enumerate(held.values)]


def slices(counts: Sequence[int]) -> Iterator[range]:
    """Give, for each query, the positions of its matches in the columns of the answer."""
    start = 0
    for count in counts:
        yield range(start, start + count)
        start += count
