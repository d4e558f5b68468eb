"""The law of the indexes of terms and of sparse vectors: the same counts and scores as brute force,
to the last bit, whatever they have taken in so far."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.rpc import context_for
from shoal.wire.filters import where_from_dict
from shoal.wire.languages import LANGUAGES as KNOWN_LANGUAGES
from shoal.wire.sparse import SparseVector
from shoal_worker import text
from shoal_worker.indexing import advance
from shoal_worker.sparse_index import SparseIndex
from shoal_worker.terms_index import TermsIndex
from shoal_worker.text import analyzer
from tests.worker.damage import flip_bit
from tests.worker.single import TIMEOUT_S, SingleShard, started

KEYS = ("first", "second")
WORDS = ["whale", "Whales", "sea", "ship", "ships", "the", "of", "été", "ÉTÉ", "x" * 70, "-"]
IDS = st.sampled_from([f"id-{i}" for i in range(9)])
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
VALUES = st.sampled_from([1.0, -1.0, 0.5, 3.25, 1e-3, 0.0])
SPARSE = st.dictionaries(st.sampled_from([0, 1, 2, 5, 2**32 - 1]), VALUES, min_size=1).map(
    lambda weights: SparseVector(list(weights), list(weights.values()))
)
METADATA = st.dictionaries(st.sampled_from(KEYS), SPARSE | st.none(), max_size=2)
RECORDS = st.dictionaries(
    IDS, st.tuples(TEXTS | st.none(), METADATA, st.integers(0, 3)), min_size=1, max_size=5
)
DATABASES = (*TermsIndex.databases, *SparseIndex.databases)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks end and segments be merged."""
    monkeypatch.setattr("shoal_worker.segment_format._BLOCK_POSTINGS", 3)
    monkeypatch.setattr("shoal_worker.segments._MERGED_SEGMENTS", 3)
    monkeypatch.setattr("shoal_worker.segments.MAX_ROWS", 7)
    monkeypatch.setattr("shoal_worker.segments._LEVEL_BITS", 2)
    monkeypatch.setattr("shoal_worker.text_ranking._SCANNED_DOCUMENTS", 3)
    # Some is kept from measuring to ranking, and some is too much.
    monkeypatch.setattr("shoal_worker.text_ranking._KEPT_BYTES", 400_000)
    monkeypatch.setattr("shoal_worker.text_ranking._MOST_SHARE", 1_000)
    monkeypatch.setattr("shoal_worker.sparse_ranking._SCANNED_ROWS", 3)


