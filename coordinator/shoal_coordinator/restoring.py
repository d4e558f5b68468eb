"""Collections made of stored copies: snapshots restored, collections cloned.

As for any creation, the collection is *reserved* before any worker hears of it, and becomes visible
by one transaction at the end; in between its shards are made and *filled* by their workers from the
copies in the store. Any failure turns the reservation into recorded deletions, and so does the next
start of the coordinator after a crash: it is all there, or nothing.

The shards need not be those of the source. Each is filled from the copies whose buckets overlap its
own, of which it takes its own buckets' records, with their ordinals: so the order stays, for any
number of shards.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.errors import (
    CollectionNotFoundError,
    DataLossError,
    DeadlineExceededError,
    DimensionMismatchError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    QuotaExceededError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_CREATING,
    CollectionEntry,
    ShardEntry,
)
from shoal.internal.v1.snapshot_pb2 import StoredShard
from shoal.internal.v1.worker_service_pb2 import (
    FillShardRequest,
    FillShardResponse,
    ShardReference,
)
from shoal.server import logs
from shoal.server.rpc import call
from shoal.v1.collection_pb2 import Collection, CollectionConfiguration
from shoal.v1.filter_pb2 import Where, WhereDocument
from shoal_coordinator import configuration
from shoal_coordinator.assignment import place
from shoal_coordinator.changes import Changes
from shoal_coordinator.creation import Creation
from shoal_coordinator.delivery import WorkerStub
from shoal_coordinator.entries import NewCollection, activated, name_taken, new_entry
from shoal_coordinator.lifecycle import Lifecycle
from shoal_coordinator.membership import Membership
from shoal_coordinator.operations import Progress
from shoal_coordinator.quotas import Usage, check_collection_quota
from shoal_coordinator.state import MAX_COLLECTIONS, CatalogState, Change, check_room
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

FILL_CALL_TIMEOUT_S: Final = 60.0
"""A worker answers after some seconds, also if it goes on."""

FILLS_AT_A_TIME: Final = 2
"""On one worker: each keeps a core, and the disk, busy."""

PATIENCE_S: Final = 60.0
"""So long a worker, or its way to the store, may fail without an answer in between."""

_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records are taken in; None: all."""

    where: Where | None = None
    where_document: WhereDocument | None = None

    def __bool__(self) -> bool:
        return self.where is not None or self.where_document is not None


