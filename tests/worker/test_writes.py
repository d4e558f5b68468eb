"""What a write does to records: counts, merges, refusals, repeats."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import numpy as np
import pytest

from shoal.errors import (
    DimensionMismatchError,
    DuplicateIDError,
    InvalidArgumentError,
    StaleRouteError,
)
from shoal.internal.v1 import worker_service_pb2 as pb
from shoal.server.clock import COUNTER_BITS, wall_ms
from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, plain, started

MERGES: list[tuple[str, dict[str, Any] | None, dict[str, Any] | None, dict[str, Any] | None]] = [
    ("a key is added", {"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ("a key is replaced", {"a": 1}, {"a": 2.0}, {"a": 2.0}),
    ("a type is replaced", {"a": 1}, {"a": ["x", "y"]}, {"a": ["x", "y"]}),
    ("null removes a key", {"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    ("null for the last key leaves none", {"a": 1}, {"a": None}, None),
    ("null for a key that is not there", {"a": 1}, {"z": None}, {"a": 1}),
    ("nothing given leaves all", {"a": 1}, None, {"a": 1}),
    ("metadata for a record without", None, {"a": True}, {"a": True}),
    ("null for a record without", None, {"a": None}, None),
]


@pytest.mark.parametrize(
    ("before", "given", "after"), [m[1:] for m in MERGES], ids=[m[0] for m in MERGES]
)
@pytest.mark.parametrize("kind", ["update", "upsert"])
async def test_metadata_merges(
    shard: SingleShard,
    kind: str,
    before: dict[str, Any] | None,
    given: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    await shard.add(["x"], [[1, 2]], [before], ["d"], ["u"])

    response = await getattr(shard, kind)(["x"], [[3, 4]], [given])

    assert (response.added, response.updated, response.ignored) == (0, 1, 0)
    assert plain(await shard.get()) == {
        "x": {"vector": [3.0, 4.0], "metadata": after, "document": "d", "uri": "u"}
    }


async def test_absent_fields_of_an_update_stay(shard: SingleShard) -> None:
    await shard.add(["x", "y"], [[1, 2], [3, 4]], [{"a": 1}, None], ["d", None], [None, "u"])

    await shard.update(["y", "x"], None, None, ["new", None], ["v", "w"])

    assert plain(await shard.get()) == {
        "x": {"vector": [1.0, 2.0], "metadata": {"a": 1}, "document": "d", "uri": "w"},
        "y": {"vector": [3.0, 4.0], "metadata": None, "document": "new", "uri": "v"},
    }


async def test_null_leaves_a_key_out_of_a_new_record(shard: SingleShard) -> None:
    await shard.add(["x", "y"], [[1], [2]], [{"a": None, "b": 1}, {"a": None}])

    assert [r["metadata"] for r in plain(await shard.get()).values()] == [{"b": 1}, None]


async def test_add_leaves_what_exists_and_adds_the_rest(shard: SingleShard) -> None:
    await shard.add(["a"], [[1]], None, ["first"])

    response = await shard.add(["a", "b"], [[9], [2]], None, ["second", "third"])

    assert (response.added, response.updated, response.ignored) == (1, 0, 1)
    found = plain(await shard.get())
    assert {k: v["document"] for k, v in found.items()} == {"a": "first", "b": "third"}


async def test_update_ignores_what_is_unknown(shard: SingleShard) -> None:
    response = await shard.update(["a"], [[1]])

    assert (response.added, response.updated, response.ignored) == (0, 0, 1)
    assert await shard.count() == 0


async def test_an_update_keeps_the_place_and_a_new_add_does_not(shard: SingleShard) -> None:
    await shard.add(["a", "b", "c"], [[1], [2], [3]])

    await shard.upsert(["a"], [[9]])
    await shard.delete(["b"])
    await shard.add(["b"], [[2]])

    assert list(plain(await shard.get())) == ["a", "c", "b"]
    ordinals = (await shard.get(ordinals_only=True)).ordinals
    assert len(ordinals) == 24


async def test_deletions_count_what_was_there(shard: SingleShard) -> None:
    await shard.add(["a", "b", "c"], [[1], [2], [3]], [{"n": 1}, {"n": 2}, {"n": 3}])

    assert (await shard.delete(["a", "a", "nope"])).deleted == 1
    assert (await shard.delete([])).deleted == 0
    assert (await shard.delete(["b", "c"], where={"n": {"$gt": 2}})).deleted == 1
    assert list(plain(await shard.get())) == ["b"]


async def test_a_limited_deletion_takes_the_first_in_order(shard: SingleShard) -> None:
    await shard.add(list("abcd"), [[1]] * 4, [{"n": 1}] * 4)

    response = await shard.delete(where={"n": 1}, limit=3)

    assert response.deleted == 3
    assert list(plain(await shard.get())) == ["d"]


async def test_a_patch_merges_into_every_match(shard: SingleShard) -> None:
    await shard.add(list("abc"), [[1]] * 3, [{"n": 1, "m": 0}, {"n": 1}, {"n": 2}])

    response = await shard.patch({"n": 1}, {"n": 5, "m": None})

    assert (response.matched, response.updated) == (2, 2)
    found = plain(await shard.get())
    assert [r["metadata"] for r in found.values()] == [{"n": 5}, {"n": 5}, {"n": 2}]


async def test_the_first_vector_fixes_the_dimension_for_ever(shard: SingleShard) -> None:
    await shard.add(["a"], [[1, 2]])
    await shard.delete(["a"])

    with pytest.raises(DimensionMismatchError, match="dimension 2, got 3"):
        await shard.add(["a"], [[1, 2, 3]])
    with pytest.raises(DimensionMismatchError, match="dimension 4, got 2"):
        await shard.add(["a"], [[1, 2]], dimension=4)
    assert await shard.count() == 0


async def test_an_id_twice_in_a_batch_is_refused(shard: SingleShard) -> None:
    with pytest.raises(DuplicateIDError, match="'a'"):
        await shard.add(["a", "b", "a"], [[1], [2], [3]])
    assert await shard.count() == 0


async def test_a_merge_that_comes_out_too_large_changes_nothing(shard: SingleShard) -> None:
    await shard.add(["x", "y"], [[1], [2]], [{f"k{i}": i for i in range(200)}, None])

    with pytest.raises(InvalidArgumentError, match="'x'"):
        await shard.update(["y", "x"], None, [{"a": 1}, {f"m{i}": i for i in range(57)}])

    found = plain(await shard.get())
    assert len(found["x"]["metadata"]) == 200
    assert found["y"]["metadata"] is None


async def test_ids_beyond_the_length_of_a_key_are_told_apart(shard: SingleShard) -> None:
    ids = ["x" * 508, "x" * 509, "x" * 1023 + "a", "x" * 1023 + "b", "x" * 507]

    await shard.add(ids, [[i] for i in range(5)])
    await shard.delete([ids[2]])

    assert list(plain(await shard.get(ids=ids))) == [ids[0], ids[1], ids[3], ids[4]]


# Ordinals.


async def test_ordinals_rise_also_when_proposals_fall(shard: SingleShard) -> None:
    now = wall_ms() << COUNTER_BITS
    await shard.add(["a"], [[1]], first_ordinal=now + 100)
    await shard.add(["b", "c"], [[2], [3]], first_ordinal=now)

    records = await shard.get()
    ordinals = np.frombuffer(records.ordinals, "<u8").tolist()
    assert ordinals == [now + 100, now + 101, now + 102]


async def test_a_proposal_from_the_far_future_is_replaced(shard: SingleShard) -> None:
    future = (wall_ms() + 3_600_000) << COUNTER_BITS

    response = await shard.add(["a"], [[1]], first_ordinal=future)

    assert response.clock < future


# Repeats.


async def test_a_repeated_write_is_answered_as_before(shard: SingleShard) -> None:
    write_id = uuid.uuid4().bytes
    request = shard.put_request(
        pb.WRITE_KIND_ADD, ["a", "b"], [[1], [2]], write_id=write_id, digest=b"\x01d"
    )
    first = await shard.send(request)
    await shard.delete(["a"])

    again = await shard.send(request)

    assert (again.added, again.sequence, again.repeated) == (2, first.sequence, True)
    assert await shard.count() == 1


async def test_a_repeat_in_the_same_group_is_applied_once(shard: SingleShard) -> None:
    write_id = uuid.uuid4().bytes
    request = shard.put_request(pb.WRITE_KIND_ADD, ["a"], [[1]], write_id=write_id, digest=b"\x01d")

    answers = await asyncio.gather(*(shard.send(request) for _ in range(8)))

    assert sorted(a.repeated for a in answers) == [False] + [True] * 7
    assert {a.added for a in answers} == {1}


async def test_a_write_id_used_again_for_other_content_is_refused(shard: SingleShard) -> None:
    write_id = uuid.uuid4().bytes
    await shard.add(["a"], [[1]], write_id=write_id, digest=b"\x01d")

    with pytest.raises(InvalidArgumentError, match="used before"):
        await shard.add(["b"], [[1]], write_id=write_id, digest=b"\x01e")
    # Another way of computing it is not compared.
    assert (await shard.add(["a"], [[1]], write_id=write_id, digest=b"\x02z")).repeated


async def test_a_repeat_is_known_after_a_restart(tmp_path: Any) -> None:
    worker = await started(tmp_path)
    shard = await SingleShard.create(worker)
    request = shard.put_request(
        pb.WRITE_KIND_ADD, ["a"], [[1]], write_id=b"w" * 16, digest=b"\x01d"
    )
    await shard.send(request)
    await worker.close()

    worker = await started(tmp_path)
    again = await shard.on(worker).send(request)

    assert again.repeated
    await worker.close()


# Groups.


async def test_a_refused_batch_of_a_group_writes_nothing_and_the_others_go_on(
    shard: SingleShard,
) -> None:
    good = [shard.put_request(pb.WRITE_KIND_ADD, [f"g{i}"], [[1, 2]]) for i in range(20)]
    bad = [shard.put_request(pb.WRITE_KIND_ADD, [f"b{i}"], [[1, 2, 3]]) for i in range(20)]
    await shard.add(["first"], [[0, 0]])
    mixed = [request for pair in zip(good, bad, strict=True) for request in pair]

    answers = await asyncio.gather(*map(shard.send, mixed), return_exceptions=True)

    assert [isinstance(a, DimensionMismatchError) for a in answers] == [False, True] * 20
    assert set(plain(await shard.get())) == {"first", *(f"g{i}" for i in range(20))}


async def test_waiting_batches_share_commits_and_see_each_other(shard: SingleShard) -> None:
    await shard.add(["x"], [[0]])
    requests = [
        shard.put_request(pb.WRITE_KIND_UPSERT, ["x"], [[i]], [{f"k{i}": i}]) for i in range(60)
    ]

    await asyncio.gather(*map(shard.send, requests))

    (record,) = plain(await shard.get()).values()
    assert record["metadata"] == {f"k{i}": i for i in range(60)}
    assert record["vector"] == [59.0]


async def test_an_unknown_epoch_is_a_stale_route(worker: Worker, shard: SingleShard) -> None:
    shard.reference.epoch = 2

    with pytest.raises(StaleRouteError):
        await shard.add(["a"], [[1]])
    records = await shard.get()
    assert records.error.reason == "STALE_ROUTE"
