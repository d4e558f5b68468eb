"""API keys and quotas by the client."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

import shoal

_TOMORROW = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)


@pytest.fixture
def admin(ways: Any, way: str) -> Any:
    admin = ways.admin(way)
    yield admin
    admin.close()


def test_a_key_is_created_listed_and_revoked(admin: Any) -> None:
    created = admin.create_api_key(
        [
            {"rights": ["read"], "collection": "books"},
            {"rights": ["read", "write"], "tenant": "acme"},
        ],
        "shop",
        _TOMORROW,
    )
    assert created["key"].startswith(f"shoal_{created['id']}_")
    listed = {key["id"]: key for key in admin.list_api_keys()}
    assert listed[created["id"]] == {k: v for k, v in created.items() if k != "key"}
    assert listed[created["id"]] == {
        "id": created["id"],
        "name": "shop",
        "grants": [
            {
                "tenant": "default_tenant",
                "database": "default_database",
                "collection": "books",
                "rights": ["read"],
            },
            {"tenant": "acme", "rights": ["read", "write"]},
        ],
        "created_at": created["created_at"],
        "expires_at": _TOMORROW,
        "bootstrap": False,
    }
    admin.revoke_api_key(created["id"])
    assert created["id"] not in {key["id"] for key in admin.list_api_keys()}
    with pytest.raises(shoal.NotFoundError):
        admin.revoke_api_key(created["id"])


@pytest.mark.parametrize(
    ("grants", "message"),
    [
        ([], "must be a list of dicts"),
        ("read", "must be a list of dicts"),
        (["read"], r"grants\[0\] must be a dict"),
        ({"collection": "books"}, "at least one of 'read'"),
        ({"rights": ["fly"]}, "at least one of 'read'"),
        ({"rights": ["read"], "colection": "books"}, "'colection'"),
        ({"rights": ["read"], "collection": ".."}, "collection"),
    ],
)
def test_a_wrong_grant_is_refused_before_it_is_sent(admin: Any, grants: Any, message: str) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match=message):
        admin.create_api_key(grants)


def test_an_end_needs_a_time_zone(admin: Any) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match="time zone"):
        admin.create_api_key({"rights": ["read"]}, expires_at=datetime.datetime(2100, 1, 1))  # noqa: DTZ001


def test_a_quota_is_set_described_listed_and_removed(admin: Any) -> None:
    scope = {"tenant": "quota-tenant"}
    limits = {"requests_per_second": 7.5, "max_records": 1_000}
    assert admin.set_quota(limits, scope=scope)["limits"] == limits
    found = admin.get_quota(scope=scope)
    assert (found["scope"], found["api_key_id"], found["limits"]) == (scope, None, limits)
    assert scope in [quota["scope"] for quota in admin.list_quotas()]
    admin.remove_quota(scope=scope)
    admin.remove_quota(scope=scope)  # harmless
    with pytest.raises(shoal.NotFoundError):
        admin.get_quota(scope=scope)


def test_a_key_has_a_quota_of_its_own(admin: Any) -> None:
    key = admin.create_api_key({"rights": ["read"]})
    set_ = admin.set_quota({"records_per_second": 5}, api_key_id=key["id"])
    assert (set_["scope"], set_["api_key_id"]) == (None, key["id"])
    admin.remove_quota(api_key_id=key["id"])
    admin.revoke_api_key(key["id"])


@pytest.mark.parametrize(
    ("limits", "subject", "message"),
    [
        ({}, {"scope": {}}, "at least one limit"),
        ({"max_cats": 1}, {"scope": {}}, "'max_cats'"),
        ({"max_records": 1.5}, {"scope": {}}, "from 0 on"),
        ({"max_records": -1}, {"scope": {}}, "from 0 on"),
        ({"max_records": True}, {"scope": {}}, "from 0 on"),
        ({"max_records": 1}, {}, "exactly one of scope and api_key_id"),
        ({"max_records": 1}, {"scope": {}, "api_key_id": "x"}, "exactly one"),
    ],
)
def test_a_wrong_quota_is_refused(admin: Any, limits: Any, subject: Any, message: str) -> None:
    with pytest.raises(shoal.InvalidArgumentError, match=message):
        admin.set_quota(limits, **subject)
