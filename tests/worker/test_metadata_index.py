"""The law of the metadata index: the same rows as brute force, whatever it has taken in so far."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shoal_worker import runs
from shoal_worker.derived import DERIVED_DATABASES
from shoal_worker.environment import Transaction
from shoal_worker.indexing import advance
from shoal_worker.journal import JOURNAL_DATABASES
from shoal_worker.metadata_index import MetadataIndex
from shoal_worker.text_index import TextIndex
from shoal_worker.worker import Worker
from tests.model.reference import ReferenceCollection
from tests.model.strategies import (
    CHANGES,
    DOCUMENT_FILTERS,
    DOCUMENTS,
    FILTERS,
    IDS,
    KEYS,
    METADATA,
    VECTORS,
)
from tests.worker.damage import flip_bit
from tests.worker.single import SingleShard, answer_of, indexed, plain, started

LONG = "long " * 45
"""Longer than what a key holds of a string."""

LONG_STRINGS = st.sampled_from([LONG, LONG + "a", LONG + "b", LONG[:192], LONG[:191]])
WITH_LONG = st.dictionaries(KEYS, LONG_STRINGS | st.lists(LONG_STRINGS, min_size=1, max_size=2))
LONG_FILTERS = st.builds(
    lambda key, operator, value: {key: {operator: value}},
    KEYS,
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$contains", "$not_contains"]),
    LONG_STRINGS,
)
ANY_FILTER = st.one_of(
    FILTERS,
    LONG_FILTERS,
    st.builds(lambda a, b: {"$and": [a, {"$not": b}]}, FILTERS, LONG_FILTERS),
    st.builds(
        lambda key, low, high: {"$and": [{key: {"$gte": low}}, {key: {"$lt": high}}]},
        KEYS,
        st.integers(-2, 1),
        st.integers(0, 3),
    ),
)


TEXTS = DOCUMENTS | st.sampled_from(["abab", "bab\n ab", "aé b", "baba é b"])
LITERALS = st.builds(
    lambda operator, text: {operator: text},
    st.sampled_from(["$contains", "$not_contains", "$regex", "$not_regex"]),
    st.sampled_from(["aba", "abab", "b\n a", "é b", "aé", "bab a", "(?i)BAB", "(?i:ABa)|é b"]),
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks split and join, and rows be intersected rather than looked at."""
    monkeypatch.setattr(runs, "CAPACITY", 4)
    monkeypatch.setattr(runs, "_FILL", 3)
    monkeypatch.setattr(runs, "_FEW", 2)
    monkeypatch.setattr("shoal_worker.text_index._BLOCK_POSTINGS", 3)
    monkeypatch.setattr("shoal_worker.text_index._MERGED_SEGMENTS", 3)
    monkeypatch.setattr("shoal_worker.text_index._MERGED_ROWS", 6)
    monkeypatch.setattr("shoal_worker.text_index._STALE_LEAST", 4)
    monkeypatch.setattr("shoal_worker.matching._LOOK_ROWS", 2)
    monkeypatch.setattr("shoal_worker.evaluation._LOOK_ROWS", 1)


ANY_DOCUMENT_FILTER = st.none() | DOCUMENT_FILTERS | LITERALS


