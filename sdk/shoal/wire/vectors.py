"""Vectors on the wire: little-endian float32 bytes, never Python floats."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal.v1 import value_pb2
from shoal.wire.limits import DEFAULT_LIMITS, Limits
from shoal.wire.validation import invalid

__all__ = ["check_finite", "decode_vectors", "encode_vectors", "put_vectors", "vectors_of"]

_FLOAT32: Final = np.dtype("<f4")


def encode_vectors(vectors: npt.NDArray[np.float32]) -> value_pb2.VectorBlock:
    """Encode vectors, shape ``(n, d)``."""
    block = value_pb2.VectorBlock()
    put_vectors(block, vectors)
    return block


def put_vectors(block: value_pb2.VectorBlock, vectors: npt.NDArray[np.float32]) -> None:
    """Put vectors, shape ``(n, d)``, into an empty message where it lies."""
    block.dimension = vectors.shape[1]
    block.values = np.ascontiguousarray(vectors, _FLOAT32).tobytes()


def vectors_of(block: value_pb2.VectorBlock) -> npt.NDArray[np.float32]:
    """View a block that is known to be right as an array, shape ``(n, d)``, read-only."""
    flat = np.frombuffer(block.values, _FLOAT32)
    return flat.reshape(-1, block.dimension) if block.dimension else flat.reshape(0, 0)


def decode_vectors(
    block: value_pb2.VectorBlock,
    count: int | None,
    limits: Limits = DEFAULT_LIMITS,
    field: str = "records.vectors",
) -> npt.NDArray[np.float32]:
    """Check a block from outside, and view it as an array.

    Args:
        block: Its values are exactly 4 x dimension x count bytes of finite numbers.
        count: Vectors expected; None: any number above 0.
        limits: The bounds.
        field: Where it stood in the request.

    Returns:
        Shape ``(count, dimension)``, a read-only view of the block's bytes.

    Raises:
        InvalidArgumentError: The dimension, length or a number is not allowed.
    """
    dimension, values = block.dimension, block.values
    if not 1 <= dimension <= limits.max_dimension:
        raise invalid(
            f"{field}.dimension",
            f"{field} has dimension {dimension}; it must be 1 to {limits.max_dimension}",
        )
    size = len(values)
    if count is None:
        if size == 0 or size % (4 * dimension):
            raise invalid(
                f"{field}.values",
                f"{field} has {size} bytes, which is not one or more vectors of dimension "
                f"{dimension} (4 bytes a number)",
            )
    elif size != 4 * dimension * count:
        raise invalid(
            f"{field}.values",
            f"{field} has {size} bytes; {count} vectors of dimension {dimension} have "
            f"{4 * dimension * count} (4 bytes a number)",
        )
    vectors = np.frombuffer(values, _FLOAT32).reshape(-1, dimension)
    check_finite(vectors, field)
    return vectors


def check_finite(vectors: npt.NDArray[np.float32], field: str = "records.vectors") -> None:
    """Check that every number, and each vector's squared norm in float32, is finite.

    A vector beyond that has no distance to anything: it would be the nearest of every query, or of
    none.

    Args:
        vectors: Shape ``(n, d)``.
        field: Where they stood in the request.

    Raises:
        InvalidArgumentError: Names the first offender.
    """
    if len(vectors) == 1 and math.isfinite(np.vdot(vectors, vectors)):
        return  # most queries: a third of what the general way costs
    with np.errstate(over="ignore", invalid="ignore"):
        # One pass: NaN and infinity carry into the norm, and overflow shows there.
        norms = np.einsum("ij,ij->i", vectors, vectors)
    finite = np.isfinite(norms)
    if finite.all():
        return
    position = int(np.argmin(finite))
    vector = vectors[position]
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        problem = f"is {vector[bad[0]]} at index {bad[0]}; every number must be finite"
    else:
        problem = "is so long that its squared norm overflows float32; scale it down"
    raise invalid(f"{field}[{position}]", f"vector at position {position} {problem}")
