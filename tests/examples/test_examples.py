"""Every example builds from the protos, walks, and prints the same."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.run import EXAMPLES, Example, ExampleError, differences, local_cluster
from tests.examples.losing_gateway import losing_gateway

# Those whose dependencies are fetched and built in seconds, and which CI therefore runs.
QUICK = ("python", "typescript")


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


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("example", [pytest.param(e, id=e.language) for e in EXAMPLES if e.check])
def test_another_language_reads_the_vectors(example: Example) -> None:
    made(example).compare_with_vectors()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster that speaks TLS and asks for API keys, and what a client needs for it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl not found")
    folder = tmp_path_factory.mktemp("guarded")
    authority, chain, private = make_certificates(folder)
    key = f"shoal_{secrets.token_hex(8)}_{secrets.token_hex(32)}"
    (folder / "key").write_text(key)
    (folder / "key").chmod(0o600)
    settings = {
        "SHOAL_AUTH": "1",
        "SHOAL_BOOTSTRAP_KEY_FILE": str(folder / "key"),
        "SHOAL_TLS_CERT": str(chain),
        "SHOAL_TLS_KEY": str(private),
    }
    with local_cluster(settings) as started:
        yield started, {"SHOAL_TLS_CA": str(authority), "SHOAL_API_KEY": key}


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority's certificate, and one for localhost with its key, signed by it."""
    (folder / "extensions").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {new_key} -days 1 -subj /CN=authority -keyout ca.key -out ca.pem",
        f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr",
        (
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial "
            "-days 1 -extfile extensions -out server.pem"
        ),
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem", folder / "server.pem", folder / "server.key"


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("example", ALL)
def test_an_example_walks_over_tls_with_an_api_key(
    example: Example, guarded: tuple[str, dict[str, str]]
) -> None:
    address, environment = guarded

    assert not differences(made(example).run(address, environment))


@pytest.mark.cluster
def test_an_example_without_its_api_key_is_told_so(guarded: tuple[str, dict[str, str]]) -> None:
    address, environment = guarded
    (python,) = (example for example in EXAMPLES if example.language == "python")

    with pytest.raises(ExampleError, match="asks for an API key"):
        made(python).run(address, {"SHOAL_TLS_CA": environment["SHOAL_TLS_CA"]})


def test_each_language_has_its_files_and_instructions() -> None:
    folder = Path(__file__).parents[2] / "examples"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert example.folder.is_dir()
        assert f"examples/{example.language}" in readme
