"""Signals that come before `shoal up` can treat them: kept, and looked at as soon as it can.

Loading takes half a second, and a signal that was raised as an exception in the middle of it could
be lost in any library's callback. This module needs nothing that takes time to load.
"""

import signal
from types import FrameType
from typing import Final

__all__ = ["keep", "was_told_to_stop"]

_received: Final[list[int]] = []


def keep() -> None:
    """Keep what comes from now on, until somebody else handles signals."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _keep)


def was_told_to_stop() -> bool:
    """Whether a signal has come."""
    return bool(_received)


def _keep(number: int, frame: FrameType | None) -> None:
    _received.append(number)
