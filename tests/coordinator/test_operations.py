"""Long operations: begun once, waited for by repetitions, remembered."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import DataLossError, InvalidArgumentError, OverloadedError, UnavailableError
from shoal_coordinator import operations
from shoal_coordinator.operations import Operations, Progress
from tests.coordinator.cluster import eventually

ID = bytes(16)


class Work:
    """Something that is done, at once or when it may end, or fails."""

    def __init__(self, *failures: Exception, held_up: bool = False) -> None:
        self.begun_count = 0
        self.may_end = asyncio.Event()
        self._failures = list(failures)
        if not held_up:
            self.may_end.set()

    async def __call__(self, operation_id: bytes, progress: Progress) -> str:
        self.begun_count += 1
        assert len(operation_id) == 16
        progress.total_count = 2
        await self.may_end.wait()
        if self._failures:
            raise self._failures.pop(0)
        progress.done_count = 2
        return "made"


async def test_a_repetition_waits_for_what_the_first_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "ANSWER_S", 0.02)
    known, work = Operations(), Work(held_up=True)
    result, progress = await known.run(ID, b"d", work, 60)
    assert (result, progress.total_count) == (None, 2)
    work.may_end.set()
    while result is None:
        result, progress = await known.run(ID, b"d", work, 60)
    assert (result, progress.done_count) == ("made", 2)
    assert (await known.run(ID, b"d", work, 60))[0] == "made"
    assert work.begun_count == 1


async def test_it_answers_before_its_caller_gives_up() -> None:
    known = Operations()
    assert (await known.run(ID, b"d", Work(held_up=True), 0.1))[0] is None
    await known.close()


async def test_without_an_id_it_is_waited_for_to_the_end() -> None:
    work = Work(held_up=True)
    waiting = asyncio.create_task(Operations().run(b"", b"d", work, 0.01))
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    work.may_end.set()
    assert (await waiting)[0] == "made"


async def test_work_goes_on_when_its_caller_is_gone() -> None:
    known, work = Operations(), Work(held_up=True)
    caller = asyncio.create_task(known.run(ID, b"d", work, 60))
    await eventually(lambda: work.begun_count == 1)
    caller.cancel()
    await asyncio.wait([caller])
    work.may_end.set()
    assert (await known.run(ID, b"d", work, 60))[0] == "made"
    assert work.begun_count == 1


async def test_what_failed_for_good_is_remembered_and_what_may_pass_is_begun_anew() -> None:
    known, work = Operations(), Work(UnavailableError("away"), DataLossError("damaged"))
    with pytest.raises(UnavailableError):
        await known.run(ID, b"d", work, 60)
    for _ in range(2):
        with pytest.raises(DataLossError):
            await known.run(ID, b"d", work, 60)
    assert work.begun_count == 2


async def test_what_fails_again_and_again_is_not_begun_for_ever() -> None:
    known, work = Operations(), Work(*(UnavailableError("away") for _ in range(9)))
    for _ in range(6):
        with pytest.raises(UnavailableError):
            await known.run(ID, b"d", work, 60)
    assert work.begun_count == operations.MAX_BEGINNINGS


async def test_an_id_belongs_to_one_request() -> None:
    known = Operations()
    await known.run(ID, b"d", Work(), 60)
    with pytest.raises(InvalidArgumentError):
        await known.run(ID, b"another", Work(), 60)


async def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_UNDER_WAY", 1)
    monkeypatch.setattr(operations, "ANSWER_S", 0.01)
    known = Operations()
    await known.run(ID, b"d", Work(held_up=True), 60)
    with pytest.raises(OverloadedError):
        await known.run(bytes([1] * 16), b"d", Work(), 60)
    await known.close()
