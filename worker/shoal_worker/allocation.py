"""Where the C library takes memory from: so that LMDB's reserves stay address space.

LMDB reserves 3 MB for each environment, for lists of pages that only a huge transaction fills.
glibc takes so much from the kernel directly, as pages that are nothing until they are touched; but
once one such block was freed it takes the next one from the heap, and writes zeros over all of it:
every open shard then cost 2 MB, thirteen times the data of a small one. Its threshold for this
follows what is freed, between 128 KB and 32 MB. Here it is low while an environment is opened, and
otherwise where glibc's own rule ends, so that large arrays are taken from the heap as before.

Other C libraries have neither that rule nor these calls: there nothing is done.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["give_back", "reserving"]

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Names of parameters in glibc's `malloc.h`."""

_RESERVED_BYTES: Final = 1024 * 1024
"""The smaller of LMDB's two lists has a few bytes more."""

_USUAL_BYTES: Final = 32 * 1024 * 1024
"""Where glibc's own rule ends; it lets twice as much lie unused at the end of a heap."""

_libc: Final = ctypes.CDLL(None)
_set_parameter: Final[Callable[[int, int], int] | None] = getattr(_libc, "mallopt", None)
_trim: Final[Callable[[int], int] | None] = getattr(_libc, "malloc_trim", None)


class _Reserving:
    """A context that may be entered by several threads at once.

    Counted instead of locked, so that an environment whose disk does not answer keeps no other
    waiting. Blocks that other threads take meanwhile come from the kernel, too, if they are so
    large: that takes a little longer, and changes nothing else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0  # guarded by _lock

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1 and _set_parameter is not None:
                _set_parameter(_MMAP_THRESHOLD, _RESERVED_BYTES)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count and _set_parameter is not None:
                # Setting the one ends glibc's rule for both.
                _set_parameter(_MMAP_THRESHOLD, _USUAL_BYTES)
                _set_parameter(_TRIM_THRESHOLD, 2 * _USUAL_BYTES)


reserving: Final = _Reserving()
"""As long as it is entered, blocks of 1 MB and more are taken from the kernel."""


def give_back() -> None:
    """Give free memory of the heap back to the system, in some milliseconds."""
    if _trim is not None:
        _trim(0)
