"""The least effort is found, rounds take in every turn, and streams give what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import EFFORTS, least_effort, percentile, rounds_of
from benchmarks.stream import Stream


@given(st.integers(0, len(EFFORTS) - 1))
def test_the_least_effort_that_reaches_a_recall_is_found(place: int) -> None:
    needed = EFFORTS[place]
    assert least_effort(lambda ef: 0.9 if ef < needed else 0.99, 0.95) == (needed, 0.99)


def test_a_recall_that_none_reaches_gives_the_greatest_effort() -> None:
    assert least_effort(lambda ef: ef / 10_000, 0.95) == (EFFORTS[-1], EFFORTS[-1] / 10_000)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 9))
def test_every_turn_is_in_one_round(turns: list[float], count: int) -> None:
    rounds = rounds_of(turns, count)
    assert [turn for part in rounds for turn in part] == turns
    assert len(rounds) == min(count, len(turns))
    assert all(rounds)


def test_percentiles_are_values_that_were_there() -> None:
    values = [3.0, 1.0, 2.0, 4.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]


def test_the_truth_of_a_stream_is_that_of_its_vectors() -> None:
    stream = Stream(3_000, 16)
    base = np.concatenate([part for _, part in stream.parts()])
    exact = np.argsort(-(stream.queries @ base.T), axis=1)[:, :10]
    found = stream.truth()
    assert len(base) == stream.count
    assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(exact, found, strict=True))


def test_a_stream_of_no_whole_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="2500 vectors are not batches of 1000"):
        Stream(2_500, 16)
