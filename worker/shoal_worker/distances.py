"""Exact distances, in double precision from the stored float32 vectors.

`exact` is what every answer is ranked by and returns: differences for `l2`, dots for the others,
never an expanded square. `bounded` gives for many vectors at once a fast single-precision distance
together with a bound of its error, so that a scan can discard all but a few vectors without ever
discarding one of the nearest.

The bound: a dot of d terms in precision u, in any order of summation, with or without fused
multiply-add, is off by at most γ·Σ|xᵢyᵢ| ≤ γ·|x||y| with γ = d·u/(1 − d·u) (Higham, "Accuracy and
Stability of Numerical Algorithms", 2nd ed., §3.1). What underflows adds at most d times the
smallest normal number. Everything after the dot is in double precision; `_SLACK` covers its
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Bounded",
    "Queries",
    "Space",
    "bounded",
    "bounded_of_parts",
    "exact",
    "exact_of_each",
    "is_tame",
    "norms",
    "similarities",
]

_Doubles: TypeAlias = "npt.NDArray[np.float64]"

_UNIT_ROUNDOFF: Final = 2.0**-24
_SMALLEST_NORMAL: Final = 2.0**-126
_SLACK: Final = 1e-12

_SMALLEST_SCALE: Final = 1e-300
"""What a dot is divided by where a vector is zero: the dot is, too, and the distance 1. The product
of any two other norms is far greater, for float32 ends at 1e-45."""

_TAME_NORMS: Final = (1e-12, 1e12)
"""Norms with which no float32 dot overflows, nor loses by underflow what its error allows for."""

_WORK_NUMBERS: Final = 64 * 1024
"""Numbers in double precision that `exact_of_each` works on at a time: half a megabyte, which stays
in a core's cache. All 64 x 16 pairs of a batch at once took 93 us a query; the
steps on such a part, 3."""

_ALONE_TERMS: Final = 256 * 1024
"""Multiplications of a matrix product up to which OpenBLAS computes it on the thread that asks
(65,536 times its GEMM_MULTITHREAD_THRESHOLD, by default 4)."""

_PRODUCT_QUERIES: Final = 64
"""Queries that are multiplied at once: with 64 of 384 numbers a product of 4,096 vectors takes
1.9 ms in parts of ten vectors, 2.9 as one on one core, and 1.5 on two if both are free."""


def _stacked_dots(
    left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = (left[..., None, :] @ right[..., :, None])[..., 0, 0]
    return result


_dots: Final[Callable[[_Doubles, _Doubles], _Doubles]] = getattr(np, "vecdot", _stacked_dots)
"""Gives the dots along the last axis, the others broadcast, twice as fast as `einsum`.

Each is computed by itself, in an order that depends on nothing but its length: equal vectors are at
equal distances, wherever and beside whatever they lie. `vecdot` is there since NumPy 2."""


class Space(Enum):
    """The distance of a collection; smaller is nearer."""

    L2 = "l2"
    COSINE = "cosine"
    IP = "ip"


class Queries:
    """Query vectors, with what is computed once and when it is needed.

    Attributes:
        single: Shape ``(q, d)``, float32.
        double: The same in double precision.
    """

    __slots__ = ("_norms", "double", "single")

    def __init__(self, single: npt.NDArray[np.float32], double: npt.NDArray[np.float64]) -> None:
        self.single = single
        self.double = double
        self._norms: npt.NDArray[np.float64] | None = None

    @staticmethod
    def of(vectors: npt.NDArray[np.float32]) -> Queries:
        """Prepare query vectors, shape ``(q, d)``."""
        return Queries(vectors, vectors.astype(np.float64))

    @property
    def norms(self) -> npt.NDArray[np.float64]:
        """Their Euclidean norms, shape ``(q,)``."""
        if self._norms is None:
            self._norms = norms(self.double)
        return self._norms

    def part(self, chosen: slice | npt.NDArray[np.intp]) -> Queries:
        """Give some of them."""
        return Queries(self.single[chosen], self.double[chosen])


class Bounded(NamedTuple):
    """Distances that are off by at most `error`, shapes ``(q, n)``."""

    distance: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]


def norms(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Give Euclidean norms in double precision, shape ``(n,)`` for ``(n, d)``."""
    double = vectors.astype(np.float64, copy=False)
    result: npt.NDArray[np.float64] = np.sqrt(_dots(double, double))
    return result


