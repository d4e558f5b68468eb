"""How many files a process may have open, and how many things of several files that allows."""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["fitting", "raise_limit"]

_ENOUGH: Final = 65_536
"""What the limit is raised to where the system allows any number."""

_RESERVED: Final = 96
"""Connections, logs, libraries, builders: what a process has open besides."""


def raise_limit() -> None:
    """Let this process open as many files as the system allows it.

    The customary 1,024 are there for programs that use `select`, as ours do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fitting(wanted: int, files_each: int) -> int:
    """Give how many of `wanted` things may be open at a time; at least one.

    Args:
        wanted: How many there may be otherwise.
        files_each: What one of them has open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - _RESERVED) // files_each))
