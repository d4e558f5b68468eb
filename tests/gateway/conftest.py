from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.cluster import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A coordinator, two workers and a gateway; no collection yet."""
    cluster = Cluster(tmp_path)
    await cluster.start(workers=2)
    yield cluster
    await cluster.stop()