class Filler:
    """Has shards filled, and adds up how far they are."""

    def __init__(
        self, table: RoutingTable, membership: Membership, worker_stub: WorkerStub
    ) -> None:
        self._table = table
        self._membership = membership
        self._worker_stub = worker_stub
        self._at_a_time: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(FILLS_AT_A_TIME)
        )

    async def fill(
        self,
        entry: CollectionEntry,
        sources: Sequence[StoredShard],
        store: str,
        filters: Filters,
        progress: Progress,
    ) -> None:
        """Fill the shards of a reserved collection, whose shards are made and empty.

        Args:
            sources: Copies of all shards of the source.
            store: The URL of the store in which they lie.
            progress: Counts what is taken in, or, with filters, looked at.

        Raises:
            DataLossError: A copy is damaged or missing.
            ShoalError: What a worker answered, or that it does not.
        """
        counted: dict[str, FillShardResponse] = {}
        before = progress.done_count

        def count(shard_id: str, answer: FillShardResponse) -> None:
            counted[shard_id] = answer
            done = sum(a.seen_count if filters else a.filled_count for a in counted.values())
            progress.done_count = max(progress.done_count, before + done)

        tasks = [
            asyncio.create_task(self._fill_shard(entry, shard, sources, store, filters, count))
            for shard in entry.shards
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            # What one could not do, the others need not finish.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        filled_count = sum(answer.filled_count for answer in counted.values())
        wanted_count = sum(source.record_count for source in sources)
        progress.done_count = before + wanted_count
        if not filters and filled_count != wanted_count:
            raise InternalError(
                f"the copies hold {wanted_count:,} records, of which {filled_count:,} were taken in"
            )

    async def _fill_shard(
        self,
        entry: CollectionEntry,
        shard: ShardEntry,
        sources: Sequence[StoredShard],
        store: str,
        filters: Filters,
        count: Callable[[str, FillShardResponse], None],
    ) -> None:
        needed = [s for s in sources if s.record_count and _overlap(s, shard)]
        if not needed:
            return
        request = FillShardRequest(
            cluster_id=self._table.state.cluster_id,
            worker_id=shard.worker_id,
            shard=ShardReference(
                collection_id=entry.collection.id, shard_id=shard.shard_id, epoch=shard.epoch
            ),
            store=store,
            sources=needed,
            where=filters.where,
            where_document=filters.where_document,
        )
        async with self._at_a_time[shard.worker_id]:
            answered_at_s = time.monotonic()
            while True:
                try:
                    address = self._membership.reachable(shard.worker_id)
                    if address is None:
                        raise UnavailableError(f"worker {shard.worker_id} is not heard from")
                    stub = self._worker_stub(address)
                    answer = await call(stub.FillShard, request, timeout_s=FILL_CALL_TIMEOUT_S)
                except (UnavailableError, DeadlineExceededError) as error:
                    if time.monotonic() - answered_at_s > PATIENCE_S:
                        raise
                    _log.info("shard_not_filled_yet", shard_id=shard.shard_id, error=error.message)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                count(shard.shard_id, answer)
                if answer.done:
                    return
                answered_at_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class Restoration:
    """What is to be restored, and as what.

    Attributes:
        what: How messages call it.
        operation_id: 16 bytes; found in the entry of what came of it.
        source: The collection as it was.
        shards: Its shards in the store.
        store: The URL of that.
        into: Name of the new collection, in the database of the source.
        overrides: What takes the place of the source's configuration.
        filters: Which records.
    """

    what: str
    operation_id: bytes
    source: CollectionEntry
    shards: Sequence[StoredShard]
    store: str
    into: str
    overrides: CollectionConfiguration
    filters: Filters = Filters()


class Restorer:
    """Makes collections of copies.

    Args:
        usage: What quotas are used.
        now: Seconds since 1970.
        cores: Default of `num_threads`.
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        lifecycle: Lifecycle,
        membership: Membership,
        creation: Creation,
        filler: Filler,
        usage: Usage,
        *,
        now: Callable[[], float],
        cores: int,
        crash_point: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._lifecycle = lifecycle
        self._membership = membership
        self._creation = creation
        self._filler = filler
        self._usage = usage
        self._now = now
        self._cores = cores
        self._crash_point = crash_point

    def made_by(self, operation_id: bytes, database_id: str, name: str) -> CollectionEntry | None:
        """Give the collection of this name, if this very operation has made it."""
        state = self._table.state
        entry = state.active(state.collection_ids.get((database_id, name), ""))
        return entry if entry is not None and entry.operation_id == operation_id else None

    def check(self, state: CatalogState, source: CollectionEntry, into: str) -> None:
        """Refuse a name that is taken.

        Raises:
            CollectionExistsError: It is.
        """
        if (source.database_id, into) in state.collection_ids:
            raise name_taken(state.databases[source.database_id], into)

    def resolve(
        self, source: Collection, overrides: CollectionConfiguration
    ) -> CollectionConfiguration:
        """Give the configuration of what is made of a collection.

        Raises:
            InvalidArgumentError: The records do not fit it, or it contradicts itself.
        """
        return configuration.resolve(merged_configuration(source, overrides), cores=self._cores)

    async def restore(self, wanted: Restoration, progress: Progress) -> CollectionEntry:
        """Make a collection, and give its entry when it can be queried.

        Raises:
            CollectionExistsError, QuotaExceededError, DatabaseNotFoundError: As it says.
            InvalidArgumentError: See `resolve`.
            DataLossError: A copy is damaged or missing; nothing was made.
            ShoalError: A worker could not do its part; nothing was made.
        """
        resolved = self.resolve(wanted.source.collection, wanted.overrides)
        entry, _ = await self._changes.make(lambda state: self._reserve(state, wanted, resolved))
        progress.total_count = sum(shard.record_count for shard in wanted.shards)
        try:
            self._crash_point("restore_reserved")
            await self._creation.make_shards(entry, COLLECTION_STATE_CREATING)
            self._crash_point("restore_shards_created")
            await self._filler.fill(entry, wanted.shards, wanted.store, wanted.filters, progress)
            self._crash_point("restore_filled")
            active, version = await self._changes.make(
                lambda state: activated(state, entry.collection.id)
            )
        except Exception as error:
            await self._creation.undo([entry])
            raise as_refusal(f"{wanted.what} was not made into {wanted.into!r}", error) from error
        self._crash_point("restore_activated")
        progress.collection_count += 1
        _log.info(
            "collection_restored",
            collection_id=active.collection.id,
            source_collection_id=wanted.source.collection.id,
            shards=len(active.shards),
            records=progress.done_count,
        )
        await self._lifecycle.announce([active], version)
        return active

    def _reserve(
        self, state: CatalogState, wanted: Restoration, resolved: CollectionConfiguration
    ) -> tuple[Change, CollectionEntry]:
        collection = wanted.source.collection
        database = state.database(collection.tenant, collection.database)
        self.check(state, wanted.source, wanted.into)
        check_room("collections", len(state.collections), MAX_COLLECTIONS)
        names = (database.tenant, database.name, wanted.into)
        check_collection_quota(state, names)
        # How many a filter leaves is not known before.
        count = 0 if wanted.filters else sum(shard.record_count for shard in wanted.shards)
        self._usage.check_room_for_copy(state, names, count)
        workers = place(resolved.hnsw.shards, self._membership.candidates(state))
        new = NewCollection(
            tenant=database.tenant,
            database=database.name,
            name=wanted.into,
            configuration=wanted.overrides,
            metadata=collection.metadata,
            get_or_create=False,
        )
        entry = new_entry(state, database, new, resolved, workers, self._now())
        # The dimension stays also where no configuration fixes it.
        entry.collection.dimension = collection.dimension
        entry.operation_id = wanted.operation_id
        return Change(collections=(entry,)), entry


def merged_configuration(
    source: Collection, overrides: CollectionConfiguration
) -> CollectionConfiguration:
    """The configuration of a collection with what is set in another one in its place.

    Raises:
        DimensionMismatchError: That is another dimension.
        InvalidArgumentError: That declares other keys of sparse vectors.
    """
    merged = CollectionConfiguration()
    merged.CopyFrom(source.configuration)
    dimension = overrides.hnsw.dimension
    if dimension and source.dimension and dimension != source.dimension:
        raise DimensionMismatchError(
            f"the vectors have dimension {source.dimension}, got {dimension}: leave it out of the"
            " configuration",
            metadata={"dimension": str(source.dimension), "given": str(dimension)},
        )
    if not merged.hnsw.dimension:
        merged.hnsw.ClearField("dimension")
    merged.hnsw.MergeFrom(overrides.hnsw)
    if overrides.documents.language:
        merged.documents.language = overrides.documents.language
    if overrides.sparse_vectors:
        if overrides.sparse_vectors.keys() != merged.sparse_vectors.keys():
            raise InvalidArgumentError(
                "the keys of sparse vectors are those of the source"
                f" ({', '.join(map(repr, sorted(merged.sparse_vectors))) or 'none'}): the records"
                " hold them"
            )
        for key, sparse in overrides.sparse_vectors.items():
            merged.sparse_vectors[key].CopyFrom(sparse)
    if overrides.HasField("embedding_function"):
        merged.embedding_function.CopyFrom(overrides.embedding_function)
    elif merged.HasField("embedding_function"):
        # What was agreed when the source was made is not argued about again: a default that nobody
        # chose may stand beside vectors that are not its own.
        merged.embedding_function.implied = True
    return merged


def as_refusal(what: str, error: Exception) -> Exception:
    """What the caller is told about what a worker, the store or the catalog said."""
    if isinstance(error, DataLossError):
        return DataLossError(f"{what}: {error.message}", metadata=error.metadata)
    keeps_its_class = OverloadedError | QuotaExceededError | CollectionNotFoundError
    if not isinstance(error, ShoalError) or isinstance(error, keeps_its_class):
        return error
    if isinstance(error, UnavailableError | DeadlineExceededError):
        return UnavailableError(f"{what}: {error.message}", metadata=error.metadata)
    return type(error)(f"{what}: {error.message}", metadata=error.metadata)


def _overlap(source: StoredShard, shard: ShardEntry) -> bool:
    return any(
        run.first <= own.last and own.first <= run.last
        for run in source.buckets
        for own in shard.buckets
    )
