"""What the tests of the client share."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.ways import WAYS, Ways, ways_in

_numbers = itertools.count(1)


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def ways() -> Iterator[Ways]:
    """A cluster and a store that the tests share; each has databases of its own in them."""
    # In memory, where there is such a place: these hundreds of tests ask what a collection does,
    # not whether the disk has it, and would mostly wait for syncs.
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="shoal-tests-", dir=place) as directory,
        ways_in(Path(directory)) as found,
    ):
        yield found


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The way in that a test runs through."""
    name: str = request.param
    return name


@pytest.fixture
def client(ways: Ways, way: str) -> Iterator[Any]:
    """A client of an empty database."""
    database = f"database-{next(_numbers)}"
    client = ways.client(way, database=database)
    admin = ways.admin(way)
    admin.create_database(database)
    yield client
    client.close()
    admin.delete_database(database)
    admin.close()


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def shards(request: pytest.FixtureRequest) -> int:
    """How many shards the collection has."""
    count: int = request.param
    return count


@pytest.fixture
def books(client: Any, shards: int) -> Any:
    """An empty collection."""
    return client.create_collection(
        "books", configuration={"hnsw": {"shards": shards}}, embedding_function=None
    )
