"""Queries that are asked of one client at the same time travel together.

A call costs client and server several times what a search does. So while a query of a client is
under way, what its other callers ask with the same parameters gathers, and leaves as one call: when
the first is back, or when it has waited for a quarter of the time that such calls took of late, so
that a server far away is not waited for. Who asks alone pays nothing and waits for nothing.

Each caller has its own answer, its own deadline and its own end. The call is made by one of those
who wait, in its own thread or task; if that one is interrupted, the others are asked for again by
the next.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from shoal import errors
from shoal._async import runtime

_MOST_COST: Final = 64 * 128
"""Queries times matches wanted of a call that is put together: beyond, its size costs its callers
more than it saves."""

_LEAST_COST: Final = 128
"""What a query counts at least, in matches."""

_MOST_BYTES: Final = 4 * 1024 * 1024
"""The same bound, of the vectors."""

_SHARE: Final = 0.25
"""Of the time that calls take, how long one waits for another. So about four are under way where
many callers are never idle, and one alone that meets another is a quarter later at worst."""

_LONGEST_WAIT_S: Final = 0.002

_FEW: Final = 2
"""Callers at a time that do not wait for each other: waiting took a fifth to a half of the rate of
two, and gains from three on."""

_FORGETTING: Final = 0.95
"""How much of the most callers at a time is remembered at the next call."""

_MEMORY: Final = 0.2
"""Weight of the last call in the time that calls take."""

Result = TypeVar("Result")

Queries = npt.NDArray[np.float32]


class _Caller(Generic[Result]):
    """One who asks, and waits for others or for its answer."""

    __slots__ = (
        "asks_alone",
        "batch",
        "error",
        "first",
        "has_left",
        "is_waiting",
        "leads",
        "queries",
        "signal",
    )

    def __init__(self, queries: Queries) -> None:
        self.queries = queries
        self.signal = runtime.Signal()  # set once: it leads, or what comes below is there
        # Guarded by the gatherer's lock.
        self.is_waiting = True  # in a line; else it leads, or somebody asks for it
        self.leads = False
        self.has_left = False
        # Set before the signal.
        self.batch: Result | None = None
        self.first = 0
        self.error: errors.ShoalError | None = None
        self.asks_alone = False


class _Line(Generic[Result]):
    """The callers with one set of parameters."""

    __slots__ = ("parameters", "under_way", "waiting")

    def __init__(self, parameters: Hashable) -> None:
        self.parameters = parameters
        self.under_way = 0
        self.waiting: deque[_Caller[Result]] = deque()


class AsyncGatherer(Generic[Result]):
    """Puts the queries of one client's callers together.

    Belongs to the process, and for asyncio the event loop, in which it was made.

    Args:
        usual_s: What calls take, as long as none was made: who asks first waits for nobody.
        longest_wait_s: For another call.
        few: Callers at a time that do not wait for each other.
    """

    def __init__(
        self, *, usual_s: float = 0.0, longest_wait_s: float = _LONGEST_WAIT_S, few: int = _FEW
    ) -> None:
        self._changing = runtime.Mutex()
        self._lines: dict[Hashable, _Line[Result]] = {}  # guarded by _changing
        self._usual_s = usual_s  # guarded by _changing: what calls took of late
        self._longest_wait_s = longest_wait_s
        self._few = few
        self._asking = 0  # guarded by _changing: callers that wait or are asked for
        self._crowd = 0.0  # guarded by _changing: how many that were at a time of late

    async def ask(
        self,
        parameters: Hashable,
        queries: Queries,
        results: int,
        timeout_s: float,
        ask: runtime.Ask[Queries, Result],
    ) -> tuple[Result, int]:
        """Have queries answered, with others' or alone.

        Args:
            parameters: Only queries with equal ones travel together.
            queries: Shape ``(n, d)``; `d` belongs to the parameters.
            results: Matches wanted of each; the same.
            timeout_s: How long the caller waits for who asks for it.
            ask: Makes the call for this caller's queries, and others' beside them.

        Returns:
            The answer, and the position in it of the first query.

        Raises:
            ShoalError: The call failed.
        """
        most = _MOST_COST // max(results, _LEAST_COST)
        # One that fills a call by itself gains nothing by waiting for others.
        if 2 * len(queries) > most or 2 * queries.nbytes > _MOST_BYTES:
            return await ask(queries), 0
        caller: _Caller[Result] | None = None
        with self._changing:
            line = self._lines.get(parameters)
            if line is None:
                line = self._lines[parameters] = _Line(parameters)
            self._asking += 1
            self._crowd = max(self._asking, self._crowd * _FORGETTING)
            if line.under_way and self._crowd > self._few:
                caller = _Caller(queries)
                line.waiting.append(caller)
            else:
                line.under_way += 1
            wait_s = min(self._usual_s * _SHARE, self._longest_wait_s)
        if caller is None:
            return await self._lead(line, queries, most, ask)
        await self._wait(line, caller, wait_s, timeout_s)
        if caller.leads:
            return await self._lead(line, queries, most, ask)
        if caller.asks_alone:
            return await ask(queries), 0
        if caller.error is not None:
            raise caller.error
        assert caller.batch is not None, "whoever asks for others gives each what became of it"
        return caller.batch, caller.first

    async def _wait(
        self, line: _Line[Result], caller: _Caller[Result], wait_s: float, timeout_s: float
    ) -> None:
        """Wait until a caller is to lead, or has its answer.

        Raises:
            DeadlineExceededError: There is none in time.
        """
        deadline = time.monotonic() + timeout_s
        try:
            if await caller.signal.wait(min(wait_s, timeout_s)):
                return
            with self._changing:
                if caller.is_waiting and time.monotonic() < deadline:
                    self._let_lead(line, caller)
                    return
            if not await caller.signal.wait(deadline - time.monotonic()):
                raise errors.DeadlineExceededError(f"no answer within {timeout_s:.3g} s")
        except BaseException:
            self._leave(line, caller)
            raise

    def _let_lead(self, line: _Line[Result], caller: _Caller[Result]) -> None:
        line.waiting.remove(caller)
        line.under_way += 1
        caller.is_waiting = False
        caller.leads = True

    def _leave(self, line: _Line[Result], caller: _Caller[Result]) -> None:
        """Leave a line early, and what was to be led to the next."""
        with self._changing:
            caller.has_left = True
            if caller.is_waiting:
                line.waiting.remove(caller)
                caller.is_waiting = False
                self._asking -= 1
            elif caller.leads:
                line.under_way -= 1
                self._asking -= 1
                self._call_next(line)

    async def _lead(
        self,
        line: _Line[Result],
        queries: Queries,
        most: int,
        ask: runtime.Ask[Queries, Result],
    ) -> tuple[Result, int]:
        """Ask for this caller and all who wait."""
        others: Sequence[_Caller[Result]] = ()
        began = time.monotonic()
        took_s: float | None = None
        try:
            if self._crowd > self._few:
                await self._let_others_come()
            if line.waiting:
                others = self._take(line, queries, most)
            if not others:
                answer = await ask(queries)
            else:
                answer = await self._ask_together(queries, others, ask)
            took_s = time.monotonic() - began
        except errors.ShoalError as error:
            for caller in others:
                caller.error = copy.copy(error)
            raise
        except BaseException:
            # Interrupted: that is nobody else's fault.
            self._give_back(line, others)
            others = ()
            raise
        finally:
            for caller in others:
                caller.signal.set()
            self._came_back(line, 1 + len(others), took_s)
        return answer, 0

    async def _let_others_come(self) -> None:
        """Let those run first who have just got an answer, and are about to ask again.

        Else one would leave alone, and the many who come a moment later would wait for it. Nobody
        is waited for who has something else to do.
        """
        before = -1
        while before < self._asking < self._crowd / 2:
            before = self._asking
            await runtime.sleep(0)

    async def _ask_together(
        self,
        queries: Queries,
        others: Sequence[_Caller[Result]],
        ask: runtime.Ask[Queries, Result],
    ) -> Result:
        together = np.concatenate([queries, *(caller.queries for caller in others)])
        try:
            answer = await ask(together)
        except errors.InvalidArgumentError:
            # Something is wrong with one of them: each is told of its own.
            for caller in others:
                caller.asks_alone = True
            return await ask(queries)
        first = len(queries)
        for caller in others:
            caller.batch, caller.first = answer, first
            first += len(caller.queries)
        return answer

    def _take(self, line: _Line[Result], queries: Queries, most: int) -> list[_Caller[Result]]:
        """Take those who wait out of a line, as many as fit in one call."""
        count, size = len(queries), queries.nbytes
        taken: list[_Caller[Result]] = []
        with self._changing:
            while line.waiting:
                caller = line.waiting[0]
                count += len(caller.queries)
                size += caller.queries.nbytes
                if count > most or size > _MOST_BYTES:
                    break
                caller.is_waiting = False
                taken.append(line.waiting.popleft())
        return taken

    def _give_back(self, line: _Line[Result], callers: Sequence[_Caller[Result]]) -> None:
        with self._changing:
            for caller in reversed(callers):
                if not caller.has_left:
                    caller.is_waiting = True
                    line.waiting.appendleft(caller)

    def _came_back(self, line: _Line[Result], count: int, took_s: float | None) -> None:
        """Take note that a call for so many callers is over."""
        with self._changing:
            self._asking -= count
            if took_s is not None:
                weight = _MEMORY if self._usual_s else 1.0
                self._usual_s += weight * (took_s - self._usual_s)
            line.under_way -= 1
            self._call_next(line)

    def _call_next(self, line: _Line[Result]) -> None:
        """Let the next who waits lead, if nothing is under way; forget the line if nobody does."""
        if line.under_way:
            return
        if not line.waiting:
            self._lines.pop(line.parameters, None)
            return
        caller = line.waiting[0]
        self._let_lead(line, caller)
        caller.signal.set()
