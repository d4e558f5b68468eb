"""Quotas: rates, totals, and who may set them."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
)
from shoal.internal.v1 import catalog_pb2, membership_service_pb2, routing_service_pb2
from shoal.server.calls import Call
from shoal.server.rpc import LocalService, context_for
from shoal.v1 import admin_service_pb2, collection_pb2, record_service_pb2
from shoal_coordinator.quotas import Usage
from shoal_gateway.access import Caller
from shoal_gateway.table import RoutingTable
from shoal_gateway.throttle import Throttle, quota_id_of_key, quota_id_of_scope
from tests.gateway.cluster import Cluster
from tests.security.test_answers import ADMIN, READ, administrator
from tests.security.test_answers import Caller as KeyHolder
from tests.security.test_rights import grant

BOOKS = ("default_tenant", "default_database", "books")
BOOKS_ID = "7f8b1a1e-0000-4000-8000-000000000001"


class Fixture:
    """A throttle over a table, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.table = RoutingTable()
        self.now = 1000.0
        self.throttle = Throttle(self.table, None, lambda: self.now)
        collection = collection_pb2.Collection(id=BOOKS_ID)
        collection.tenant, collection.database, collection.name = BOOKS
        self.tell(collections=[catalog_pb2.CollectionEntry(collection=collection)])

    def tell(self, **fields: Any) -> None:
        fields.setdefault("gateway_count", self.table.gateway_count)
        version = self.table.version + 1
        self.table.apply([routing_service_pb2.WatchTableResponse(version=version, **fields)])

    def limit(self, quota_id: str, **limits: float) -> None:
        entry = catalog_pb2.QuotaEntry(
            quota_id=quota_id,
            limits=admin_service_pb2.QuotaLimits(**limits),  # type: ignore[arg-type]
        )
        self.tell(quotas=[entry])

    def use(self, quota_id: str, *, partial: bool = False, **used: int) -> None:
        usage = admin_service_pb2.QuotaUsage(**used)
        report = routing_service_pb2.QuotaUsageReport(
            quota_id=quota_id, usage=usage, partial=partial
        )
        self.tell(quota_usages=[report])

    def call(self, method: str, request: Any, key_id: str = "") -> None:
        call = Call(1)
        call.caller = Caller(key_id, ()) if key_id else None
        self.throttle.check(f"shoal.v1.{method}", request, call)

    def get(self, name: str = "books", key_id: str = "") -> None:
        request = record_service_pb2.GetRequest()
        request.collection.name = name
        self.call("RecordService/Get", request, key_id)

    def add(self, count: int, method: str = "Add", name: str = "books") -> None:
        request = record_service_pb2.AddRequest()
        request.collection.name = name
        request.records.ids.extend(map(str, range(count)))
        self.call(f"RecordService/{method}", request)

    def admitted(self, seconds: float, step: float = 0.01) -> int:
        """How many calls a caller gets through who tries again and again."""
        count = 0
        for _ in range(round(seconds / step)):
            try:
                self.get()
                count += 1
            except QuotaExceededError:
                pass
            self.now += step
        return count


@pytest.fixture
def throttle() -> Fixture:
    return Fixture()


SCOPES = [BOOKS[:length] for length in range(4)]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_rate_holds_for_all_that_is_in_its_scope(
    throttle: Fixture, scope: tuple[str, ...]
) -> None:
    throttle.limit(quota_id_of_scope(scope), requests_per_second=5)
    for _ in range(5):
        throttle.get()
    with pytest.raises(QuotaExceededError) as caught:
        throttle.get()
    assert caught.value.retry_after_s == pytest.approx(0.2)
    assert caught.value.metadata == {"limit": "requests_per_second", "value": "5"}
    throttle.now += 0.2
    throttle.get()
    by_id = record_service_pb2.GetRequest()
    by_id.collection.id = BOOKS_ID
    with pytest.raises(QuotaExceededError):
        throttle.call("RecordService/Get", by_id)


def test_a_rate_holds_over_time(throttle: Fixture) -> None:
    throttle.limit("scope", requests_per_second=20)
    # What comes in ten seconds, and once what the bucket holds.
    assert throttle.admitted(10) == pytest.approx(20 * 10 + 20, abs=2)


