"""Random operations on a collection, each compared with the same on a dict.

Among the steps are restarts, and every write may travel twice with one write ID: the second must
be answered as the first was, and change nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import shoal
from tests.model import strategies
from tests.model.reference import ReferenceCollection

_names = itertools.count()
_RESTART_S: Final = 240.0

Result = TypeVar("Result")


class Deployment(Protocol):
    """A running Shoal, however it is deployed."""

    def client(self) -> shoal.Client:
        """Give a client; the machine closes it."""
        ...

    def disturb(self, choice: int) -> None:
        """Kill, restart or reopen something; what is acknowledged must survive."""
        ...


def _columns(batch: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The SDK's arguments for a batch."""
    names = {
        "vector": "embeddings",
        "metadata": "metadatas",
        "document": "documents",
        "uri": "uris",
    }
    present = next(iter(batch.values())).keys()
    return {"ids": list(batch)} | {
        names[c]: [record[c] for record in batch.values()] for c in present
    }


class CollectionMachine(RuleBasedStateMachine):
    """Compares one collection with `ReferenceCollection`."""

    deployment: ClassVar[Deployment]
    max_disturbances: ClassVar[int] = 3

    def __init__(self) -> None:
        super().__init__()
        self.reference = ReferenceCollection()
        self.disturbances = 0
        self.client = self.deployment.client()
        self.name = ""

    @initialize(space=st.sampled_from(["l2", "ip", "cosine"]), shards=st.sampled_from([1, 3]))
    def create(self, space: str, shards: int) -> None:
        self.space = space
        self.name = f"machine-{next(_names)}"
        self.collection = _patiently(
            lambda: self.client.get_or_create_collection(
                self.name,
                configuration={"hnsw": {"space": space, "shards": shards}},
                embedding_function=None,
            )
        )

    def _repeatedly(self, repeat: bool) -> None:
        """Let every write of the next call travel twice."""
        session = self.client._session
        if isinstance(session._transport, RepeatingTransport):
            session._transport.is_repeating = repeat
        else:
            session._transport = RepeatingTransport(session._transport, repeat)

    @rule(batch=strategies.batches(), repeat=st.booleans())
    def add(self, batch: Any, repeat: bool) -> None:
        self._repeatedly(repeat)
        found = self.collection.add(**_columns(batch))
        assert _counts(found) == self.reference.add(batch)

    @rule(batch=strategies.batches(with_nulls=True), repeat=st.booleans())
    def upsert(self, batch: Any, repeat: bool) -> None:
        self._repeatedly(repeat)
        found = self.collection.upsert(**_columns(batch))
        assert _counts(found) == self.reference.upsert(batch)

    @rule(batch=strategies.batches(with_vectors=False, with_nulls=True), repeat=st.booleans())
    def update(self, batch: Any, repeat: bool) -> None:
        self._repeatedly(repeat)
        found = self.collection.update(**_columns(batch))
        assert _counts(found) == self.reference.update(batch)

    @rule(ids=st.lists(strategies.IDS, min_size=1, max_size=4, unique=True), repeat=st.booleans())
    def delete_by_id(self, ids: list[str], repeat: bool) -> None:
        self._repeatedly(repeat)
        assert self.collection.delete(ids=ids) == {"deleted": self.reference.delete(ids)}

    @rule(where=strategies.FILTERS, limit=st.none() | st.integers(0, 3), repeat=st.booleans())
    def delete_by_filter(self, where: Any, limit: int | None, repeat: bool) -> None:
        self._repeatedly(repeat)
        matching = self.reference.in_order(where)[:limit]
        found = self.collection.delete(where=where, limit=limit)
        assert found == {"deleted": self.reference.delete(matching)}

    @rule(
        where=strategies.FILTERS, change=strategies.CHANGES, dry=st.booleans(), repeat=st.booleans()
    )
    def update_where(self, where: Any, change: Any, dry: bool, repeat: bool) -> None:
        self._repeatedly(repeat)
        matching = self.reference.in_order(where)
        found = self.collection.update_where(where, change, dry_run=dry)
        assert found == {"matched": len(matching), "updated": 0 if dry else len(matching)}
        if not dry and matching:
            self.reference.update({i: {"metadata": change} for i in matching})

    @rule(
        where=st.none() | strategies.FILTERS,
        where_document=st.none() | strategies.DOCUMENT_FILTERS,
        ids=st.none() | st.lists(strategies.IDS, min_size=1, max_size=6, unique=True),
        limit=st.none() | st.integers(0, 5),
        offset=st.integers(0, 4),
    )
    def get(
        self, where: Any, where_document: Any, ids: list[str] | None, limit: int | None, offset: int
    ) -> None:
        expected = self.reference.in_order(where, where_document, ids)[offset:]
        found = self.collection.get(
            ids=ids,
            where=where,
            where_document=where_document,
            limit=limit,
            offset=offset,
            include=["embeddings", "metadatas", "documents", "uris"],
        )
        self._check_records(found, expected[:limit])

    @rule(
        where=st.none() | strategies.FILTERS, where_document=st.none() | strategies.DOCUMENT_FILTERS
    )
    def count(self, where: Any, where_document: Any) -> None:
        expected = len(self.reference.in_order(where, where_document))
        assert self.collection.count(where=where, where_document=where_document) == expected

    @rule(size=st.integers(1, 4))
    def walk(self, size: int) -> None:
        found = [i for page in self.collection.iterate(batch_size=size) for i in page["ids"]]
        assert found == self.reference.in_order()

    @precondition(lambda self: self.reference.next_place > 0)
    @rule(
        queries=st.lists(strategies.VECTORS, min_size=1, max_size=3),
        n_results=st.integers(1, 20),
        where=st.none() | strategies.FILTERS,
        where_document=st.none() | strategies.DOCUMENT_FILTERS,
        ids=st.none() | st.lists(strategies.IDS, min_size=1, max_size=6, unique=True),
    )
    def query(
        self,
        queries: list[tuple[float, ...]],
        n_results: int,
        where: Any,
        where_document: Any,
        ids: list[str] | None,
    ) -> None:
        candidates = self.reference.in_order(where, where_document, ids)
        found = self.collection.query(
            query_embeddings=queries,
            n_results=n_results,
            ids=ids,
            where=where,
            where_document=where_document,
        )
        assert found["distances"] is not None
        for query, found_ids, distances in zip(
            queries, found["ids"], found["distances"], strict=True
        ):
            expected = self.reference.nearest(query, self.space, candidates)[:n_results]
            np.testing.assert_allclose(distances, [d for d, _ in expected], rtol=1e-6, atol=1e-6)
            if self.space != "cosine":  # Whose square roots round: equal angles may differ.
                assert found_ids == [i for _, i in expected]
            else:
                assert len(set(found_ids)) == len(expected)
                assert set(found_ids) <= set(candidates)

    @precondition(lambda self: self.disturbances < self.max_disturbances)
    @rule(choice=st.integers(0, 7))
    def disturb(self, choice: int) -> None:
        self.disturbances += 1
        self.client.close()
        self.deployment.disturb(choice)
        self.client = self.deployment.client()
        self.collection = self.client.get_collection(self.name, embedding_function=None)

    @invariant()
    def nothing_is_missing(self) -> None:
        found = self.collection.get(include=["embeddings", "metadatas", "documents", "uris"])
        self._check_records(found, self.reference.in_order())

    def _check_records(self, found: Any, expected: list[str]) -> None:
        records = [self.reference.records[i] for i in expected]
        assert found["ids"] == expected
        assert found["documents"] == [r.document for r in records]
        assert found["uris"] == [r.uri for r in records]
        assert found["metadatas"] == [r.metadata for r in records]
        for metadata, record in zip(found["metadatas"], records, strict=True):
            assert _types(metadata) == _types(record.metadata)
        assert [tuple(v) for v in found["embeddings"]] == [r.vector for r in records]

    def teardown(self) -> None:
        if self.name:
            _patiently(self._drop)
        self.client.close()

    def _drop(self) -> None:
        with contextlib.suppress(shoal.CollectionNotFoundError):  # An answer may have been lost.
            self.client.delete_collection(self.name)