class RankingMachine(RuleBasedStateMachine):
    """A shard whose indexing is done by hand, beside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        # By ID, in order of insertion: document, sparse vectors by key, number.
        self.records: dict[str, tuple[str | None, dict[str, SparseVector], int]] = {}

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def begin(self) -> None:
        async def create() -> SingleShard:
            worker = await started(Path(self.directory.name) / "worker")
            worker.indexing.pause()
            return await SingleShard.create(worker, sparse_keys=KEYS)

        self.shard = self.run(create())
        assert self.run(self.shard.count()) == 0

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.run(self.shard.worker.close())
        self.runner.close()
        self.directory.cleanup()

    # Writes.

    @rule(records=RECORDS)
    def upsert(self, records: dict[str, tuple[str | None, Mapping[str, Any], int]]) -> None:
        metadatas = [{**sparse, "number": number} for _, sparse, number in records.values()]
        documents = [document for document, _, _ in records.values()]
        vectors = [[float(len(record_id))] for record_id in records]
        self.run(self.shard.upsert(list(records), vectors, metadatas, documents))
        for record_id, (document, sparse, number) in records.items():
            old = self.records.get(record_id, (None, {}, 0))
            merged = {**old[1], **sparse}
            self.records[record_id] = (
                old[0] if document is None else document,
                {key: vector for key, vector in merged.items() if vector is not None},
                number,
            )

    @rule(ids=st.lists(IDS, min_size=1, max_size=4, unique=True))
    def delete(self, ids: list[str]) -> None:
        self.run(self.shard.delete(ids))
        for record_id in ids:
            self.records.pop(record_id, None)

    # Indexing.

    @rule(rows=st.integers(1, 6), sparse_rows=st.integers(1, 6))
    def index_some(self, rows: int, sparse_rows: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TermsIndex, "step_rows", rows)
            patch.setattr(SparseIndex, "step_rows", sparse_rows)
            advance(self.shard.open)

    @rule()
    def index_all(self) -> None:
        while advance(self.shard.open):
            pass
        assert self.shard.open.indexes.backlog == 0

    @rule(name=st.sampled_from(DATABASES), place=st.integers(0, 20), byte=st.integers(0, 50))
    def damage(self, name: str, place: int, byte: int) -> None:
        """Flip a bit of a stored value behind everybody's back."""
        flip_bit(self.shard.open._environment, name, place, byte)

    @rule()
    def reopen(self) -> None:
        async def anew() -> SingleShard:
            await self.shard.worker.close()
            worker = await started(Path(self.directory.name) / "worker")
            worker.indexing.pause()
            shard: SingleShard = self.shard.on(worker)
            return shard

        self.shard = self.run(anew())
        assert self.run(self.shard.count()) == len(self.records)

    # Reads.

    @rule(
        query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join),
        language=st.sampled_from(["", "english", "french"]),
        number=st.none() | st.integers(0, 3),
        limit=st.integers(1, 10),
    )
    def rank_text(self, query: str, language: str, number: int | None, limit: int) -> None:
        terms_of = analyzer(language).terms
        documents = {
            record_id: terms_of(document)
            for record_id, (document, _, _) in self.records.items()
            if document is not None
        }
        measured = self.call("measure_text", pb.MeasureTextRequest(query=query, language=language))
        assert measured.document_count == len(documents)
        assert measured.term_count == sum(map(len, documents.values()))
        frequencies = {
            term: sum(term in own for own in documents.values()) for term in terms_of(query)
        }
        counted = zip(measured.terms, measured.document_frequencies, strict=True)
        assert dict(counted) == frequencies
        request = pb.RankTextRequest(
            query=query,
            language=language,
            terms=frequencies,
            weights=[1.0 / (2 + count) for count in frequencies.values()],
            average_length=7.0,
            saturation=1.2,
            length_share=0.75,
            limit=limit,
        )
        expected = {}
        for record_id, own in documents.items():
            damping = 1.2 * (1.0 - 0.75 + 0.75 * (len(own) / 7.0))
            score = 0.0
            for term, count in frequencies.items():
                often = own.count(term)
                score += 1.0 / (2 + count) * (often / (often + damping))
            if set(own) & set(frequencies):
                expected[record_id] = -score
        self.check("rank_text", request, expected, number, limit)

    @rule(
        query=SPARSE,
        key=st.sampled_from(KEYS),
        number=st.none() | st.integers(0, 3),
        limit=st.integers(1, 10),
    )
    def rank_sparse(self, query: SparseVector, key: str, number: int | None, limit: int) -> None:
        vectors = {
            record_id: dict(zip(sparse[key].indices, sparse[key].values, strict=True))
            for record_id, (_, sparse, _) in self.records.items()
            if key in sparse
        }
        measured = self.call(
            "measure_sparse", pb.MeasureSparseRequest(key=key, indices=query.indices)
        )
        assert measured.vector_count == len(vectors)
        assert list(measured.frequencies) == [
            sum(index in vector for vector in vectors.values()) for index in query.indices
        ]
        expected = {
            record_id: 1.0 - math.fsum(
                vector.get(index, 0.0) * weight
                for index, weight in zip(query.indices, query.values, strict=True)
            )
            for record_id, vector in vectors.items()
            if vector.keys() & set(query.indices)
        }  # fmt: skip
        request = pb.RankSparseRequest(
            key=key, indices=query.indices, weights=query.values, limit=limit
        )
        self.check("rank_sparse", request, expected, number, limit)

    def call(self, method: str, request: Any) -> Any:
        request.shards.append(self.shard.reference)
        service = self.shard.worker.data_service
        [answer] = self.run(getattr(service, method)(request, context_for(TIMEOUT_S))).shards
        assert not answer.HasField("error"), answer.error
        return answer

    def check(
        self,
        method: str,
        request: Any,
        expected: dict[str, float],
        number: int | None,
        limit: int,
    ) -> None:
        if number is not None:
            request.where.CopyFrom(where_from_dict({"number": number}))
            expected = {i: d for i, d in expected.items() if self.records[i][2] == number}
        answer = self.call(method, request)
        distances = np.frombuffer(answer.distances, "<f8").tolist()
        ids = list(answer.records.ids)
        assert len(ids) == min(limit, len(expected))
        assert distances == pytest.approx([expected[i] for i in ids], abs=1e-12)
        assert distances == pytest.approx(sorted(expected.values())[:limit], abs=1e-12)
        places = {record_id: place for place, record_id in enumerate(self.records)}
        order = [(d, places[i]) for d, i in zip(distances, ids, strict=True)]
        assert order == sorted(order)


RankingMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestRankings = RankingMachine.TestCase


def test_every_language_that_is_promised_is_stemmed() -> None:
    assert text.LANGUAGES == KNOWN_LANGUAGES
