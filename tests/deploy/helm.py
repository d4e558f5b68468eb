"""The chart, rendered and linted by Helm itself: by its binary, and by PyPI's helm-python-sdk."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from tests.deploy.tools import DEPLOY

CHART: Final = DEPLOY / "kubernetes"

# Ten times as fast, where it was built.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Values = Mapping[str, Any]
Document = dict[str, Any]


class HelmRefusal(Exception):
    """What an engine said of values or a chart that it did not take."""


class Engine(Protocol):
    """An engine of Helm."""

    def render(
        self, values: Values, *, release: str = "demo", namespace: str = "prod"
    ) -> list[Document]:
        """Give the documents; raise `HelmRefusal`."""

    def lint(self, values: Values) -> None:
        """Raise `HelmRefusal` for an error or a warning."""


class Binary:
    """The command `helm`.

    Args:
        path: Of the binary.
        kubernetes_version: What to render for; built from source it would believe in 1.20.
    """

    def __init__(self, path: str, kubernetes_version: str) -> None:
        self._path = path
        self._kubernetes_version = kubernetes_version

    def render(
        self, values: Values, *, release: str = "demo", namespace: str = "prod"
    ) -> list[Document]:
        return _documents(self._run("template", release, CHART, "--namespace", namespace, values))

    def lint(self, values: Values) -> None:
        self._run("lint", CHART, "--strict", values)

    def _run(self, *words: str | Path | Values) -> str:
        *command, values = words
        assert isinstance(values, Mapping)
        done = subprocess.run(
            [
                self._path,
                *map(str, command),
                "--values=-",
                f"--kube-version={self._kubernetes_version}",
            ],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmRefusal(done.stdout + done.stderr)
        return done.stdout


# In a process of its own: the engine is a whole Go runtime, which need not live in the tests'.
_LIBRARY: Final = """
import json, sys
import helm_python
chart, values, options = json.load(sys.stdin)
try:
    if options["lint"]:
        report = helm_python.lint(chart, values, strict=True, kube_version=options["kubernetes"])
        print("\\n".join(m["error"] for m in report["messages"] if m["severity"] >= 2))
        print("\\n".join(report["errors"]))
    else:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(values)
            made = loaded.render(values, name=options["release"], namespace=options["namespace"])
        wanted = [n for n in sorted(made) if n.endswith("NOTES.txt") == options["notes"]]
        print("\\n---\\n".join(made[name] for name in wanted))
except helm_python.HelmError as error:
    sys.exit(str(error))
"""


class Library:
    """The engine of helm-python-sdk.

    Args:
        kubernetes_version: What to lint for.
    """

    def __init__(self, kubernetes_version: str) -> None:
        self._kubernetes_version = kubernetes_version

    def render(
        self, values: Values, *, release: str = "demo", namespace: str = "prod"
    ) -> list[Document]:
        options = {"lint": False, "notes": False, "release": release, "namespace": namespace}
        return _documents(self._run(values, options))

    def notes(self, values: Values) -> str:
        """Give what an installation prints at its end."""
        options = {"lint": False, "notes": True, "release": "demo", "namespace": "prod"}
        return self._run(values, options)

    def lint(self, values: Values) -> None:
        complaints = self._run(values, {"lint": True, "kubernetes": self._kubernetes_version})
        if complaints.strip():
            raise HelmRefusal(complaints)

    def _run(self, values: Values, options: Mapping[str, Any]) -> str:
        return _ask_library(json.dumps([str(CHART), values, options]))


@functools.cache
def _ask_library(question: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LIBRARY],
        input=question,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HelmRefusal(done.stderr)
    return done.stdout


def _documents(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, _LOADER) if document]
