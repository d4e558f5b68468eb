"""One point in time over many shards, found by a barrier while writes go on.

Every worker concerned *holds* the commits of its shards and says which batches over several shards
have ended there. When all hold, no shard changes: that is the point. A batch that has ended in one
of its shards must be in the cut whole, so each worker then *cuts* its shards after letting in
exactly those that have ended elsewhere, and lets go. Writes wait meanwhile, none fails.

A worker lets go by itself after a quarter of a second, so that a coordinator which dies holds up
nobody; it then refuses to cut, and the attempt is void. Void attempts are released everywhere and
repeated for a bounded while.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from shoal.errors import (
    CollectionNotFoundError,
    DataLossError,
    InvalidArgumentError,
    ShoalError,
    UnavailableError,
    UnimplementedError,
)
from shoal.internal.v1.catalog_pb2 import (
    ApiKeyEntry,
    CollectionEntry,
    DatabaseEntry,
    QuotaEntry,
    TenantEntry,
)
from shoal.internal.v1.snapshot_pb2 import SnapshotManifest
from shoal.internal.v1.worker_service_pb2 import (
    CutShardsRequest,
    CutState,
    HeldBatches,
    HoldShardsRequest,
    ReleaseCutRequest,
    ShardCut,
    ShardReference,
)
from shoal.server import logs
from shoal.server.rpc import call
from shoal_coordinator import metrics
from shoal_coordinator.delivery import WorkerStub
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

_Answer = TypeVar("_Answer")

HOLD_MS: Final = 250
"""How long a worker holds its writes at most: what a writer may notice of a snapshot."""

PATIENT_ATTEMPTS: Final = 3
LONGEST_HOLD_MS: Final = 2_000
"""After so many void attempts each holds twice as long as the last, up to this: with very many
shards, or on a disk whose syncs take seconds, there would otherwise never be a backup."""

ATTEMPTS_S: Final = 10.0
"""For so long void attempts are repeated."""

_CALL_MARGIN_S: Final = 2.0
"""A call of an attempt may take so much longer than the hold: after that the attempt is void."""

_RELEASE_TIMEOUT_S: Final = 5.0

_PAUSE_S: Final = (0.05, 0.3)
"""Between attempts: a random time in here, so that what disturbed one does not meet the next."""

_FINAL: Final = (CollectionNotFoundError, DataLossError, InvalidArgumentError, UnimplementedError)
"""Errors that another attempt would meet again."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The catalog at the point in time, as far as it is to be kept.

    Attributes:
        entries: The collections that are cut.
        tenants: Of a backup, as what follows.
    """

    entries: Sequence[CollectionEntry]
    tenants: Sequence[TenantEntry] = ()
    databases: Sequence[DatabaseEntry] = ()
    api_keys: Sequence[ApiKeyEntry] = ()
    quotas: Sequence[QuotaEntry] = ()
    snapshots: Sequence[SnapshotManifest] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """A point in time that workers have fixed, and of which they keep local copies.

    Attributes:
        cut_id: UUID.
        moment: The catalog at that time.
        shards: What was cut, by worker.
        states: By shard.
    """

    cut_id: str
    moment: Moment
    shards: Mapping[str, Sequence[ShardReference]]
    states: Mapping[str, CutState] = field(default_factory=dict)

    @property
    def record_count(self) -> int:
        """Records in all shards together."""
        return sum(state.record_count for state in self.states.values())


class Cuts:
    """Takes cuts, one attempt at a time: two at once would only void each other.

    Args:
        reachable: Gives the address of a worker that is registered and heard from, else None.
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        table: RoutingTable,
        worker_stub: WorkerStub,
        reachable: Callable[[str], str | None],
        *,
        crash_point: Callable[[str], None],
        attempts_s: float = ATTEMPTS_S,
    ) -> None:
        self._table = table
        self._worker_stub = worker_stub
        self._reachable = reachable
        self._crash_point = crash_point
        self._attempts_s = attempts_s
        self._chance = random.Random()
        self._attempting = asyncio.Lock()

    async def take(self, describe: Callable[[], Moment]) -> Cut:
        """Cut all shards of some collections at one point.

        Args:
            describe: Gives what is to be cut, as the catalog knows it at that moment. Called
                before the shards are held and again while they are: what it gives then is of the
                point itself. Raises to give up.

        Raises:
            ShoalError: `describe` gave up, or the last attempt was void, too.
        """
        give_up_at = time.monotonic() + self._attempts_s
        attempt = 0
        while True:
            attempt += 1
            hold_ms = min(HOLD_MS << max(0, attempt - PATIENT_ATTEMPTS), LONGEST_HOLD_MS)
            try:
                async with self._attempting:
                    with metrics.CUT_SECONDS.time():
                        return await self._attempt(describe, hold_ms)
            except _FINAL:
                raise
            except ShoalError as error:
                metrics.VOID_CUTS.inc()
                pause_s = self._chance.uniform(*_PAUSE_S)
                if time.monotonic() + pause_s >= give_up_at:
                    raise
                _log.info("cut_void", attempt=attempt, error=error.message)
                await asyncio.sleep(pause_s)

    async def release(self, cut: Cut) -> None:
        """Have the workers remove their copies; one that cannot be reached does so by itself."""
        await self._release(cut.cut_id, cut.shards)

    async def _attempt(self, describe: Callable[[], Moment], hold_ms: int) -> Cut:
        cut_id = str(uuid.uuid4())
        shards = _by_worker(describe().entries)
        try:
            held = await _of_all(
                self._hold(worker_id, cut_id, of_worker, hold_ms)
                for worker_id, of_worker in shards.items()
            )
            self._crash_point("all_shards_held")
            moment = describe()
            if _by_worker(moment.entries) != shards:
                raise UnavailableError("collections were created or deleted during the attempt")
            admitted = admitted_batches({k: v for answer in held for k, v in answer.items()})
            cut = await _of_all(
                self._cut(worker_id, cut_id, of_worker, admitted, hold_ms)
                for worker_id, of_worker in shards.items()
            )
        except BaseException:
            await self._release(cut_id, shards)
            raise
        self._crash_point("all_shards_cut")
        states = {shard_id: state for answer in cut for shard_id, state in answer.items()}
        return Cut(cut_id, moment, shards, states)

    async def _hold(
        self, worker_id: str, cut_id: str, shards: Sequence[ShardReference], hold_ms: int
    ) -> dict[str, HeldBatches]:
        request = HoldShardsRequest(
            cluster_id=self._table.state.cluster_id,
            worker_id=worker_id,
            cut_id=cut_id,
            shards=shards,
            hold_milliseconds=hold_ms,
        )
        stub = self._worker_stub(self._address(worker_id))
        answer = await call(stub.HoldShards, request, timeout_s=hold_ms / 1000 + _CALL_MARGIN_S)
        return {shard.shard_id: held for shard, held in zip(shards, answer.shards, strict=True)}

    async def _cut(
        self,
        worker_id: str,
        cut_id: str,
        shards: Sequence[ShardReference],
        admitted: Mapping[str, Sequence[bytes]],
        hold_ms: int,
    ) -> dict[str, CutState]:
        request = CutShardsRequest(
            cluster_id=self._table.state.cluster_id,
            worker_id=worker_id,
            cut_id=cut_id,
            shards=[
                ShardCut(
                    shard_id=shard.shard_id,
                    admitted_batch_ids=admitted.get(shard.shard_id, ()),
                )
                for shard in shards
            ],
        )
        stub = self._worker_stub(self._address(worker_id))
        answer = await call(stub.CutShards, request, timeout_s=hold_ms / 1000 + _CALL_MARGIN_S)
        return {shard.shard_id: state for shard, state in zip(shards, answer.shards, strict=True)}

    async def _release(self, cut_id: str, shards: Mapping[str, Sequence[ShardReference]]) -> None:
        async def release(worker_id: str) -> None:
            request = ReleaseCutRequest(
                cluster_id=self._table.state.cluster_id, worker_id=worker_id, cut_id=cut_id
            )
            try:
                stub = self._worker_stub(self._address(worker_id))
                await call(stub.ReleaseCut, request, timeout_s=_RELEASE_TIMEOUT_S)
            except ShoalError as error:
                # It lets go by itself, and removes the copies of a cut that nobody asks for.
                _log.info("cut_not_released", worker_id=worker_id, error=error.message)

        await asyncio.gather(*(release(worker_id) for worker_id in shards))

    def _address(self, worker_id: str) -> str:
        address = self._reachable(worker_id)
        if address is None:
            raise UnavailableError(
                f"worker {worker_id}, which holds some of the shards, is not heard from",
                metadata={"worker_id": worker_id},
            )
        return address


