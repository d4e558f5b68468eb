"""What a client takes for granted if it is not told."""

from __future__ import annotations

import math
from typing import Final

from shoal import errors

DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 7700
DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"
DEFAULT_TIMEOUT_S: Final = 60.0
"""For one call to a server, with its repetitions."""


def check_timeout(timeout: object) -> float:
    """Check a timeout in seconds.

    Raises:
        InvalidArgumentError: It is not a finite number above 0.
    """
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise errors.InvalidArgumentError(f"timeout must be a number of seconds, got {timeout!r}")
    if not math.isfinite(timeout) or timeout <= 0:
        raise errors.InvalidArgumentError(f"timeout must be above 0 and finite, got {timeout}")
    return float(timeout)
