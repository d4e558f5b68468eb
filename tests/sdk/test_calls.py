"""How calls travel: connecting, repeating, session tokens, splitting, over a real socket."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._methods import HEARTBEAT
from shoal._retry import FIRST_BACKOFF_S, MAX_BACKOFF_S, backoff_s, worth_repeating
from shoal._sync import transport
from shoal.v1 import admin_service_pb2 as admin
from shoal.v1 import record_service_pb2 as records
from shoal.v1 import value_pb2
from tests.sdk.fake_server import FakeServer, one_collection, serving, small_limits


def _client(port: int, **options: Any) -> shoal.Client:
    return shoal.Client("127.0.0.1", port, **{"timeout": 60.0, **options})


def _fake(**answers: Callable[[Any], Any]) -> FakeServer:
    return FakeServer(
        {
            "GetLimits": small_limits(max_batch_records=2),
            "GetCollection": one_collection(),
            "Heartbeat": lambda request: admin.HeartbeatResponse(nanoseconds=1),
            **answers,
        }
    )


def _fails_first(*failures: Exception, then: Any) -> Callable[[Any], Any]:
    pending = list(failures)

    def answer(request: Any) -> Any:
        if pending:
            raise pending.pop(0)
        return then

    return answer


def test_nothing_is_sent_before_the_first_call(free_port: int) -> None:
    shoal.Client("127.0.0.1", free_port).close()
    shoal.AsyncClient("127.0.0.1", free_port)
    shoal.AdminClient("127.0.0.1", free_port)


@pytest.mark.parametrize("timeout", [0.2, 0.7])
def test_a_server_that_is_not_there_is_named_within_the_timeout(
    free_port: int, timeout: float
) -> None:
    with (
        shoal.Client("127.0.0.1", free_port, timeout=timeout) as client,
        pytest.raises(shoal.UnavailableError, match=f"127.0.0.1:{free_port}") as caught,
    ):
        client.count_collections()
    assert isinstance(caught.value, ConnectionError)
    assert "refused" in str(caught.value)


async def test_the_asyncio_client_says_the_same(free_port: int) -> None:
    async with shoal.AsyncClient("127.0.0.1", free_port, timeout=0.3) as client:
        with pytest.raises(shoal.UnavailableError, match=f"127.0.0.1:{free_port}"):
            await client.heartbeat()


def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    with (
        shoal.Client("no-such-host.invalid", timeout=0.5) as client,
        pytest.raises(shoal.UnavailableError, match=r"no-such-host\.invalid:7700"),
    ):
        client.heartbeat()


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": ""}, {"host": "http://localhost"}, {"host": 3}, {"port": 0}, {"port": 65_536},
        {"port": "7700"}, {"port": True}, {"timeout": 0}, {"timeout": -1}, {"timeout": "60"},
        {"timeout": float("inf")}, {"tenant": "x"}, {"database": ""},
    ],
)  # fmt: skip
def test_arguments_of_a_client_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        shoal.Client(**arguments)


def test_a_server_that_is_just_starting_is_waited_for(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 240.0)  # an interpreter starts meanwhile
    client = shoal.Client("127.0.0.1", free_port, timeout=240)
    script = (
        "import sys, time; sys.path.insert(0, '.'); time.sleep(0.7)\n"
        "from tests.sdk.test_calls import _fake, serving\n"
        f"with serving(_fake(), {free_port}): time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert client.heartbeat() == 1
    finally:
        client.close()
        process.kill()
        process.wait()


def test_a_read_is_repeated_while_the_server_is_away() -> None:
    gone = errors.UnavailableError("restarting")
    fake = _fake(Count=_fails_first(gone, gone, then=records.CountResponse(count=3)))
    with serving(fake) as port, _client(port) as client:
        assert client.get_collection("books").count() == 3
    assert len(fake.requests("Count")) == 3


def test_a_lost_server_is_found_again(free_port: int) -> None:
    with _client(free_port) as client:
        with serving(_fake(), free_port):
            assert client.heartbeat() == 1
        fake = _fake()
        with serving(fake, free_port):
            assert client.heartbeat() == 1


def test_a_write_keeps_its_id_when_it_is_repeated_and_each_part_has_its_own() -> None:
    gone = errors.UnavailableError("restarting")
    fake = _fake(Add=_fails_first(gone, then=records.AddResponse(added=1)))
    with serving(fake) as port, _client(port) as client:
        client.get_collection("books").add(["a", "b", "c"], np.eye(3, 2))
    first, again, second = (request.write_id for request in fake.requests("Add"))
    assert first == again
    assert first != second
    assert len(first) == 16
    assert fake.requests("Add")[0] == fake.requests("Add")[1]


def test_a_half_written_batch_is_repeated_unless_a_shard_refuses_it() -> None:
    lost = errors.PartialWriteError(
        "half",
        shards=[
            errors.ShardOutcome("s", "applied", (0,)),
            errors.ShardOutcome("t", "unknown", (1,), "UNAVAILABLE", "gone"),
        ],
    )
    refused = errors.PartialWriteError(
        "half",
        shards=[
            errors.ShardOutcome("s", "applied", (0,)),
            errors.ShardOutcome("t", "refused", (1,), "QUOTA_EXCEEDED", "full"),
        ],
    )
    fake = _fake(Add=_fails_first(lost, refused, then=records.AddResponse(added=2)))
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        with pytest.raises(shoal.PartialWriteError) as caught:
            books.add(["a", "b"], np.eye(2))
    assert len(fake.requests("Add")) == 2
    assert caught.value.written_count == 1
    assert [shard.outcome for shard in caught.value.shards] == ["applied", "refused"]


def test_a_later_part_that_fails_says_how_far_the_write_came() -> None:
    answers = iter([records.AddResponse(added=2), records.AddResponse(added=2)])

    def add(request: records.AddRequest) -> Any:
        if "e" in request.records.ids:
            raise errors.QuotaExceededError("full")
        return next(answers)

    fake = _fake(Add=add)
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        with pytest.raises(shoal.PartialWriteError, match="4 of 6 records") as caught:
            books.add(list("abcdef"), np.ones((6, 2)))
    assert caught.value.written_count == 4
    assert isinstance(caught.value.__cause__, shoal.QuotaExceededError)


def test_a_creation_whose_outcome_is_unknown_is_not_repeated() -> None:
    create = one_collection()
    fake = _fake(
        CreateCollection=_fails_first(
            errors.UnavailableError("lost"), errors.UnavailableError("lost"), then=create
        )
    )
    with serving(fake) as port, _client(port) as client:
        with pytest.raises(shoal.UnavailableError):
            client.create_collection("books")
        assert len(fake.requests("CreateCollection")) == 1
        fake.answers["CreateCollection"] = _fails_first(
            errors.UnavailableError("lost"), then=create(None)
        )
        assert client.get_or_create_collection("books").name == "books"


def test_an_overloaded_server_is_asked_again_only_if_it_says_when() -> None:
    when = errors.OverloadedError("full", retry_after_s=0.05)
    fake = _fake(Count=_fails_first(when, then=records.CountResponse(count=1)))
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        assert books.count() == 1
        fake.answers["Count"] = _fails_first(
            errors.OverloadedError("full"), then=records.CountResponse()
        )
        with pytest.raises(shoal.OverloadedError):
            books.count()


def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    may_end = threading.Event()

    def slow(request: Any) -> Any:
        may_end.wait(240)
        return records.CountResponse()

    with serving(_fake(Count=slow)) as port, _client(port, timeout=2) as client:
        books = client.get_collection("books")
        with pytest.raises(TimeoutError, match=r"Count was not answered by 127.0.0.1:\d+ within"):
            books.count()
        may_end.set()


def test_a_server_that_is_not_shoal_says_so() -> None:
    with (
        serving(FakeServer()) as port,
        _client(port) as client,
        pytest.raises(shoal.UnimplementedError, match="does not offer Heartbeat"),
    ):
        client.heartbeat()


def test_the_newest_session_token_is_sent_with_every_call() -> None:
    tokens = iter([b"\1\0\5", b"\1\0\3", b"\1\0\7"])
    fake = _fake(Count=lambda request: records.CountResponse(session_token=next(tokens)))
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        for _ in range(3):
            books.count()
    sent = [request.session_token for request in fake.requests("Count")]
    assert sent == [b"", b"\1\0\5", b"\1\0\5"]


def test_the_api_key_travels_with_each_call() -> None:
    fake = _fake()
    with serving(fake) as port, _client(port, api_key="secret") as client:
        client.heartbeat()
    assert fake.received[0][2]["authorization"] == "Bearer secret"
    assert "shoal-python/" in str(fake.received[0][2]["user-agent"])


def test_queries_are_split_by_the_limits_and_keep_their_order() -> None:
    def query(request: records.QueryRequest) -> records.QueryResponse:
        first = np.frombuffer(request.query_vectors.values, "<f4")[::2]
        return records.QueryResponse(
            match_counts=[1] * len(first),
            records=value_pb2.RecordColumns(ids=[f"r{int(x)}" for x in first]),
            distances=first.tolist(),
        )

    fake = _fake(
        Query=query, GetLimits=small_limits(max_queries=4, max_query_results=30, max_n_results=15)
    )
    vectors = np.stack([np.arange(9), np.zeros(9)], axis=1)
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        found = books.query(vectors, n_results=10, include=["distances"])
        assert found["ids"] == [[f"r{i}"] for i in range(9)]
        assert found["distances"] == [[float(i)] for i in range(9)]
        assert len(fake.requests("Query")) == 3
        books.query(vectors, n_results=3)
        assert len(fake.requests("Query")) == 6
        with pytest.raises(shoal.InvalidArgumentError, match="n_results must be 1 to 15"):
            books.query(vectors, n_results=16)


def test_a_query_is_asked_for_what_it_says_now() -> None:
    fake = _fake(
        Query=lambda request: records.QueryResponse(match_counts=[0]), GetLimits=small_limits()
    )
    include: list[shoal.Include] = ["documents"]
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        books.query([1, 0], n_results=3, include=include)
        books.query([0, 1], n_results=3, include=include)
        include.append("distances")
        books.query([1, 0], n_results=3, include=include)
        books.query([1, 0], n_results=4, include=include)
        books.query([1, 0], n_results=4, include=include, where={"n": 1})
        books.query([1, 0], n_results=4, include=include)
        with pytest.raises(shoal.InvalidArgumentError, match="n_results"):
            books.query([1, 0], n_results=True, include=include)
    documents, distances = value_pb2.INCLUDE_DOCUMENTS, value_pb2.INCLUDE_DISTANCES
    asked = [
        (request.n_results, list(request.include), request.HasField("where"))
        for request in fake.requests("Query")
    ]
    assert asked == [
        (3, [documents], False),
        (3, [documents], False),
        (3, [documents, distances], False),
        (4, [documents, distances], False),
        (4, [documents, distances], True),
        (4, [documents, distances], False),
    ]
    first, second = (request.query_vectors.values for request in fake.requests("Query")[:2])
    assert np.frombuffer(first, "<f4").tolist() == [1, 0]
    assert np.frombuffer(second, "<f4").tolist() == [0, 1]


def test_queries_whose_answers_do_not_fit_together_are_asked_apart() -> None:
    def query(request: records.QueryRequest) -> records.QueryResponse:
        ids = request.query_ids.values
        if len(ids) > 2:
            raise errors.OverloadedError("too large", metadata={"limit": "max_answer_bytes"})
        return records.QueryResponse(
            match_counts=[1] * len(ids), records=value_pb2.RecordColumns(ids=ids)
        )

    fake = _fake(Query=query, GetLimits=small_limits())
    with serving(fake) as port, _client(port) as client:
        found = client.get_collection("books").query(query_ids=list("abcde"), include=[])
    assert found["ids"] == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_many_ids_come_back_in_order_of_insertion_within_limit_and_offset() -> None:
    places = {f"id{i}": (i * 7) % 10 for i in range(10)}

    def get(request: records.GetRequest) -> records.GetResponse:
        found = sorted((places[i], i) for i in request.ids.values if i in places)
        ids = [record_id for _, record_id in found]
        return records.GetResponse(
            records=value_pb2.RecordColumns(
                ids=ids,
                documents=value_pb2.StringColumn(values=ids) if request.include else None,
            ),
            ordinals=[place for place, _ in found],
        )

    fake = _fake(Get=get, GetLimits=small_limits(max_page_records=3))
    with serving(fake) as port, _client(port) as client:
        books = client.get_collection("books")
        ids = [*places, "unknown"]
        expected = sorted(places, key=lambda i: places[i])
        assert books.get(ids)["ids"] == expected
        page = books.get(ids, limit=4, offset=3, include=["documents"])
        assert page["ids"] == page["documents"] == expected[3:7]


def test_pages_are_put_together() -> None:
    def get(request: records.GetRequest) -> records.GetResponse:
        start = int(request.page_token or 0) + request.offset
        stop = min(start + min(request.limit if request.HasField("limit") else 3, 3), 8)
        return records.GetResponse(
            records=value_pb2.RecordColumns(ids=[f"r{i}" for i in range(start, stop)]),
            next_page_token=str(stop) if stop < 8 else "",
        )

    with serving(_fake(Get=get)) as port, _client(port) as client:
        books = client.get_collection("books")
        assert books.get(include=[])["ids"] == [f"r{i}" for i in range(8)]
        assert books.get(limit=5, offset=1, include=[])["ids"] == [f"r{i}" for i in range(1, 6)]
        batches = [batch["ids"] for batch in books.iterate(2, include=[])]
        assert batches == [["r0", "r1"], ["r2", "r3"], ["r4", "r5"], ["r6", "r7"]]


def test_a_closed_client_says_so() -> None:
    with serving(_fake()) as port:
        client = _client(port)
        client.heartbeat()
        client.close()
        client.close()
        with pytest.raises(shoal.FailedPreconditionError, match="closed"):
            client.heartbeat()


def test_an_asyncio_client_can_be_used_by_one_event_loop_after_another() -> None:
    with serving(_fake()) as port:
        client = shoal.AsyncClient("127.0.0.1", port, timeout=60)
        for _ in range(3):
            assert asyncio.run(client.heartbeat()) == 1


async def test_a_client_that_is_closed_under_a_call_says_so_and_cancels_nobody() -> None:
    begun, release = threading.Event(), threading.Event()

    def held(request: Any) -> Any:
        begun.set()
        release.wait(240)
        return admin.HeartbeatResponse(nanoseconds=1)

    with serving(_fake(Heartbeat=held)) as port:
        client = shoal.AsyncClient("127.0.0.1", port, timeout=60)
        call = asyncio.create_task(client.heartbeat())
        await asyncio.to_thread(begun.wait)
        await client.close()
        with pytest.raises(shoal.FailedPreconditionError, match="closed"):
            await call
        assert not call.cancelled()
        release.set()


def test_a_client_works_after_a_fork() -> None:
    # In a process of its own: a fork of the test process would take along its threads' locks.
    script = """
