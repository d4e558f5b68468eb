"""Leaves the few vectors that would spoil a graph of inner products to the exact scan.

A vector ten times as long as the others is the nearest of every vector on its side: all of them are
linked to it instead of to each other, and once an answer reaches beyond the few giants the graph
finds the rest badly. recall@10 at `ef` 100 of 10,000 x 64 (a mixture; bf16):

| Norms | all in the graph | giants scanned beside it |
|---|---|---|
| all 1 | 0.9997 | |
| one of 1e6 | 0.965 (in other runs down to 0.91) | 1.0 |
| ten of 8 | 0.854 | 1.0 |
| ten of 2 | 0.988 | 0.9997 |
| a hundred of 8 | 0.9997 | 1.0 |
| log-normal, 0.3 | 0.998 | 1.0 |

Where there are many giants they are the answers, and found. A dimension more that makes all norms
equal (Bachrach et al. 2014) was worse than doing nothing: 0.63 with ten of 8.

What is left out is marked among the records before the graph is built, as are the vectors that a
graph's number type cannot hold.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_worker.distances import Space, norms
from shoal_worker.shard import Shard
from shoal_worker.state import Pinned, State

__all__ = ["MAX_HELD_BACK", "hold_back_outliers", "outlying"]

MAX_HELD_BACK: Final = 1_024
"""Vectors that no graph takes, at most, before others are left to the graph: a scan of them costs
some ten microseconds, and so many giants are the whole answer of nearly every query."""

_FACTOR: Final = 1.5
"""Of the norm that nine in ten stay below, from where a vector is an outlier."""

_TYPICAL_SHARE: Final = 0.9
_SAMPLED: Final = 1_024
"""Vectors whose norms are looked at, evenly over the shard's age: the share above is then known to
a hundredth."""

_LEAST_SAMPLED: Final = 128

_WAIT_S: Final = 600.0


def outlying(
    lengths: npt.NDArray[np.float64], sampled: npt.NDArray[np.float64], room: int
) -> npt.NDArray[np.intp]:
    """Give the places of norms that stand out, ascending; the largest, if there are too many.

    Args:
        lengths: Norms, shape ``(n,)``.
        sampled: Norms of the vectors that they stand out from, at least one.
        room: How many at most.
    """
    bound = _FACTOR * float(np.quantile(sampled, _TYPICAL_SHARE))
    places = np.flatnonzero(lengths > bound)
    if len(places) > room:
        places = np.sort(places[np.argsort(-lengths[places], kind="stable")[:room]])
    return places


def hold_back_outliers(shard: Shard, state: State) -> None:
    """Mark what stands out among the vectors that wait for a graph, durably.

    Raises:
        EnvironmentClosedError: If the shard was closed meanwhile.
        OverloadedError: If the disk is full.
    """
    if shard.configuration.fit.space is not Space.IP:
        return
    lengths, keys = _fresh_norms(state)
    with shard.pin() as pinned:
        known = np.array(pinned.store.exact_keys(pinned.txn), np.uint64)
        sampled = _sampled_norms(pinned)
    if len(sampled) < _LEAST_SAMPLED:
        sampled = lengths
    is_new = ~np.isin(keys, known)
    lengths, keys = lengths[is_new], keys[is_new]
    room = MAX_HELD_BACK - len(known)
    if room <= 0 or not len(keys):
        return
    chosen = keys[outlying(lengths, sampled, room)].tolist()
    if chosen:
        shard.hold_back(chosen).result(_WAIT_S)


def _fresh_norms(state: State) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
    """Give norms and keys of the vectors in the fresh set."""
    lengths, keys = [np.empty(0)], [np.empty(0, np.uint64)]
    for batch in state.fresh.batches():
        lengths.append(norms(batch.vectors))
        keys.append(batch.keys)
    return np.concatenate(lengths), np.concatenate(keys)


def _sampled_norms(pinned: Pinned) -> npt.NDArray[np.float64]:
    """Give the norms of some current vectors. Where many keys are dead, fewer are found."""
    meta = pinned.state.meta
    keys = np.unique(np.linspace(1, max(1, meta.next_key - 1), _SAMPLED, dtype=np.int64))
    batch, _ = pinned.store.vectors_of(pinned.txn, keys.tolist(), meta.dimension)
    return norms(batch.vectors)
