"""What is done behind the answer for snapshots, or for backups: taken, cleared up after, ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from shoal.errors import ShoalError
from shoal.server import logs

__all__ = ["UnderWay", "persist"]

_log: Final = logs.get_logger(__name__)

ANSWER_S: Final = 8.0
"""A creation is answered when the point in time is fixed, which takes milliseconds, or after so
long: within the deadline of clients that know none but that of the service config."""

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 60.0
"""Between attempts to remove what lies in a store that does not answer."""

_Work = Callable[[], Coroutine[Any, Any, None]]


class UnderWay:
    """The tasks for things of one kind, each known by its ID, and which of them are restored.

    Args:
        kind: What they are, for the tasks' names.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._taking: dict[str, asyncio.Task[None]] = {}
        self._clearing: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._restoring: Counter[str] = Counter()

    async def take(
        self, thing_id: str, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]
    ) -> None:
        """Begin to take one, and wait until its point in time is fixed, it has ended, or a while.

        Args:
            work: Makes the coroutine; sets the event that it is given when the point is fixed.
        """
        cut = asyncio.Event()
        self._begin(self._taking, thing_id, lambda: work(cut), self._kind)
        waiting = asyncio.create_task(cut.wait())
        taking = self._taking[thing_id]
        await asyncio.wait([taking, waiting], timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    def clear(self, thing_id: str, work: _Work) -> None:
        """Begin to remove what one that failed has left."""
        self._begin(self._clearing, thing_id, work, f"clearing after {self._kind}")

    def end(self, thing_id: str, work: _Work) -> None:
        """Begin to remove one, unless that is under way; what else is done for it ends first."""

        async def alone() -> None:
            for tasks in (self._taking, self._clearing):
                task = tasks.get(thing_id)
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
            await work()

        if thing_id not in self._ending:
            self._begin(self._ending, thing_id, alone, f"end of {self._kind}")

    @contextlib.contextmanager
    def restoring(self, key: str) -> Iterator[None]:
        """Mark one as being restored, by whatever it is known when it is to be deleted."""
        self._restoring[key] += 1
        try:
            yield
        finally:
            self._restoring[key] -= 1
            if not self._restoring[key]:
                del self._restoring[key]

    def is_restored(self, key: str) -> bool:
        """Whether one is being restored."""
        return bool(self._restoring[key])

    async def close(self) -> None:
        """Break off what is under way; the next start clears up after it."""
        tasks = [*self._taking.values(), *self._clearing.values(), *self._ending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(
        self, tasks: dict[str, asyncio.Task[None]], thing_id: str, work: _Work, title: str
    ) -> None:
        task = asyncio.create_task(work(), name=f"{title} {thing_id}")
        tasks[thing_id] = task
        task.add_done_callback(lambda _: tasks.pop(thing_id, None))


async def persist(work: Callable[[], object]) -> None:
    """Do work that must be done in the end, ever more slowly while it fails."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await work()  # type: ignore[misc]
            return
        except ShoalError as error:
            _log.warning("snapshot_removal_postponed", error=error.message)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