def admitted_batches(held: Mapping[str, HeldBatches]) -> dict[str, list[bytes]]:
    """Which batches must be let into each shard: those that have ended in another of their shards.

    Args:
        held: By shard, the batches that have ended there, each with all its shards.
    """
    ended = {shard_id: set(batches.ended_batch_ids) for shard_id, batches in held.items()}
    admitted: dict[str, dict[bytes, None]] = {}
    for batches in held.values():
        for batch_id, of_batch in zip(batches.ended_batch_ids, batches.batch_shards, strict=True):
            for shard_id in of_batch.shard_ids:
                if shard_id in ended and batch_id not in ended[shard_id]:
                    admitted.setdefault(shard_id, {})[batch_id] = None
    return {shard_id: list(batch_ids) for shard_id, batch_ids in admitted.items()}


def _by_worker(entries: Iterable[CollectionEntry]) -> dict[str, list[ShardReference]]:
    shards: dict[str, list[ShardReference]] = {}
    for entry in entries:
        for shard in entry.shards:
            shards.setdefault(shard.worker_id, []).append(
                ShardReference(
                    collection_id=entry.collection.id,
                    shard_id=shard.shard_id,
                    epoch=shard.epoch,
                )
            )
    return shards


async def _of_all(calls: Iterable[Awaitable[_Answer]]) -> list[_Answer]:
    """Wait for all, also if one fails: an answer that comes late must not meet the release."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if failures:
        raise next((f for f in failures if isinstance(f, _FINAL)), failures[0])
    return [answer for answer in answers if not isinstance(answer, BaseException)]
