"""Collections: created, changed, deleted, with their shards on the workers.

A creation is *reserved* in the catalog before any worker hears of it: name, UUID, shards and their
workers, in the state CREATING, which no gateway sees. Then the workers make the shards, and one
more transaction makes the collection ACTIVE and visible. A crash in between is found at the next
start by that state, and a failure is known at once: either way the reservation turns into recorded
deletions in one transaction, which frees the name and leaves no garbage on any worker.

A deletion is one transaction, too: the entry goes, its name is free, and the deletion of each shard
is on record until its holder has confirmed it.

Who calls is answered when every gateway with a live watch has confirmed the change and every
reachable worker concerned has done its part, or after `CONFIRM_S`. What was begun is finished
whether or not the caller waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from shoal.errors import (
    CollectionNotFoundError,
    OverloadedError,
    QuotaExceededError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1.catalog_pb2 import (
    COLLECTION_STATE_ACTIVE,
    COLLECTION_STATE_CREATING,
    CollectionEntry,
    ShardDeletion,
)
from shoal.server import logs
from shoal.v1.collection_pb2 import (
    CollectionConfiguration,
    HnswConfiguration,
)
from shoal_coordinator import configuration
from shoal_coordinator.assignment import place
from shoal_coordinator.changes import Changes
from shoal_coordinator.creation import Creation
from shoal_coordinator.delivery import Delivery
from shoal_coordinator.entries import (
    CollectionUpdate,
    NewCollection,
    activated,
    deleted_meanwhile,
    name_taken,
    new_entry,
    not_found,
    updated_entry,
    with_dimension,
)
from shoal_coordinator.membership import Membership
from shoal_coordinator.quotas import check_collection_quota
from shoal_coordinator.state import (
    MAX_COLLECTIONS,
    CatalogState,
    Change,
    check_room,
    deletions_of,
)
from shoal_coordinator.table import RoutingTable

_log = logs.get_logger(__name__)

_Result = TypeVar("_Result")

CONFIRM_S: Final = 2.0
"""How long a change waits for the confirmations of gateways and workers before it is answered."""

MAX_UNDER_WAY: Final = 4_096
"""Changes of collections under way at a time; beyond, callers are turned away."""


class Lifecycle:
    """Creates, changes and deletes collections.

    Args:
        now: Seconds since 1970.
        cores: Default of `num_threads`.
        crash_point: Called with a name between the steps; for tests.
    """

    def __init__(
        self,
        changes: Changes,
        table: RoutingTable,
        membership: Membership,
        delivery: Delivery,
        creation: Creation,
        *,
        now: Callable[[], float],
        cores: int,
        crash_point: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._table = table
        self._membership = membership
        self._delivery = delivery
        self._creation = creation
        self._now = now
        self._cores = cores
        self._crash_point = crash_point
        self._under_way: set[asyncio.Task[Any]] = set()
        # The reservations that are being built, each with what is set when that has ended.
        self._building: dict[str, asyncio.Event] = {}

    def get(self, collection_id: str) -> CollectionEntry:
        """Find a collection by its ID. Raises CollectionNotFoundError."""
        entry = self._table.state.active(collection_id)
        if entry is None:
            raise not_found(collection_id)
        return entry

    def get_by_name(self, tenant: str, database: str, name: str) -> CollectionEntry:
        """Find a collection by its name.

        Raises:
            TenantNotFoundError, DatabaseNotFoundError, CollectionNotFoundError: There is none.
        """
        state = self._table.state
        database_id = state.database(tenant, database).database_id
        entry = state.active(state.collection_ids.get((database_id, name), ""))
        if entry is None:
            raise CollectionNotFoundError(
                f"there is no collection {name!r} in database {database!r} of tenant {tenant!r}",
                metadata={"tenant": tenant, "database": database, "collection": name},
            )
        return entry

    async def create(self, wanted: NewCollection) -> tuple[CollectionEntry, bool]:
        """Create a collection with its shards, or find it.

        Returns:
            Its entry, and whether this call created it.

        Raises:
            CollectionExistsError: The name is taken.
            InvalidArgumentError: The configuration is wrong, or contradicts the existing one.
            TenantNotFoundError, DatabaseNotFoundError: Where it should be is not there.
            UnavailableError: A worker did not make its shard; nothing was created.
        """
        resolved = configuration.resolve(wanted.configuration, cores=self._cores)
        return await self._independently(self._create(wanted, resolved))

    async def update(self, collection_id: str, update: CollectionUpdate) -> CollectionEntry:
        """Rename a collection, replace its metadata, change settings.

        Raises:
            CollectionNotFoundError, CollectionExistsError, InvalidArgumentError: As it says.
        """
        return await self._independently(
            self._change_entry(collection_id, lambda s, e: updated_entry(s, e, update))
        )

    async def fix_dimension(self, collection_id: str, dimension: int) -> CollectionEntry:
        """Fix a collection's dimension if it has none, and give its entry as it is then.

        Raises:
            CollectionNotFoundError, InvalidArgumentError: As it says.
        """
        configuration.check_values(HnswConfiguration(dimension=dimension))
        return await self._independently(
            self._change_entry(
                collection_id, lambda _, e: with_dimension(e, dimension), copies_waited_for=False
            )
        )

    async def delete(self, collection_id: str) -> None:
        """Delete a collection with all its records. Raises CollectionNotFoundError."""

        def decide(state: CatalogState) -> tuple[Change, tuple[ShardDeletion, ...]]:
            entry = state.active(collection_id)
            if entry is None:
                raise not_found(collection_id)
            deletions = deletions_of([entry])
            return Change(removed_collections=(collection_id,), deletions=deletions), deletions

        await self._independently(self.remove(decide))

    async def remove(
        self,
        decide: Callable[[CatalogState], tuple[Change | None, tuple[ShardDeletion, ...]]],
    ) -> None:
        """Make a change that deletes shards, and have them deleted."""
        deletions, version = await self._changes.make(decide)
        self._crash_point("deletion_recorded")
        self._delivery.delete(deletions)
        if deletions:
            _log.info("collections_deleted", shards=len(deletions), table_version=version)
        await self._settle(version, [(d.worker_id, d.shard_id) for d in deletions])

    async def confirm(self, version: int) -> None:
        """Wait until gateways have confirmed a change that concerns no worker."""
        await self._settle(version, [])

    async def announce(self, entries: Sequence[CollectionEntry], version: int) -> None:
        """Bring entries that have changed beside their shards, and wait as for any change."""
        shards = [(shard.worker_id, shard.shard_id) for e in entries for shard in e.shards]
        for worker_id, shard_id in shards:
            self._delivery.update(worker_id, [shard_id])
        await self._settle(version, shards)

    async def close(self) -> None:
        """Break off what is under way; the next start clears it up."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _create(
        self, wanted: NewCollection, resolved: CollectionConfiguration
    ) -> tuple[CollectionEntry, bool]:
        while True:
            (entry, is_ours), version = await self._changes.make(
                lambda state: self._reserve(state, wanted, resolved)
            )
            if is_ours:
                return await self._build(entry), True
            if entry.state == COLLECTION_STATE_ACTIVE:
                await self._settle(version, [])
                return entry, False
            # Another call creates it just now, and may fail.
            await self._creation_ended(entry)

    async def _creation_ended(self, entry: CollectionEntry) -> None:
        ended = self._building.get(entry.collection.id)
        if ended is not None:
            await ended.wait()
            return
        known = self._table.state.collections.get(entry.collection.id)
        if known is not None and known.state == COLLECTION_STATE_CREATING:
            raise UnavailableError(
                f"a creation of collection {entry.collection.name!r} failed and is being undone;"
                " repeat later"
            )

    def _reserve(
        self, state: CatalogState, wanted: NewCollection, resolved: CollectionConfiguration
    ) -> tuple[Change | None, tuple[CollectionEntry, bool]]:
        database = state.database(wanted.tenant, wanted.database)
        taken = state.collection_ids.get((database.database_id, wanted.name))
        if taken is not None:
            existing = state.collections[taken]
            if existing.operation_id and existing.state == COLLECTION_STATE_CREATING:
                # It may take hours: who wants to create one of this name need not wait for it.
                if wanted.get_or_create:
                    raise UnavailableError(
                        f"collection {wanted.name!r} is being restored; repeat later"
                    )
                raise name_taken(database, wanted.name)
            if existing.state == COLLECTION_STATE_ACTIVE:
                if not wanted.get_or_create:
                    raise name_taken(database, wanted.name)
                configuration.check_agreement(wanted.configuration, existing.collection)
            return None, (existing, False)
        check_room("collections", len(state.collections), MAX_COLLECTIONS)
        check_collection_quota(state, (wanted.tenant, wanted.database, wanted.name))
        workers = place(resolved.hnsw.shards, self._membership.candidates(state))
        entry = new_entry(state, database, wanted, resolved, workers, self._now())
        return Change(collections=(entry,)), (entry, True)

    async def _build(self, entry: CollectionEntry) -> CollectionEntry:
        """Make the shards of a reserved collection, then make it visible; or undo it all."""
        ended = self._building[entry.collection.id] = asyncio.Event()
        try:
            self._crash_point("collection_reserved")
            # The copy beside the shard is the entry as it will be published: it need not be
            # replaced when the collection becomes active.
            await self._creation.make_shards(entry, COLLECTION_STATE_ACTIVE)
            self._crash_point("shards_created")
            active, version = await self._changes.make(
                lambda state: activated(state, entry.collection.id)
            )
        except Exception as error:
            # Then workers were told to delete the shards, and that is why one has failed.
            is_deleted = entry.collection.id not in self._table.state.collections
            await self._creation.undo([entry])
            refusal = deleted_meanwhile(entry.collection.id) if is_deleted else None
            raise refusal or _as_refusal(entry, error) from error
        finally:
            del self._building[entry.collection.id]
            ended.set()
        self._crash_point("collection_activated")
        _log.info(
            "collection_created",
            collection_id=entry.collection.id,
            shards=len(entry.shards),
            table_version=version,
        )
        await self._settle(version, [])
        return active

    async def _change_entry(
        self,
        collection_id: str,
        change: Callable[[CatalogState, CollectionEntry], CollectionEntry],
        *,
        copies_waited_for: bool = True,
    ) -> CollectionEntry:
        """Put another entry in the place of one, if `change` gives another."""

        def decide(
            state: CatalogState,
        ) -> tuple[Change | None, tuple[CollectionEntry, CollectionEntry]]:
            before = state.active(collection_id)
            if before is None:
                raise not_found(collection_id)
            after = change(state, before)
            if after == before:
                return None, (before, before)
            after.table_version = state.next_version
            return Change(collections=(after,)), (before, after)

        (before, after), version = await self._changes.make(decide)
        shards = [(shard.worker_id, shard.shard_id) for shard in after.shards]
        if after is not before:
            for worker_id, shard_id in shards:
                self._delivery.update(worker_id, [shard_id])
        await self._settle(version, shards if copies_waited_for else [])
        return after

    async def _settle(self, version: int, shards: Sequence[tuple[str, str]]) -> None:
        await asyncio.gather(
            self._table.wait_confirmed(version, CONFIRM_S),
            self._delivery.wait(shards, CONFIRM_S),
        )

    async def _independently(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do work that goes on when its caller is cancelled."""
        if len(self._under_way) >= MAX_UNDER_WAY:
            work.close()
            raise OverloadedError(
                f"{MAX_UNDER_WAY:,} changes of collections are under way already; repeat later",
                metadata={"limit": "MAX_UNDER_WAY", "value": str(MAX_UNDER_WAY)},
            )
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its caller was told, if there still was one.
            _log.debug("change_refused", error=str(error))


def _as_refusal(entry: CollectionEntry, error: Exception) -> Exception:
    """What the caller of a creation is told about what a worker or the catalog said."""
    keeps_its_class = OverloadedError | QuotaExceededError | CollectionNotFoundError
    if not isinstance(error, ShoalError) or isinstance(error, keeps_its_class):
        return error
    return UnavailableError(
        f"collection {entry.collection.name!r} was not created: {error.message}",
        metadata=error.metadata,
    )
