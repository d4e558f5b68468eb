"""Keys and certificates over real processes."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import shoal
from shoal import errors
from shoal.server.keys import ApiKey
from shoal.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests.cluster.running import RunningCluster, wait_for
from tests.security.certificates import Files
from tests.security.test_rights import grant

pytestmark = pytest.mark.cluster

Start = Callable[..., RunningCluster]
READ = admin_service_pb2.RIGHT_READ


def admin_key(cluster: RunningCluster) -> str:
    return (cluster.data / "admin.key").read_text().strip()


def client(cluster: RunningCluster, key: str | None = None, **options: Any) -> shoal.Client:
    return shoal.Client(port=cluster.port, api_key=key, **options)


def shoal_keys(cluster: RunningCluster, *arguments: str) -> str:
    command = [sys.executable, "-m", "shoal_local", "keys", arguments[0], f"--data={cluster.data}"]
    done = subprocess.run(
        [*command, *arguments[1:]], capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def two_clients(start: Start) -> Iterator[tuple[RunningCluster, shoal.Client, str]]:
    """A cluster with collections, its administrator's client, and a key for reading one."""
    cluster = start(workers=1, arguments=["--auth"])
    with client(cluster, admin_key(cluster)) as admin:
        for name in ("books", "films"):
            made = admin.create_collection(name, embedding_function=None)
            made.add(ids=["a"], embeddings=[[1.0, 2.0]])
        key = shoal_keys(
            cluster,
            "create",
            "--right=read",
            "--name=reader",
            "--collection=default_tenant/default_database/books",
        )
        yield cluster, admin, key


def test_keys_from_their_creation_to_their_revocation(
    two_clients: tuple[RunningCluster, shoal.Client, str],
) -> None:
    cluster, _admin, key = two_clients
    assert stat.S_IMODE((cluster.data / "admin.key").stat().st_mode) == 0o600
    with client(cluster, None) as stranger, pytest.raises(errors.UnauthenticatedError):
        stranger.get_collection("books")
    with client(cluster, key) as reader:
        books = reader.get_collection("books")
        assert books.count() == 1
        with pytest.raises(errors.PermissionDeniedError):
            books.add(ids=["b"], embeddings=[[1.0, 2.0]])
        for name in ("films", "nothing"):
            with pytest.raises(errors.PermissionDeniedError):
                reader.get_collection(name)
        # Only what the key may see, whatever else there is.
        assert [collection.name for collection in reader.list_collections()] == ["books"]
        assert reader.count_collections() == 1

        # With the coordinator down, keys are known and collections are served.
        coordinator = cluster.role("coordinator")["process"]
        try:
            cluster.kill("coordinator", signal.SIGSTOP)
            assert books.count() == 1
            with pytest.raises(errors.PermissionDeniedError):
                reader.get_collection("films")
            with (
                client(cluster, ApiKey.generate().text) as stranger,
                pytest.raises(errors.UnauthenticatedError),
            ):
                stranger.get_collection("books")
        finally:
            cluster.kill("coordinator", signal.SIGCONT)
        assert cluster.role("coordinator")["process"] == coordinator

        shoal_keys(cluster, "revoke", key.split("_")[1])
        with pytest.raises(errors.UnauthenticatedError):
            books.count()
    assert "reader" not in shoal_keys(cluster, "list")
    cluster.stop()  # so that no file goes while it is looked into
    for file in (cluster.log, *cluster.data.rglob("*")):
        if file.is_file() and file.name != "admin.key":
            content = file.read_bytes()
            for secret in (key, admin_key(cluster)):
                assert secret.split("_")[2].encode() not in content, file
                assert bytes.fromhex(secret.split("_")[2]) not in content, file


def test_keys_outlive_a_restart_and_the_bootstrap_key_follows_its_file(
    two_clients: tuple[RunningCluster, shoal.Client, str],
) -> None:
    cluster, admin, key = two_clients
    former = cluster.kill("coordinator")
    wait_for(lambda: cluster.role("coordinator")["process"] not in (0, former))
    with client(cluster, key) as reader:
        assert reader.get_collection("books").count() == 1
    new = ApiKey.generate().text
    (cluster.data / "admin.key").write_text(new + "\n")

    def is_refused() -> bool:
        try:
            admin.get_version()
        except errors.UnauthenticatedError:
            return True
        return False

    wait_for(is_refused)
    with client(cluster, new) as renewed:
        assert renewed.count_collections() == 2


