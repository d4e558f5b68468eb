"""Decides when a shard needs a graph, and has the builder make it.

One thread and one builder process serve all shards of the worker: parallelism is across cores
between the builder and the searches, never within a graph. The builder is started at the first
job, with `subprocess` (multiprocessing would import an embedded user's script again), and gets the
vectors through its standard input: from the fresh set, which lies in memory, or when the dead are
to go, from the records by short transactions, so that no long reader pins pages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from enum import Enum, auto
from typing import Final, NamedTuple

import lmdb
import numpy as np
import numpy.typing as npt

from shoal.errors import ShoalError
from shoal.server import logs
from shoal_worker import metrics
from shoal_worker.builder import BATCH_HEADER, Job
from shoal_worker.checkpoint_files import checkpoint_path
from shoal_worker.environment import EnvironmentClosedError
from shoal_worker.graph import DamagedCheckpointError
from shoal_worker.identity import Configuration
from shoal_worker.outliers import hold_back_outliers
from shoal_worker.sealed import DamagedValueError
from shoal_worker.shard import Shard
from shoal_worker.state import Pinned, State
from shoal_worker.store import VectorBatch
from shoal_worker.vector_file import DamagedVectorsError, encode_heads

__all__ = ["Building", "Need", "need_of"]

_logger: Final = logs.get_logger(__name__)

MINIMUM_GRAPH_VECTORS: Final = 2_000
"""Below this an exact scan is as fast as a graph."""

FRESH_SHARE: Final = 0.1
"""Of its graph, the share of fresh vectors that is worth a new one: each vector is then written in
about ten checkpoints while the shard grows tenfold, and the scan beside the graph stays small."""

LARGE_FRESH_BYTES: Final = 8 * 1024 * 1024
LARGE_FRESH_SHARE: Final = 0.05
"""Where that share is larger than this, half of it: scanning it would take longer than walking the
graph (40,000 x 128 took 3 ms beside a graph of 960,000), and each vector is still written less than
20 times, with all else."""

IDLE_FRESH_BYTES: Final = 2 * 1024 * 1024
"""Fresh vectors that are worth a new graph when nothing is written for a time: from then on each
search scans them, and this takes some tens of microseconds."""

IDLE_S: Final = 10.0
IDLE_BYTES_A_SECOND: Final = 5 * 1024 * 1024
"""That time, and with it what a writer who comes and goes has written for him: checkpoints at this
rate at most."""

DEAD_SHARE: Final = 0.25
"""Of its graph, the share of dead vectors at which it is built anew without them: until then they
widen a search by a third at most."""

_SEND_VECTORS: Final = 2048
_RETRY_S: Final = 5.0
_ADOPT_TIMEOUT_S: Final = 600.0


class Need(Enum):
    """What a shard's graph needs."""

    NOTHING = auto()
    EXTENSION = auto()
    REBUILD = auto()


def need_of(
    state: State,
    configuration: Configuration,
    wants_rebuild: bool = False,
    is_idle: bool = False,
) -> Need:
    """Say what a shard's graph needs in a state.

    Args:
        state: The state.
        configuration: The collection's.
        wants_rebuild: Whether the dead must go, however few they are.
        is_idle: Whether nothing is being written.
    """
    if state.unloaded_below or (state.vectors is None and state.graph is not None):
        return Need.REBUILD
    if state.vectors is not None and not state.vectors.is_sound:
        return Need.REBUILD
    pending = state.fresh.pending_count
    graph = state.graph
    if graph is None:
        pending += state.ungraphed.count if state.ungraphed is not None else 0
        least = max(MINIMUM_GRAPH_VECTORS, configuration.batch_size, configuration.sync_threshold)
        return Need.REBUILD if pending >= least else Need.NOTHING
    dead = state.graph_dead_count
    if wants_rebuild and dead:
        return Need.REBUILD
    changes = pending + dead
    if changes < configuration.sync_threshold:
        return Need.NOTHING
    if dead > DEAD_SHARE * graph.vector_count:
        return Need.REBUILD
    enough = _extended_from(graph.vector_count, 4 * state.meta.dimension, is_idle)
    if pending >= max(configuration.batch_size, enough):
        return Need.EXTENSION
    return Need.NOTHING


