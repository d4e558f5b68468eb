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

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numkong
import numpy as np
import numpy.typing as npt

from shoal_worker.distances import Queries, Space
from shoal_worker.graph import Quantization

__all__ = ["CoarseBounds", "CoarseQuery"]

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


class CoarseQuery:
    """A query rounded as the vectors of a graph are, and how far off that puts its distances.

    What is measured of vectors, `raw`, has a shape of ``(raw_count, n)``; bounds are made of it at
    once for as many as there are, since each step of numpy costs more than its numbers.

    Args:
        space: Which distance.
        queries: The query vectors.
        which: The one that is meant.
        quantization: The vectors' number type.

    Attributes:
        raw_count: Numbers that are measured of each vector.
    """

    def __init__(
        self, space: Space, queries: Queries, which: int, quantization: Quantization
    ) -> None:
        query = queries.double[which]
        length = float(queries.norms[which])
        if space is Space.COSINE and length > 0.0:
            query, length = query / length, 1.0
        self._space = space
        self._quantization = quantization
        self._rounded, back = _rounded(quantization, query)
        # Of the rounded query itself the error is known.
        error = back - query
        self._query_error = math.sqrt(error @ error)
        self._size = math.sqrt(back @ back)
        dimension = len(query)
        self._epsilon = _ROUNDING[quantization]
        self._tiny: float = _SMALLEST[quantization] * dimension**0.5
        self._slack = _SUM_ROUNDOFF * dimension
        self._zero: npt.NDArray[np.generic] | None = None
        if space is Space.IP:
            self._zero, _ = _rounded(quantization, np.zeros(dimension))
        self.raw_count = 1 if self._zero is None else 2

    def measure(self, matrix: npt.NDArray[np.generic], raw: npt.NDArray[np.float64]) -> None:
        """Measure vectors of a graph.

        Args:
            matrix: The vectors as they lie there, shape ``(n, d)``.
            raw: Where to, shape ``(raw_count, n)``; each row is contiguous.
        """
        metric: Final = "sqeuclidean" if self._space is Space.L2 else "dot"
        self._pairs(self._rounded, matrix, metric, raw[0:1])
        if self._zero is not None:
            self._pairs(self._zero, matrix, "sqeuclidean", raw[1:2])

    def lower(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Give what each distance is not below, shape ``(n,)``. Takes the place of `raw`."""
        if self._space is Space.L2:
            return self.bounds(raw).lower
        lower: npt.NDArray[np.float64] = raw[0]
        np.subtract(1.0 - self._error(raw), lower, out=lower)
        return lower

    def bounds(self, raw: npt.NDArray[np.float64]) -> CoarseBounds:
        """Give between what each distance lies."""
        if self._space is Space.L2:
            between = np.sqrt(np.maximum(raw[0], 0.0))
            # |x| is at most |q̃| + |q̃ - x̃|, but for its own rounding.
            relative = 1.01 * self._epsilon + self._slack
            error = self._query_error + self._tiny + relative * (self._size + between)
            return CoarseBounds(np.maximum(between - error, 0.0) ** 2, (between + error) ** 2)
        between, error = 1.0 - raw[0], self._error(raw)
        return CoarseBounds(between - error, between + error)

    def _error(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | float:
        """Give how far off a dot may be."""
        relative = self._query_error + (self._epsilon + self._slack) * self._size
        absolute = self._tiny * self._size + self._slack
        if self._zero is None:
            return relative * (1.0 + self._slack) + absolute
        longest: npt.NDArray[np.float64] = np.sqrt(raw[1])
        longest = (longest + self._tiny) * (1.0 + 1.02 * self._epsilon + self._slack)
        return relative * longest + absolute

    def _pairs(
        self,
        query: npt.NDArray[np.generic],
        matrix: npt.NDArray[np.generic],
        metric: Literal["dot", "sqeuclidean"],
        raw: npt.NDArray[np.float64],
    ) -> None:
        numkong.cdist(query, matrix, metric=metric, dtype=_NAMES[self._quantization], out=raw)


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
