"""Workers in this process that hold, cut, copy and fill shards, for tests of snapshots.

Not the real ones: a shard is a list in memory, of records that are numbers. But they keep to the
protocol: held writes wait, a hold ends by itself, exactly the admitted batches are let in, copies
lie in a store, and a shard is filled from those.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import DataLossError, FailedPreconditionError, NotFoundError, ShoalError
from shoal.internal.v1 import snapshot_service_pb2 as api
from shoal.internal.v1 import worker_service_pb2 as worker_api
from shoal.internal.v1.catalog_pb2 import CollectionEntry
from shoal.internal.v1.snapshot_pb2 import StoredObject, StoredShard
from shoal.server.objects import open_store
from shoal.server.rpc import CallContext, context_for
from shoal.v1 import snapshot_service_pb2 as public
from shoal.v1.collection_pb2 import CollectionConfiguration
from shoal_coordinator.state import DEFAULT_DATABASE, DEFAULT_TENANT
from tests.coordinator.cluster import Cluster, FakeWorker, eventually


@dataclass
class Shard:
    """A shard's records, and who holds them up."""

    records: list[int] = field(default_factory=list)
    ended: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    held_by: str = ""
    admitted: set[bytes] = field(default_factory=set)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class CopyingWorker(FakeWorker):
    """A worker whose shards have records."""

    def __init__(self, directory: Path, address: str, worker_id: str | None = None) -> None:
        super().__init__(directory, address, worker_id)
        self.contents: dict[str, Shard] = {}
        self.cuts: dict[str, dict[str, list[int]]] = {}
        self.admitted_count = 0
        self.stored_keys: list[str] = []
        self._timers: set[asyncio.Task[None]] = set()

    def shard(self, shard_id: str) -> Shard:
        return self.contents.setdefault(shard_id, Shard())

    async def write(self, shard_id: str, record: int, batch: tuple[bytes, tuple[str, ...]]) -> None:
        """Write a part of a batch, once nobody holds the shard, or it is let in."""
        shard = self.shard(shard_id)
        batch_id, shard_ids = batch
        async with shard.changed:
            await shard.changed.wait_for(lambda: not shard.held_by or batch_id in shard.admitted)
            shard.records.append(record)
            if len(shard_ids) > 1:
                shard.ended[batch_id] = shard_ids
            shard.changed.notify_all()

    async def hold_shards(
        self, request: worker_api.HoldShardsRequest, context: CallContext
    ) -> worker_api.HoldShardsResponse:
        await self._enter("hold")
        self._check(request)
        answer = worker_api.HoldShardsResponse()
        for reference in request.shards:
            shard = self.shard(reference.shard_id)
            shard.held_by = request.cut_id
            answer.shards.append(
                worker_api.HeldBatches(
                    ended_batch_ids=list(shard.ended),
                    batch_shards=[
                        worker_api.BatchShards(shard_ids=ids) for ids in shard.ended.values()
                    ],
                )
            )
        timer = asyncio.create_task(
            self._let_go_later(request.cut_id, request.hold_milliseconds / 1000)
        )
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)
        return answer

    async def _let_go_later(self, cut_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._let_go(cut_id)

    async def _let_go(self, cut_id: str) -> None:
        for shard in self.contents.values():
            if shard.held_by == cut_id:
                shard.held_by = ""
                shard.admitted.clear()
                await shard.notify()

    async def cut_shards(
        self, request: worker_api.CutShardsRequest, context: CallContext
    ) -> worker_api.CutShardsResponse:
        await self._enter("cut")
        self._check(request)
        answer = worker_api.CutShardsResponse()
        cut: dict[str, list[int]] = {}
        for wanted in request.shards:
            shard = self.shard(wanted.shard_id)
            missing = set(wanted.admitted_batch_ids) - shard.ended.keys()
            self.admitted_count += len(missing)
            shard.admitted |= missing
            await shard.notify()
            async with shard.changed:
                await shard.changed.wait_for(
                    lambda shard=shard, missing=missing: (  # type: ignore[misc]
                        shard.held_by != request.cut_id or missing <= shard.ended.keys()
                    )
                )
            if shard.held_by != request.cut_id:
                raise FailedPreconditionError("the shards are not held by this attempt any more")
            cut[wanted.shard_id] = list(shard.records)
            answer.shards.append(_state(shard.records))
        self.cuts[request.cut_id] = cut
        await self._let_go(request.cut_id)
        return answer

    async def release_cut(
        self, request: worker_api.ReleaseCutRequest, context: CallContext
    ) -> worker_api.ReleaseCutResponse:
        await self._enter("release")
        self.cuts.pop(request.cut_id, None)
        await self._let_go(request.cut_id)
        return worker_api.ReleaseCutResponse()

    async def store_cut(
        self, request: worker_api.StoreCutRequest, context: CallContext
    ) -> worker_api.StoreCutResponse:
        await self._enter("store")
        self._check(request)
        cut = self.cuts.get(request.cut_id)
        if cut is None:
            raise NotFoundError("the worker has no such cut: it was started anew")
        known = {(shard.shard_id, shard.sequence): shard for shard in request.known}
        answer = worker_api.StoreCutResponse(done=True)
        for shard_id, records in cut.items():
            state = _state(records)
            stored = known.get((shard_id, state.sequence))
            if stored is None:
                content = json.dumps(records).encode()
                digest = hashlib.sha256(content).digest()
                name = f"records-{state.sequence}-{digest.hex()[:16]}"
                key = f"{self.cluster_id}/objects/{shard_id}/{name}"
                await asyncio.to_thread(open_store(request.store).put_bytes, key, content)
                self.stored_keys.append(key)
                stored = StoredShard(
                    shard_id=shard_id,
                    sequence=state.sequence,
                    record_count=state.record_count,
                    last_ordinal=state.last_ordinal,
                    records=StoredObject(key=key, size_bytes=len(content), sha256=digest),
                    format=1,
                )
            answer.shards.append(stored)
        return answer

    async def fill_shard(
        self, request: worker_api.FillShardRequest, context: CallContext
    ) -> worker_api.FillShardResponse:
        await self._enter("fill")
        self._check(request)
        own = self.shards[request.shard.shard_id]
        runs = next(s.buckets for s in own.shards if s.shard_id == request.shard.shard_id)
        records: list[int] = []
        for source in request.sources:
            content = await asyncio.to_thread(
                open_store(request.store).get_bytes, source.records.key
            )
            if hashlib.sha256(content).digest() != source.records.sha256:
                raise DataLossError(f"object {source.records.key} is damaged")
            records += (
                record
                for record in json.loads(content)
                if any(run.first <= bucket_of(record) <= run.last for run in runs)
            )
        self.shard(request.shard.shard_id).records = sorted(records)
        return worker_api.FillShardResponse(
            done=True, seen_count=len(records), filled_count=len(records)
        )


def bucket_of(record: int) -> int:
    """Where a record belongs: as good as any hash."""
    return (record * 2654435761) % 4096


def _state(records: list[int]) -> worker_api.CutState:
    return worker_api.CutState(
        sequence=len(records), record_count=len(records), last_ordinal=max(records, default=0)
    )


class SnapshotCluster(Cluster):
    """A coordinator with workers that copy, a store, and the calls of a gateway."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.store = directory / "store"
        self.numbers = itertools.count(1)

    async def start(self, **options: Any) -> Any:
        return await super().start(**{"snapshot_store": str(self.store), **options})

    def make_worker(self, name: str, **options: Any) -> CopyingWorker:
        worker = CopyingWorker(self.directory / name, f"{name}:1", **options)
        self.workers[worker.address] = worker
        return worker

    @property
    def service(self) -> Any:
        return self.coordinator.snapshot_catalog_service

    def holder(self, worker_id: str) -> CopyingWorker:
        found = next(w for w in self.workers.values() if w.worker_id == worker_id)
        assert isinstance(found, CopyingWorker)
        return found

    async def write(
        self, entry: CollectionEntry, count: int = 8, pause_s: float = 0.0
    ) -> list[int]:
        """Write a batch, each part to its shard; give its records."""
        numbers = list(itertools.islice(self.numbers, count))
        parts: dict[str, list[int]] = {}
        owners = {shard.shard_id: shard for shard in entry.shards}
        for number in numbers:
            shard = next(
                s
                for s in entry.shards
                if any(run.first <= bucket_of(number) <= run.last for run in s.buckets)
            )
            parts.setdefault(shard.shard_id, []).append(number)
        batch = (uuid.uuid4().bytes, tuple(parts))

        async def part(position: int, shard_id: str) -> None:
            await asyncio.sleep(position * pause_s)
            worker = self.holder(owners[shard_id].worker_id)
            # One call writes one record here: the first stands for its part.
            await worker.write(shard_id, parts[shard_id][0], batch)

        await asyncio.gather(*(part(i, shard_id) for i, shard_id in enumerate(parts)))
        return [records[0] for records in parts.values()]

    def records(self, entry: CollectionEntry) -> list[int]:
        """All records of a collection in order."""
        found = [self.holder(s.worker_id).shard(s.shard_id).records for s in entry.shards]
        return sorted(record for records in found for record in records)

    async def snapshot(self, entry: CollectionEntry, name: str = "nightly") -> public.Snapshot:
        """Begin to take a snapshot."""
        response = await self.service.create_snapshot(
            api.CreateSnapshotRequest(name=name, collection_id=entry.collection.id),
            context_for(240),
        )
        found: public.Snapshot = response.snapshot
        return found

    async def described(self, name: str = "nightly") -> public.Snapshot:
        response = await self.service.get_snapshot(
            api.GetSnapshotRequest(snapshot=reference(name)), context_for(240)
        )
        found: public.Snapshot = response.snapshot
        return found

    async def ended(self, name: str = "nightly") -> public.Snapshot:
        """Wait until a snapshot is ready, or failed."""
        state = self.coordinator.table.state
        await eventually(
            lambda: all(
                s.description.status
                not in (public.SNAPSHOT_STATUS_INITIALIZING, public.SNAPSHOT_STATUS_TERMINATING)
                for s in state.snapshots.values()
            )
        )
        return await self.described(name)

    async def delete_snapshot(self, name: str = "nightly") -> None:
        await self.service.delete_snapshot(
            api.DeleteSnapshotRequest(snapshot=reference(name)), context_for(240)
        )

    async def restore(
        self,
        into: str,
        name: str = "nightly",
        *,
        operation_id: bytes = b"",
        shards: int | None = None,
        configuration: CollectionConfiguration | None = None,
    ) -> CollectionEntry:
        configuration = configuration or CollectionConfiguration()
        if shards is not None:
            configuration.hnsw.shards = shards
        response = await self.service.restore_snapshot(
            api.RestoreSnapshotRequest(
                operation_id=operation_id,
                snapshot=reference(name),
                into=into,
                configuration=configuration,
            ),
            context_for(240),
        )
        entry: CollectionEntry = response.entry
        return entry

    async def no_snapshots(self) -> None:
        """Wait until the catalog holds no snapshot and the store no file."""
        await eventually(lambda: not self.coordinator.table.state.snapshots)

    def files(self) -> list[str]:
        """The keys of all that lies in the store."""
        return sorted(item.key for item in open_store(str(self.store)).list(""))


def reference(name: str) -> public.SnapshotReference:
    return public.SnapshotReference(tenant=DEFAULT_TENANT, database=DEFAULT_DATABASE, name=name)


def refuse_once(worker: FakeWorker, method: str, error: ShoalError, times: int = 1) -> None:
    """Let a worker refuse a method some times."""
    remaining = times

    def refuse(called: str) -> ShoalError | None:
        nonlocal remaining
        if called == method and remaining:
            remaining -= 1
            return error
        return None

    worker.refuse = refuse
