"""Sparse vectors: as Python values, as messages, and what both must keep.

A weight is a float32, so that a vector is what it will be once it is stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from shoal.v1 import value_pb2
from shoal.wire.validation import invalid

__all__ = ["SparseVector", "sparse_from_message", "sparse_of", "sparse_to_message"]

_TYPE: Final = "sparse_vector"
_KEYS: Final = frozenset({"#type", "indices", "values"})
_MAX_INDEX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A sparse vector: weights of some of very many dimensions.

    Attributes:
        indices: The dimensions, 0 to 2^32 - 1, none twice; any order, put into ascending order.
        values: The weight of each, finite; rounded to float32.

    Raises:
        InvalidArgumentError: There is none, or one is not allowed.
    """

    indices: list[int]
    values: list[float]

    def __post_init__(self) -> None:
        indices, values = _checked(self.indices, self.values, _TYPE)
        # A frozen dataclass can set its fields only so.
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "values", values)

    def to_dict(self) -> dict[str, Any]:
        """Give it as a dict, as Chroma's does."""
        return {"#type": _TYPE, "indices": list(self.indices), "values": list(self.values)}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Make it of a dict.

        Raises:
            InvalidArgumentError: It is none.
        """
        _check_keys(tree, _TYPE)
        return cls(tree["indices"], tree["values"])


def _checked(indices: Any, values: Any, field: str) -> tuple[list[int], list[float]]:
    try:
        dimensions, weights = list(indices), np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise invalid(
            field, f"{field} needs a list of indices and one of values ({error})"
        ) from None
    if weights.ndim != 1 or len(weights) != len(dimensions):
        raise invalid(
            field, f"{field} has {len(dimensions)} indices and values of shape {weights.shape}"
        )
    if not dimensions:
        raise invalid(field, f"{field} is empty; leave the key out")
    for index in dimensions:
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise invalid(field, f"{field} has the index {index!r}, which is no integer")
        if not 0 <= index <= _MAX_INDEX:
            raise invalid(field, f"{field} has the index {index}; it must be 0 to {_MAX_INDEX}")
    order = sorted(range(len(dimensions)), key=dimensions.__getitem__)
    sorted_indices = [int(dimensions[place]) for place in order]
    for before, after in itertools.pairwise(sorted_indices):
        if before == after:
            raise invalid(field, f"{field} has the index {before} twice")
    with np.errstate(over="ignore"):
        rounded = weights.astype(np.float32)
    if not np.isfinite(rounded).all():
        place = int(np.flatnonzero(~np.isfinite(rounded))[0])
        given = weights[place]
        why = "finite" if not math.isfinite(given) else "within float32"
        raise invalid(field, f"{field} has the value {given}; it must be {why}")
    return sorted_indices, rounded[order].tolist()


def _check_keys(tree: Mapping[str, Any], field: str) -> None:
    unknown = [key for key in tree if key not in _KEYS]
    if unknown or not {"indices", "values"} <= set(tree) or tree.get("#type", _TYPE) != _TYPE:
        raise invalid(
            field,
            f"{field} is a dict, but no sparse vector: that has indices and values (and the #type "
            f"{_TYPE!r}), got the keys {', '.join(map(repr, tree))}",
        )


def sparse_of(value: Any, field: str) -> SparseVector | None:
    """Take a value for a sparse vector, if it is one: ours, Chroma's, or a dict of indices and
    values.

    Returns:
        The vector; None if the value is of another kind.

    Raises:
        InvalidArgumentError: It is one, and not allowed.
    """
    if isinstance(value, SparseVector):
        return value
    if isinstance(value, Mapping):
        if not _KEYS & value.keys():
            return None
        _check_keys(value, field)
        indices, values = value["indices"], value["values"]
    elif type(value).__name__ == SparseVector.__name__ and hasattr(value, "indices"):
        if getattr(value, "labels", None) is not None:
            raise invalid(field, f"{field} has labels, which are not stored: leave them out")
        indices, values = value.indices, value.values
    else:
        return None
    return SparseVector(*_checked(indices, values, field))


def sparse_to_message(vector: SparseVector) -> value_pb2.SparseVector:
    """Make the message."""
    return value_pb2.SparseVector(indices=vector.indices, values=vector.values)


def sparse_from_message(message: value_pb2.SparseVector) -> SparseVector:
    """Translate one back, of a server: it was checked when it was written."""
    vector = object.__new__(SparseVector)
    object.__setattr__(vector, "indices", list(message.indices))
    object.__setattr__(vector, "values", list(message.values))
    return vector
