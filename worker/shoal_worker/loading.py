"""Opens a shard from its directory: records, the checkpoint that can be used, the fresh set.

The records are the truth. Of the checkpoints the newest sound one is taken; every vector that it
does not hold is loaded into the fresh set. Where there is none, and more than a few vectors,
`recovering` finds what they are searched by until a graph is built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import lmdb

from shoal.errors import DataLossError, FailedPreconditionError
from shoal.internal.v1.storage_pb2 import ShardIdentity
from shoal.server import logs
from shoal_worker import metrics
from shoal_worker.checkpoint_files import vector_file_path
from shoal_worker.checkpoints import newest_checkpoint
from shoal_worker.currency import are_current
from shoal_worker.derived import DERIVED_DATABASES, indexes_of
from shoal_worker.environment import INITIAL_MAP_BYTES, Environment, Transaction
from shoal_worker.fresh import FreshWriter
from shoal_worker.graph import Graph
from shoal_worker.graph_vectors import Deaths, GraphVectors
from shoal_worker.identity import Configuration
from shoal_worker.indexes import Indexes
from shoal_worker.record_files import RECORDS_FILE, discard_copy
from shoal_worker.recovering import note_refused_vectors, recovered
from shoal_worker.sealed import DamagedValueError
from shoal_worker.state import State
from shoal_worker.store import DATABASES, FORMAT, Meta, Store
from shoal_worker.vector_file import DamagedVectorsError, VectorFile

__all__ = ["Loaded", "create_records", "data_loss", "load", "peek"]

_logger: Final = logs.get_logger(__name__)

MAX_FRESH_VECTORS: Final = 400_000
MAX_FRESH_BYTES: Final = 2 * 1024 * 1024 * 1024
"""Vectors beyond a graph that become fresh when a shard is opened: twice what its backlog may come
to, so that this is passed only beside a graph that is of no use any more."""

MAX_FRESH_ALONE: Final = 20_000
"""The same without a graph: a tenth of the backlog, so that what is fresh because a graph was lost
does not have writes refused."""

_STEP: Final = 4096
"""Vectors that are read at once."""

MAX_LOADED_BYTES: Final = 2 * 1024 * 1024 * 1024
"""What the vectors of a shard whose graph and their file are lost may take in memory, unless it is
told otherwise; more stay in the records."""


def create_records(
    directory: Path, cluster_id: UUID, shard_id: UUID, configuration: Configuration
) -> None:
    """Make the empty records of a new shard, durable as a whole."""
    environment = Environment(
        directory / RECORDS_FILE, DATABASES, create=True, derived=DERIVED_DATABASES, is_draft=True
    )
    try:
        store = Store(environment)
        indexes = indexes_of(environment, store, configuration)
        meta = Meta(FORMAT, 0, 0, 1, 0, 0, 0, 0, 0, cluster_id, shard_id)

        def fill(txn: Transaction) -> None:
            store.put_meta(txn, meta)
            indexes.begin(txn)

        environment.write(fill)
        environment.sync()
    finally:
        environment.close()


def data_loss(shard_id: str, collection_id: str, what: str) -> DataLossError:
    """Make the error for a shard whose data is damaged or gone."""
    return DataLossError(
        f"shard {shard_id} of collection {collection_id}: {what}",
        metadata={"shard_id": shard_id, "collection_id": collection_id},
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an open shard begins with.

    Attributes:
        environment: Its records, open; the receiver closes it.
        store: Their schema.
        indexes: What is derived from them, usable.
        fresh: The fresh set.
        state: What readers see first.
    """

    environment: Environment
    store: Store
    indexes: Indexes
    fresh: FreshWriter
    state: State


