"""Metadata as Python values, and as messages. An int stays an int, a float a float."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from shoal.v1 import value_pb2
from shoal.wire.sparse import SparseVector, sparse_from_message, sparse_of, sparse_to_message
from shoal.wire.validation import check_metadata_key, invalid, shown, wrong_sparse_key

__all__ = ["Scalar", "Value", "metadata_from_message", "metadata_to_message",
           "metadatas_from_messages", "value_from_message", "value_to_message"]  # fmt: skip

Scalar = str | int | float | bool
Value = Scalar | list[str] | list[int] | list[float] | list[bool] | SparseVector

_SCALAR_KINDS: Final = frozenset({"string_value", "int_value", "double_value", "bool_value"})

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


def metadata_to_message(
    metadata: Mapping[str, Any],
    field: str = "metadata",
    *,
    null: bool = True,
    sparse_keys: Collection[str] | None = None,
) -> value_pb2.Metadata:
    """Translate one record's, or collection's, metadata.

    Args:
        metadata: Keys to str, int, float, bool, a non-empty list of one of these, a sparse vector,
            or None.
        field: What to call it in a message, for example ``metadatas[3]``.
        null: Whether None is allowed (it removes a key, or leaves it out).
        sparse_keys: The keys that hold sparse vectors, and nothing else; None: not known here.

    Raises:
        InvalidArgumentError: A key or value is not allowed.
    """
    message = value_pb2.Metadata()
    fields = message.fields
    for key, value in metadata.items():
        if type(key) is not str:
            raise invalid(field, f"{field}: key {key!r} is not a string")
        _check_text(key, field)
        check_metadata_key(key, field=field)
        # The four common kinds without a detour: this runs for every value of every record.
        kind = type(value)
        if kind is str:
            try:
                fields[key].string_value = value
            except UnicodeEncodeError:
                _check_text(value, field)
        elif kind is bool:
            fields[key].bool_value = value
        elif value is None and null:
            fields[key].null_value.SetInParent()
        else:
            fields[key].CopyFrom(value_to_message(value, f"{field}[{shown(key)}]"))
            is_sparse = fields[key].WhichOneof("kind") == "sparse_vector"
            if is_sparse and sparse_keys is not None and key not in sparse_keys:
                raise wrong_sparse_key(key, field, is_sparse=True)
    for key in sparse_keys or ():
        if key in fields and fields[key].WhichOneof("kind") not in ("sparse_vector", "null_value"):
            raise wrong_sparse_key(key, field, is_sparse=False)
    return message


def value_to_message(value: Any, field: str) -> value_pb2.Value:
    """Translate one value.

    Args:
        value: str, int, float, bool (NumPy's count as such), or a non-empty list, tuple or array
            of one of these, or a sparse vector.
        field: What to call it in a message.

    Raises:
        InvalidArgumentError: It is of another type, not finite, or beyond int64.
    """
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        _check_text(value, field)
        return value_pb2.Value(string_value=value)
    if isinstance(value, bool):
        return value_pb2.Value(bool_value=value)
    if isinstance(value, int):
        return value_pb2.Value(int_value=_checked_int(value, field))
    if isinstance(value, float):
        return value_pb2.Value(double_value=_checked_float(value, field))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _list_to_message(value, field)
    sparse = sparse_of(value, field)
    if sparse is not None:
        return value_pb2.Value(sparse_vector=sparse_to_message(sparse))
    raise invalid(
        field,
        f"{field} is of type {type(value).__name__}; allowed are str, int, float, bool, "
        "non-empty lists of one of these, and sparse vectors",
    )


def _list_to_message(values: Sequence[Any], field: str) -> value_pb2.Value:
    items = [v.item() if isinstance(v, np.generic) else v for v in values]
    if not items:
        raise invalid(field, f"{field} is an empty list; leave the key out")
    kinds = {type(v) for v in items}
    if kinds == {str}:
        for text in items:
            _check_text(text, field)
        return value_pb2.Value(string_list=value_pb2.StringList(values=items))
    if kinds == {bool}:
        return value_pb2.Value(bool_list=value_pb2.BoolList(values=items))
    if kinds == {int}:
        return value_pb2.Value(
            int_list=value_pb2.IntList(values=[_checked_int(v, field) for v in items])
        )
    if kinds == {float}:
        return value_pb2.Value(
            double_list=value_pb2.DoubleList(values=[_checked_float(v, field) for v in items])
        )
    names = " and ".join(sorted(k.__name__ for k in kinds))
    raise invalid(
        field,
        f"{field} is a list of {names}; allowed are lists of one type: str, int, float or bool",
    )


def _checked_int(value: int, field: str) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise invalid(field, f"{field} is {value}; an integer must fit 64 bits, signed")
    return value


def _checked_float(value: float, field: str) -> float:
    if not math.isfinite(value):
        raise invalid(field, f"{field} is {value}; it must be finite")
    return value


def _check_text(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(
            field, f"{field}: {shown(text)} has no UTF-8 form ({error.reason} at {error.start})"
        ) from None


def value_from_message(value: value_pb2.Value) -> Value | None:
    """Translate one value back; None for null, and for a kind that this version does not know."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "sparse_vector":
        return sparse_from_message(value.sparse_vector)
    content = getattr(value, kind)
    if kind in _SCALAR_KINDS:
        scalar: Scalar = content
        return scalar
    return list(content.values)


def metadata_from_message(metadata: value_pb2.Metadata) -> dict[str, Any] | None:
    """Translate metadata back; None if there is none.

    Keys come in the order of their code points, since a map on the wire has no order.
    """
    return metadatas_from_messages((metadata,))[0]


def metadatas_from_messages(
    metadatas: Iterable[value_pb2.Metadata],
) -> list[dict[str, Any] | None]:
    """Translate the metadata of several records back; None where there is none."""
    # In one loop: a batch of queries has a thousand values. Most records have the keys of the one
    # before, of the same kinds; and of a kind that a value is not, it has the default, which is
    # false.
    orders: dict[tuple[str, ...], list[str]] = {}
    kinds: dict[str, str] = {}
    translated: list[dict[str, Any] | None] = []
    for metadata in metadatas:
        fields = metadata.fields
        keys = tuple(fields)
        order = orders.get(keys)
        if order is None:
            order = orders[keys] = sorted(keys)
        values: dict[str, Any] = {}
        for key in order:
            value = fields[key]
            content = getattr(value, kinds.get(key, "string_value"))
            if not content:
                kind = value.WhichOneof("kind")
                if kind in _SCALAR_KINDS:
                    kinds[key] = kind
                content = value_from_message(value)
            values[key] = content
        translated.append(values or None)
    return translated
