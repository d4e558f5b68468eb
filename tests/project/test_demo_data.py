"""The demo, tests and benchmarks may count on what data/passages says of itself."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

PASSAGES = Path(__file__).resolve().parents[2] / "data" / "passages"


@pytest.mark.parametrize(("name", "count"), [("passages", 8000), ("queries", 200)])
def test_each_line_has_its_vector(name: str, count: int) -> None:
    with gzip.open(PASSAGES / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    vectors = np.load(PASSAGES / f"{name}_vectors_f16.npy")

    assert len({record["id"] for record in records}) == count
    assert {len(record) for record in records} == {18}
    assert vectors.shape == (count, 384)
    assert vectors.dtype == np.float16
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)


def test_it_fits_in_a_checkout() -> None:
    assert sum(path.stat().st_size for path in PASSAGES.iterdir()) < 15e6
