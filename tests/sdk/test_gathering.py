"""Queries of one client that are asked at the same time travel together, and each caller has his
own answer, error and end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shoal import errors
from shoal._async.gathering import AsyncGatherer
from shoal._sync.gathering import Gatherer

Queries = npt.NDArray[np.float32]
Task = asyncio.Task[list[float]]


def numbered(*numbers: float) -> Queries:
    """Queries that can be told apart."""
    return np.array([[number, 0.0] for number in numbers], np.float32)


def numbers_of(queries: Queries) -> list[float]:
    """What tells queries apart."""
    return [float(number) for number in queries[:, 0]]


class Server:
    """Where calls go: each comes back when the test says so, with the numbers that were asked."""

    def __init__(self, **options: Any) -> None:
        given: dict[str, Any] = {"usual_s": 400.0, "longest_wait_s": 60.0, "few": 1}
        self.gatherer: AsyncGatherer[list[float]] = AsyncGatherer(**given | options)
        self.calls: list[list[float]] = []
        self._ends: list[asyncio.Future[errors.ShoalError | None]] = []
        self.tasks: list[Task] = []

    async def _call(self, queries: Queries) -> list[float]:
        numbers = numbers_of(queries)
        self.calls.append(numbers)
        end: asyncio.Future[errors.ShoalError | None] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        error = await end
        if error is not None:
            raise error
        return numbers

    async def ask(
        self,
        *numbers: float,
        parameters: bytes = b"books",
        results: int = 10,
        timeout_s: float = 60.0,
    ) -> None:
        """Begin to ask; the task stands last among `tasks`."""

        async def asked() -> list[float]:
            queries = numbered(*numbers)
            found, first = await self.gatherer.ask(
                parameters, queries, results, timeout_s, self._call
            )
            return found[first : first + len(queries)]

        self.tasks.append(asyncio.create_task(asked()))
        await settle()

    async def ask_all(self, count: int) -> list[Task]:
        """Begin to ask for each number below `count`."""
        for number in range(count):
            await self.ask(number)
        return self.tasks

    async def answer(self, call: int, error: errors.ShoalError | None = None) -> None:
        """Let a call come back."""
        self._ends[call].set_result(error)
        await settle()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Where calls go."""
    server = Server()
    yield server
    for task in server.tasks:
        task.cancel()
    await asyncio.gather(*server.tasks, return_exceptions=True)


async def test_one_who_asks_alone_waits_for_nobody(server: Server) -> None:
    (task,) = await server.ask_all(1)
    assert server.calls == [[0]]
    await server.answer(0)
    assert await task == [0]


async def test_two_do_not_wait_for_each_other() -> None:
    server = Server(few=2)
    first, second = await server.ask_all(2)
    assert server.calls == [[0], [1]]
    await server.answer(1)
    await server.answer(0)
    assert (await first, await second) == ([0], [1])


async def test_what_is_asked_meanwhile_travels_together(server: Server) -> None:
    await server.ask(1)
    await server.ask(2)
    await server.ask(3, 4)
    await server.ask(5)
    assert server.calls == [[1]]

    await server.answer(0)
    assert server.calls == [[1], [2, 3, 4, 5]]
    await server.answer(1)

    assert [await task for task in server.tasks] == [[1], [2], [3, 4], [5]]


async def test_nobody_travels_with_others_parameters(server: Server) -> None:
    await server.ask(1)
    await server.ask(2, parameters=b"films")
    await server.ask(3, parameters=b"films")
    assert server.calls == [[1], [2]]
    await server.answer(1)
    assert server.calls == [[1], [2], [3]]


async def test_a_call_is_bounded(server: Server) -> None:
    await server.ask(0)
    for number in range(1, 11):
        await server.ask(number, results=2_000)
    await server.answer(0)
    assert server.calls[1:] == [[1, 2, 3, 4]]  # of 2,000 matches each
    await server.answer(1)
    assert server.calls[2:] == [[5, 6, 7, 8]]


async def test_one_who_fills_a_call_waits_for_nobody(server: Server) -> None:
    await server.ask(0)
    await server.ask(*range(1, 40))
    assert len(server.calls) == 2


async def test_nobody_waits_long_for_another() -> None:
    server = Server(longest_wait_s=1.0)
    first, second, third = await server.ask_all(3)
    while len(server.calls) < 2:  # noqa: ASYNC110 - a count
        await asyncio.sleep(0.01)
    assert server.calls == [[0], [1, 2]]
    await server.answer(1)
    assert (await second, await third) == ([1], [2])
    await server.answer(0)
    assert await first == [0]


async def test_nobody_waits_before_it_is_known_what_calls_take() -> None:
    server = Server(usual_s=0.0)
    await server.ask(1)
    await server.ask(2)
    await asyncio.sleep(0.01)
    assert server.calls == [[1], [2]]
    await server.answer(0)
    await server.answer(1)


async def test_a_failure_is_everybodys_and_each_has_an_error_of_its_own(server: Server) -> None:
    tasks = await server.ask_all(3)
    await server.answer(0)
    await server.answer(1, errors.UnavailableError("gone"))

    caught = [task.exception() for task in tasks[1:]]

    assert [type(error) for error in caught] == [errors.UnavailableError] * 2
    assert caught[0] is not caught[1]
    await server.ask(9)
    await server.answer(2)
    assert await tasks[-1] == [9]


