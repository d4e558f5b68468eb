"""Vectors from whatever users have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal import errors
from shoal._vectors import check_dimension, to_vectors

GOOD: list[tuple[str, Any]] = [
    ("one list of floats", [1.0, 2.0]),
    ("one list of ints", [1, 2]),
    ("a list of lists", [[1.0, 2.0]]),
    ("a list of tuples", [(1, 2.0)]),
    ("a tuple", (1.0, 2.0)),
    ("a list of arrays", [np.array([1, 2])]),
    ("a list of NumPy numbers", [np.float32(1), np.float64(2)]),
    ("float64", np.array([[1.0, 2.0]])),
    ("float16", np.array([[1.0, 2.0]], np.float16)),
    ("int64", np.array([[1, 2]])),
    ("uint16", np.array([[1, 2]], np.uint16)),
    ("big-endian", np.array([[1.0, 2.0]], ">f4")),
    ("an array of one dimension", np.array([1.0, 2.0])),
    ("an array of objects", np.array([[1.0, 2.0]], object)),
    ("strided", np.array([[1.0, 9.0, 2.0, 9.0]])[:, ::2]),
]

BAD: list[tuple[str, Any, str]] = [
    ("nothing", [], "empty"),
    ("an empty vector", [[]], r"\[0\] is empty"),
    ("an empty array", np.empty((0, 3)), "empty"),
    ("no dimension", np.empty((3, 0)), "dimension 0"),
    ("ragged", [[1.0, 2.0], [1.0, 2.0], [1.0]], r"\[2\] has 1 numbers, but embeddings\[0\] has 2"),
    ("ragged arrays", [np.zeros(2), np.zeros(3)], r"\[1\] has 3 numbers"),
    ("NaN", [[1.0, 2.0], [float("nan"), 1.0]], "position 1 is nan at index 0"),
    ("infinity", [[1.0, float("inf")]], "position 0 is inf at index 1"),
    ("beyond float32", [[1e39, 0.0]], "inf"),
    ("a norm beyond float32", [[1e25, 0.0]], "squared norm"),
    ("uint8", np.zeros((2, 2), np.uint8), "uint8"),
    ("uint8 within a list", [np.zeros(2, np.uint8)], "uint8"),
    ("bool", np.zeros((2, 2), bool), "bool"),
    ("bools in a list", [[True, False]], "bool"),
    ("a bool among floats", [[1.0, True]], "bool"),
    ("complex", np.zeros((2, 2), complex), "complex"),
    ("text", "abc", "str"),
    ("texts", ["a", "b"], "str"),
    ("digits", [["1", "2"]], "str"),
    ("None among them", [[1.0, 2.0], None], r"\[1\] is None"),
    ("three dimensions", np.zeros((1, 2, 3)), "shape"),
    ("a number", 1.0, "float"),
    ("a set", {1.0}, "set"),
    ("too many dimensions", np.zeros((1, 16_385)), "16384"),
    ("an enormous int", [[10**400, 1]], "float64"),
]


@pytest.mark.parametrize(("name", "given"), GOOD, ids=[name for name, _ in GOOD])
def test_numbers_become_float32(name: str, given: Any) -> None:
    vectors = to_vectors(given)
    assert vectors.dtype == np.dtype("<f4")
    assert vectors.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(("name", "given", "match"), BAD, ids=[name for name, _, _ in BAD])
def test_what_is_no_vector_is_refused(name: str, given: Any, match: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=match):
        to_vectors(given)


def test_an_array_that_is_right_is_not_copied() -> None:
    mine = np.ones((2, 3), np.float32)
    assert np.shares_memory(to_vectors(mine), mine)


def test_a_tensor_is_taken_for_the_array_it_gives() -> None:
    class Tensor:
        def __len__(self) -> int:
            return 1

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([[1.0, 2.0]])

    assert to_vectors(Tensor()).tolist() == [[1.0, 2.0]]
    assert to_vectors([Tensor().__array__()[0]]).tolist() == [[1.0, 2.0]]


def test_another_dimension_than_the_collections_is_named() -> None:
    with pytest.raises(errors.DimensionMismatchError, match="'books' holds vectors of dimension 3"):
        check_dimension("books", 3, to_vectors([[1.0, 2.0]]))
    check_dimension("books", None, to_vectors([[1.0, 2.0]]))
    check_dimension("books", 0, to_vectors([[1.0, 2.0]]))
