from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.coordinator.cluster import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A coordinator and no worker yet."""
    cluster = Cluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def two_workers(cluster: Cluster) -> Cluster:
    """A coordinator and two workers, `a` and `b`."""
    await cluster.add_worker("a")
    await cluster.add_worker("b")
    return cluster
