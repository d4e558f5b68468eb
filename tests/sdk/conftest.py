"""What the tests of the client share."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
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
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """A cluster and a store that the tests share; each has databases of its own in them."""
    with ways_in(tmp_path_factory.mktemp("ways")) as found:
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
    admin = ways.admin(way)
    admin.create_database(database)
    client = ways.client(way, database=database)
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