def _extended_from(graph_count: int, vector_bytes: int, is_idle: bool) -> float:
    """Give the fresh vectors from which on a graph is extended."""
    tenth, bounded = FRESH_SHARE * graph_count, LARGE_FRESH_BYTES / vector_bytes
    least = tenth if tenth <= bounded else max(bounded, LARGE_FRESH_SHARE * graph_count)
    return min(least, IDLE_FRESH_BYTES / vector_bytes) if is_idle else least


def _need_of(shard: Shard, state: State, is_idle: bool = False) -> Need:
    return need_of(state, shard.configuration, shard.wants_rebuild, is_idle)


def _idle_s(state: State) -> float:
    """Give how long nothing must be written before what is fresh is taken in."""
    size_bytes = state.graph.size_bytes if state.graph is not None else 0
    return max(IDLE_S, size_bytes / IDLE_BYTES_A_SECOND)


class _BuilderError(Exception):
    """The builder could not do a job, or is gone."""


class _BaseRefusedError(_BuilderError):
    """What was to be extended cannot be used any more."""


class _Batch(NamedTuple):
    """Vectors that a graph is to take in, with their heads (`vector_file`), by ascending key."""

    heads: npt.NDArray[np.uint64]
    vectors: npt.NDArray[np.float32]


class _Builder:
    """The builder process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: nothing in the caller's working directory is taken for a module of ours.
            [sys.executable, "-P", "-m", "shoal_worker.builder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def build(self, job: Job, batches: Iterator[_Batch]) -> None:
        """Have a job done.

        Raises:
            _BaseRefusedError: If what was to be extended cannot be used.
            _BuilderError: If it could not be done.
        """
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None
        assert sink is not None
        try:
            sink.write(job.encode())
            for batch in batches:
                sink.write(BATCH_HEADER.pack(len(batch.heads)))
                sink.write(np.ascontiguousarray(batch.heads, "<u8").data)
                sink.write(np.ascontiguousarray(batch.vectors, "<f4").data)
            sink.write(BATCH_HEADER.pack(0))
            sink.flush()
            answer = source.readline()
        except OSError as error:
            raise _BuilderError(f"the builder is gone: {error}") from error
        except BaseException:
            # It would take the next job for more of this one.
            self._process.kill()
            self._process.wait()
            raise
        if not answer:
            raise _BuilderError(f"the builder ended with exit code {self._process.wait()}")
        told = json.loads(answer)
        if told["problem"]:
            kind = _BaseRefusedError if told["base_refused"] else _BuilderError
            raise kind(told["problem"])

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it, whatever it does: what it has not renamed into place does not count.

        A `build` under way fails by it.
        """
        self._process.kill()

    def close(self) -> None:
        """End it, and let go of its pipes; nobody is in `build` any more."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                _close_quietly(pipe)


def _close_quietly(pipe: object) -> None:
    try:
        pipe.close()  # type: ignore[attr-defined]
    except BrokenPipeError:
        # What was buffered was for a process that is gone.
        return


class Building:
    """Builds the graphs of a worker's shards, one after the other."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._waiting: dict[str, Shard] = {}  # guarded by _wake; by shard ID, first come first
        # Guarded by _wake: shards that wait if nothing is written to them, and until when.
        self._resting: dict[str, tuple[Shard, float]] = {}
        self._wakes_at = float("inf")  # guarded by _wake: when the thread looks at them
        self._is_closing = False  # guarded by _wake
        self._builder: _Builder | None = None  # guarded by _wake; replaced by the thread alone
        self._thread = threading.Thread(target=self._run, name="shoal-building", daemon=True)

    def start(self) -> None:
        """Begin to take shards."""
        self._thread.start()

    def consider(self, shard: Shard) -> None:
        """Have a shard's graph built if it needs it. Called after each change; costs next to
        nothing."""
        if shard.queue.is_closed:
            return
        state = shard.newest
        is_due = _need_of(shard, state) is not Need.NOTHING
        is_worth = is_due or _need_of(shard, state, is_idle=True) is not Need.NOTHING
        with self._wake:
            self._resting.pop(shard.shard_id, None)
            if self._is_closing or not is_worth:
                return
            if is_due:
                self._waiting[shard.shard_id] = shard
            else:
                due_at = time.monotonic() + _idle_s(state)
                self._resting[shard.shard_id] = (shard, due_at)
                if due_at >= self._wakes_at:
                    return
            self._wake.notify()

    def leave(self, shard: Shard) -> None:
        """Let go of a shard that is about to be closed."""
        with self._wake:
            if self._waiting.get(shard.shard_id) is shard:
                del self._waiting[shard.shard_id]
            if shard.shard_id in self._resting and self._resting[shard.shard_id][0] is shard:
                del self._resting[shard.shard_id]

    def close(self) -> None:
        """End the builder and the thread."""
        with self._wake:
            self._is_closing = True
            self._waiting.clear()
            self._resting.clear()
            if self._builder is not None:
                self._builder.kill()
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()
        if self._builder is not None:
            self._builder.close()

    def _run(self) -> None:
        while (shard := self._next()) is not None:
            try:
                with metrics.BUILD_SECONDS.time():
                    self._build(shard)
            except EnvironmentClosedError:
                # Closed meanwhile: considered again when it is opened.
                continue
            except (
                _BuilderError,
                DamagedCheckpointError,
                DamagedValueError,
                DamagedVectorsError,
                OSError,
                ShoalError,
                lmdb.Error,
            ) as error:
                if self._is_closing:
                    return  # `close` has ended the builder in the middle of this graph
                metrics.FAILED_BUILDS.inc()
                _logger.warning("graph_build_failed", shard_id=shard.shard_id, error=str(error))
                if not isinstance(error, _BaseRefusedError):
                    self._pause()  # that one is not tried again: the graph is built anew
            except FutureTimeoutError:
                _logger.warning("graph_adoption_timed_out", shard_id=shard.shard_id)
            self.consider(shard)

    def _next(self) -> Shard | None:
        with self._wake:
            while not self._is_closing:
                if self._waiting:
                    return self._waiting.pop(next(iter(self._waiting)))
                resting = min(self._resting.values(), key=lambda rest: rest[1], default=None)
                if resting is None:
                    self._wakes_at = float("inf")
                    self._wake.wait()
                    continue
                shard, self._wakes_at = resting
                left_s = self._wakes_at - time.monotonic()
                if left_s <= 0:
                    del self._resting[shard.shard_id]
                    return shard
                self._wake.wait(left_s)
            return None

    def _pause(self) -> None:
        """Wait before the next job, so that what fails at once does not fail without end."""
        with self._wake:
            if not self._is_closing:
                self._wake.wait_for(lambda: self._is_closing, _RETRY_S)

    def _build(self, shard: Shard) -> None:
        begin = time.perf_counter()
        state = shard.newest
        # Whoever comes to rest and is written to again by now has no less to be taken in.
        need = _need_of(shard, state, is_idle=True)
        if need is Need.NOTHING:
            return
        is_extension = need is Need.EXTENSION and state.graph is not None
        base = (
            checkpoint_path(shard.directory, state.graph.sequence).name
            if (is_extension and state.graph is not None)
            else ""
        )
        hold_back_outliers(shard, state)
        fit = shard.configuration.fit
        job = Job(
            directory=str(shard.directory),
            shard_id=shard.shard_id,
            dimension=state.meta.dimension,
            space=fit.space.value,
            quantization=fit.quantization.value,
            max_neighbors=fit.max_neighbors,
            ef_construction=fit.ef_construction,
            base=base,
            sequence=state.meta.sequence,
            last_key=state.meta.next_key - 1,
            vector_file=(
                state.graph.vector_file
                if is_extension and state.graph is not None
                else state.meta.sequence
            ),
            kept=state.graph.vector_count if is_extension and state.graph is not None else 0,
        )
        if is_extension and state.graph is not None:
            batches = _fresh_batches(shard, state, state.graph.last_key)
        else:
            batches = _all_batches(shard, state)
        try:
            self._running_builder().build(job, batches)
        except _BaseRefusedError as error:
            if state.vectors is not None:
                state.vectors.report(DamagedVectorsError("damaged", str(error)))
            raise
        adopting = shard.adopt_graph(state.meta.sequence)
        try:
            adopting.result(_ADOPT_TIMEOUT_S)
        except FutureTimeoutError:
            # The next extension writes over the vectors of this one: nobody may come to use it.
            if adopting.cancel():
                raise
            adopting.result()
        if not is_extension:
            shard.wants_rebuild = False
        _logger.info(
            "graph_published",
            shard_id=shard.shard_id,
            sequence=state.meta.sequence,
            vectors=shard.newest.graph.vector_count if shard.newest.graph else 0,
            kind=need.name.lower(),
            seconds=round(time.perf_counter() - begin, 3),
        )

    def _running_builder(self) -> _Builder:
        with self._wake:
            if self._is_closing:
                raise EnvironmentClosedError("the worker is closing")
            if self._builder is None or not self._builder.is_alive:
                if self._builder is not None:
                    self._builder.close()
                self._builder = _Builder()
            return self._builder


