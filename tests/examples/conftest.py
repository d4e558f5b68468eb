from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.run import local_cluster


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A cluster for examples and commands, which leave nothing that the others mind."""
    with local_cluster() as started:
        yield started
