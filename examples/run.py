"""Build and run the examples against a cluster, and compare what they print.

`make examples` runs all whose toolchain is on this machine, and names those it skipped. An example
is built again when its files or the protos have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "examples"
EXPECTED: Final = FOLDER / "expected.txt"

# A first build fetches and compiles all dependencies; the walk itself takes seconds.
BUILD_TIMEOUT_S: Final = 900
WALK_TIMEOUT_S: Final = 120
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30

# What a build leaves behind: neither an input of the next one, nor in the repository.
_BUILT: Final = frozenset({".venv", "gen", "node_modules", "dist", "target", "walk", ".built"})

Command = Sequence[str]
Environment = Mapping[str, str]
NOTHING: Final[Environment] = {}


class ExampleError(Exception):
    """An example could not be built, failed, or printed something else."""


@dataclass(frozen=True, slots=True)
class Example:
    """An example.

    Attributes:
        language: Name of its folder.
        tools: What must be on the PATH.
        build: Commands that fetch, generate and compile, in its folder.
        walk: The command that runs it, in its folder.
        check: Compares its messages with the vectors of protos/testdata, where it can.
    """

    language: str
    tools: tuple[str, ...]
    build: tuple[Command, ...]
    walk: Command
    check: Command = ()

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return FOLDER / self.language

    def missing_tools(self) -> list[str]:
        """Give the tools that are not on this machine."""
        return [tool for tool in self.tools if shutil.which(tool, path=_path()) is None]

    def make(self) -> None:
        """Build it, unless that has been done for these very files.

        Raises:
            ExampleError: A command failed.
        """
        stamp, wanted = self.folder / ".built", self._digest()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        for command in self.build:
            self._run(command, BUILD_TIMEOUT_S, NOTHING)
        # Generators and package managers may have written to their lock files.
        stamp.write_text(self._digest())

    def run(self, address: str, environment: Environment = NOTHING) -> str:
        """Run it against a cluster, and give what it printed.

        Args:
            address: host:port of a gateway.
            environment: `SHOAL_TLS_CA` and `SHOAL_API_KEY`, where the cluster wants them.

        Raises:
            ExampleError: It failed.
        """
        return self._run(self.walk, WALK_TIMEOUT_S, {**environment, "SHOAL_ADDRESS": address})

    def compare_with_vectors(self) -> None:
        """Compare its messages with the vectors of protos/testdata.

        Raises:
            ExampleError: They differ.
        """
        self._run(self.check, WALK_TIMEOUT_S, NOTHING)

    def _run(self, command: Command, timeout_s: float, environment: Environment) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env={**os.environ, "PATH": _path(), "PYTHONPATH": "gen", **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExampleError(f"{' '.join(command)} did not end in {timeout_s:.0f} s") from error
        if done.returncode != 0:
            raise ExampleError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for base in (self.folder, ROOT / "protos" / "shoal", ROOT / "third_party"):
            for path in sorted(base.rglob("*")):
                if path.is_file() and not _BUILT.intersection(path.relative_to(base).parts):
                    digest.update(str(path.relative_to(ROOT)).encode())
                    digest.update(path.read_bytes())
        return digest.hexdigest()


def _path() -> str:
    # For `buf`, which comes with the environment of `make dev`.
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


EXAMPLES: Final = (
    Example(
        "python",
        tools=("python3",),
        build=(
            ("python3", "-m", "venv", ".venv"),
            (".venv/bin/pip", "install", "--quiet", "--requirement", "requirements.txt"),
            ("mkdir", "-p", "gen"),
            (
                *(".venv/bin/python", "-m", "grpc_tools.protoc", "--proto_path=../../protos"),
                *("--python_out=gen", "--pyi_out=gen", "--grpc_python_out=gen"),
                *(
                    f"../../protos/{path.relative_to(ROOT / 'protos')}"
                    for path in sorted((ROOT / "protos/shoal/v1").glob("*.proto"))
                ),
            ),
        ),
        walk=(".venv/bin/python", "-m", "shoal_walk"),
    ),
    Example(
        "typescript",
        tools=("node", "npm"),
        build=(("npm", "ci", "--no-audit", "--no-fund"), ("npm", "run", "build")),
        walk=("npm", "--silent", "start"),
    ),
    Example(
        "go",
        tools=("go", "buf"),
        build=(("go", "generate", "./..."), ("go", "build", "-o", "walk", ".")),
        walk=("./walk",),
        check=("go", "test", "./..."),
    ),
    Example(
        "rust",
        tools=("cargo",),
        build=(("cargo", "build", "--quiet", "--locked"),),
        walk=("cargo", "run", "--quiet", "--locked"),
    ),
    Example(
        "java",
        tools=("java", "mvn"),
        build=(("mvn", "--quiet", "--batch-mode", "compile"),),
        walk=("java", "-cp", "target/classes:target/dependency/*", "io.shoal.examples.Walk"),
    ),
)


def differences(printed: str) -> str:
    """Compare what an example printed with what all print; empty if it is the same."""
    return "\n".join(
        difflib.unified_diff(
            EXPECTED.read_text(encoding="utf-8").splitlines(),
            printed.splitlines(),
            "expected",
            "printed",
            lineterm="",
        )
    )


@contextlib.contextmanager
def local_cluster(environment: Environment = NOTHING) -> Iterator[str]:
    """Run a cluster on this machine, and give the address of its gateway.

    Args:
        environment: Further settings.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-examples-") as folder:
        log_path = Path(folder, "log")
        with log_path.open("w+") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "shoal_local", "up"),
                    *(f"--data={folder}/data", "--workers=2", "--port=0"),
                ],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield _address_in(log_path, process)
            finally:
                process.terminate()
                process.wait(STOP_TIMEOUT_S)