@pytest.mark.parametrize("gateways", [1, 2, 5])
def test_a_gateway_takes_its_part_of_a_rate(throttle: Fixture, gateways: int) -> None:
    throttle.limit("scope", requests_per_second=20)
    throttle.tell(gateway_count=gateways)
    throttle.admitted(1)
    assert throttle.admitted(10) == pytest.approx(20 * 10 / gateways, abs=2)


def test_a_rate_below_one_a_second_lets_something_in(throttle: Fixture) -> None:
    throttle.limit("scope", requests_per_second=0.1)
    assert throttle.admitted(100, step=0.5) == pytest.approx(10, abs=1)


def test_a_rate_of_nothing_lets_nothing_in_and_does_not_ask_to_wait(throttle: Fixture) -> None:
    throttle.limit("scope", requests_per_second=0)
    with pytest.raises(QuotaExceededError) as caught:
        throttle.get()
    assert caught.value.retry_after_s is None


def test_other_collections_and_keys_are_not_concerned(throttle: Fixture) -> None:
    throttle.limit(quota_id_of_scope(BOOKS), requests_per_second=1)
    throttle.limit(quota_id_of_key("one"), requests_per_second=1)
    throttle.get()
    throttle.get("films", key_id="one")
    for _ in range(10):
        throttle.get("films")
        throttle.get("films", key_id="other")
    with pytest.raises(QuotaExceededError, match="API key one"):
        throttle.get("films", key_id="one")


def test_records_count_where_they_are_written(throttle: Fixture) -> None:
    throttle.limit("scope", records_per_second=100)
    for _ in range(1000):
        throttle.get()
    throttle.add(60)
    throttle.add(60, "Update")  # the bucket may be emptied beyond, and is then closed
    with pytest.raises(QuotaExceededError) as caught:
        throttle.add(1, "Upsert")
    assert caught.value.retry_after_s == pytest.approx(0.21)


def test_a_batch_larger_than_the_bucket_passes_and_is_paid_for(throttle: Fixture) -> None:
    throttle.limit("scope", records_per_second=100)
    throttle.add(10_000)
    throttle.now += 98
    with pytest.raises(QuotaExceededError):
        throttle.add(1)
    throttle.now += 2
    throttle.add(1)


def test_a_refused_call_costs_nothing_elsewhere(throttle: Fixture) -> None:
    throttle.limit("scope", requests_per_second=3)
    throttle.limit(quota_id_of_scope(BOOKS), requests_per_second=1)
    throttle.get()
    for _ in range(10):
        with pytest.raises(QuotaExceededError):
            throttle.get()
    throttle.get("films")
    throttle.get("films")
    with pytest.raises(QuotaExceededError):
        throttle.get("films")


def test_at_the_limit_of_records_nothing_is_added_and_everything_else_goes(
    throttle: Fixture,
) -> None:
    quota_id = quota_id_of_scope(BOOKS[:1])
    throttle.limit(quota_id, max_records=10)
    throttle.add(1000)
    throttle.use(quota_id, records=9)
    throttle.add(1)
    throttle.use(quota_id, records=10)
    for method in ("Add", "Upsert"):
        with pytest.raises(QuotaExceededError) as caught:
            throttle.add(1, method)
        assert caught.value.retry_after_s is None
        assert caught.value.metadata == {"limit": "max_records", "value": "10", "used": "10"}
    throttle.add(1, "Update")
    throttle.get()
    throttle.use(quota_id, records=9)
    throttle.add(1)


def test_at_the_limit_of_bytes_only_deletion_goes_on(throttle: Fixture) -> None:
    throttle.limit("scope", max_bytes=1000)
    throttle.use("scope", bytes=1000)
    for method in ("Add", "Upsert", "Update", "UpdateWhere"):
        with pytest.raises(QuotaExceededError):
            throttle.add(1, method)
    request = record_service_pb2.DeleteRequest()
    request.collection.name = "books"
    throttle.call("RecordService/Delete", request)
    throttle.get()