def _exact_keys(shard: Shard) -> npt.NDArray[np.uint64]:
    """Give the keys that no graph is to take: of these, what `holds` refuses was marked when it was
    written."""
    with shard.pin() as pinned:
        return np.array(pinned.store.exact_keys(pinned.txn), np.uint64)


def _fresh_batches(shard: Shard, state: State, after_key: int) -> Iterator[_Batch]:
    """Give the fresh vectors that a graph is to take, from memory, by ascending key."""
    exact = _exact_keys(shard)
    for batch in state.fresh.batches():
        keep = (batch.keys > after_key) & ~np.isin(batch.keys, exact)
        kept = VectorBatch(batch.keys[keep], batch.rows[keep], batch.vectors[keep])
        for first in range(0, len(kept.keys), _SEND_VECTORS):
            part = slice(first, first + _SEND_VECTORS)
            with shard.pin() as pinned:
                headed = _headed(
                    pinned, VectorBatch(kept.keys[part], kept.rows[part], kept.vectors[part])
                )
            yield headed


def _all_batches(shard: Shard, state: State) -> Iterator[_Batch]:
    """Give every current vector that a graph is to take, by ascending key.

    Each batch is read in a transaction of its own. What dies meanwhile is dead beside the new
    graph, as it would have been beside the old one; what is added has keys beyond those of the
    state.
    """
    exact = _exact_keys(shard)
    first, end = 1, state.meta.next_key
    while first < end:
        with shard.pin() as pinned:
            batch = pinned.store.vectors_between(
                pinned.txn, first, end, state.meta.dimension, _SEND_VECTORS
            )
            if not len(batch.keys):
                return
            first = int(batch.keys[-1]) + 1
            keep = ~np.isin(batch.keys, exact)
            headed = _headed(
                pinned, VectorBatch(batch.keys[keep], batch.rows[keep], batch.vectors[keep])
            )
        if len(headed.heads):
            yield headed


def _headed(pinned: Pinned, batch: VectorBatch) -> _Batch:
    """Give vectors with their heads; what has died meanwhile has no ID in it, and needs none."""
    rows = batch.rows.tolist()
    records = pinned.store.heads_of(pinned.txn, rows)
    return _Batch(encode_heads(batch.keys.tolist(), rows, records), batch.vectors)
