"""What a server takes on: bounds of calls, of bytes, and of the time that a call would wait."""

from __future__ import annotations

import pytest

from shoal.errors import OverloadedError
from shoal.server.admission import ALWAYS_ADMITTED, Admission, Place


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _served(admission: Admission, clock: Clock, *, each_s: float, count: int) -> None:
    """Serve calls one after another, each so long."""
    for _ in range(count):
        place = admission.enter()
        clock.now += each_s
        admission.leave(place)


def _filled(admission: Admission, limit: int = 100_000) -> list[Place]:
    """Take calls on until one is refused."""
    places: list[Place] = []
    for _ in range(limit):
        try:
            places.append(admission.enter())
        except OverloadedError:
            break
    return places


def test_calls_are_bounded() -> None:
    admission = Admission(3)
    places = _filled(admission)
    assert len(places) == 3
    admission.leave(places.pop())
    admission.leave(admission.enter())


def test_a_refusal_says_which_bound_and_when_to_come_back() -> None:
    admission = Admission(1)
    admission.enter()
    with pytest.raises(OverloadedError, match="max_concurrent_calls") as caught:
        admission.enter()
    assert caught.value.metadata == {"limit": "max_concurrent_calls", "value": "1"}
    assert caught.value.retry_after_s == pytest.approx(0.1)


def test_bytes_are_bounded_but_one_request_is_always_taken_on() -> None:
    admission = Admission(10, max_bytes=100)
    large = admission.enter(1_000)
    with pytest.raises(OverloadedError, match="at most 100 at a time"):
        admission.enter(1)
    admission.leave(large)
    admission.enter(60)
    admission.enter(40)
    with pytest.raises(OverloadedError):
        admission.enter(1)


def test_what_is_ahead_of_a_call_is_bounded_by_the_time_that_it_takes() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    _served(admission, clock, each_s=0.001, count=2_000)
    # A thousand a second: in half a second, five hundred.
    assert len(_filled(admission)) == pytest.approx(501, abs=2)


def test_a_faster_server_takes_on_more() -> None:
    counts = []
    for each_s in (0.002, 0.0005):
        clock = Clock()
        admission = Admission(100_000, max_wait_s=0.5, clock=clock)
        _served(admission, clock, each_s=each_s, count=3_000)
        counts.append(len(_filled(admission)))
    assert counts[1] == pytest.approx(4 * counts[0], rel=0.05)


def test_dear_calls_fill_it_sooner_than_cheap_ones() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    _served(admission, clock, each_s=0.001, count=2_000)
    for _ in range(ALWAYS_ADMITTED):
        admission.enter().weigh(10.0)
    with pytest.raises(OverloadedError, match=r"take 0\.64 s, of at most 0\.5") as caught:
        admission.enter()
    assert caught.value.retry_after_s == pytest.approx(0.64)


def test_a_few_calls_are_taken_on_however_long_they_take() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    _served(admission, clock, each_s=10.0, count=10)
    assert len(_filled(admission)) == ALWAYS_ADMITTED


def test_a_server_that_comes_to_a_standstill_refuses_soon_and_recovers() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    _served(admission, clock, each_s=0.001, count=2_000)
    places = [admission.enter() for _ in range(100)]
    for _ in range(10):  # nothing gets done, and calls go on to come
        clock.now += 0.3
        places += _filled(admission, limit=1)
    with pytest.raises(OverloadedError):
        admission.enter()
    for place in places:
        clock.now += 0.001
        admission.leave(place)
    _served(admission, clock, each_s=0.001, count=2_000)
    assert len(_filled(admission)) > 400


def test_a_server_that_has_never_done_anything_refuses_when_nothing_gets_done() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    _filled(admission, ALWAYS_ADMITTED)
    assert _filled(admission, 1), "it may be about to begin"
    clock.now += 0.3
    with pytest.raises(OverloadedError) as caught:
        admission.enter()
    assert caught.value.retry_after_s == pytest.approx(2.0)


def test_calls_that_are_over_at_once_are_counted_all_the_same() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    for _ in range(3_000):  # busy for a hundredth of the time
        _served(admission, clock, each_s=0.0001, count=1)
        clock.now += 0.01
    assert len(_filled(admission)) == pytest.approx(5_000, rel=0.05)


def test_time_in_which_nothing_was_asked_for_makes_nobody_slow() -> None:
    clock = Clock()
    admission = Admission(100_000, max_wait_s=0.5, clock=clock)
    for _ in range(100):
        clock.now += 60.0
        _served(admission, clock, each_s=0.001, count=100)
    assert len(_filled(admission)) == pytest.approx(501, abs=5)
