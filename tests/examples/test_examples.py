"""Every example builds from the protos, walks, and prints the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.run import EXAMPLES, Example, differences, local_cluster

# Those whose dependencies are fetched and built in seconds, and which CI therefore runs.
QUICK = ("python", "typescript")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_cluster() as started:
        yield started


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "example",
    [
        pytest.param(e, id=e.language, marks=[] if e.language in QUICK else [pytest.mark.long])
        for e in EXAMPLES
    ],
)
def test_an_example_prints_what_all_print(example: Example, address: str) -> None:
    missing = example.missing_tools()
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found")

    example.make()
    printed = example.run(address)

    assert not differences(printed)


def test_each_language_has_its_files_and_instructions() -> None:
    folder = Path(__file__).parents[2] / "examples"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert example.folder.is_dir()
        assert f"examples/{example.language}" in readme
