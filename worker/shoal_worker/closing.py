"""Closes small shards that nobody uses, and gives what they held back to the system.

An open shard keeps its vectors in memory, and LMDB keeps pages for the next transaction as large as
its largest. Both go when it is closed; a small one is open again before its caller notices.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from shoal_worker.allocation import give_back
from shoal_worker.holding import HeldShards

__all__ = ["Closing"]

_LOOK_EVERY_S: Final = 15.0
"""How often, at most: a look at shards that are all in use costs next to nothing."""

_GIVE_BACK_AFTER_S: Final = 60.0
"""How long it is waited, at most, until no more are to be closed: whoever takes memory while it is
given back waits some milliseconds for 100 MB."""


class Closing:
    """The thread that closes them.

    Args:
        unused_s: After which time.
        held: Gives the worker's shards.
    """

    def __init__(self, unused_s: float, held: Callable[[], HeldShards]) -> None:
        self._unused_s = unused_s
        self._held = held
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shoal-closing", daemon=True)

    def start(self) -> None:
        """Begin to look at shards."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        is_due, at_last = False, math.inf
        while not self._ended.wait(min(_LOOK_EVERY_S, self._unused_s / 2)):
            now = time.monotonic()
            closed_count = self._held().close_unused(self._unused_s)
            if closed_count and not is_due:
                is_due, at_last = True, now + _GIVE_BACK_AFTER_S
            if is_due and (not closed_count or now >= at_last):
                # The heap keeps what was freed between things that stay.
                give_back()
                is_due = False
