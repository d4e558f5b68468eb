"""What USearch does to the process that it is loaded into."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest


def test_what_needs_the_systems_cpp_library_can_be_loaded_behind_it() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("no onnxruntime here")
    program = "import shoal_worker.graph, onnxruntime"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
