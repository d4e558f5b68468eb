"""Imports of what an embedding function needs and the client does not."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, needed_by: str, how_to_get: str) -> Any:
    """Import an optional package.

    Raises:
        ImportError: It is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{needed_by} needs {module}: {how_to_get}") from error
