"""Queries that arrive together travel together, and nobody notices but by the time it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import (
    DeadlineExceededError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.server.rpc import CallContext, context_for
from shoal.v1 import record_service_pb2, value_pb2
from shoal.wire.filters import where_from_dict
from shoal_gateway import fanout
from shoal_gateway.batching import MAX_BATCH_QUERIES, Batcher
from tests.gateway.cluster import Cluster, add, books, vector

Task = asyncio.Task[bytes]


class Workers:
    """Where batches go: they come back when the test says so, each with what was asked."""

    def __init__(self, **options: Any) -> None:
        self.batcher: Batcher[str, bytes] = Batcher(self._send, self._start, **options)
        self.batches: list[tuple[str, bytes, int, CallContext]] = []
        self._ends: list[asyncio.Future[ShoalError | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def _send(
        self, parameters: str, vectors: bytes, count: int, context: CallContext
    ) -> bytes:
        self.batches.append((parameters, vectors, count, context))
        end: asyncio.Future[ShoalError | None] = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        error = await end
        if error is not None:
            raise error
        return vectors

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask(
        self,
        query: bytes,
        parameters: str = "books",
        *,
        timeout_s: float = 60,
        results: int = 10,
        count: int = 1,
    ) -> Task:
        """Begin a call, and let it go as far as it goes."""

        async def call() -> bytes:
            size = len(query)
            part = await self.batcher.ask(parameters, query, count, results, context_for(timeout_s))
            return part.answer[part.first * size // count :][:size]

        task = asyncio.create_task(call())
        await settled()
        return task

    async def come_back(self, error: ShoalError | None = None) -> None:
        """Let the oldest batch under way come back."""
        self._ends = [end for end in self._ends if not end.cancelled()]
        self._ends.pop(0).set_result(error)
        await settled()

    @property
    def sent(self) -> list[bytes]:
        return [vectors for _, vectors, _, _ in self.batches]


async def settled() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def results(*tasks: Task) -> list[bytes]:
    return list(await asyncio.gather(*tasks))


async def test_a_lone_query_leaves_at_once() -> None:
    workers = Workers()
    task = await workers.ask(b"a")
    assert workers.sent == [b"a"]
    await workers.come_back()
    assert await task == b"a"


async def test_what_arrives_while_a_batch_is_under_way_travels_together_and_is_told_apart() -> None:
    workers = Workers()
    tasks = [await workers.ask(query) for query in (b"a", b"b", b"c", b"d")]
    assert workers.sent == [b"a"]
    await workers.come_back()
    assert workers.sent == [b"a", b"bcd"]
    await workers.come_back()
    assert await results(*tasks) == [b"a", b"b", b"c", b"d"]


async def test_calls_of_several_queries_get_their_own() -> None:
    workers = Workers()
    first = await workers.ask(b"a")
    pair = await workers.ask(b"bc", count=2)
    one = await workers.ask(b"d")
    await workers.come_back()
    assert workers.batches[1][1:3] == (b"bcd", 3)
    await workers.come_back()
    assert await results(first, pair, one) == [b"a", b"bc", b"d"]


async def test_other_parameters_do_not_wait_and_are_not_mixed() -> None:
    workers = Workers()
    tasks = [await workers.ask(b"a"), await workers.ask(b"b"), await workers.ask(b"x", "films")]
    assert workers.sent == [b"a", b"x"]
    for _ in range(3):
        await workers.come_back()
    assert workers.sent == [b"a", b"x", b"b"]
    assert await results(*tasks) == [b"a", b"b", b"x"]


async def test_a_failed_batch_fails_each_of_its_calls_with_an_error_of_its_own() -> None:
    workers = Workers()
    tasks = [await workers.ask(query) for query in (b"a", b"b", b"c")]
    await workers.come_back()
    await workers.come_back(UnavailableError("gone", metadata={"shard_id": "s"}))
    assert await tasks[0] == b"a"
    errors = await asyncio.gather(*tasks[1:], return_exceptions=True)
    assert [str(error) for error in errors] == ["gone", "gone"]
    first, second = errors
    assert isinstance(first, UnavailableError)
    assert isinstance(second, UnavailableError)
    assert first is not second
    first.metadata["changed"] = "by its caller"
    assert second.metadata == {"shard_id": "s"}


async def test_after_a_failure_the_line_goes_on() -> None:
    workers = Workers()
    lost = await workers.ask(b"a")
    waiting = await workers.ask(b"b")
    await workers.come_back(UnavailableError("gone"))
    with pytest.raises(UnavailableError, match="gone"):
        await lost
    await workers.come_back()
    assert await waiting == b"b"


async def test_a_bug_below_reaches_every_caller_and_does_not_stop_the_line() -> None:
    class Broken(Workers):
        async def _send(self, parameters: str, vectors: bytes, *rest: Any) -> bytes:
            await super()._send(parameters, vectors, *rest)
            raise ZeroDivisionError("a bug")

    workers = Broken()
    tasks = [await workers.ask(query) for query in (b"a", b"b", b"c")]
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for _ in range(2):
        await workers.come_back()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3


async def test_the_batch_has_the_longest_of_its_calls_deadlines() -> None:
    workers = Workers()
    first = await workers.ask(b"a")
    tasks = [await workers.ask(b"b", timeout_s=1000), await workers.ask(b"c", timeout_s=5000)]
    await workers.come_back()
    assert 4000 < workers.batches[1][3].time_remaining() <= 5000
    await workers.come_back()
    await asyncio.gather(first, *tasks)


async def test_a_call_whose_time_is_up_is_not_sent() -> None:
    workers = Workers()
    first = await workers.ask(b"a")
    late, patient = await workers.ask(b"b", timeout_s=0.01), await workers.ask(b"c")
    await asyncio.sleep(0.02)
    await workers.come_back()
    assert workers.sent == [b"a", b"c"]
    await workers.come_back()
    with pytest.raises(DeadlineExceededError):
        await late
    assert await results(first, patient) == [b"a", b"c"]


async def test_a_caller_that_goes_leaves_the_line() -> None:
    workers = Workers()
    first = await workers.ask(b"a")
    gone, stays = await workers.ask(b"b"), await workers.ask(b"c")
    gone.cancel()
    await settled()
    await workers.come_back()
    assert workers.sent == [b"a", b"c"]
    await workers.come_back()
    assert await results(first, stays) == [b"a", b"c"]


async def test_a_caller_that_goes_while_its_batch_is_under_way_takes_nothing_from_the_others() -> (
    None
):
    workers = Workers()
    first = await workers.ask(b"a")
    gone, stays = await workers.ask(b"b"), await workers.ask(b"c")
    await workers.come_back()
    gone.cancel()
    await settled()
    await workers.come_back()
    assert await results(first, stays) == [b"a", b"c"]


async def test_when_the_call_under_way_is_cancelled_those_behind_it_leave() -> None:
    workers = Workers()
    first, second = await workers.ask(b"a"), await workers.ask(b"b")
    first.cancel()
    await settled()
    assert workers.sent == [b"a", b"b"]
    await workers.come_back()
    assert await second == b"b"


async def test_a_batch_holds_only_so_many_queries() -> None:
    workers = Workers()
    tasks = [await workers.ask(b"%c" % (n % 251)) for n in range(MAX_BATCH_QUERIES + 3)]
    await workers.come_back()
    assert len(workers.sent[1]) == MAX_BATCH_QUERIES
    for _ in range(2):
        await workers.come_back()
    assert [len(batch) for batch in workers.sent] == [1, MAX_BATCH_QUERIES, 2]
    assert await results(*tasks) == [b"%c" % (n % 251) for n in range(len(tasks))]


async def test_many_matches_make_a_small_batch() -> None:
    workers = Workers()
    tasks = [await workers.ask(b"a", results=2_000) for _ in range(7)]
    for _ in range(3):
        await workers.come_back()
    assert [len(batch) for batch in workers.sent] == [1, 4, 2]
    await asyncio.gather(*tasks)


async def test_a_call_that_fills_a_batch_alone_does_not_wait() -> None:
    workers = Workers()
    tasks = [await workers.ask(b"a"), await workers.ask(b"b" * 64, count=64)]
    assert len(workers.batches) == 2
    for _ in range(2):
        await workers.come_back()
    await asyncio.gather(*tasks)


async def test_what_waits_is_bounded() -> None:
    workers = Workers(max_waiting_bytes=100)
    tasks = [await workers.ask(b"a" * 40) for _ in range(3)]
    refused = await workers.ask(b"a" * 40)
    with pytest.raises(OverloadedError, match="at most 100") as refusal:
        await refused
    assert refusal.value.retry_after_s
    # Who leaves the line makes room, and so does what is sent.
    tasks.pop().cancel()
    await settled()
    tasks.append(await workers.ask(b"c" * 40))
    for _ in range(2):
        await workers.come_back()
    assert [len(answer) for answer in await asyncio.gather(*tasks)] == [40, 40, 40]
    assert workers.batcher.waiting_bytes == 0


async def test_a_line_without_calls_is_forgotten() -> None:
    workers = Workers()
    for n in range(50):
        task = await workers.ask(b"a", f"parameters {n}")
        await workers.come_back()
        await task
    assert workers.batcher.line_count == 0


async def test_an_answer_too_large_for_all_is_asked_for_each() -> None:
    workers = Workers()
    tasks = [await workers.ask(query) for query in (b"a", b"b", b"c")]
    await workers.come_back()
    await workers.come_back(OverloadedError("large", metadata={"limit": "max_answer_bytes"}))
    assert workers.sent == [b"a", b"bc", b"b", b"c"]
    await workers.come_back(OverloadedError("large", metadata={"limit": "max_answer_bytes"}))
    await workers.come_back()
    with pytest.raises(OverloadedError):
        await tasks[1]
    assert await tasks[2] == b"c"
    assert workers.batcher.line_count == 0


# Through a gateway


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.start(workers=2)
    yield cluster
    await cluster.stop()


Include = value_pb2.Include
INCLUDES = [
    [],
    [Include.INCLUDE_DISTANCES, Include.INCLUDE_DOCUMENTS],
    [Include.INCLUDE_VECTORS, Include.INCLUDE_METADATAS, Include.INCLUDE_URIS],
]
FILTERS: list[dict[str, Any] | None] = [None, {"even": True}]

queries: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    place=st.floats(-5, 50, width=32),
    count=st.integers(1, 4),
    n_results=st.sampled_from([3, 100]),
    include=st.sampled_from(INCLUDES),
    where=st.sampled_from(FILTERS),
    explain=st.sampled_from([False, False, False, True]),
)


def request_of(asked: dict[str, Any]) -> record_service_pb2.QueryRequest:
    where = asked["where"]
    places = [asked["place"] + n for n in range(asked["count"])]
    rows = np.zeros((len(places), 4), np.float32)
    rows[:, 0] = places
    return record_service_pb2.QueryRequest(
        collection=books(),
        query_vectors=value_pb2.VectorBlock(dimension=4, values=rows.tobytes()),
        n_results=asked["n_results"],
        include=asked["include"],
        where=None if where is None else where_from_dict(where),
        explain=asked["explain"],
    )


def comparable(answer: record_service_pb2.QueryResponse) -> record_service_pb2.QueryResponse:
    """The answer without what differs between two equal searches: times and the token."""
    answer.session_token = b""
    answer.plan.gateway_seconds = 0
    for shard in answer.plan.shards:
        shard.seconds = 0
    return answer


@pytest.mark.parametrize("shards", [1, 3])
async def test_together_every_call_gets_what_it_gets_alone(tmp_path: Path, shards: int) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start(workers=2)
    await cluster.create(shards=shards)
    metadatas: list[dict[str, Any] | None] = [{"n": n, "even": n % 2 == 0} for n in range(40)]
    documents = [f"text {n}" for n in range(40)]
    ids = [f"r{n}" for n in range(40)]
    await cluster.records.Add(add(ids, metadatas=metadatas, documents=documents))
    loop = asyncio.get_running_loop()

    async def both(asked: list[dict[str, Any]]) -> None:
        # Of three alike, the first leaves at once and the others together.
        requests = [request_of(each) for each in asked * 3]
        for worker in cluster.workers:
            worker.hang_s = 0
        alone = [comparable(await cluster.records.Query(request)) for request in requests]
        before = max(len(worker.requests) for worker in cluster.workers)
        for worker in cluster.workers:
            worker.hang_s = 0.001
        together = await asyncio.gather(*(cluster.records.Query(request) for request in requests))
        assert [comparable(answer) for answer in together] == alone
        after = max(len(worker.requests) for worker in cluster.workers)
        used.append((len(requests), after - before))

    used: list[tuple[int, int]] = []

    @settings(max_examples=30, deadline=None)
    @given(st.lists(queries, min_size=1, max_size=8))
    def check(asked: list[dict[str, Any]]) -> None:
        asyncio.run_coroutine_threadsafe(both(asked), loop).result(240)

    await asyncio.to_thread(check)
    assert any(calls < requests for requests, calls in used), "nothing travelled together"
    await cluster.stop()


async def test_a_short_deadline_ends_its_own_call_alone(cluster: Cluster) -> None:
    await cluster.create()
    await cluster.records.Add(add(["a", "b"]))
    cluster.workers[0].hang_s = cluster.workers[1].hang_s = 0.2
    request = record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(1, 0, 0, 0), n_results=1
    )

    calls = [
        asyncio.create_task(cluster.records.Query(request, timeout=timeout))
        for timeout in (60, 0.3, 60)
    ]
    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(answers[1], DeadlineExceededError)
    assert [list(answers[n].records.ids) for n in (0, 2)] == [["b"], ["b"]]


async def test_a_shard_that_is_down_is_named_to_every_caller(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "PATIENCE_S", 0.3)
    await cluster.create(shards=2)
    await cluster.records.Add(add([f"r{n}" for n in range(20)]))
    cluster.workers[0].down = True
    request = record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(1, 0, 0, 0), n_results=1
    )

    answers: list[Any] = await asyncio.gather(
        *(cluster.records.Query(request, timeout=60) for _ in range(5)), return_exceptions=True
    )

    assert all(isinstance(answer, UnavailableError) for answer in answers), answers
    assert len({id(answer) for answer in answers}) == 5
    assert {answer.metadata["worker_id"] for answer in answers} == {cluster.workers[0].worker_id}


async def test_partial_answers_keep_their_own_patience(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Much for the workers, and far more for the answer, whatever the machine does meanwhile.
    monkeypatch.setattr(fanout, "PARTIAL_SHARE", 0.03)
    await cluster.create(shards=2)
    await cluster.records.Add(add([f"r{n}" for n in range(20)]))
    cluster.workers[0].hang_s = 600
    request = record_service_pb2.QueryRequest(
        collection=books(), query_vectors=vector(1, 0, 0, 0), n_results=1, allow_partial=True
    )

    answers = await asyncio.gather(
        *(cluster.records.Query(request, timeout=timeout) for timeout in (60, 80, 100))
    )

    assert [len(answer.unsearched_shards) for answer in answers] == [1, 1, 1]