def given_of(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def flip_first_change(shard: SingleShard) -> None:
    """Damage the oldest entry of the journal."""
    environment = shard.open._environment

    def flip(txn: Transaction) -> None:
        database = environment.databases["changes"]
        with txn.cursor(db=database) as cursor:
            assert cursor.first()
            key, value = bytes(cursor.key()), bytearray(cursor.value())
        value[0] ^= 1
        txn.put(key, bytes(value), db=database)

    environment.write(flip)


def finish(shard: SingleShard) -> None:
    """Take everything in, which must come to an end."""
    for _ in range(1000):
        if not advance(shard.open):
            return
    raise AssertionError("the indexes are never done")


class IndexMachine(RuleBasedStateMachine):
    """A shard whose indexing is done by hand, beside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.reference = ReferenceCollection()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def begin(self) -> None:
        async def create() -> SingleShard:
            worker = await started(Path(self.directory.name) / "worker")
            worker.indexing.pause()
            return await SingleShard.create(worker)

        self.shard = self.run(create())
        assert self.run(self.shard.count()) == 0

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.run(self.shard.worker.close())
        self.runner.close()
        self.directory.cleanup()

    # Writes.

    @rule(
        records=st.dictionaries(
            IDS,
            st.tuples(VECTORS, METADATA | WITH_LONG | st.none(), TEXTS | st.none()),
            min_size=1,
            max_size=6,
        )
    )
    def upsert(self, records: dict[str, Any]) -> None:
        columns = [list(column) for column in zip(*records.values(), strict=True)]
        self.run(self.shard.upsert(list(records), *columns))
        self.reference.upsert(
            {i: {"vector": v, "metadata": m, "document": d} for i, (v, m, d) in records.items()}
        )

    @rule(changes=st.dictionaries(IDS, CHANGES | WITH_LONG, min_size=1, max_size=4))
    def update(self, changes: dict[str, Any]) -> None:
        self.run(self.shard.update(list(changes), None, list(changes.values())))
        self.reference.update({i: {"metadata": m} for i, m in changes.items()})

    @rule(ids=st.lists(IDS, min_size=1, max_size=3))
    def delete(self, ids: list[str]) -> None:
        response = self.run(self.shard.delete(ids))
        assert response.deleted == self.reference.delete(ids)

    @rule(
        where=st.none() | ANY_FILTER,
        where_document=ANY_DOCUMENT_FILTER,
        limit=st.none() | st.integers(0, 3),
    )
    def delete_where(self, where: Any, where_document: Any, limit: int | None) -> None:
        assume(where is not None or where_document is not None)
        response = self.run(
            self.shard.delete(where=where, where_document=where_document, limit=limit)
        )
        ids = self.reference.in_order(where, where_document)[:limit]
        assert response.deleted == self.reference.delete(ids) == len(ids)

    @rule(where=ANY_FILTER, metadata=CHANGES)
    def patch(self, where: Any, metadata: Any) -> None:
        response = self.run(self.shard.patch(where, metadata))
        ids = self.reference.in_order(where)
        assert response.matched == len(ids)
        self.reference.update({i: {"metadata": metadata} for i in ids})

    # Indexing, at any point.

    @rule(rows=st.integers(1, 5), text_rows=st.integers(1, 5))
    def index_some(self, rows: int, text_rows: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MetadataIndex, "step_rows", rows)
            patch.setattr(TextIndex, "step_rows", text_rows)
            patch.setattr(TextIndex, "step_bytes", 20)
            advance(self.shard.open)

    @rule()
    def index_all(self) -> None:
        finish(self.shard)
        assert self.shard.open.indexes.backlog == 0

    @rule(
        name=st.sampled_from(DERIVED_DATABASES),
        place=st.integers(0, 50),
        byte=st.integers(0, 50),
    )
    def damage(self, name: str, place: int, byte: int) -> None:
        """Flip a bit of a stored value behind everybody's back."""
        flip_bit(self.shard.open._environment, name, place, byte)

    @rule()
    def compact(self) -> None:
        """Copy what there is into new files, in which nothing may be lost or found twice."""
        finish(self.shard)
        reference = self.shard.reference
        worker = self.shard.worker
        holding = worker.held.find(reference.collection_id, reference.shard_id, reference.epoch)
        worker.compacting.compact(holding, erase=False)
        assert self.run(self.shard.count()) == len(self.reference.records)

    @rule()
    def reopen(self) -> None:
        async def anew() -> SingleShard:
            await self.shard.worker.close()
            worker = await started(Path(self.directory.name) / "worker")
            worker.indexing.pause()
            shard: SingleShard = self.shard.on(worker)
            return shard

        self.shard = self.run(anew())
        assert self.run(self.shard.count()) == len(self.reference.records)

    # Reads.

    @rule(
        where=st.none() | ANY_FILTER,
        where_document=ANY_DOCUMENT_FILTER,
        ids=st.none() | st.lists(IDS, min_size=1, max_size=4),
        offset=st.integers(0, 2),
        limit=st.integers(1, 5),
    )
    def get(self, where: Any, where_document: Any, ids: Any, offset: int, limit: int) -> None:
        expected = self.reference.in_order(where, where_document, ids)
        given = given_of(where=where, where_document=where_document, ids=ids)
        page = self.run(self.shard.get(offset=offset, limit=limit, **given))
        assert list(plain(page)) == expected[offset : offset + limit]
        assert page.more == (len(expected) > offset + limit)

    @rule(where=st.none() | ANY_FILTER, where_document=ANY_DOCUMENT_FILTER)
    def count(self, where: Any, where_document: Any) -> None:
        given = given_of(where=where, where_document=where_document)
        expected = len(self.reference.in_order(where, where_document))
        # The second time it may be remembered.
        assert self.run(self.shard.count(**given)) == expected
        assert self.run(self.shard.count(**given)) == expected

    @rule(
        where=st.none() | ANY_FILTER,
        where_document=ANY_DOCUMENT_FILTER,
        ids=st.none() | st.lists(IDS, min_size=1, max_size=4),
        query=VECTORS,
        limit=st.integers(1, 5),
    )
    def search(self, where: Any, where_document: Any, ids: Any, query: Any, limit: int) -> None:
        assume(self.reference.records)
        matching = self.reference.in_order(where, where_document, ids)
        expected = self.reference.nearest(query, "l2", matching)[:limit]
        given = given_of(where=where, where_document=where_document, ids=ids)
        found = self.run(self.shard.search([query], limit, **given))
        assert answer_of(found).ids == [[i for _, i in expected]]
        assert found.plan.matching_count == len(matching)

    @invariant()
    def counts_all(self) -> None:
        if hasattr(self, "shard"):
            where = {"$not": {"no such field": {"$exists": True}}}
            assert self.run(self.shard.count(where=where)) == len(self.reference.records)


IndexMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestIndex = IndexMachine.TestCase


async def test_a_damaged_entry_of_the_journal_that_only_some_indexes_need_is_got_over(
    worker: Worker, shard: SingleShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.indexing.pause()
    await shard.upsert(["a", "b"], [[1.0], [2.0]], [{"k": 1}, {"k": 2}], ["abc", "bcd"])
    await shard.upsert(["a", "b"], [[2.0], [1.0]], [{"k": 3}, {"k": 4}], ["bcd", "abc"])
    with monkeypatch.context() as patch:
        patch.setattr(MetadataIndex, "step_rows", 1)
        advance(shard.open)
    flip_first_change(shard)
    finish(shard)

    assert await shard.count(where={"k": {"$gte": 4}}) == 1
    with shard.open.pin() as pinned:
        for name in JOURNAL_DATABASES:
            assert pinned.txn.stat(shard.open._environment.databases[name])["entries"] == 0


@pytest.mark.parametrize("is_one_missing", [False, True])
async def test_a_shard_opens_with_a_damaged_journal(
    worker: Worker, shard: SingleShard, tmp_path: Path, is_one_missing: bool
) -> None:
    worker.indexing.pause()
    await shard.upsert(["a", "b"], [[1.0], [2.0]], [{"k": 1}, {"k": 2}])
    flip_first_change(shard)
    if is_one_missing:
        environment = shard.open._environment
        environment.write(
            lambda txn: txn.delete(TextIndex.name.encode(), db=environment.databases["indexes"])
        )
    await worker.close()

    again = await started(tmp_path / "worker")
    shard = shard.on(again)
    assert await shard.count(where={"k": {"$gte": 2}}) == 1
    await indexed(shard)
    assert await shard.count(where={"k": {"$gte": 2}}) == 1
    await again.close()
