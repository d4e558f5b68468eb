"""The commands of docs/grpc.md run as they stand there, and leave out no method."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from shoal import errors
from shoal.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    record_service_pb2,
    snapshot_service_pb2,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "grpc.md"
_BLOCK = re.compile(r"^```sh(?: refused (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """Commands of the page, and the reason for which the last one is refused."""

    line: int
    reason: str | None
    commands: str


def blocks() -> list[Block]:
    text = PAGE.read_text(encoding="utf-8")
    return [
        Block(text[: found.start()].count("\n") + 1, found[1], found[2])
        for found in _BLOCK.finditer(text)
    ]


@pytest.mark.cluster
def test_the_commands_run_as_they_stand(address: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    definition = blocks()[0].commands.split("\ncall ")[0]
    for line, reason, commands in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{definition}\n{commands}"],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "SHOAL_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        where = f"{PAGE.name}:{line}\n{done.stdout}{done.stderr}"
        assert (done.returncode != 0) == (reason is not None), where
        if reason is not None:
            values = re.findall(r'"value": "([\w+/]+)', done.stderr)
            details = b"".join(base64.b64decode(v + "=" * (-len(v) % 4)) for v in values)
            assert reason.encode() in details, where


def test_the_page_has_every_method() -> None:
    methods = set()
    for module in (
        admin_service_pb2,
        collection_service_pb2,
        record_service_pb2,
        snapshot_service_pb2,
    ):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        methods |= {f"{s.name}/{m.name}" for s in file.service for m in s.method}

    shown = set(
        re.findall(r"^call (\w+/\w+) ", "\n".join(b.commands for b in blocks()), re.MULTILINE)
    )

    assert shown == methods


def test_the_page_has_every_reason_that_a_client_can_meet() -> None:
    def classes(root: type[errors.ShoalError]) -> Iterator[type[errors.ShoalError]]:
        for child in root.__subclasses__():
            yield child
            yield from classes(child)

    text = PAGE.read_text(encoding="utf-8").partition("## Errors")[2].partition("\n## ")[0]
    internal = {errors.StaleRouteError, errors.NotRegisteredError, errors.DataDirectoryLockedError}
    missing = {
        error.reason
        for error in classes(errors.ShoalError)
        if error not in internal and not re.search(rf"\b{error.reason}\b", text)
    }

    assert not missing
