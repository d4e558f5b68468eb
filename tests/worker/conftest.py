from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal_worker.worker import Worker
from tests.worker.single import SingleShard, started

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    worker = await started(tmp_path / "worker")
    yield worker
    await worker.close()


@pytest.fixture
async def shard(worker: Worker) -> SingleShard:
    return await SingleShard.create(worker)


@pytest.fixture(scope="session")
def vectors() -> npt.NDArray[np.float32]:
    """8,000 vectors with the structure that embeddings have: clusters in clusters, normalised."""
    random = np.random.default_rng(7)
    centres = random.normal(size=(40, 64))
    fine = centres[random.integers(0, 40, 400)] + 0.6 * random.normal(size=(400, 64))
    made = fine[random.integers(0, 400, 8000)] + 0.35 * random.normal(size=(8000, 64))
    result: npt.NDArray[np.float32] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(
        np.float32
    )
    return result
