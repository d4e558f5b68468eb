"""Bring the tools that the checks of deploy/ need, or name what is missing.

promtool and prometheus come from Debian's package, unpacked beside the project and not installed:
no service starts, and nobody needs to be root. helm is built from its source; without Go, the tests
use the engine of helm-python-sdk alone. With ``--image`` also
what builds and runs the image without a daemon is installed, by root; with ``--s3`` a server that
speaks S3 is built, for the tests of object stores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DIRECTORY: Final = ROOT / ".deploy-tools"
BIN: Final = DIRECTORY / "bin"

_HELM: Final = "helm.sh/helm/v3/cmd/helm@v3.19.4"
# A module that carries the JSON schema of compose files; nothing of it is built.
_COMPOSE: Final = "github.com/compose-spec/compose-go/v2@v2.9.0"
COMPOSE_SCHEMA: Final = DIRECTORY / "compose-spec.json"
# A server that speaks S3, to test object stores with.
_VERSITYGW: Final = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_IMAGE_PACKAGES: Final = {"buildah": "buildah", "crun": "crun", "debootstrap": "debootstrap"}


def find(name: str) -> Path | None:
    """Find a tool: one that was brought here, else one of the machine's."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(found) if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring the tools that check deploy/.")
    parser.add_argument("--image", action="store_true", help="also what builds and runs the image")
    parser.add_argument("--s3", action="store_true", help="also a server that speaks S3")
    given = parser.parse_args()
    wants_image = given.image
    BIN.mkdir(parents=True, exist_ok=True)
    missing = [*_bring_prometheus(), *_bring_helm(), *_bring_compose_schema()]
    if wants_image:
        missing += _bring_image_tools()
    if given.s3:
        missing += _bring_versitygw()
    for name in ("promtool", "prometheus", "helm", *(_IMAGE_PACKAGES if wants_image else ())):
        print(f"{name}: {find(name) or 'missing'}")
    for line in missing:
        print(line, file=sys.stderr)
    return 1 if missing else 0


def _bring_prometheus() -> list[str]:
    if find("promtool") and find("prometheus"):
        return []
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return ["promtool and prometheus are missing: install Prometheus"]
    with tempfile.TemporaryDirectory() as place:
        if not _run("apt-get", "--quiet", "download", "prometheus", cwd=place):
            # The lists of packages may be old, or not there at all.
            if os.geteuid() != 0 or not _run("apt-get", "--quiet", "update"):
                return ["promtool and prometheus are missing: apt-get install prometheus"]
            if not _run("apt-get", "--quiet", "download", "prometheus", cwd=place):
                return ["promtool and prometheus are missing, and apt-get does not find them"]
        package = next(Path(place).glob("prometheus_*.deb"))
        if not _run("dpkg-deb", "--extract", str(package), str(DIRECTORY / "prometheus")):
            return [f"{package.name} cannot be unpacked"]
    for name in ("promtool", "prometheus"):
        link = BIN / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../prometheus/usr/bin") / name)
    return []


def _bring_helm() -> list[str]:
    if find("helm"):
        return []
    if not shutil.which("go"):
        print("no helm and no go: the checks use the engine of helm-python-sdk alone")
        return []
    print(f"building {_HELM}; some minutes, once")
    environment = {**os.environ, "GOBIN": str(BIN), "GOFLAGS": "-mod=mod"}
    if not _run("go", "install", _HELM, environment=environment):
        return [f"helm is missing: go install {_HELM} failed"]
    return []


def _bring_versitygw() -> list[str]:
    if find("versitygw"):
        return []
    if not shutil.which("go"):
        return [f"versitygw is missing: go install {_VERSITYGW}"]
    print(f"building {_VERSITYGW}; some minutes, once")
    if not _run("go", "install", _VERSITYGW, environment={**os.environ, "GOBIN": str(BIN)}):
        return [f"versitygw is missing: go install {_VERSITYGW} failed"]
    return []


def _bring_compose_schema() -> list[str]:
    if COMPOSE_SCHEMA.exists():
        return []
    if not shutil.which("go"):
        return [f"the schema of compose files is missing: go mod download {_COMPOSE}"]
    # Outside of any module of Go's, which a directory of its own is.
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            ["go", "mod", "download", "-json", _COMPOSE],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return [f"the schema of compose files is missing: go mod download {_COMPOSE} failed"]
    found = Path(json.loads(done.stdout)["Dir"]) / "schema" / COMPOSE_SCHEMA.name
    COMPOSE_SCHEMA.write_bytes(found.read_bytes())
    return []


def _bring_image_tools() -> list[str]:
    wanted = [package for tool, package in _IMAGE_PACKAGES.items() if find(tool) is None]
    if not wanted:
        return []
    install = ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *wanted)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "--quiet", "update")
        if _run(*install, environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}):
            return []
    return [f"{', '.join(wanted)} missing: as root, {' '.join(install)}"]


def _run(*command: str, cwd: str | None = None, environment: dict[str, str] | None = None) -> bool:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