def _patiently(change: Callable[[], Result]) -> Result:
    """Change the catalog, whose coordinator may just be restarting."""
    give_up_at = time.monotonic() + _RESTART_S
    while True:
        try:
            return change()
        except shoal.UnavailableError:
            if time.monotonic() > give_up_at:
                raise
        time.sleep(0.1)


def _counts(result: Any) -> dict[str, int]:
    return {name: result[name] for name in ("added", "updated", "ignored")}


def _types(metadata: Any) -> Any:
    """A key's type, so that 1, 1.0 and True differ."""
    if metadata is None:
        return None
    return {
        key: [type(v) for v in value] if isinstance(value, list) else type(value)
        for key, value in metadata.items()
    }


class RepeatingTransport:
    """Sends every write twice, and checks that the two are answered alike."""

    def __init__(self, inner: Any, is_repeating: bool) -> None:
        self._inner = inner
        self.is_repeating = is_repeating

    def call(self, method: Any, request: bytes, timeout_s: float) -> bytes:
        answer: bytes = self._inner.call(method, request, timeout_s)
        writes = ("Add", "Upsert", "Update", "Delete", "UpdateWhere")
        if (
            self.is_repeating
            and method.service == "shoal.v1.RecordService"
            and method.name in writes
        ):
            again: bytes = self._inner.call(method, request, timeout_s)
            first, second = method.decode(answer), method.decode(again)
            first.session_token = second.session_token = b""
            assert first == second
            return again
        return answer

    def close(self) -> None:
        self._inner.close()
