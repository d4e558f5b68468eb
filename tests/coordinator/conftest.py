from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_coordinator import lifecycle
from tests.coordinator.cluster import Cluster


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change waits for its confirmations, however slow the machine: not two seconds at most."""
    monkeypatch.setattr(lifecycle, "CONFIRM_S", 60.0)


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
