"""What serves a shard in place of a graph that is lost, or was never built.

The first that can: the file of exact vectors that was beside the graph; all vectors, read from the
records into memory, if they are not too many for it; the records themselves, where a search of a
million takes seconds. All are exact, and a graph is built meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from shoal.server import logs
from shoal_worker import metrics
from shoal_worker.checkpoint_files import vector_files_in
from shoal_worker.currency import all_current_keys
from shoal_worker.environment import Environment
from shoal_worker.graph_vectors import Deaths
from shoal_worker.indexes import Indexes
from shoal_worker.store import Meta, Store
from shoal_worker.stored import places_in
from shoal_worker.ungraphed import (
    Ungraphed,
    UngraphedVectors,
    read_from_file,
    read_from_records,
    ungraphed_bytes,
)
from shoal_worker.vector_file import DamagedVectorsError, VectorFile

__all__ = ["Recovered", "note_refused_vectors", "recovered"]

_logger: Final = logs.get_logger(__name__)

MAX_MISSING_VECTORS: Final = 200_000
"""Current vectors that a file may lack, for it to be used: they become fresh, and what was written
beyond a graph was so before. The backlog comes to no more."""


class Recovered(NamedTuple):
    """What there is instead of a graph.

    Attributes:
        ungraphed: Most vectors; None: they stay in the records.
        missing: Keys of the current vectors that are to be fresh beside it, ascending.
    """

    ungraphed: Ungraphed | None
    missing: list[int]


def note_refused_vectors(shard_id: str, path: Path, error: DamagedVectorsError | OSError) -> None:
    """Tell that a file of exact vectors cannot be used."""
    reason = error.reason if isinstance(error, DamagedVectorsError) else "damaged"
    metrics.REFUSED_CHECKPOINTS.labels(reason).inc()
    _logger.warning(
        "vectors_refused", shard_id=shard_id, file=path.name, reason=reason, detail=str(error)
    )


def recovered(
    directory: Path,
    environment: Environment,
    store: Store,
    indexes: Indexes,
    meta: Meta,
    max_bytes: int,
    damaged: Callable[[DamagedVectorsError], None],
) -> Recovered:
    """Find what can serve.

    Args:
        directory: The shard's.
        environment: Its records.
        store: Their schema.
        indexes: What is derived from them.
        meta: What it knows about itself.
        max_bytes: What vectors that are read from the records may take in memory.
        damaged: Called if what serves turns out to be damaged.

    Raises:
        DamagedValueError: If a record is not what was stored.
    """
    shard_id = str(meta.shard_id)
    with environment.read() as txn:
        exact = np.array(store.exact_keys(txn), np.uint64)
        current = all_current_keys(txn, store, indexes, meta)
        current = current[~np.isin(current, exact)]
        found = _from_files(directory, shard_id, meta)
        missing = current
        if found is not None:
            missing = current[found.keys[places_in(found.keys, current)] != current]
            if len(missing) > MAX_MISSING_VECTORS:
                found, missing = None, current
        where = "file"
        if found is None and ungraphed_bytes(meta.record_count, meta.dimension) <= max_bytes:
            where = "memory"
            found, missing = read_from_records(txn, store, meta), current[:0]
    fresh = np.sort(np.concatenate((missing, exact)))
    if found is None:
        _logger.warning("vectors_not_loaded", shard_id=shard_id, records=meta.record_count)
        return Recovered(None, exact.tolist())
    _logger.warning("vectors_without_graph", shard_id=shard_id, count=len(found.keys), where=where)
    if not len(current):
        return Recovered(None, fresh.tolist())
    is_alive = current[places_in(current, found.keys)] == found.keys
    return Recovered(Ungraphed(found, Deaths(found.keys, is_alive), damaged), fresh.tolist())


def _from_files(directory: Path, shard_id: str, meta: Meta) -> UngraphedVectors | None:
    """Give the vectors of the newest file that is sound."""
    for path in vector_files_in(directory):
        try:
            file = VectorFile.open(path, shard_id, meta.dimension, None)
            if file.count:
                return read_from_file(file, meta.next_key)
        except (DamagedVectorsError, OSError) as error:
            note_refused_vectors(shard_id, path, error)
    return None