def _opened(directory: Path, identity: ShardIdentity, initial_map_bytes: int) -> Environment:
    shard_id, collection_id = identity.shard_id, identity.entry.collection.id
    try:
        return Environment(
            directory / RECORDS_FILE,
            DATABASES,
            create=False,
            derived=DERIVED_DATABASES,
            initial_map_bytes=initial_map_bytes,
        )
    except FileNotFoundError as error:
        raise data_loss(shard_id, collection_id, "its records are gone") from error
    except lmdb.Error as error:
        what = f"its records cannot be opened: {error}"
        raise data_loss(shard_id, collection_id, what) from error


def peek(directory: Path, identity: ShardIdentity) -> Meta:
    """Read what a shard that is not open knows about itself, and nothing else of it.

    Raises:
        DataLossError: If its records are missing, damaged, or not this shard's.
    """
    environment = _opened(directory, identity, INITIAL_MAP_BYTES)
    try:
        with environment.read() as txn:
            meta = Store(environment).meta(txn)
        _check(meta, identity)
    except (DamagedValueError, lmdb.Error) as error:
        raise data_loss(identity.shard_id, identity.entry.collection.id, str(error)) from error
    finally:
        environment.close()
    return meta


def load(
    directory: Path,
    identity: ShardIdentity,
    configuration: Configuration,
    initial_map_bytes: int,
    max_loaded_bytes: int,
    damaged: Callable[[DamagedVectorsError], None],
) -> Loaded:
    """Open a shard.

    Args:
        directory: Its directory.
        identity: Whose it must be.
        configuration: The collection's.
        initial_map_bytes: Address space that the records begin with.
        max_loaded_bytes: What its vectors may take in memory if its graph and their file are lost.
        damaged: Called if the exact vectors of its graph turn out to be damaged.

    Raises:
        DataLossError: If its records are missing, damaged, or not this shard's.
        FailedPreconditionError: If they are of a newer format.
    """
    shard_id, collection_id = identity.shard_id, identity.entry.collection.id
    discard_copy(directory)
    environment = _opened(directory, identity, initial_map_bytes)
    try:
        store = Store(environment)
        with environment.read() as txn:
            meta = store.meta(txn)
        _check(meta, identity)
        graph = _load_graph(directory, meta, shard_id, configuration)
        indexes = _load_indexes(environment, store, meta, shard_id, configuration)
        ungraphed, unloaded_below, vectors = None, 0, None
        if _are_too_many(environment, store, meta, graph):
            graph = None
            ungraphed, missing = recovered(
                directory, environment, store, indexes, meta, max_loaded_bytes, damaged
            )
            unloaded_below = 0 if ungraphed is not None else meta.next_key
            fresh = _load_fresh(environment, store, meta, meta.next_key, missing)
            if ungraphed is not None:
                fresh.beside(ungraphed.deaths)
        else:
            first = 1 if graph is None else graph.last_key + 1
            fresh = _load_fresh(environment, store, meta, first)
        file = _load_vectors(directory, meta, shard_id, graph)
        if graph is not None and file is not None:
            is_current = None
            if graph.vector_count != meta.record_count - fresh.live_count:
                with environment.read() as txn:
                    is_current = are_current(txn, store, indexes, meta, graph.keys)
            deaths = Deaths(graph.keys, is_current)
            fresh.beside(deaths)
            vectors = GraphVectors(graph.keys, file, deaths, damaged)
    except (DamagedValueError, lmdb.Error) as error:
        environment.close()
        raise data_loss(shard_id, collection_id, str(error)) from error
    except BaseException:
        environment.close()
        raise
    state = State(meta, graph, fresh.snapshot(meta.sequence), unloaded_below, vectors, ungraphed)
    return Loaded(environment, store, indexes, fresh, state)


