"""Servers that speak S3, for tests.

`moto` is a stand-in that is always there. `versitygw` is a real one, over a directory:
``make deploy-tools ARGS=--s3`` builds it where there is Go, and tests with it skip where it is not.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from moto.server import ThreadedMotoServer

from shoal_local.ports import Ports
from tools import deploy_tools

SERVERS: Final = ("moto", "versitygw")

_START_TIMEOUT_S: Final = 120.0


class Server(NamedTuple):
    """A server that runs.

    Attributes:
        endpoint: Its URL.
        root: Directory whose directories are its buckets, if it is such a one.
    """

    endpoint: str
    root: Path | None


@contextmanager
def running(name: str = "moto") -> Iterator[Server]:
    """Run one on a free port."""
    if name == "moto":
        stand_in = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        stand_in.start()
        try:
            host, port = stand_in.get_host_and_port()
            yield Server(f"http://{host}:{port}", None)
        finally:
            stand_in.stop()
        return
    program = deploy_tools.find(name)
    if program is None:
        pytest.skip(f"no {name} here: `make deploy-tools ARGS=--s3` brings it")
    with tempfile.TemporaryDirectory(prefix="shoal-s3-") as directory, Ports() as ports:
        port = ports.find("127.0.0.1")
        command: list[Path | str] = [
            program,
            "--access",
            "test",
            "--secret",
            "test",
            "--port",
            f"127.0.0.1:{port}",
        ]
        with subprocess.Popen(
            [*command, "--quiet", "posix", directory], stdout=subprocess.DEVNULL
        ) as process:
            try:
                endpoint = f"http://127.0.0.1:{port}"
                _wait_for(endpoint)
                yield Server(endpoint, Path(directory))
            finally:
                process.terminate()


def _wait_for(endpoint: str) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=30).close()
            return
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return  # it answers, if only that nobody may ask so
        except OSError:
            assert time.monotonic() < give_up_at, "the S3 server does not answer"
            time.sleep(0.05)


def let_in(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put what leads there into the environment, and give the URL of a new bucket."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", server.endpoint),
    ):
        monkeypatch.setenv(name, value)
    bucket = f"snapshots-{os.urandom(4).hex()}"
    if server.root is not None:
        (server.root / bucket).mkdir()
    else:
        request = urllib.request.Request(f"{server.endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request).close()
    return f"s3://{bucket}"