def _address_in(log_path: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the cluster says that it is ready."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_at and process.poll() is None:
        lines = log_path.read_text(encoding="utf-8").splitlines()
        if "ready" in lines:
            gateway = next(line.split()[1] for line in lines if line.startswith("gateway "))
            return f"localhost:{gateway.rpartition(':')[2]}"
        time.sleep(0.1)
    raise ExampleError(f"the cluster did not start:\n{log_path.read_text(encoding='utf-8')}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the examples against a cluster.")
    parser.add_argument(
        "languages",
        nargs="*",
        metavar="LANGUAGE",
        help=f"only these, of {', '.join(example.language for example in EXAMPLES)}",
    )
    parser.add_argument(
        "--address", help="host:port of a running cluster; without it one is started"
    )
    given = parser.parse_args()
    unknown = set(given.languages) - {example.language for example in EXAMPLES}
    if unknown:
        parser.error(f"there is no example in {', '.join(sorted(unknown))}")
    wanted = [e for e in EXAMPLES if not given.languages or e.language in given.languages]

    skipped = {example.language: example.missing_tools() for example in wanted}
    runnable = [example for example in wanted if not skipped[example.language]]
    failed = 0
    cluster = contextlib.nullcontext(given.address) if given.address else local_cluster()
    try:
        with cluster as address:
            for example in runnable:
                failed += not _show(example, address)
    except ExampleError as error:
        print(error, file=sys.stderr)
        return 1
    for language, tools in skipped.items():
        if tools:
            print(f"{language}: skipped, {' and '.join(tools)} not found")
    return 1 if failed else 0


def _show(example: Example, address: str) -> bool:
    try:
        print(f"{example.language}: building ...", flush=True)
        example.make()
        began = time.monotonic()
        printed = example.run(address)
    except ExampleError as error:
        print(f"{example.language}: {error}")
        return False
    different = differences(printed)
    if different:
        print(f"{example.language}: printed something else\n{different}")
        return False
    count = len(printed.splitlines())
    print(f"{example.language}: {count} lines as expected, {time.monotonic() - began:.1f} s")
    return True


if __name__ == "__main__":
    sys.exit(main())
