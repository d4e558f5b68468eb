"""The image, built and run without a daemon: read-only, without root, and it answers a query."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import shoal
from shoal.errors import ShoalError
from shoal_local.ports import Ports
from tests.deploy.tools import DEPLOY, ROOT, require, run
from tools import deploy_tools

pytestmark = [pytest.mark.long, pytest.mark.cluster, pytest.mark.timeout(1200)]

_HOST: Final = "127.0.0.1"
_USER: Final = 65532
_BASE: Final = "localhost/shoal-test-base"
_IMAGE: Final = "localhost/shoal-test"
_MOST_BYTES: Final = 200 * 1024 * 1024
"""Of what the image adds to its base."""

# The base is made once and kept: it takes longer than all else.
_STORAGE: Final = deploy_tools.DIRECTORY / "containers"


class Buildah:
    """Builds without a daemon, and without mounting anything."""

    def __init__(self, place: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("containers are built and run by root here")
        target = "make deploy-tools ARGS=--image"
        self._command = [
            require("buildah", target=target),
            f"--root={_STORAGE / 'root'}",
            f"--runroot={place / 'run'}",
            "--storage-driver=vfs",
        ]
        self._debootstrap = require("debootstrap", target=target)
        self._place = place

    def __call__(self, *words: str | Path) -> str:
        return run(*self._command, *words).strip()

    def base(self) -> None:
        """Make the base: Debian, with Python and nothing else."""
        if _BASE in self("images", "--format", "{{.Name}}"):
            return
        tree = self._place / "base"
        packages = "--include=python3,python3-venv,ca-certificates"
        run(self._debootstrap, "--variant=minbase", packages, "bookworm", tree)
        container = self("from", "scratch")
        self("add", "--quiet", container, tree, "/")
        self("commit", "--quiet", "--rm", container, _BASE)

    def build(self) -> None:
        """Build the image, with the package index and the authorities of this machine."""
        configuration = self._place / "pip.conf"
        configuration.write_text(_pip_configuration())
        certificates = Path("/etc/ssl/certs")
        self(
            "bud",
            "--isolation=chroot",
            "--file",
            DEPLOY / "docker" / "Dockerfile",
            "--ignorefile",
            DEPLOY / "docker" / "Dockerfile.dockerignore",
            f"--build-arg=BASE_IMAGE={_BASE}",
            f"--secret=id=pip.conf,src={configuration}",
            f"--volume={certificates}:{certificates}:ro",
            f"--tag={_IMAGE}",
            ROOT,
        )

    def size_bytes(self, image: str) -> int:
        """Give what an image takes, unpacked."""
        container = self("from", image)
        try:
            place = self("mount", container)
            return sum(int(b) for b in run("du", "-sb", place).split()[:1])
        finally:
            self("rm", container)


def _pip_configuration() -> str:
    listed = run(sys.executable, "-m", "pip", "config", "list")
    wanted = ("cert", "index-url", "extra-index-url", "trusted-host")
    found = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    return "[global]\n" + "".join(f"{k} = {found[k]}\n" for k in wanted if k in found)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    made = Buildah(tmp_path_factory.mktemp("image"))
    made.base()
    made.build()
    yield made
    made("rmi", "--force", _IMAGE)


class Container:
    """A role in a container: the image's root read-only, its user, no capability, /tmp, its data.

    The network is this machine's, so that roles find each other without a bridge.
    """

    def __init__(self, root: str, place: Path, *command: str) -> None:
        self._name = f"shoal-test-{os.getpid()}-{command[0]}"
        bundle = place / command[0]
        data = bundle / "data"
        data.mkdir(parents=True)
        os.chown(data, _USER, _USER)
        crun = require("crun", target="make deploy-tools ARGS=--image")
        run(crun, "spec", cwd=bundle)
        config = bundle / "config.json"
        config.write_text(
            json.dumps(_specified(json.loads(config.read_text()), root, data, command))
        )
        # crun looks for a hierarchy of control groups, which a machine may not show.
        script = (
            "mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "
            f"exec {crun} --cgroup-manager=disabled --root={bundle / 'state'} "
            f"run --bundle={bundle} {self._name}"
        )
        self.log = bundle / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> int:
        """End it as an orchestrator does, and give the exit code."""
        self._process.terminate()
        return self._process.wait(timeout=60)


def _specified(
    config: dict[str, Any], root: str, data: Path, command: tuple[str, ...]
) -> dict[str, Any]:
    process = config["process"]
    process["terminal"] = False
    process["user"] = {"uid": _USER, "gid": _USER}
    process["args"] = list(command)
    process["cwd"] = "/var/lib/shoal"
    process["env"] = ["PATH=/opt/shoal/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1"]
    process["noNewPrivileges"] = True
    process["capabilities"] = {kind: [] for kind in process["capabilities"]}
    process.pop("rlimits", None)
    config["root"] = {"path": root, "readonly": True}
    config["linux"] = {"namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount")]}
    wanted = ("/proc", "/dev", "/dev/pts", "/dev/shm")
    config["mounts"] = [
        *(mount for mount in config["mounts"] if mount["destination"] in wanted),
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
        {
            "destination": "/var/lib/shoal",
            "type": "bind",
            "source": str(data),
            "options": ["bind", "rw"],
        },
    ]
    return config


def test_the_image_is_small_and_says_what_it_is(buildah: Buildah) -> None:
    added = buildah.size_bytes(_IMAGE) - buildah.size_bytes(_BASE)
    assert added < _MOST_BYTES
    config = json.loads(buildah("inspect", "--type=image", _IMAGE))["OCIv1"]["config"]
    assert config["User"] == f"{_USER}:{_USER}"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Cmd"] == ["shoal", "--help"]


def test_three_containers_are_a_cluster(buildah: Buildah, tmp_path: Path) -> None:
    ports = Ports()

    def flags() -> list[str]:
        names = ("port", "health-port", "metrics-port")
        return [f"--{name}={ports.find(_HOST)}" for name in names]

    coordinator, worker, gateway = flags(), flags(), flags()
    address = f"--coordinator={_HOST}:{coordinator[0].partition('=')[2]}"
    root = buildah("mount", container := buildah("from", _IMAGE))
    commands = (
        ("shoal-coordinator", *coordinator, "--data-dir=/var/lib/shoal/coordinator"),
        ("shoal-worker", *worker, address, "--data-dir=/var/lib/shoal/worker"),
        ("shoal-gateway", *gateway, address),
    )
    running = [Container(root, tmp_path, *command) for command in commands]
    try:
        port = int(gateway[0].partition("=")[2])
        with shoal.Client(host=_HOST, port=port, timeout=10) as client:
            _wait_for(client, running)
            collection = client.create_collection("books", embedding_function=None)
            # Enough for a graph: its builder is a process that needs /tmp and a way to be started.
            ids = [f"book-{number}" for number in range(3000)]
            collection.add(ids=ids, embeddings=[[float(n), 1.0] for n in range(3000)])
            found = collection.query(query_embeddings=[[2500.2, 1.0]], n_results=2)
            assert found["ids"] == [["book-2500", "book-2501"]]
    finally:
        codes = [container.stop() for container in reversed(running)]
        buildah("rm", container)
        ports.close()
    assert codes == [0, 0, 0], "".join(c.log.read_text() for c in running)


def _wait_for(client: shoal.Client, running: list[Container]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            client.heartbeat()
        except ShoalError:
            logs = "".join(container.log.read_text() for container in running)
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)
        else:
            return
