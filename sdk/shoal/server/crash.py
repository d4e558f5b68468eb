"""Named points at which a test may kill the process; for tests only.

With ``SHOAL_CRASH_POINT=name`` in its environment (or ``name:n`` for the n-th time that the point
is passed) a process ends there by SIGKILL, as if the machine had stopped. Unset, a point costs one
comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["ENVIRONMENT_VARIABLE", "crash_point"]

ENVIRONMENT_VARIABLE: Final = "SHOAL_CRASH_POINT"


class _Trigger:
    """Counts the passes of the armed point."""

    def __init__(self, armed: str) -> None:
        self.name, _, count = armed.partition(":")
        self.remaining = int(count or 1)


_trigger: Final = _Trigger(os.environ.get(ENVIRONMENT_VARIABLE, ""))


def crash_point(name: str) -> None:
    """End the process here by SIGKILL if the environment asks for it."""
    if name != _trigger.name:
        return
    _trigger.remaining -= 1
    if _trigger.remaining <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
