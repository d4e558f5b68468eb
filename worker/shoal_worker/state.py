"""What a shard's readers see: one immutable object for each sequence.

A reader begins a read transaction, reads its sequence, and takes the state of that same sequence,
so that graph, fresh set, deletions and records belong together (law 2). The writer offers the
state of sequence n + 1 before it commits n + 1: whoever's transaction already sees the commit
finds it, and nobody waits for the publication.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal_worker.environment import Environment, Transaction
from shoal_worker.fresh import FreshSet
from shoal_worker.graph import Graph
from shoal_worker.graph_vectors import GraphVectors
from shoal_worker.indexes import Indexes
from shoal_worker.matching import Source
from shoal_worker.store import Meta, Store
from shoal_worker.ungraphed import Ungraphed

__all__ = ["Pinned", "Publication", "State"]


@dataclass(frozen=True, slots=True)
class State:
    """What belongs to one sequence.

    Attributes:
        meta: The shard at this sequence.
        graph: Holds current vectors and some that are not (any more); None if there is none.
        fresh: Every current vector that the graph does not hold.
        unloaded_below: If not 0, there is no graph, and of the vectors with keys below this the
            fresh set holds only those that no graph can hold: they were too many for the memory
            when the shard was opened, and are read from the records until they are in a graph.
        vectors: What the graph's candidates are ranked by; None if there is no graph, or no file
            that can be used: then by the records.
        ungraphed: What is searched in place of a graph that was lost, beside the fresh set.
    """

    meta: Meta
    graph: Graph | None
    fresh: FreshSet
    unloaded_below: int = 0
    vectors: GraphVectors | None = None
    ungraphed: Ungraphed | None = None

    @property
    def outside_count(self) -> int:
        """Current vectors that no graph holds."""
        return self.fresh.live_count if self.graph is not None else self.meta.record_count

    @property
    def graph_live_count(self) -> int:
        """Current vectors in the graph."""
        return self.meta.record_count - self.fresh.live_count

    @property
    def graph_dead_count(self) -> int:
        """Vectors in the graph that are not current any more."""
        return self.graph.vector_count - self.graph_live_count if self.graph else 0


class Publication:
    """The newest state, and the one that is about to be."""

    def __init__(self, state: State) -> None:
        # Both are replaced by the writer alone and read without a lock: each is one reference.
        self._published = state
        self._offered = state

    @property
    def newest(self) -> State:
        """The newest state that is committed."""
        return self._published

    def offer(self, state: State) -> None:
        """Make the next state findable, before its commit."""
        self._offered = state

    def publish(self, state: State) -> None:
        """Make a committed state the newest."""
        self._offered = state
        self._published = state

    def of(self, sequence: int) -> State | None:
        """Give the state of a sequence, if it is still there."""
        for state in (self._published, self._offered):
            if state.meta.sequence == sequence:
                return state
        return None


class Pinned:
    """A state together with a read transaction of the same sequence; a context manager.

    Args:
        environment: Of the shard.
        store: Reads its records.
        indexes: Find them.
        publication: Its states.
        copies: See `Environment.begin_reading`.
    """

    __slots__ = ("_environment", "indexes", "state", "store", "txn")

    def __init__(
        self,
        environment: Environment,
        store: Store,
        indexes: Indexes,
        publication: Publication,
        copies: bool,
    ) -> None:
        self.store = store
        self.indexes = indexes
        self._environment = environment
        self.txn: Transaction = environment.begin_reading(copies=copies)
        try:
            state = publication.of(store.sequence(self.txn))
            # The transaction is older than what is published: a commit came between. Each turn
            # needs another commit, and a commit takes far longer than a turn.
            while state is None:
                self.txn = environment.renewed(self.txn, copies=copies)
                state = publication.of(store.sequence(self.txn))
        except BaseException:
            environment.end_reading(self.txn)
            raise
        self.state: State = state

    @property
    def source(self) -> Source:
        """Where rows are looked for."""
        return Source(self.txn, self.store, self.indexes, self.state.meta, is_committed=True)

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *_: object) -> None:
        self._environment.end_reading(self.txn)
