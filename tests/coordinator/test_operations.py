"""Long operations: begun once, waited for by repetitions, remembered."""

from __future__ import annotations

import asyncio

import pytest

from shoal.errors import DataLossError, InvalidArgumentError, OverloadedError, UnavailableError
from shoal_coordinator import operations
from shoal_coordinator.operations import Operations, Progress

ID = bytes(16)


class Work:
    """Something that is done, slowly, or fails."""

    def __init__(self, seconds: float = 0.0, *failures: Exception) -> None:
        self.begun_count = 0
        self._seconds = seconds
        self._failures = list(failures)

    async def __call__(self, operation_id: bytes, progress: Progress) -> str:
        self.begun_count += 1
        assert len(operation_id) == 16
        progress.total_count = 2
        await asyncio.sleep(self._seconds)
        if self._failures:
            raise self._failures.pop(0)
        progress.done_count = 2
        return "made"


async def test_a_repetition_waits_for_what_the_first_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "ANSWER_S", 0.02)
    known, work = Operations(), Work(0.1)
    result, progress = await known.run(ID, b"d", work, 60)
    assert (result, progress.total_count) == (None, 2)
    while result is None:
        result, progress = await known.run(ID, b"d", work, 60)
    assert (result, progress.done_count) == ("made", 2)
    assert (await known.run(ID, b"d", work, 60))[0] == "made"
    assert work.begun_count == 1


async def test_it_answers_before_its_caller_gives_up() -> None:
    known = Operations()
    async with asyncio.timeout(1):
        assert (await known.run(ID, b"d", Work(5), 0.1))[0] is None
    await known.close()


async def test_without_an_id_it_is_waited_for_to_the_end() -> None:
    assert (await Operations().run(b"", b"d", Work(0.1), 0.01))[0] == "made"


async def test_work_goes_on_when_its_caller_is_gone() -> None:
    known, work = Operations(), Work(0.05)
    caller = asyncio.create_task(known.run(ID, b"d", work, 60))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait([caller])
    assert (await known.run(ID, b"d", work, 60))[0] == "made"
    assert work.begun_count == 1


async def test_what_failed_for_good_is_remembered_and_what_may_pass_is_begun_anew() -> None:
    known, work = Operations(), Work(0, UnavailableError("away"), DataLossError("damaged"))
    with pytest.raises(UnavailableError):
        await known.run(ID, b"d", work, 60)
    for _ in range(2):
        with pytest.raises(DataLossError):
            await known.run(ID, b"d", work, 60)
    assert work.begun_count == 2


async def test_what_fails_again_and_again_is_not_begun_for_ever() -> None:
    known, work = Operations(), Work(0, *(UnavailableError("away") for _ in range(9)))
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
    await known.run(ID, b"d", Work(5), 60)
    with pytest.raises(OverloadedError):
        await known.run(bytes([1] * 16), b"d", Work(), 60)
    await known.close()
