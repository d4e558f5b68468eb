"""Keys: read strictly, compared in constant time, never shown."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import UnauthenticatedError, UnavailableError
from shoal.internal.v1 import catalog_pb2, routing_service_pb2
from shoal.server import keys
from shoal.server.calls import Call
from shoal.server.keys import ApiKey
from shoal.v1 import admin_service_pb2
from shoal_gateway.access import Access, Caller
from shoal_gateway.table import RoutingTable

NOW = 1_800_000_000


def table_with(*made: ApiKey, ends_at: int | None = None) -> RoutingTable:
    table = RoutingTable()
    entries = [
        catalog_pb2.ApiKeyEntry(
            description=admin_service_pb2.ApiKey(id=key.key_id), secret_sha256=key.digest
        )
        for key in made
    ]
    for entry in entries:
        if ends_at is not None:
            entry.description.expires_at.FromSeconds(ends_at)
    table.apply([routing_service_pb2.WatchTableResponse(version=1, api_keys=entries)])
    return table


def admitted(table: RoutingTable, *metadata: tuple[str, str | bytes]) -> str:
    """The ID of the key that a call is admitted by."""
    call = Call(1, metadata)
    Access(table, lambda: NOW).admit("shoal.v1.AdminService/GetVersion", call)
    assert isinstance(call.caller, Caller)
    return call.caller.key_id


def test_a_key_reads_back_as_it_was_made() -> None:
    key = ApiKey.generate()
    assert ApiKey.parse(key.text) == key
    assert len(key.secret) == 32
    assert key.digest == hashlib.sha256(key.secret).digest()
    assert ApiKey.generate().secret != key.secret


def test_a_key_does_not_show_its_secret() -> None:
    key = ApiKey.generate()
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


@given(st.text(max_size=200))
def test_what_is_no_key_is_none(text: str) -> None:
    assert ApiKey.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shoal_",
        "shoal__",
        "shoal_0123456789abcdef_" + "0" * 63,
        "shoal_0123456789abcdef_" + "0" * 65,
        "shoal_0123456789ABCDEF_" + "0" * 64,
        "Shoal_0123456789abcdef_" + "0" * 64,
        "shoal_0123456789abcdef_" + "0" * 64 + "\n",
        " shoal_0123456789abcdef_" + "0" * 64,
        "shoal_0123456789abcdef_" + "٠" * 64,  # digits, but not ours
        "shoal_0123456789abcdef_" + "0" * 64 + "\x00",
    ],
)
def test_what_nearly_is_a_key_is_none(text: str) -> None:
    assert ApiKey.parse(text) is None


def test_secrets_are_compared_in_constant_time_also_for_keys_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys, "hmac", Watched)
    known, unknown = ApiKey.generate(), ApiKey.generate()
    wrong = ApiKey(known.key_id, bytes(32))
    table = table_with(known)
    assert admitted(table, ("api-key", known.text)) == known.key_id
    for key in (wrong, unknown):
        with pytest.raises(UnauthenticatedError, match="is not valid"):
            admitted(table, ("api-key", key.text))
    assert [one for one, _ in compared] == [known.digest, wrong.digest, unknown.digest]


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("authorization", "Bearer {}"),
        ("authorization", "bearer {}"),
        ("authorization", "BEARER   {} "),
        ("api-key", "{}"),
    ],
)
def test_a_key_may_come_either_way(key: str, form: str) -> None:
    made = ApiKey.generate()
    assert admitted(table_with(made), (key, form.format(made.text))) == made.key_id


def test_the_same_key_twice_is_one() -> None:
    made = ApiKey.generate()
    both: tuple[Any, ...] = (("authorization", f"Bearer {made.text}"), ("api-key", made.text))
    assert admitted(table_with(made), *both) == made.key_id


def test_two_different_keys_are_refused_whichever_comes_first() -> None:
    one, other = ApiKey.generate(), ApiKey.generate()
    table = table_with(one, other)
    for first, second in ((one.text, other.text), (other.text, one.text), (one.text, "junk")):
        with pytest.raises(UnauthenticatedError, match="more than one"):
            admitted(table, ("api-key", first), ("api-key", second))
        with pytest.raises(UnauthenticatedError, match="more than one"):
            admitted(table, ("authorization", f"Bearer {first}"), ("api-key", second))


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", ""),
        ("authorization", "Bearer"),
        ("authorization", "Bearer "),
        ("authorization", "Basic {}"),
        ("authorization", "{}"),
        ("authorization", "Bearer Bearer {}"),
        ("authorization", "Bearer {}\x00"),
        ("authorization", "Bearer {},Bearer {}"),
        ("api-key", ""),
        ("api-key", "Bearer {}"),
        ("api-key", "{}" + "a" * 60_000),
        ("api-key", "\udcff" * 10),
        ("api-key-bin", b"{}"),
        ("x-api-key", "{}"),
        ("Authorization ", "Bearer {}"),
    ],
)
def test_hostile_headers_let_nobody_in(header: tuple[str, str | bytes]) -> None:
    made = ApiKey.generate()
    name, value = header
    if isinstance(value, str):
        value = value.replace("{}", made.text)
    with pytest.raises(UnauthenticatedError):
        admitted(table_with(made), (name, value))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["authorization", "api-key", "x"]), st.text(max_size=300) | st.binary()
        ),
        max_size=5,
    )
)
def test_whatever_comes_is_refused_and_nothing_else(metadata: list[tuple[str, Any]]) -> None:
    with pytest.raises(UnauthenticatedError):
        admitted(table_with(ApiKey.generate()), *metadata)


def test_a_key_ends_when_it_was_to_end() -> None:
    made = ApiKey.generate()
    assert admitted(table_with(made, ends_at=NOW + 1), ("api-key", made.text)) == made.key_id
    with pytest.raises(UnauthenticatedError, match="expired"):
        admitted(table_with(made, ends_at=NOW), ("api-key", made.text))
    # Who does not have the key does not learn that it was one.
    wrong = ApiKey(made.key_id, bytes(32))
    with pytest.raises(UnauthenticatedError, match="is not valid"):
        admitted(table_with(made, ends_at=NOW), ("api-key", wrong.text))


def test_a_revoked_key_is_refused_from_the_next_version_on() -> None:
    made = ApiKey.generate()
    table = table_with(made)
    access = Access(table, lambda: NOW)
    call = Call(1, (("api-key", made.text),))
    access.admit("shoal.v1.AdminService/GetVersion", call)
    table.apply(
        [routing_service_pb2.WatchTableResponse(version=2, removed_api_key_ids=[made.key_id])]
    )
    with pytest.raises(UnauthenticatedError):
        access.admit("shoal.v1.AdminService/GetVersion", call)


def test_a_key_that_is_in_no_snapshot_is_gone() -> None:
    made = ApiKey.generate()
    table = table_with(made)
    table.apply([routing_service_pb2.WatchTableResponse(version=2, snapshot_start=True)])
    with pytest.raises(UnauthenticatedError):
        admitted(table, ("api-key", made.text))


def test_a_gateway_without_a_table_says_so_and_not_that_a_key_is_wrong() -> None:
    with pytest.raises(UnavailableError):
        admitted(RoutingTable(), ("api-key", ApiKey.generate().text))
