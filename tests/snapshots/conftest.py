from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shoal
from tests.cluster.running import RunningCluster, clusters


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    """Start clusters of real processes, by default on one directory."""
    with clusters(tmp_path) as starter:
        yield starter


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[shoal.PersistentClient]:
    """A store in this process."""
    with shoal.PersistentClient(tmp_path / "data") as client:
        yield client