async def test_who_asks_for_something_wrong_is_told_alone(server: Server) -> None:
    tasks = await server.ask_all(3)
    await server.answer(0)
    await server.answer(1, errors.InvalidArgumentError("one of you"))
    await server.answer(2)  # the one who asked for all, now for itself
    assert server.calls == [[0], [1, 2], [1], [2]]
    await server.answer(3, errors.InvalidArgumentError("you"))

    assert await tasks[1] == [1]
    with pytest.raises(errors.InvalidArgumentError, match="you"):
        await tasks[2]


async def test_one_who_is_cancelled_takes_nobody_with_it(server: Server) -> None:
    tasks = await server.ask_all(4)
    await server.answer(0)
    assert server.calls[1] == [1, 2, 3]

    tasks[2].cancel()
    tasks[1].cancel()  # it is the one who asks
    await settle()

    assert server.calls[2:] == [[3]]
    await server.answer(2)
    assert await tasks[3] == [3]


async def test_one_who_is_cancelled_in_a_line_leaves_it(server: Server) -> None:
    tasks = await server.ask_all(3)
    tasks[1].cancel()
    await settle()
    await server.answer(0)
    assert server.calls[1:] == [[2]]


async def test_nothing_is_remembered_of_who_is_gone(server: Server) -> None:
    tasks = await server.ask_all(4)
    await server.answer(0)
    for task in tasks:
        task.cancel()
    await settle()
    assert not server.gatherer._lines


async def test_each_has_its_own_deadline(server: Server) -> None:
    await server.ask(0)
    await server.ask(1)
    await server.ask(2)
    await server.ask(3, timeout_s=0.01)
    *_, patient, hasty = server.tasks
    await server.answer(0)

    with pytest.raises(errors.DeadlineExceededError):
        await hasty

    await server.answer(1)
    assert await patient == [2]


def test_threads_get_what_they_asked_for() -> None:
    gatherer: Gatherer[list[float]] = Gatherer(usual_s=0.004)
    sizes: list[int] = []

    def call(queries: Queries) -> list[float]:
        sizes.append(len(queries))
        time.sleep(0.001)
        return numbers_of(queries)

    def ask(thread: int) -> bool:
        for turn in range(50):
            numbers = [100.0 * thread + turn, 100.0 * thread + turn + 0.5]
            found, first = gatherer.ask(b"books", numbered(*numbers), 10, 240.0, call)
            if found[first : first + 2] != numbers:
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
    assert sum(sizes) == 16 * 50 * 2
    assert len(sizes) < 16 * 50


def test_an_interrupted_thread_takes_nobody_with_it() -> None:
    gatherer: Gatherer[list[float]] = Gatherer(usual_s=400.0, longest_wait_s=60.0, few=1)
    is_begun, may_end = threading.Event(), threading.Event()

    def hold(queries: Queries) -> list[float]:
        is_begun.set()
        may_end.wait(240)
        return numbers_of(queries)

    def interrupt(_: Queries) -> list[float]:
        raise KeyboardInterrupt

    def ask(number: float, call: Callable[[Queries], list[float]]) -> float:
        found, first = gatherer.ask(b"books", numbered(number), 10, 240.0, call)
        return found[first]

    with ThreadPoolExecutor(3) as pool:
        held = pool.submit(ask, 1, hold)
        is_begun.wait(240)
        interrupted = pool.submit(ask, 2, interrupt)
        while _waiting(gatherer) != 1:
            time.sleep(0.001)
        other = pool.submit(ask, 3, numbers_of)
        while _waiting(gatherer) != 2:
            time.sleep(0.001)
        may_end.set()
        assert held.result(240) == 1
        with pytest.raises(KeyboardInterrupt):
            interrupted.result(240)
        assert other.result(240) == 3


def _waiting(gatherer: Gatherer[list[float]]) -> int:
    return sum(len(line.waiting) for line in gatherer._lines.values())


def test_a_client_that_is_shared_answers_each_thread_as_it_would_alone(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    vectors = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    books.add(
        [f"book-{n}" for n in range(60)],
        vectors,
        [{"number": n} for n in range(60)],
        [f"text {n}" for n in range(60)],
    )
    include = ["documents", "metadatas", "distances", "embeddings"]

    def ask(number: int) -> Any:
        return books.query(
            query_embeddings=vectors[number],
            n_results=3 + number % 2,
            include=include,
            where={"number": {"$gte": 10}} if number % 3 == 0 else None,
        )

    alone = [ask(number) for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(60)))

    for one, other in zip(alone, together, strict=True):
        vectors_of_one, vectors_of_other = one.pop("embeddings"), other.pop("embeddings")
        assert one == other
        assert all(map(np.array_equal, vectors_of_one, vectors_of_other))
        assert other["included"] is not include


def test_results_that_travelled_together_are_each_callers_own(client: Any) -> None:
    books = client.create_collection("books", embedding_function=None)
    books.add(["a", "b"], np.eye(2, dtype=np.float32), [{"n": 1}, {"n": 2}])

    def ask(_: int) -> Any:
        return books.query(
            query_embeddings=[1.0, 0.0], n_results=2, include=["embeddings", "metadatas"]
        )

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(40)))
    changed = results.pop()
    changed["embeddings"][0][:] = 7
    changed["metadatas"][0][0]["n"] = 7
    changed["ids"][0].clear()

    for result in results:
        assert result["ids"] == [["a", "b"]]
        assert result["embeddings"][0].tolist() == [[1, 0], [0, 1]]
        assert result["metadatas"] == [[{"n": 1}, {"n": 2}]]
