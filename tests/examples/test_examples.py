"""Every example builds from the protos, walks, and prints the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.run import EXAMPLES, Example, differences, local_cluster
from tests.examples.losing_gateway import losing_gateway

# Those whose dependencies are fetched and built in seconds, and which CI therefore runs.
QUICK = ("python", "typescript")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_cluster() as started:
        yield started


ALL = [
    pytest.param(e, id=e.language, marks=[] if e.language in QUICK else [pytest.mark.long])
    for e in EXAMPLES
]


def made(example: Example) -> Example:
    missing = example.missing_tools()
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found")
    example.make()
    return example


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("example", ALL)
def test_an_example_prints_what_all_print(example: Example, address: str) -> None:
    printed = made(example).run(address)

    assert not differences(printed)


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("example", ALL)
def test_an_example_asks_again_when_an_answer_was_lost(example: Example, address: str) -> None:
    with losing_gateway(address) as (losing_address, gateway):
        printed = made(example).run(losing_address)

    assert not differences(printed)
    assert gateway.lost_count > 20


def test_each_language_has_its_files_and_instructions() -> None:
    folder = Path(__file__).parents[2] / "examples"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert example.folder.is_dir()
        assert f"examples/{example.language}" in readme
