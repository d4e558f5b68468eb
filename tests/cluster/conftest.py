from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.running import RunningCluster, clusters


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    """Start clusters of real processes, by default on one directory."""
    with clusters(tmp_path) as starter:
        yield starter


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """One cluster for the tests of a module that do it no harm."""
    with clusters(tmp_path_factory.mktemp("shared")) as starter:
        yield starter()