def test_all_roles_in_one_process_ask_for_keys_too(start: Start) -> None:
    cluster = start(workers=0, arguments=["--auth"])
    with client(cluster, admin_key(cluster)) as admin:
        assert admin.count_collections() == 0
    with client(cluster) as stranger, pytest.raises(errors.UnauthenticatedError):
        stranger.count_collections()


@pytest.mark.parametrize("program", ["gateway", "worker", "coordinator"])
def test_a_role_refuses_to_listen_for_strangers(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"shoal_{program}", "--host=0.0.0.0", "--port=0"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "callers are not authenticated" in done.stderr


def write_config(
    directory: Path, public: Files | None, cluster: Files | None, *lines: str, clients: bool = False
) -> Path:
    config = []
    if cluster is not None:
        config += [
            f'cluster_cert = "{cluster.chain}"',
            f'cluster_key = "{cluster.key}"',
            f'cluster_ca = "{cluster.authorities}"',
        ]
    config.append("[gateway]")
    if public is not None:
        config += [f'tls_cert = "{public.chain}"', f'tls_key = "{public.key}"']
        if clients:
            config.append(f'tls_client_ca = "{public.authorities}"')
    path = directory / "shoal.toml"
    path.write_text("\n".join([*config, *lines, ""]))
    return path


def test_the_public_port_speaks_tls_with_certificates_that_can_be_renewed(
    start: Start, tmp_path: Path
) -> None:
    files = Files(tmp_path / "public")
    config = write_config(tmp_path, files, None, "auth = true")
    cluster = start(workers=1, arguments=[f"--config={config}"])
    key = admin_key(cluster)
    with client(cluster, key, ssl=str(files.authorities)) as connected:
        connected.create_collection("books", embedding_function=None)
        with client(cluster, key, timeout=30) as plain, pytest.raises(errors.UnavailableError):
            plain.heartbeat()
        with (
            client(cluster, None, ssl=files.authorities) as stranger,
            pytest.raises(errors.UnauthenticatedError),
        ):
            stranger.count_collections()
        former = tmp_path / "former.crt"
        former.write_bytes(files.authorities.read_bytes())
        files.renew()
        with client(cluster, key, ssl=str(files.authorities)) as renewed:
            assert renewed.count_collections() == 1
        with (
            client(cluster, key, ssl=str(former), timeout=30) as outdated,
            pytest.raises(errors.UnavailableError),
        ):
            outdated.count_collections()
        assert connected.count_collections() == 1, "what was connected stays connected"
    assert "Handshake failed" not in cluster.logged(), "strangers fill no log"


def test_the_public_port_asks_for_clients_certificates(start: Start, tmp_path: Path) -> None:
    files, others = Files(tmp_path / "public"), Files(tmp_path / "others")
    config = write_config(tmp_path, files, None, clients=True)
    cluster = start(workers=0, arguments=[f"--config={config}"])
    with client(cluster, ssl=files.channel_credentials()) as known:
        assert known.count_collections() == 0
    wrong = grpc.ssl_channel_credentials(
        files.authorities.read_bytes(), others.key.read_bytes(), others.chain.read_bytes()
    )
    for credentials in (wrong, str(files.authorities)):
        with (
            client(cluster, ssl=credentials, timeout=30) as stranger,
            pytest.raises(errors.UnavailableError),
        ):
            stranger.count_collections()


def test_the_roles_know_each_other_by_certificate_also_after_all_were_renewed(
    start: Start, tmp_path: Path
) -> None:
    files = Files(tmp_path / "cluster")
    cluster = start(workers=2, arguments=[f"--config={write_config(tmp_path, None, files)}"])
    with client(cluster) as known:
        books = known.create_collection(
            "books", configuration={"hnsw": {"shards": 4}}, embedding_function=None
        )
        ids = [str(number) for number in range(40)]
        books.add(ids=ids, embeddings=[[float(n), 1.0] for n in range(40)])
        for role in ("worker-1", "coordinator"):
            refuses_strangers(cluster.role(role)["port"], files, Files(tmp_path / "others"))
        files.renew()
        # A worker that starts now has the new certificates only, and must find the coordinator,
        # and be found by the gateway, neither of which was started again.
        former = cluster.kill("worker-1")
        wait_for(lambda: cluster.role("worker-1")["process"] not in (0, former))
        assert books.count() == 40
        books.add(ids=["new"], embeddings=[[0.5, 0.5]])
        films = known.create_collection("films", embedding_function=None)
        films.add(ids=["a"], embeddings=[[1.0]])
        assert books.count() == 41


def code_of(error: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def anything(channel: grpc.Channel) -> None:
    """Call what nobody offers, which who lets one in answers by UNIMPLEMENTED."""
    method: Any = channel.unary_unary("/x.Y/Z")
    method(b"", timeout=30)


def refuses_strangers(port: int, files: Files, others: Files) -> None:
    """Assert that nobody without the cluster's certificate gets an answer at a port."""
    trusted = files.authorities.read_bytes()
    strangers = [
        grpc.insecure_channel(f"localhost:{port}"),
        grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(trusted)),
        grpc.secure_channel(
            f"localhost:{port}",
            grpc.ssl_channel_credentials(
                trusted, others.key.read_bytes(), others.chain.read_bytes()
            ),
        ),
    ]
    for channel in strangers:
        with channel, pytest.raises(grpc.RpcError) as caught:
            anything(channel)
        assert code_of(caught.value) is grpc.StatusCode.UNAVAILABLE
    known = grpc.secure_channel(f"localhost:{port}", files.channel_credentials())
    with known, pytest.raises(grpc.RpcError) as caught:
        anything(known)
    assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED


def test_a_key_is_created_and_refused_by_bare_stubs_with_either_header(start: Start) -> None:
    cluster = start(workers=0, arguments=["--auth"])
    stub = admin_service_pb2_grpc.AdminServiceStub(cluster.channel())
    request = admin_service_pb2.CreateApiKeyRequest(grants=[grant((), READ)])
    created = stub.CreateApiKey(request, metadata=(("api-key", admin_key(cluster)),))
    for metadata in (("api-key", created.key), ("authorization", f"Bearer {created.key}")):
        status = stub.GetStatus(admin_service_pb2.GetStatusRequest(), metadata=(metadata,))
        assert status.cluster_id
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateApiKey(request, metadata=(("api-key", created.key),))
    assert code_of(caught.value) is grpc.StatusCode.PERMISSION_DENIED


def test_quotas_hold_what_workers_report_also_after_restarts(start: Start) -> None:
    cluster = start(workers=2)

    def quotas(*arguments: str) -> str:
        command = [sys.executable, "-m", "shoal_local", "quotas", arguments[0]]
        command += [f"--data={cluster.data}", *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        return done.stdout

    def is_refused(collection: Any) -> bool:
        try:
            collection.add(ids=["further"], embeddings=[[1.0, 2.0]])
        except errors.QuotaExceededError:
            return True
        return False

    with client(cluster) as known:
        books = known.create_collection(
            "books", configuration={"hnsw": {"shards": 2}}, embedding_function=None
        )
        quotas("set", "--collection=default_tenant/default_database/books", "--max-records=50")
        books.add(ids=[str(n) for n in range(50)], embeddings=[[float(n), 1.0] for n in range(50)])
        wait_for(lambda: is_refused(books))
        assert "50 records" in quotas("list") or "51 records" in quotas("list")
        known.create_collection("films", embedding_function=None).add(ids=["a"], embeddings=[[1.0]])
        # What workers have told counts until they have told it again: to a coordinator that begins
        # anew, and when they begin anew themselves.
        for role in ("coordinator", "worker-1"):
            cluster.wait_for_restart(role, cluster.kill(role))
            for _ in range(30):
                assert is_refused(books)
                time.sleep(0.1)
        quotas("remove", "--collection=default_tenant/default_database/books")
        assert not is_refused(books)
