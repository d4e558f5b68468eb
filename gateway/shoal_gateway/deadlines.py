"""How much of a caller's deadline a call downstream gets."""

from __future__ import annotations

from typing import Final

__all__ = ["within"]

MARGIN_S: Final = 0.02
"""What is kept of the caller's deadline, to put the answer together and send it."""


def within(time_remaining_s: float) -> float:
    """Give what a call downstream may take of what is left."""
    return time_remaining_s - min(MARGIN_S, time_remaining_s / 10)
