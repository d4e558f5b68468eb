"""Shoal: server and embedded, by its own client."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.collection_store import CollectionStore

_POLL_S = 0.1
_SETTLED_S = 3.0
_BUILD_TIMEOUT_S = 900.0
_FRESH_SHARE = 5
"""Less than a fifth may stay beside the graphs, where they are ranked exactly."""
_GRAPH_VECTORS = 2_200
"""Of a shard, from which on there is a graph: 2,000, and shards are not all of one size."""


class Shoal(CollectionStore):
    """A collection with the graph that all have here; else as it comes."""

    package = "shoal"
    modules = ("shoal",)
    acknowledged = "on the disk (fsync)"

    def open(self, place: str) -> None:
        """Connect to a server, or open a directory."""
        import shoal

        self._client = (
            shoal.Client(port=int(place.removeprefix("port:")))
            if place.startswith("port:")
            else shoal.PersistentClient(place)
        )

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def use(self, name: str) -> bool:
        """Look for it in the list."""
        found = [c for c in self._client.list_collections() if c.name == name]
        if found:
            self._collection = found[0]
        return bool(found)

    def _graph(self) -> dict[str, Any]:
        """With so many shards."""
        return {**super()._graph(), "shards": self.setting.shards}

    def settle(self) -> float:
        """Graphs are built behind the acknowledgement: wait until they take in no more."""
        deadline = time.monotonic() + _BUILD_TIMEOUT_S
        count = self.count()
        small = count // _FRESH_SHARE if count > _GRAPH_VECTORS * self.setting.shards else count + 1
        fresh, changed = self._fresh_count(), time.monotonic()
        while fresh and (fresh >= small or time.monotonic() < changed + _SETTLED_S):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {_BUILD_TIMEOUT_S:.0f} s, {fresh} are in no graph")
            time.sleep(_POLL_S)
            before, fresh = fresh, self._fresh_count()
            if fresh != before:
                changed = time.monotonic()
        return time.monotonic() - changed

    def _fresh_count(self) -> int:
        query = [1.0] + [0.0] * (self.setting.dimension - 1)
        answer = self._collection.query(query_embeddings=query, n_results=1, explain=True)
        return sum(shard["fresh_count"] for shard in answer["plan"]["shards"])