def _load_indexes(
    environment: Environment,
    store: Store,
    meta: Meta,
    shard_id: str,
    configuration: Configuration,
) -> Indexes:
    """Give the indexes; those that cannot be used are emptied, and built behind."""
    indexes = indexes_of(environment, store, configuration)
    with environment.read() as txn:
        unusable = indexes.unusable(txn, meta)
        if not unusable:
            indexes.count_backlog(txn)
    if unusable:
        environment.write(lambda txn: indexes.drop(txn, meta, unusable))
        indexes.dropped(unusable)
        for index in unusable:
            metrics.DROPPED_INDEXES.labels(index.name).inc()
        _logger.warning(
            "indexes_dropped", shard_id=shard_id, indexes=[index.name for index in unusable]
        )
        with environment.read() as txn:
            indexes.count_backlog(txn)
    return indexes


def _check(meta: Meta, identity: ShardIdentity) -> None:
    if meta.format > FORMAT:
        raise FailedPreconditionError(
            f"shard {identity.shard_id} has format {meta.format}, this release reads {FORMAT}"
        )
    if (str(meta.shard_id), str(meta.cluster_id)) != (identity.shard_id, identity.cluster_id):
        raise DamagedValueError(
            f"its records are those of shard {meta.shard_id} of cluster {meta.cluster_id}"
        )


def _load_graph(
    directory: Path, meta: Meta, shard_id: str, configuration: Configuration
) -> Graph | None:
    if not meta.dimension:
        return None
    graph, refused = newest_checkpoint(
        directory,
        configuration.fit,
        shard_id,
        meta.dimension,
        meta.sequence,
        configuration.ef_search,
    )
    for path, error in refused:
        metrics.REFUSED_CHECKPOINTS.labels(error.reason).inc()
        _logger.warning(
            "checkpoint_refused",
            shard_id=shard_id,
            file=path.name,
            reason=error.reason,
            detail=str(error),
        )
    return graph


def _load_vectors(
    directory: Path, meta: Meta, shard_id: str, graph: Graph | None
) -> VectorFile | None:
    """Open the exact vectors of a graph, if they can be used."""
    if graph is None:
        return None
    path = vector_file_path(directory, graph.vector_file)
    try:
        file = VectorFile.open(path, shard_id, meta.dimension, graph.vector_count)
        if path.stat().st_size > file.size_bytes:
            # What a builder appended that did not come to its end: some of it may be deleted now.
            os.truncate(path, file.size_bytes)
    except (DamagedVectorsError, OSError) as error:
        note_refused_vectors(shard_id, path, error)
        return None
    return file


def _are_too_many(environment: Environment, store: Store, meta: Meta, graph: Graph | None) -> bool:
    """Say whether the vectors beyond a graph, or without one, are too many to be fresh."""
    bound = MAX_FRESH_ALONE
    if graph is not None:
        bound = min(MAX_FRESH_VECTORS, MAX_FRESH_BYTES // (4 * max(1, meta.dimension)))
    first = 1 if graph is None else graph.last_key + 1
    if min(meta.record_count, meta.next_key - first) <= bound:
        return False
    with environment.read() as txn:
        return store.vector_count_from(txn, first, bound + 1) > bound


def _load_fresh(
    environment: Environment,
    store: Store,
    meta: Meta,
    first: int,
    also: Sequence[int] | None = None,
) -> FreshWriter:
    """Fill the fresh set.

    Args:
        environment: The records.
        store: Their schema.
        meta: What the shard knows about itself.
        first: The first key of those that are all loaded.
        also: Keys below that are loaded, too, ascending; None: those that no graph is to take.
    """
    fresh = FreshWriter()
    with environment.read() as txn:
        exact = store.exact_keys(txn)
        below = [key for key in (exact if also is None else also) if key < first]
        for start in range(0, len(below), _STEP):
            batch, _ = store.vectors_of(txn, below[start : start + _STEP], meta.dimension)
            fresh.add(batch, exact)
        while meta.dimension:
            batch = store.vectors_between(txn, first, meta.next_key, meta.dimension, _STEP)
            if not len(batch.keys):
                break
            fresh.add(batch, exact)
            first = int(batch.keys[-1]) + 1
    fresh.begin()
    return fresh
