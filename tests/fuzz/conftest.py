"""A cluster that is treated badly, and is the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.running import Collection, RunningCluster, clusters


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with clusters(tmp_path_factory.mktemp("fuzz")) as start:
        yield start(workers=1)


@pytest.fixture
def kept(cluster: RunningCluster) -> Iterator[Collection]:
    """A collection that nobody means; it and the processes are the same afterwards."""
    processes = cluster.processes()
    collection = cluster.create("kept", shards=2)
    collection.upsert([f"kept-{n}" for n in range(20)])
    before = collection.read()
    yield collection
    assert cluster.processes() == processes, cluster.logged()[-5_000:]
    assert collection.read_at_last() == before
    assert "call_failed" not in cluster.logged()
    assert "Traceback" not in cluster.logged(), cluster.logged()[-6_000:]
