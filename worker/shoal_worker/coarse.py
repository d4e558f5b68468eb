"""Coarse distances to many vectors at once, with bounds of their error.

A checkpoint holds the graph's vectors side by side, in the graph's number type: a distance to one
of them costs 30 ns, and no Python. It is off by the rounding of both vectors, which has a bound, so
that of all vectors in question only those have to be read and ranked exactly that may be among the
nearest. What comes out is exact; what is coarse only decides what need not be looked at.

With ε the largest relative error of a rounded number, |x̃ - x| ≤ ε|x|; then by the inequalities of
Cauchy and Schwarz and of the triangle

    |q̃·x̃ - q·x| ≤ |q̃ - q||x| + |q̃||x̃ - x|      | |q̃ - x̃| - |q - x| | ≤ |q̃ - q| + |x̃ - x|
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numkong
import numpy as np
import numpy.typing as npt

from shoal_worker.distances import Queries, Space
from shoal_worker.graph import Quantization

__all__ = ["CoarseBounds", "coarse_bounds"]

_ROUNDING: Final = {Quantization.BF16: 2.0**-7, Quantization.F16: 2.0**-10, Quantization.F32: 0.0}
"""ε of each number type, twice that of rounding to the nearest, whatever USearch's rounding does;
i8 is not here: it normalises and scales by itself."""

_SMALLEST: Final = {Quantization.BF16: 2.0**-126, Quantization.F16: 2.0**-14, Quantization.F32: 0.0}
"""Below this a number's error is not relative any more."""

_SUM_ROUNDOFF: Final = 2.0**-22
"""Of each addition in single precision, with room for fused and reordered ones."""

_NAMES: Final[Mapping[Quantization, Literal["bf16", "f16", "f32"]]] = {
    Quantization.BF16: "bf16",
    Quantization.F16: "f16",
    Quantization.F32: "f32",
}


class CoarseBounds(NamedTuple):
    """Between what each distance lies, shapes ``(n,)``."""

    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]


def coarse_bounds(
    space: Space,
    queries: Queries,
    which: int,
    matrix: npt.NDArray[np.generic],
    quantization: Quantization,
) -> CoarseBounds:
    """Bound a query's distances to vectors of a graph.

    Args:
        space: Which distance.
        queries: The query vectors.
        which: The one that is meant.
        matrix: The vectors as they lie there, shape ``(n, d)``.
        quantization: Their number type.
    """
    query = queries.double[which]
    length = float(queries.norms[which])
    if space is Space.COSINE and length > 0.0:
        query, length = query / length, 1.0
    rounded, back = _rounded(quantization, query)
    # Of the rounded query itself the error is known.
    query_error = float(np.linalg.norm(back - query))
    size = float(np.linalg.norm(back))
    dimension = len(query)
    epsilon = _ROUNDING[quantization]
    tiny = _SMALLEST[quantization] * dimension**0.5
    slack = _SUM_ROUNDOFF * dimension
    metric: Final = "sqeuclidean" if space is Space.L2 else "dot"
    raw = _pairs(rounded, matrix, metric, quantization)
    if space is Space.L2:
        between = np.sqrt(np.maximum(raw, 0.0))
        # |x| is at most |q̃| + |q̃ - x̃|, but for its own rounding.
        error = query_error + tiny + (1.01 * epsilon + slack) * (size + between)
        return CoarseBounds(np.maximum(between - error, 0.0) ** 2, (between + error) ** 2)
    longest = 1.0 + slack
    if space is Space.IP:
        zero, _ = _rounded(quantization, np.zeros(dimension))
        lengths = np.sqrt(_pairs(zero, matrix, "sqeuclidean", quantization))
        longest = (lengths + tiny) * (1.0 + 1.02 * epsilon + slack)
    error = (query_error + (epsilon + slack) * size) * longest + tiny * size + slack
    return CoarseBounds(1.0 - raw - error, 1.0 - raw + error)


def _rounded(
    quantization: Quantization, query: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64]]:
    """Give a query in a number type, shape ``(1, d)``, and the numbers that this stands for."""
    single = query.astype(np.float32)
    if quantization is Quantization.F32:
        return single[None, :], single.astype(np.float64)
    if quantization is Quantization.F16:
        half = single.astype(np.float16)
        return half[None, :], half.astype(np.float64)
    bits = (single.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    back = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits[None, :], back.astype(np.float64)


def _pairs(
    query: npt.NDArray[np.generic],
    matrix: npt.NDArray[np.generic],
    metric: Literal["dot", "sqeuclidean"],
    quantization: Quantization,
) -> npt.NDArray[np.float64]:
    found = numkong.cdist(query, matrix, metric=metric, dtype=_NAMES[quantization])
    return np.asarray(found, np.float64).reshape(-1)
