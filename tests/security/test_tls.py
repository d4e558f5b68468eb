"""TLS of servers and channels, within this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from shoal.errors import InvalidArgumentError, UnavailableError
from shoal.server import rpc
from shoal.server.settings import RoleSettings, is_loopback, load
from shoal.server.tls import Certificates, ChannelTls
from shoal.v1 import admin_service_pb2, admin_service_pb2_grpc
from shoal_coordinator.settings import CoordinatorSettings
from shoal_gateway.settings import GatewaySettings
from shoal_worker.settings import WorkerSettings
from tests.security.certificates import Files

REQUEST = admin_service_pb2.GetVersionRequest()


class Answering:
    """An admin service of which one method is used."""

    def __getattr__(self, name: str) -> Any:
        async def answer(_request: Any, _context: Any) -> Any:
            assert name == "get_version"
            return admin_service_pb2.GetVersionResponse(version="1")

        return answer


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "own")


@pytest.fixture
async def port(files: Files) -> AsyncIterator[int]:
    """The port of a server that asks for certificates."""
    server = rpc.server()
    rpc.add_service(server, "shoal.v1.AdminService", Answering())
    certificates = Certificates(files.chain, files.key, files.authorities)
    bound = rpc.bind(server, "127.0.0.1", 0, certificates.server_credentials())
    await server.start()
    yield bound
    await server.stop(None)


async def version(channel: grpc.aio.Channel) -> str:
    stub = admin_service_pb2_grpc.AdminServiceStub(channel)
    return (await rpc.call(stub.GetVersion, REQUEST, timeout_s=60)).version


def tls_of(files: Files, name: str | None = None) -> ChannelTls:
    return ChannelTls(Certificates(files.chain, files.key, files.authorities), name)


async def test_processes_of_one_authority_know_each_other(files: Files, port: int) -> None:
    async with rpc.channel(f"localhost:{port}", tls_of(files)) as channel:
        assert await version(channel) == "1"


async def test_plaintext_reaches_nobody(port: int) -> None:
    async with rpc.channel(f"localhost:{port}") as channel:
        with pytest.raises(UnavailableError):
            await version(channel)


async def test_who_shows_no_certificate_is_refused(files: Files, port: int) -> None:
    credentials = grpc.ssl_channel_credentials(files.authorities.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        with pytest.raises(UnavailableError):
            await version(channel)


async def test_a_certificate_of_another_authority_is_refused_by_either_side(
    files: Files, port: int, tmp_path: Path
) -> None:
    others = Files(tmp_path / "others")
    async with rpc.channel(f"localhost:{port}", tls_of(others)) as channel:
        with pytest.raises(UnavailableError):
            await version(channel)
    credentials = grpc.ssl_channel_credentials(
        files.authorities.read_bytes(), others.key.read_bytes(), others.chain.read_bytes()
    )
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as secure:
        with pytest.raises(UnavailableError):
            await version(secure)


async def test_a_server_must_have_the_name_by_which_it_is_reached_or_the_clusters(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path / "named", ("shoal.test",))
    server = rpc.server()
    rpc.add_service(server, "shoal.v1.AdminService", Answering())
    certificates = Certificates(files.chain, files.key, files.authorities)
    port = rpc.bind(server, "127.0.0.1", 0, certificates.server_credentials())
    await server.start()
    try:
        async with rpc.channel(f"127.0.0.1:{port}", tls_of(files)) as channel:
            with pytest.raises(UnavailableError):
                await version(channel)
        async with rpc.channel(f"127.0.0.1:{port}", tls_of(files, "shoal.test")) as channel:
            assert await version(channel) == "1"
    finally:
        await server.stop(None)


async def test_a_renewed_certificate_is_used_by_both_sides_without_a_restart(
    files: Files, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.server.tls._LOOK_EVERY_S", 0.0)
    async with rpc.channel(f"localhost:{port}", tls_of(files)) as channel:
        assert await version(channel) == "1"
        former = channel.connection()
        files.renew()
        # The authority is another one: only a new connection with the new files can succeed.
        assert await version(channel) == "1"
        assert channel.connection() is not former
        async with rpc.channel(f"localhost:{port}", tls_of(files)) as another:
            assert await version(another) == "1"


async def test_a_call_under_way_ends_on_the_connection_that_it_began_on(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.server.tls._LOOK_EVERY_S", 0.0)
    may_end, has_begun = asyncio.Event(), asyncio.Event()

    class Slow(Answering):
        async def get_version(self, _request: Any, _context: Any) -> Any:
            has_begun.set()
            await may_end.wait()
            return admin_service_pb2.GetVersionResponse(version="slow")

    server = rpc.server()
    rpc.add_service(server, "shoal.v1.AdminService", Slow())
    certificates = Certificates(files.chain, files.key, files.authorities)
    port = rpc.bind(server, "127.0.0.1", 0, certificates.server_credentials())
    await server.start()
    try:
        async with rpc.channel(f"localhost:{port}", tls_of(files)) as channel:
            slow = asyncio.create_task(version(channel))
            await has_begun.wait()
            files.renew()
            channel.connection()
            await asyncio.sleep(0.1)
            may_end.set()
            assert await slow == "slow"
    finally:
        await server.stop(None)


def test_files_that_do_not_fit_are_passed_over_until_they_do(files: Files, tmp_path: Path) -> None:
    certificates = Certificates(files.chain, files.key, files.authorities)
    before = certificates.current()
    chain = files.chain.read_bytes()
    for wrong in (Files(tmp_path / "other").chain.read_bytes(), b"", b"junk", chain[:200]):
        files.chain.write_bytes(wrong)
        assert certificates.current() is before
    files.chain.unlink()
    assert certificates.current() is before
    files.renew()
    assert certificates.current().chain == files.chain.read_bytes()


@pytest.mark.parametrize("broken", ["chain", "key", "authorities"])
def test_a_process_does_not_start_with_files_that_cannot_be_used(files: Files, broken: str) -> None:
    path: Path = getattr(files, broken)
    for content in (b"", b"junk"):
        path.write_bytes(content)
        with pytest.raises(InvalidArgumentError, match=str(path)):
            Certificates(files.chain, files.key, files.authorities)
    path.unlink()
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        Certificates(files.chain, files.key, files.authorities)


# What may listen where


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_this_machine_alone_is_served_without_authentication(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "10.0.0.1", "192.168.1.1", "example.org", "localhost.example.org", "0"],
)
def test_any_other_address_needs_authentication(host: str) -> None:
    assert not is_loopback(host)


def settings(role: type[RoleSettings], **given: object) -> RoleSettings:
    arguments = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        arguments.append(f"--{flag}" if value is True else f"--{flag}={value}")
    return load(role, role="gateway", program="x", description="", arguments=arguments,
                environment={})  # fmt: skip


@pytest.mark.parametrize("role", [GatewaySettings, CoordinatorSettings, WorkerSettings])
def test_a_role_refuses_to_serve_strangers_unless_it_is_told_to(role: type[RoleSettings]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"host is 0\.0\.0\.0.*not authenticated"):
        settings(role, host="0.0.0.0")
    assert settings(role, host="0.0.0.0", insecure=True).insecure
    assert not settings(role, host="127.0.0.1").authenticates


def test_keys_or_clients_certificates_authenticate_the_gateways_callers() -> None:
    assert settings(GatewaySettings, host="0.0.0.0", auth=True).authenticates
    files = {"tls_cert": "a", "tls_key": "b", "tls_client_ca": "c"}
    assert settings(GatewaySettings, host="0.0.0.0", **files).authenticates
    # TLS alone hides what is said, and asks nobody who he is; nor do the cluster's certificates.
    del files["tls_client_ca"]
    cluster = {"cluster_cert": "a", "cluster_key": "b", "cluster_ca": "c"}
    with pytest.raises(InvalidArgumentError, match="not authenticated"):
        settings(GatewaySettings, host="0.0.0.0", **files, **cluster)


@pytest.mark.parametrize("role", [CoordinatorSettings, WorkerSettings])
def test_the_clusters_certificates_authenticate_the_other_roles_callers(
    role: type[RoleSettings],
) -> None:
    given = {"cluster_cert": "a", "cluster_key": "b", "cluster_ca": "c"}
    assert settings(role, host="0.0.0.0", **given).authenticates


@pytest.mark.parametrize(
    "given",
    [
        {"cluster_cert": "a", "cluster_key": "b"},
        {"cluster_ca": "a"},
        {"tls_cert": "a"},
        {"tls_key": "a"},
        {"tls_client_ca": "a"},
    ],
)
def test_half_a_configuration_of_tls_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is missing|without"):
        settings(GatewaySettings, **given)
