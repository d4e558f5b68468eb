"""All roles in the caller's process: the store behind `PersistentClient` and `EphemeralClient`.

The cluster runs on one event loop in a thread of its own, whatever the caller does with its threads
and loops, and is called by serialised messages, as a server is: one way in, the same service code.
A blocking call that need not wait is answered in the caller's thread (`_shared_loop`).
A path is opened once in a process and shared, by counting; another process that has it open is
refused. At the interpreter's end what is still open is closed.

This is the only place where the client reaches the server's packages, and only when it is used.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # its own end is registered by this import: see _at_exit
import contextlib
import gc
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from shoal._shared_loop import SharedLoop
from shoal.errors import DeadlineExceededError, FailedPreconditionError, ShoalError

if TYPE_CHECKING:
    from shoal_local.roles import LocalCluster

__all__ = ["Store", "open_store"]

_Result = TypeVar("_Result")

# The service ends a call at its deadline. Only if the loop itself hangs does the caller give up
# alone, a little later.
_MARGIN_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 30.0


class Store:
    """One user's handle on a store that is open in this process.

    Thread-safe. Closing it twice is closing it once.
    """

    def __init__(self, shared: _SharedStore) -> None:
        self._shared: _SharedStore | None = shared

    def call(self, service: str, method: str, request: bytes, timeout_s: float) -> bytes:
        """Call a method of the public API, and wait for its answer.

        Args:
            service: Full name, for example ``shoal.v1.RecordService``.
            method: For example ``Query``.
            request: The serialised request.
            timeout_s: Deadline, seconds from now.

        Returns:
            The serialised answer.

        Raises:
            ShoalError: Whatever went wrong.
        """
        shared = self._shared or self._open_store()
        return shared.call(service, method, request, timeout_s)

    async def call_async(
        self, service: str, method: str, request: bytes, timeout_s: float
    ) -> bytes:
        """Do the same from a coroutine of any event loop."""
        return await asyncio.wrap_future(
            self._open_store().submit(service, method, request, timeout_s)
        )

    def close(self) -> None:
        """Let go of the store; the last one to do so closes it."""
        shared, self._shared = self._shared, None
        if shared is not None:
            _release(shared)

    def _open_store(self) -> _SharedStore:
        if self._shared is None:
            raise FailedPreconditionError("the store is closed")
        return self._shared

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


class _SharedStore:
    """A store that is open in this process.

    Args:
        path: Its directory; None for a temporary one that is removed at the end.
        allow_reset: Whether everything may be deleted by one call.
    """

    def __init__(self, path: Path | None, *, allow_reset: bool) -> None:
        self.process = os.getpid()
        self.allow_reset = allow_reset
        self.user_count = 1  # guarded by _stores_lock
        self.key = path
        self._temporary = Path(tempfile.mkdtemp(prefix="shoal-")) if path is None else None
        self._loop = SharedLoop()
        try:
            self._cluster: LocalCluster = self._loop.submit(
                _start(path or self._temporary or Path(), allow_reset=allow_reset)
            ).result()
        except BaseException:
            self._loop.close()
            self._remove_temporary()
            raise

    def submit(
        self, service: str, method: str, request: bytes, timeout_s: float
    ) -> concurrent.futures.Future[bytes]:
        self._check_process()
        return self._loop.submit(self._cluster.call(service, method, request, timeout_s))

    def _check_process(self) -> None:
        if self.process != os.getpid():
            raise FailedPreconditionError(
                "the store was opened before this process was forked; open it here, "
                "or start processes by spawning them"
            )

    def call(self, service: str, method: str, request: bytes, timeout_s: float) -> bytes:
        if self.process != os.getpid():
            self._check_process()  # says so
        work = self._cluster.call(service, method, request, timeout_s)
        try:
            return self._loop.call(work, timeout_s + _MARGIN_S)
        except ShoalError:
            raise
        except TimeoutError:
            raise DeadlineExceededError(
                f"{service}/{method} did not answer within {timeout_s:.3g} s"
            ) from None

    def close(self) -> None:
        try:
            self._loop.submit(self._cluster.close()).result(_CLOSE_TIMEOUT_S)
            self._loop.close()
        finally:
            self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


async def _start(path: Path, *, allow_reset: bool) -> LocalCluster:
    from shoal_local.roles import LocalCluster

    return await LocalCluster.open(path, allow_reset=allow_reset)


_stores: Final[dict[Path, _SharedStore]] = {}  # guarded by _stores_lock
_ephemeral: Final[set[_SharedStore]] = set()  # guarded by _stores_lock
# Held while a store opens or closes, so that nobody opens what is just being closed.
_stores_lock: Final = threading.RLock()


def open_store(path: Path | str | None, *, allow_reset: bool = False) -> Store:
    """Open a store, or share the one that is open in this process.

    Args:
        path: Directory, made if it is not there; None for a temporary store of one's own.
        allow_reset: Whether everything may be deleted by one call.

    Raises:
        ImportError: The server's packages are not installed.
        DataDirectoryLockedError: Another process has it open.
        FailedPreconditionError: It is open in this process with other settings, or of a newer
            format.
    """
    _check_packages()
    with _stores_lock:
        if path is None:
            shared = _SharedStore(None, allow_reset=allow_reset)
            _ephemeral.add(shared)
            return Store(shared)
        key = Path(path).expanduser().resolve()
        found = _stores.get(key)
        if found is not None and found.process == os.getpid():
            if found.allow_reset != allow_reset:
                raise FailedPreconditionError(
                    f"the store {key} is open in this process with "
                    f"allow_reset={found.allow_reset}: open it alike, or close it first"
                )
            found.user_count += 1
            return Store(found)
        shared = _stores[key] = _SharedStore(key, allow_reset=allow_reset)
        return Store(shared)


def _release(shared: _SharedStore) -> None:
    if shared.process != os.getpid():
        return  # a forked child has no part in it
    with _stores_lock:
        shared.user_count -= 1
        if shared.user_count > 0:
            return
        _ephemeral.discard(shared)
        if shared.key is not None and _stores.get(shared.key) is shared:
            del _stores[shared.key]
        shared.close()


def _check_packages() -> None:
    try:
        with _no_search_for_garbage():
            import shoal_local.roles  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            "PersistentClient and EphemeralClient need the server's packages: "
            f"pip install 'shoal[server]' (missing: {error.name})",
            name=error.name,
        ) from error


@contextlib.contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Imports make hundred thousands of objects, which stay: looking through them again and again
    for garbage took a seventh of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _close_all() -> None:
    with _stores_lock:
        for shared in [*_stores.values(), *_ephemeral]:
            if shared.process == os.getpid():
                shared.user_count = 1
                _release(shared)


# Before the interpreter forbids new work to thread pools, which closing a store needs. Functions
# registered so run latest first, and `concurrent.futures.thread`, imported above, registered its
# own earlier. Where there is no such hook (it is not documented), atexit comes late but must do.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
