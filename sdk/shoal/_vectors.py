"""Vectors from whatever users have: arrays, lists, tensors. One float32 array comes out.

NumPy turns almost anything into numbers, and not always into those that were meant: bits packed
into bytes, booleans, texts of digits. These are refused here, naming the first offender.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal.wire.validation import invalid
from shoal.wire.vectors import check_finite

_OBJECT: Final = np.dtype(object)

# Types of numbers in lists that are what they look like.
_PLAIN: Final = frozenset({int, float, np.float64, np.float32, np.float16, np.int64, np.int32})


def to_vectors(
    embeddings: Any, field: str = "embeddings", limits: Limits = DEFAULT_LIMITS
) -> npt.NDArray[np.float32]:
    """Make one array of vectors.

    Args:
        embeddings: One vector or several: an array of any real type but uint8 and bool, a list of
            numbers, of lists or of arrays, or anything that NumPy takes for an array.
        field: What to call it in a message.
        limits: Bounds the dimension.

    Returns:
        Shape ``(n, d)``, contiguous; the caller's own array if it is already so.

    Raises:
        InvalidArgumentError: There is no vector, one is not of real and finite numbers, or they are
            of different lengths.
    """
    if isinstance(embeddings, np.ndarray) and embeddings.dtype != _OBJECT:
        array = embeddings
    elif isinstance(embeddings, str | bytes | Set | Mapping) or not hasattr(embeddings, "__len__"):
        raise invalid(field, f"{field} must be vectors of numbers, got {type(embeddings).__name__}")
    elif hasattr(embeddings, "__array__") and not _is_object_array(embeddings):
        array = np.asarray(embeddings)
    else:
        listed = embeddings.tolist() if isinstance(embeddings, np.ndarray) else embeddings
        array = _stack(list(listed), field)
    if array.dtype != np.float32:
        _check_dtype(array.dtype, field)
    if array.ndim == 1 and array.size:
        array = array[np.newaxis, :]
    if array.ndim != 2:
        raise invalid(
            field,
            f"{field} must be one vector or a list of vectors, got an array of shape {array.shape}",
        )
    if not array.shape[0]:
        raise invalid(field, f"{field} is empty; at least one vector is needed")
    if not 1 <= array.shape[1] <= limits.max_dimension:
        raise invalid(
            field,
            f"{field} has dimension {array.shape[1]}; it must be 1 to {limits.max_dimension}",
        )
    if array.dtype == np.float32:
        vectors = np.ascontiguousarray(array, np.float32)
    else:
        with np.errstate(over="ignore"):
            # What is beyond float32 becomes infinite, and is refused as that.
            vectors = np.ascontiguousarray(array, np.float32)
    check_finite(vectors, field)
    return vectors


def _is_object_array(value: Any) -> bool:
    return bool(getattr(value, "dtype", None) == _OBJECT)


def _check_dtype(dtype: np.dtype[Any], field: str) -> None:
    if dtype.kind not in "fiu" or dtype == np.uint8:
        raise invalid(
            field,
            f"{field} is an array of {dtype}; vectors are of floats or ints "
            "(bits and bytes must be converted explicitly, with .astype(numpy.float32))",
        )


def _stack(rows: list[Any], field: str) -> npt.NDArray[Any]:
    """Make an array of a list of numbers, or of a list of vectors of one length."""
    if not rows:
        raise invalid(field, f"{field} is empty; at least one vector is needed")
    if type(rows[0]) in _PLAIN or isinstance(rows[0], np.floating | np.integer):
        rows = [rows]
    first_length: int | None = None
    for position, row in enumerate(rows):
        name = f"{field}[{position}]"
        length = _check_row(row, name)
        if first_length is None:
            first_length = length
        elif length != first_length:
            raise invalid(name, f"{name} has {length} numbers, but {field}[0] has {first_length}")
    try:
        return np.asarray(rows, np.float64 if isinstance(rows[0], list | tuple) else None)
    except OverflowError:
        raise invalid(field, f"{field} holds an integer that is beyond float64") from None


def _check_row(row: Any, name: str) -> int:
    """Check one vector of a list, and return its length."""
    if row is None:
        raise invalid(name, f"{name} is None; every record needs a vector, or none is given one")
    if isinstance(row, Sequence) and not isinstance(row, str | bytes):
        kinds = set(map(type, row))
        if not kinds <= _PLAIN:
            _check_kinds(kinds, name)
        length = len(row)
    elif hasattr(row, "__array__"):
        array = np.asarray(row)
        if array.ndim != 1:
            raise invalid(name, f"{name} must be one vector, got an array of shape {array.shape}")
        _check_dtype(array.dtype, name)
        length = array.shape[0]
    else:
        raise invalid(name, f"{name} must be a vector of numbers, got {type(row).__name__}")
    if not length:
        raise invalid(name, f"{name} is empty; a vector has at least one number")
    return length


def _check_kinds(kinds: set[type], name: str) -> None:
    for kind in kinds:
        is_real = issubclass(kind, numbers.Real) or issubclass(kind, np.floating | np.integer)
        if not is_real or issubclass(kind, bool | np.uint8):
            raise invalid(name, f"{name} holds a {kind.__name__}; a vector is of floats or ints")


def check_dimension(
    collection_name: str, dimension: int | None, vectors: npt.NDArray[np.float32]
) -> None:
    """Check vectors against what is known of their collection's dimension.

    Raises:
        DimensionMismatchError: They are of another.
    """
    if dimension and vectors.shape[1] != dimension:
        raise errors.DimensionMismatchError(
            f"collection {collection_name!r} holds vectors of dimension {dimension}, "
            f"got {vectors.shape[1]}",
            metadata={"expected": str(dimension), "actual": str(vectors.shape[1])},
        )
