"""How the catalog changes: one decision after the other, one transaction for many.

A decision is a pure function of the state that the decisions before it leave. Those that arrive
while a transaction is being synced wait, and are then decided and committed together with one sync
(group commit), so that a thousand creations at once do not cost a thousand syncs one after the
other. Everybody is answered after the commit, also who was refused or found nothing to change: what
he was told may rest on a change of the same transaction.

The order that must hold: decide → commit → publish → answer. It does not depend on callers: one who
is cancelled or runs out of time leaves a change that is made all the same, or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from shoal.errors import OverloadedError, ShoalError, UnavailableError
from shoal.server import logs
from shoal_coordinator import metrics
from shoal_coordinator.catalog import Catalog, CatalogWriteError
from shoal_coordinator.state import CatalogState, Change
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

_Result = TypeVar("_Result")

MAX_WAITING: Final = 10_000
"""Decisions that may wait for the transaction under way; beyond, callers are turned away."""

MAX_PER_TRANSACTION: Final = 256
"""Bounds how long the first decision of a transaction waits for the last."""

Decision = Callable[[CatalogState], tuple[Change | None, _Result]]
"""Gives what is to change (None: nothing) and what to answer; raises ShoalError to refuse.

Called once, on the event loop; must not modify the state.
"""


@dataclass(slots=True)
class _Waiting:
    decide: Decision[Any]
    answer: asyncio.Future[tuple[Any, int]]


class Changes:
    """The one way to change the catalog. Owns it from construction to `close`.

    Args:
        catalog: Opened, not used by anybody else from now on.
        table: Holds the same state; what is committed is published in it.
    """

    def __init__(self, catalog: Catalog, table: RoutingTable) -> None:
        self._catalog = catalog
        self._table = table
        # Ahead of `table.state` by the transaction under way.
        self._working = catalog.load()
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        # One thread: LMDB's transactions belong to one, and the map grows between them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._must_reopen = False
        self._closed = False

    async def make(self, decide: Decision[_Result]) -> tuple[_Result, int]:
        """Change the catalog.

        Returns:
            What `decide` answered, and the table version at which that holds.

        Raises:
            ShoalError: `decide` refused, and nothing changed.
            OverloadedError: Too many changes are waiting, or the disk is full.
            UnavailableError: The commit failed; whether it is on disk is unknown.
        """
        if self._closed:
            raise UnavailableError("the coordinator is closing")
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError(
                f"{MAX_WAITING:,} changes of the catalog are waiting already; repeat later",
                metadata={"limit": "MAX_WAITING", "value": str(MAX_WAITING)},
            )
        answer: asyncio.Future[tuple[Any, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(decide, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="catalog changes")
        return await answer

    async def close(self) -> None:
        """Finish the transaction under way, refuse what waits, close the catalog."""
        self._closed = True
        if self._task is not None:
            await self._task
        self._thread.shutdown()
        self._catalog.close()

    async def _drain(self) -> None:
        while self._waiting:
            batch = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_PER_TRANSACTION))
            ]
            if self._closed:
                self._refuse(batch, UnavailableError("the coordinator is closing"))
                continue
            try:
                if self._must_reopen:
                    await self._reopen()
                await self._commit([w for w in batch if not w.answer.cancelled()])
            except CatalogWriteError as error:
                self._refuse(batch, _as_refusal(error))
            except ShoalError as error:
                # It could not even be reopened; the next change tries again.
                self._refuse(batch, error)

    async def _commit(self, batch: list[_Waiting]) -> None:
        changes: list[Change] = []
        answers: list[tuple[_Waiting, Any, ShoalError | None]] = []
        for waiting in batch:
            try:
                change, result = waiting.decide(self._working)
            except ShoalError as error:
                answers.append((waiting, None, error))
                continue
            except Exception as error:  # noqa: BLE001 - a defect of the decision is its caller's
                waiting.answer.set_exception(error)
                continue
            if change is not None:
                self._working.apply(change)
                changes.append(change)
            answers.append((waiting, result, None))
        if changes:
            await self._write(changes)
        for change in changes:
            self._table.publish(change)
        version = self._table.state.version
        for waiting, result, refusal in answers:
            if waiting.answer.done():
                continue
            if refusal is not None:
                waiting.answer.set_exception(refusal)
            else:
                waiting.answer.set_result((result, version))

    async def _write(self, changes: list[Change]) -> None:
        loop = asyncio.get_running_loop()
        with metrics.COMMIT_SECONDS.time():
            try:
                await loop.run_in_executor(
                    self._thread, self._catalog.commit, changes, self._working
                )
            except CatalogWriteError as error:
                metrics.FAILED_COMMITS.inc()
                _log.error("catalog_commit_failed", error=str(error))
                self._must_reopen = True
                await self._reopen()
                raise

    async def _reopen(self) -> None:
        """Start again from what is on disk, which alone knows whether a failed commit is there."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._catalog.reopen)
        working = await loop.run_in_executor(self._thread, self._catalog.load)
        published = await loop.run_in_executor(self._thread, self._catalog.load)
        # Above what was promised by the failed commit, should that not be there.
        version = max(working.version, self._working.version, self._table.state.version) + 1
        for state in (working, published):
            state.version = version
            state.inherit_liveness(self._table.state)
        self._working = working
        self._table.replace(published)
        self._must_reopen = False
        _log.info("catalog_reopened", table_version=working.version)

    @staticmethod
    def _refuse(batch: list[_Waiting], error: ShoalError) -> None:
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)


def _as_refusal(error: CatalogWriteError) -> ShoalError:
    if error.disk_full:
        return OverloadedError(f"{error}; free some space, then repeat")
    return UnavailableError(f"{error}; whether the change was made is unknown")
