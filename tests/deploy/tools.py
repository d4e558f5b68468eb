"""Tools of other makers that the tests of deploy/ run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

from tools import deploy_tools

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"


def require(name: str, *, target: str = "make deploy-tools") -> str:
    """Give a tool's path, or leave the test out and say how to bring the tool."""
    found = deploy_tools.find(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: `{target}` brings it")
    return str(found)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a tool, and give all it said; an error of it fails the test with that."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout
