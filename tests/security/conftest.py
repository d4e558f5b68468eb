from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.running import RunningCluster, clusters
from tests.gateway.cluster import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A coordinator, two workers and a gateway in this process."""
    cluster = Cluster(tmp_path)
    await cluster.start(workers=2)
    yield cluster
    await cluster.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    """Start clusters of real processes."""
    with clusters(tmp_path) as starter:
        yield starter
