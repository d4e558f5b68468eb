"""The image's recipe: sound, and pinned to what the distribution asks for."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import DEPLOY, ROOT, run

PLACE: Final = DEPLOY / "docker"
DOCKERFILE: Final = PLACE / "Dockerfile"


def test_the_linter_has_nothing_to_say() -> None:
    assert run(Path(sys.executable).parent / "hadolint", DOCKERFILE) == ""


def test_the_linter_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("USER 65532:65532", "USER root"))
    with pytest.raises(AssertionError, match="DL3002"):
        run(Path(sys.executable).parent / "hadolint", wrong)


def test_the_pins_satisfy_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (PLACE / "requirements.txt").read_text().splitlines()
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in (Requirement(line) for line in lines if not line.startswith("#"))
    }
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["server"], *extras["objects"]):
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in pins, f"{name} is not pinned: run `make image-requirements`"
        assert wanted.specifier.contains(pins[name]), f"{name} is {pins[name]}, wanted {text}"


def test_only_what_is_copied_reaches_the_builder() -> None:
    copied = {
        source
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and not line.startswith("COPY --from")
        for source in line.split()[1:-1]
    }
    ignore = (PLACE / "Dockerfile.dockerignore").read_text()
    let_in = set(re.findall(r"^!(\S+)$", ignore, re.MULTILINE))
    assert re.search(r"^\*$", ignore, re.MULTILINE)
    assert let_in == copied
    assert all((ROOT / path).exists() for path in copied)