import os, sys
sys.path.insert(0, ".")
import shoal
client = shoal.Client("127.0.0.1", int(sys.argv[1]), timeout=60)
assert client.heartbeat() == 1
child = os.fork()
if child == 0:
    os._exit(0 if client.heartbeat() == 1 else 1)
_, code = os.waitpid(child, 0)
assert client.heartbeat() == 1
client.close()
sys.exit(os.waitstatus_to_exitcode(code))
"""
    with serving(_fake()) as port:
        ran = subprocess.run(
            [sys.executable, "-c", script, str(port)],
            timeout=240,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
        )
    assert ran.returncode == 0, ran.stderr


def test_backoff_grows_is_bounded_and_keeps_to_what_the_server_says() -> None:
    import random

    chance = random.Random(1)
    error = errors.UnavailableError("gone")
    waits = [backoff_s(attempt, error, chance) for attempt in range(1, 200)]
    assert FIRST_BACKOFF_S / 2 <= waits[0] <= FIRST_BACKOFF_S
    assert all(MAX_BACKOFF_S / 2 <= wait <= MAX_BACKOFF_S for wait in waits[10:])
    later = errors.OverloadedError("full", retry_after_s=7.0)
    assert backoff_s(1, later, chance) == 7.0
    assert not worth_repeating(errors.InvalidArgumentError("no"))
    assert not worth_repeating(errors.DeadlineExceededError("late"))


def test_methods_know_their_path() -> None:
    assert HEARTBEAT.path == "/shoal.v1.AdminService/Heartbeat"
