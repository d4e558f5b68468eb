"""When a call is sent again, and after how long.

Pure: the caller owns the clock and the waiting. What may be repeated at all is said by the method
(`Method.repeatable`); this module decides by the error and by the time that is left.
"""

from __future__ import annotations

import random
from typing import Final

from shoal import errors

FIRST_BACKOFF_S: Final = 0.05
"""About the time in which a restarted process listens again, halved a few times."""

MAX_BACKOFF_S: Final = 2.0
"""So that a server that comes back after minutes is found soon."""

CONNECT_TIMEOUT_S: Final = 5.0
"""How long a server is sought that has never answered: long enough for one that is just starting,
short enough for a wrong address."""

_TRANSIENT: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "OVERLOADED"})


def worth_repeating(error: errors.ShoalError) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, errors.UnavailableError):
        return True
    if isinstance(error, errors.PartialWriteError):
        # Repeating cannot help a shard that refuses what it was given.
        return all(
            shard.outcome != "refused" or shard.reason in _TRANSIENT for shard in error.shards
        )
    # A server that is full says when it will not be, or should not be asked again.
    return isinstance(error, errors.OverloadedError | errors.QuotaExceededError) and (
        error.retry_after_s is not None
    )


def backoff_s(attempt: int, error: errors.ShoalError, chance: random.Random) -> float:
    """How long to wait before the next attempt.

    Exponential with full jitter above a half, so that clients that failed together do not come
    back together.

    Args:
        attempt: How many attempts have failed, at least 1.
        error: How the last one failed; what its sender says about when to come back is the least.
        chance: Source of the jitter.
    """
    ceiling: float = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 16))
    return max(error.retry_after_s or 0.0, ceiling * chance.uniform(0.5, 1.0))