def exact(
    space: Space, query: npt.NDArray[np.float64], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Give exact distances.

    Args:
        space: Which distance.
        query: One for all vectors, shape ``(d,)``, or one for each, shape ``(n, d)``.
        vectors: Shape ``(n, d)``.

    Returns:
        Shape ``(n,)``. Under cosine in [0, 2], and a zero vector is at distance 1.
    """
    double = vectors.astype(np.float64)
    if space is Space.L2:
        double -= query
        return _dots(double, double)
    distance = _dots(double, query)
    if space is Space.COSINE:
        # Two roots, for the product of two squares may leave the range of a double.
        scale = np.sqrt(_dots(double, double))
        scale *= np.sqrt(_dots(query, query))
        distance /= np.maximum(scale, _SMALLEST_SCALE, out=scale)
    np.subtract(1.0, distance, out=distance)
    if space is Space.COSINE:
        # Of parallel vectors the quotient may round to just beyond 1: nothing is nearer than 0.
        np.minimum(distance, 2.0, out=distance)
        np.maximum(distance, 0.0, out=distance)
    return distance


def exact_of_each(
    space: Space, queries: Queries, vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Give exact distances of each query to vectors of its own, as `exact` does.

    Args:
        space: Which distance.
        queries: ``q`` of them.
        vectors: Shape ``(q, n, d)``.

    Returns:
        Shape ``(q, n)``.
    """
    query_count, count, dimension = vectors.shape
    distances = np.empty((query_count, count), np.float64)
    step = max(1, _WORK_NUMBERS // max(1, count * dimension))
    work = np.empty((min(step, query_count), count, dimension), np.float64)
    for first in range(0, query_count, step):
        part = slice(first, min(first + step, query_count))
        double = work[: part.stop - first]
        np.copyto(double, vectors[part])
        asked = queries.double[part]
        if space is Space.L2:
            double -= asked[:, None, :]
            distances[part] = _dots(double, double)
            continue
        dots = _dots(double, asked[:, None, :])
        if space is Space.COSINE:
            scale = np.sqrt(_dots(double, double)) * queries.norms[part, None]
            dots /= np.maximum(scale, _SMALLEST_SCALE, out=scale)
        np.subtract(1.0, dots, out=distances[part])
    if space is Space.COSINE:
        np.minimum(distances, 2.0, out=distances)
        np.maximum(distances, 0.0, out=distances)
    return distances


def _products(
    queries: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Give the dots of all queries with all vectors, shape ``(q, n)``, on this thread alone.

    OpenBLAS gives a larger product to all cores and waits for them: beside a builder that has one
    of them the p99 of searches was 137 ms, nearly all of it waiting for this product. It computes
    small ones by itself, so that a large one is made of many, which numpy computes in one call.
    """
    dimension = vectors.shape[1]
    if len(queries) == 1:
        alone: npt.NDArray[np.float32] = (vectors[:, None, :] @ queries[0][:, None])[None, :, 0, 0]
        return alone
    products = np.empty((len(queries), len(vectors)), np.float32)
    step = min(len(queries), _PRODUCT_QUERIES, max(1, _ALONE_TERMS // (8 * dimension)))
    for first in range(0, len(queries), step):
        part = queries[first : first + step]
        width = max(1, _ALONE_TERMS // (len(part) * dimension))
        whole = len(vectors) // width * width
        stacked = vectors[:whole].reshape(-1, width, dimension) @ part.T
        products[first : first + step, :whole] = stacked.reshape(whole, len(part)).T
        if whole < len(vectors):
            products[first : first + step, whole:] = part @ vectors[whole:].T
    return products


def is_tame(vector_norms: npt.NDArray[np.float64]) -> bool:
    """Say whether `similarities` may be asked of vectors of these norms; zero is one of them."""
    least, most = _TAME_NORMS
    return bool(((vector_norms == 0.0) | ((vector_norms > least) & (vector_norms < most))).all())


def similarities(
    queries: Queries,
    parts: Sequence[npt.NDArray[np.float32]],
    inverse_norms: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], float]:
    """Give how similar by cosine one query is to vectors, and by how much each may be off.

    The same as `bounded` says, in a few operations instead of some twenty: under cosine the error
    is the same for all, but for what underflows.

    Args:
        queries: One, of a tame norm that is not zero.
        parts: The vectors, shapes ``(n_i, d)``, of tame norms.
        inverse_norms: Of all of them; of zero vectors 0.
    """
    dimension = parts[0].shape[1]
    products = [_products(queries.single, part)[0] for part in parts]
    similar = (products[0] if len(products) == 1 else np.concatenate(products)) * inverse_norms
    scale = 1.0 / float(queries.norms[0])
    similar *= scale
    gamma = dimension * _UNIT_ROUNDOFF / (1.0 - dimension * _UNIT_ROUNDOFF)
    lost = 2.0 * dimension * _SMALLEST_NORMAL / _TAME_NORMS[0] * scale
    return similar, gamma + lost + 4.0 * _SLACK


def bounded(
    space: Space,
    queries: Queries,
    vectors: npt.NDArray[np.float32],
    vector_norms: npt.NDArray[np.float64],
) -> Bounded:
    """Give fast distances of all queries to all vectors, with a bound of their error.

    Args:
        space: Which distance.
        queries: ``q`` of them.
        vectors: Shape ``(n, d)``, contiguous.
        vector_norms: Shape ``(n,)``.
    """
    return bounded_of_parts(space, queries, [vectors], vector_norms)


def bounded_of_parts(
    space: Space,
    queries: Queries,
    parts: Sequence[npt.NDArray[np.float32]],
    vector_norms: npt.NDArray[np.float64],
) -> Bounded:
    """Give what `bounded` gives for vectors that lie in several arrays, as if they lay in one.

    Args:
        space: Which distance.
        queries: ``q`` of them.
        parts: At least one array, shapes ``(n_i, d)``, contiguous.
        vector_norms: Of all of them, shape ``(sum of n_i,)``.
    """
    dimension = parts[0].shape[1]
    gamma = dimension * _UNIT_ROUNDOFF / (1.0 - dimension * _UNIT_ROUNDOFF)
    with np.errstate(over="ignore", invalid="ignore"):
        # Where the sum leaves float32's range, the bounds say so by not being finite.
        products = [_products(queries.single, part) for part in parts]
        dots = (products[0] if len(products) == 1 else np.concatenate(products, axis=1)).astype(
            np.float64
        )
    underflow = 2.0 * dimension * _SMALLEST_NORMAL
    if space is Space.L2:
        # |x||y| is at most half of the sum of their squares.
        squares = queries.norms[:, None] ** 2 + vector_norms[None, :] ** 2
        dots *= -2.0
        dots += squares
        squares *= gamma + 4.0 * _SLACK
        squares += 2.0 * underflow
        return Bounded(dots, squares)
    product = queries.norms[:, None] * vector_norms[None, :]
    if space is Space.IP:
        dot_error = gamma * product + underflow
        return Bounded(1.0 - dots, dot_error + _SLACK * (1.0 + product))
    if len(vector_norms) and queries.norms.min() * vector_norms.min() * _SLACK > underflow:
        # What underflows is less than the slack: one bound for all, and a third of the steps.
        dots /= product
        np.subtract(1.0, dots, out=dots)
        return Bounded(dots, np.broadcast_to(np.float64(gamma + 5.0 * _SLACK), dots.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(product > 0.0, 1.0 - dots / product, 1.0)
        error = np.where(product > 0.0, (gamma * product + underflow) / product + 4.0 * _SLACK, 0.0)
    return Bounded(distance, error)
