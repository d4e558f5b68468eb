"""The snapshot store, for the coordinator's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from shoal.errors import FailedPreconditionError
from shoal.server.objects import ObjectInfo, ObjectStore, open_store, store_url

_Result = TypeVar("_Result")

MAX_LISTED: Final = 10_000_000
"""Objects that a list may hold; beyond, something else lies in the store."""


class SnapshotStore:
    """A snapshot store, opened at its first use. What it does, threads do.

    Args:
        url: Of the store, or the path of a directory; None: there is none.

    Raises:
        FailedPreconditionError: The URL names no store.
    """

    def __init__(self, url: str | None) -> None:
        self._url = None if url is None else store_url(url)
        self._opened: ObjectStore | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self._url is not None

    @property
    def url(self) -> str:
        """What workers are told.

        Raises:
            FailedPreconditionError: There is no store.
        """
        if self._url is None:
            raise FailedPreconditionError(
                "the cluster has no snapshot store: start the coordinator with snapshot_store"
                " (--snapshot-store URL, or SHOAL_SNAPSHOT_STORE), a directory that all workers"
                " share, or an object store"
            )
        return self._url

    def require(self) -> None:
        """Make sure that there is one. Raises FailedPreconditionError."""
        _ = self.url

    async def read(self, key: str) -> bytes:
        """Get a small object. Raises DataLossError if it is missing."""
        return await self._do(lambda store: store.get_bytes(key))

    async def write(self, key: str, content: bytes) -> None:
        """Put a small object, durably."""
        await self._do(lambda store: store.put_bytes(key, content))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await self._do(lambda store: store.exists(key))

    async def delete(self, *keys: str) -> None:
        """Remove objects; what is not there is removed."""

        def delete(store: ObjectStore) -> None:
            for key in keys:
                store.delete(key)

        if keys:
            await self._do(delete)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """Give the objects beneath a prefix that ends with a slash, or all for the empty one."""

        def listed(store: ObjectStore) -> list[ObjectInfo]:
            found: list[ObjectInfo] = []
            for item in store.list(prefix):
                found.append(item)
                if len(found) > MAX_LISTED:
                    raise FailedPreconditionError(
                        f"the snapshot store {store.url} holds more than {MAX_LISTED:,} objects"
                        f" beneath {prefix!r}: it must be one of its own"
                    )
            return found

        return await self._do(listed)

    async def _do(self, work: Callable[[ObjectStore], _Result]) -> _Result:
        url = self.url
        if self._opened is None:
            self._opened = await asyncio.to_thread(open_store, url)
        return await asyncio.to_thread(work, self._opened)
