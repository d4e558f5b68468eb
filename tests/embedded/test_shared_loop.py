"""A loop in a thread of its own, whose turn a caller may take."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from shoal._shared_loop import SharedLoop


@pytest.fixture
def loop() -> Iterator[SharedLoop]:
    loop = SharedLoop()
    # Until it sleeps for the first time, its turn is taken.
    loop.submit(where()).result(60)
    while loop._turn.locked():
        time.sleep(0.001)
    yield loop
    loop.close()


async def where() -> str:
    assert asyncio.current_task() is not None
    asyncio.get_running_loop()
    return threading.current_thread().name


HERE = threading.main_thread().name


def test_a_call_that_does_not_wait_is_answered_in_the_callers_thread(loop: SharedLoop) -> None:
    answer = loop.begin(where())
    assert answer.done()
    assert answer.result() == HERE
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_a_call_that_waits_goes_on_in_the_loops_thread(loop: SharedLoop) -> None:
    async def waits() -> tuple[str, str]:
        before = await where()
        await asyncio.sleep(0.01)
        return before, await where()

    assert loop.begin(waits()).result(60) == (HERE, "shoal-embedded")


def test_what_a_call_raises_reaches_the_caller(loop: SharedLoop) -> None:
    async def fails(seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        raise LookupError("nothing there")

    for seconds in (0, 0.01):
        with pytest.raises(LookupError, match="nothing there"):
            loop.begin(fails(seconds)).result(60)


def test_a_timeout_ends_a_call_that_was_begun_here(loop: SharedLoop) -> None:
    async def late() -> str:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(600)
        except TimeoutError:
            return "late"
        return "in time"

    assert loop.begin(late()).result(60) == "late"


def test_work_that_a_call_leaves_behind_is_done(loop: SharedLoop) -> None:
    done = threading.Event()

    async def leaves_a_callback() -> None:
        asyncio.get_running_loop().call_soon(done.set)

    async def leaves_a_timer() -> None:
        asyncio.get_running_loop().call_later(0.01, done.set)

    for leaves in (leaves_a_callback, leaves_a_timer):
        done.clear()
        loop.begin(leaves()).result(60)
        assert done.wait(60), leaves.__name__


def test_cancelling_an_answer_cancels_its_call(loop: SharedLoop) -> None:
    ended = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    answer = loop.begin(waits())
    answer.cancel()
    assert ended.wait(60)
    with pytest.raises(CancelledError):
        answer.result(60)


async def test_a_caller_with_a_loop_of_its_own_hands_its_call_over(loop: SharedLoop) -> None:
    own = asyncio.get_running_loop()
    answer = loop.begin(where())
    assert await asyncio.wrap_future(answer) == "shoal-embedded"
    assert asyncio.get_running_loop() is own


def test_a_caller_does_not_wait_for_a_turn_that_is_taken(loop: SharedLoop) -> None:
    begun, release = threading.Event(), threading.Event()

    async def blocks() -> None:
        begun.set()
        release.wait(60)

    blocking = loop.submit(blocks())
    begun.wait(60)
    answer = loop.begin(where())
    assert not answer.done()
    release.set()
    blocking.result(60)
    assert answer.result(60) == "shoal-embedded"


def test_only_one_thread_at_a_time_is_in_the_code_of_the_loop(loop: SharedLoop) -> None:
    inside = 0
    met = []

    async def call(number: int) -> int:
        nonlocal inside
        for _ in range(3):
            inside += 1
            met.append(inside)
            # Long enough for the interpreter to switch threads in between.
            sum(range(2_000))
            inside -= 1
            if number % 3 == 0:
                await asyncio.sleep(0)
        return number

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: loop.begin(call(n)).result(60), range(2_000)))

    assert answers == list(range(2_000))
    assert set(met) == {1}


def test_cancelled_timers_do_not_gather(loop: SharedLoop) -> None:
    async def with_a_timer() -> None:
        asyncio.get_running_loop().call_later(600, print).cancel()

    for _ in range(5_000):
        loop.begin(with_a_timer()).result(60)

    async def timers() -> int:
        return len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]

    # The loop was woken, and clears them away; too few calls to be woken again.
    for _ in range(900):
        if loop.begin(timers()).result(60) < 2_500:
            return
        time.sleep(0.05)
    pytest.fail("they do")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C raises, also where a shell has started the tests in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_waits_for_the_end_of_the_step(loop: SharedLoop) -> None:
    reached_the_end = False

    async def interrupted() -> None:
        nonlocal reached_the_end
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1_000):
            sum(range(100))
        reached_the_end = True

    with pytest.raises(KeyboardInterrupt):
        loop.begin(interrupted())

    assert reached_the_end
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert loop.begin(where()).result(60) == HERE