def test_a_quota_that_is_removed_holds_no_more(throttle: Fixture) -> None:
    throttle.limit("scope", requests_per_second=0)
    throttle.tell(removed_quota_ids=["scope"])
    throttle.get()


# Over a cluster


async def test_a_revoked_key_leaves_no_quota_behind(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    key_id = (await admin.create_key(grant((), READ))).split("_")[1]
    quota = admin_service_pb2.SetQuotaRequest(
        subject=admin_service_pb2.QuotaSubject(api_key_id=key_id),
        limits=admin_service_pb2.QuotaLimits(requests_per_second=1),
    )
    await admin("AdminService/SetQuota", quota)
    assert cluster.gateway.table.has_quotas
    await admin("AdminService/RevokeApiKey", admin_service_pb2.RevokeApiKeyRequest(id=key_id))
    assert not cluster.gateway.table.has_quotas


def subject_of(scope: tuple[str, ...]) -> admin_service_pb2.QuotaSubject:
    return admin_service_pb2.QuotaSubject(scope=grant(scope, READ).scope)


def request_of(scope: tuple[str, ...], **limits: Any) -> admin_service_pb2.SetQuotaRequest:
    return admin_service_pb2.SetQuotaRequest(
        subject=subject_of(scope), limits=admin_service_pb2.QuotaLimits(**limits)
    )


async def test_collections_are_counted_exactly(cluster: Cluster) -> None:
    await cluster.admin.SetQuota(request_of(BOOKS[:2], max_collections=2))
    await cluster.create("one")
    await cluster.create("two")
    with pytest.raises(QuotaExceededError, match="has 2 collections, its quota is 2"):
        await cluster.create("three")


async def test_a_quota_is_told_set_replaced_and_removed(cluster: Cluster) -> None:
    await cluster.admin.SetQuota(request_of(BOOKS[:1], max_records=5))
    await cluster.admin.SetQuota(request_of(BOOKS[:1], requests_per_second=2.5))
    await cluster.admin.SetQuota(request_of((), max_bytes=0))
    get = admin_service_pb2.GetQuotaRequest(subject=subject_of(BOOKS[:1]))
    quota = (await cluster.admin.GetQuota(get)).quota
    assert not quota.limits.HasField("max_records")
    assert quota.limits.requests_per_second == 2.5
    listed = (await cluster.admin.ListQuotas(admin_service_pb2.ListQuotasRequest())).quotas
    assert [len(quota.subject.scope.tenant) > 0 for quota in listed] == [True, False]
    await cluster.admin.SetQuota(request_of(BOOKS[:1]))
    with pytest.raises(NotFoundError):
        await cluster.admin.GetQuota(get)


async def test_gateways_are_told_how_many_they_are(cluster: Cluster) -> None:
    assert cluster.gateway.table.gateway_count == 1
    second = await cluster.add_gateway()
    table = cluster.gateway.table
    assert await table.wait_until(lambda: table.gateway_count == 2, 5)
    assert await second.table.wait_until(lambda: second.table.gateway_count == 2, 5)
    cluster.gateways.remove(second)
    await second.close()
    assert await table.wait_until(lambda: table.gateway_count == 1, 5)


def test_what_a_new_coordinator_has_not_heard_yet_is_not_free() -> None:
    fixture = Fixture()
    fixture.limit(quota_id_of_scope(BOOKS), max_records=100)
    fixture.use(quota_id_of_scope(BOOKS), records=100)
    fixture.use(quota_id_of_scope(BOOKS), partial=True, records=60)
    with pytest.raises(QuotaExceededError):
        fixture.add(1)
    fixture.use(quota_id_of_scope(BOOKS), records=99)
    fixture.add(1)


async def test_sums_are_partial_until_every_shard_has_been_reported(cluster: Cluster) -> None:
    await cluster.create("books", shards=2)
    await cluster.admin.SetQuota(request_of(BOOKS, max_records=1))
    table = cluster.coordinator.table
    usage = Usage(table)
    of_books = quota_id_of_scope(BOOKS)
    for heard, shard_id in enumerate(table.state.collection_of_shard):
        told = usage.of_quotas()[of_books]
        assert told.partial
        assert told.usage == admin_service_pb2.QuotaUsage(collections=1, records=10 * heard)
        usage.report([membership_service_pb2.ShardUsage(shard_id=shard_id, record_count=10)])
    told = usage.of_quotas()[of_books]
    assert not told.partial
    assert told.usage == admin_service_pb2.QuotaUsage(collections=1, records=20)


async def test_what_workers_report_reaches_gateways_by_quota(cluster: Cluster) -> None:
    collection_id = await cluster.create("books", shards=2)
    await cluster.create("films")
    await cluster.admin.SetQuota(request_of(BOOKS, max_records=1))
    await cluster.admin.SetQuota(request_of(BOOKS[:2], max_records=1))
    table = cluster.gateway.table
    route = table.collection(collection_id)
    assert route is not None
    for position, shard in enumerate(route.shards):
        worker = cluster.worker_of(shard.shard_id)
        usage = membership_service_pb2.ShardUsage(
            shard_id=shard.shard_id, record_count=10 + position, disk_bytes=1000
        )
        beat = membership_service_pb2.HeartbeatWorkerRequest(
            worker_id=worker.worker_id, process_id=worker.process_id, usages=[usage]
        )
        await cluster.coordinator.membership_service.heartbeat_worker(beat, context_for(5))
    wanted = admin_service_pb2.QuotaUsage(collections=1, records=21, bytes=2000)
    of_books = quota_id_of_scope(BOOKS)
    assert await table.wait_until(lambda: table.quota_usage(of_books) == wanted, 5)
    wanted.collections = 2
    assert table.quota_usage(quota_id_of_scope(BOOKS[:2])) == wanted
    # A gateway that comes later is told, too.
    second = await cluster.add_gateway()
    assert await second.table.wait_until(lambda: second.table.quota_usage(of_books) is not None, 5)
    guarded = LocalService("shoal.v1.RecordService", second.record_service, guard=second.guard)
    request = record_service_pb2.AddRequest()
    request.collection.name = "books"
    add: Any = getattr(guarded, "Add")  # noqa: B009 - its methods have no types
    with pytest.raises(QuotaExceededError):
        await add(request)


@pytest.mark.parametrize(
    ("subject", "limits"),
    [
        (admin_service_pb2.QuotaSubject(), {"max_records": 1}),
        (admin_service_pb2.QuotaSubject(api_key_id="x"), {"requests_per_second": 1}),
        (admin_service_pb2.QuotaSubject(api_key_id="0" * 16), {"max_records": 1}),
        (subject_of(()), {"requests_per_second": -1}),
        (subject_of(()), {"requests_per_second": float("nan")}),
        (subject_of(()), {"records_per_second": float("inf")}),
    ],
    ids=("nobody", "no key", "a key's records", "negative", "NaN", "infinite"),
)
async def test_a_quota_that_makes_no_sense_is_refused(
    cluster: Cluster, subject: admin_service_pb2.QuotaSubject, limits: dict[str, Any]
) -> None:
    request = admin_service_pb2.SetQuotaRequest(
        subject=subject, limits=admin_service_pb2.QuotaLimits(**limits)
    )
    with pytest.raises(InvalidArgumentError):
        await cluster.admin.SetQuota(request)


async def test_nobody_sets_his_own_quota(cluster: Cluster) -> None:
    admin = await administrator(cluster)
    await admin("AdminService/SetQuota", request_of(BOOKS[:1], max_records=1))
    manager = KeyHolder(cluster, await admin.create_key(grant(BOOKS[:1], READ, ADMIN)))
    with pytest.raises(PermissionDeniedError):
        await manager("AdminService/SetQuota", request_of(BOOKS[:1]))
    await manager("AdminService/SetQuota", request_of(BOOKS[:2], max_records=1))
    listed = await manager("AdminService/ListQuotas", admin_service_pb2.ListQuotasRequest())
    assert len(listed.quotas) == 2
    unknown = admin_service_pb2.SetQuotaRequest(
        subject=admin_service_pb2.QuotaSubject(api_key_id="0" * 16),
        limits=admin_service_pb2.QuotaLimits(requests_per_second=1),
    )
    with pytest.raises(NotFoundError):
        await admin("AdminService/SetQuota", unknown)
